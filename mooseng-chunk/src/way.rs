//! One order for all who write a chunk at the same time: at the chain's head one stream has the way to
//! the servers behind, until they have acknowledged all that it sent. Two streams reach those servers
//! by different connections or streams, which keep no order among each other.
//!
//! A chain that fails while frames are under way is not used again: they may arrive at any time, or never.
//! The next version makes its members equal, and refuses frames of the one before. The masters hear that
//! it is wanted with the next heartbeat: the writer may be gone.

use crate::{shared::Shared, slot::Slot};
use mooseng_core::{chunk::WriteRequest, error::ChunkError, ids::*};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::OwnedMutexGuard;

/// Bytes of one pass while others wait.
const PASS_BYTES: usize = 4 << 20;

/// The way from a chunk's head to the servers behind it.
#[derive(Default)]
pub(crate) struct Way {
    pass: Arc<tokio::sync::Mutex<Broken>>,
    waiting: AtomicUsize,
}

impl Way {
    /// Waits until those behind have what was sent, or the chain has failed.
    pub async fn clears(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        drop(self.pass.lock().await);
    }
}

/// The version whose chain failed with frames under way, and the server behind the head.
type Broken = Option<(ChunkVersion, ServerId)>;

/// One stream's use of the way: it has it, then others, then it again.
pub(crate) struct Pass {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    version: ChunkVersion,
    session: SessionId,
    next: ServerId,
    held: Option<OwnedMutexGuard<Broken>>,
    bytes: usize,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pass {
    pub fn new(shared: Arc<Shared>, slot: Arc<Slot>, req: &WriteRequest, next: ServerId) -> Self {
        let (version, session) = (req.chunk.version, req.session.id);
        Self { shared, slot, version, session, next, held: None, bytes: 0 }
    }

    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether others wait, and this one had its share.
    pub fn is_over(&self) -> bool {
        self.is_held() && self.bytes >= PASS_BYTES && self.slot.way.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits for the way for so many bytes more, in the order of asking. Errors:
    /// [`ChunkError::Chain`] when the chain of this version has failed.
    pub async fn take(&mut self, bytes: usize) -> Result<(), ChunkError> {
        if self.held.is_none() {
            self.slot.way.waiting.fetch_add(1, Ordering::Relaxed);
            let waiting = Waiting(&self.slot.way.waiting);
            let guard = self.slot.way.pass.clone().lock_owned().await;
            drop(waiting);
            match *guard {
                Some((version, server)) if version >= self.version => {
                    let cause = format!("frames of another writer of {version} may still be under way to it");
                    return Err(ChunkError::Chain { server, cause });
                }
                _ => {}
            }
            (self.held, self.bytes) = (Some(guard), 0);
            self.slot.known.lock().sent = Some((self.version, self.session));
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Gives the way on. `clear`: the servers behind have all that was sent.
    pub fn give(&mut self, clear: bool) {
        let Some(mut guard) = self.held.take() else { return };
        if clear {
            let mut known = self.slot.known.lock();
            known.sent = None;
            if known.clean_when_through && !known.is_under_way() {
                (known.dirty, known.clean_when_through) = (false, false);
                self.slot.disk.notes.unmark(self.slot.id);
            }
        } else {
            tracing::warn!(chunk = %self.slot.id, version = %self.version, next = %self.next, "a chain failed with frames under way");
            *guard = Some((self.version, self.next));
            self.shared.broken.lock().insert(ChunkRef { id: self.slot.id, version: self.version });
        }
    }
}
