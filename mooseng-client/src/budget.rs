//! How much written data a client holds in memory: writers wait past the bound, what is oldest is
//! written out first.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Bytes of written data that a client holds unless its builder says otherwise.
pub(crate) const DIRTY_MAX: usize = 256 << 20;

/// The bound and what is used of it.
pub(crate) struct Budget {
    max: usize,
    used: Mutex<usize>,
    freed: Notify,
    /// More than half is used: the oldest is to be written out.
    pub pressed: Notify,
}

/// Bytes of the bound that somebody uses; given back when it is dropped.
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(1),
            used: Mutex::default(),
            freed: Notify::new(),
            pressed: Notify::new(),
        })
    }

    /// Whether enough is held that the oldest should go.
    pub(crate) fn is_pressed(&self) -> bool {
        *self.used.lock() > self.max / 2
    }

    fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let mut used = self.used.lock();
        if *used + bytes > self.max {
            return None;
        }
        *used += bytes;
        Some(Share { budget: self.clone(), bytes })
    }

    /// A share of nothing, for what is small and passes.
    pub(crate) fn nothing(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }

    /// Waits until `bytes` fit (at most the whole bound is asked for). Fails when nothing was freed
    /// for `patience`.
    pub(crate) async fn take(self: &Arc<Self>, bytes: usize, patience: Duration) -> Result<Share> {
        let bytes = bytes.min(self.max);
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let taken = self.try_take(bytes);
            if self.is_pressed() || taken.is_none() {
                self.pressed.notify_one();
            }
            if let Some(share) = taken {
                return Ok(share);
            }
            if tokio::time::timeout(patience, freed).await.is_err() {
                return Err(Error::Backlog { bytes: *self.used.lock() as u64, waited: patience });
            }
        }
    }
}

impl Share {
    /// Takes up to `bytes` out of this share.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), bytes }
    }

    /// Adds another share to this one.
    pub(crate) fn join(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            *self.budget.used.lock() -= self.bytes;
            self.budget.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writers_wait_until_something_is_freed() {
        let budget = Budget::new(100);
        let mut first = budget.take(80, Duration::ZERO).await.unwrap();
        let late = budget.take(30, Duration::ZERO).await;
        assert!(matches!(late, Err(Error::Backlog { bytes: 80, .. })));
        let part = first.split(20);
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(30, Duration::from_secs(60)).await.map(|s| s.bytes) }
        });
        tokio::task::yield_now().await;
        drop(part);
        assert_eq!(waiting.await.unwrap().unwrap(), 30);
        first.join(budget.take(40, Duration::from_secs(1)).await.unwrap());
        assert_eq!(*budget.used.lock(), 100);
        drop(first);
        assert_eq!(*budget.used.lock(), 0);
        assert_eq!(
            budget.take(1000, Duration::from_secs(1)).await.unwrap().bytes,
            100,
            "never more than all"
        );
    }
}
