//! Which commands under way belong to a kept trace: Raft's own tasks know of no trace.
//!
//! A leader notes a command while it is proposed, a follower while it stores it. The log, what sends it to the other
//! masters and the state machine ask for the place of what they have at hand. As long as no trace is kept, that
//! is one look at a number.

use bytes::Bytes;
use mooseng_core::{
    checksum::crc32c,
    trace::{self, Here},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Commands of kept traces, by their checksums.
#[derive(Default)]
pub(super) struct UnderWay {
    count: AtomicUsize,
    commands: Mutex<BTreeMap<u32, Here>>,
}

/// Commands that are noted until this is dropped.
pub(super) struct Noted(Arc<UnderWay>, Vec<u32>);

impl Drop for Noted {
    fn drop(&mut self) {
        let mut commands = self.0.commands.lock();
        commands.retain(|crc, _| !self.1.contains(crc));
        self.0.count.store(commands.len(), Relaxed);
    }
}

impl UnderWay {
    /// Notes commands at the place of what runs. `None`: that is in no trace that is kept.
    pub(super) fn note<'a>(self: &Arc<Self>, commands: impl Iterator<Item = &'a Bytes>) -> Option<Noted> {
        let here = trace::here();
        if !here.trace.is_kept() {
            return None;
        }
        let crcs: Vec<_> = commands.map(|c| crc32c(c)).collect();
        let mut noted = self.commands.lock();
        noted.extend(crcs.iter().map(|crc| (*crc, here)));
        self.count.store(noted.len(), Relaxed);
        drop(noted);
        Some(Noted(Arc::clone(self), crcs))
    }

    /// The place of the first of these that is noted.
    pub(super) fn place<'a>(&self, mut commands: impl Iterator<Item = &'a Bytes>) -> Here {
        if self.count.load(Relaxed) == 0 {
            return Here::NOWHERE;
        }
        let noted = self.commands.lock();
        commands.find_map(|c| noted.get(&crc32c(c)).copied()).unwrap_or(Here::NOWHERE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use mooseng_core::ids::{SpanId, TraceId};

    #[test]
    fn commands_of_kept_traces_are_found_while_they_are_under_way() {
        let (way, one, other) =
            (Arc::new(UnderWay::default()), Bytes::from_static(b"one"), Bytes::from_static(b"other"));
        let note = |trace| {
            let here = Here { trace, span: SpanId(3) };
            (here, trace::within(here, async { way.note([&one].into_iter()) }).now_or_never().unwrap())
        };
        let (_, none) = note(TraceId::passing(8));
        assert!(none.is_none() && way.place([&one].into_iter()) == Here::NOWHERE);
        let (here, noted) = note(TraceId::kept(8));
        assert_eq!(way.place([&other, &one].into_iter()), here);
        assert_eq!(way.place([&other].into_iter()), Here::NOWHERE);
        drop(noted);
        assert_eq!(way.place([&one].into_iter()), Here::NOWHERE);
    }
}
