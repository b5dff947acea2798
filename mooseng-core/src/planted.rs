//! Bugs on purpose: each promise of PROTOCOL.md that is easy to lose has a switch that loses it, so
//! that the simulator can be seen to notice (docs/simulation.md). Pure.
//!
//! Without the feature `planted` the question is a constant, and no trace of a bug is in the program.
//! With it, a bug is in force on the thread that chose it, and nowhere else.

/// What can be broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Bug {
    /// A sync of a chunk is acknowledged and reaches no disk.
    FsyncSkipped,
    /// A master counts itself to the quorum before its disk has the entry.
    LogSyncSkipped,
    /// A leader counts a master to the quorum that has not answered.
    AckBeforeQuorum,
    /// A chunkserver takes and serves what is meant for another version.
    VersionUnchecked,
    /// A sync does not ask whether the server started since the writes.
    IncarnationIgnored,
    /// A chunk that was dirty at an unclean stop is served as it is.
    SuspectServed,
    /// A session ends before the heads of chains know that its epoch is over.
    FenceNotAwaited,
    /// A frame that was applied already is applied again.
    RepeatApplied,
    /// A master's log forgets what its state has not durable.
    PurgePastDurable,
    /// A version opens before its members were compared with the first.
    CopyUncompared,
    /// A mutation's answer is not kept for a repeat.
    ReplyDropped,
    /// A bad record is cut off with all that follows, whatever follows.
    BadTailCut,
    /// A capability is good in anybody's hand.
    CapabilityUnbound,
    /// A size is committed although the file was cut since it was written.
    CommitAfterTruncate,
    /// A master answers reads without asking whether it leads still.
    DeposedReads,
    /// A copy that no record names goes before the full set is confirmed.
    SurplusDeletedEarly,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::FsyncSkipped,
        Self::LogSyncSkipped,
        Self::AckBeforeQuorum,
        Self::VersionUnchecked,
        Self::IncarnationIgnored,
        Self::SuspectServed,
        Self::FenceNotAwaited,
        Self::RepeatApplied,
        Self::PurgePastDurable,
        Self::CopyUncompared,
        Self::ReplyDropped,
        Self::BadTailCut,
        Self::CapabilityUnbound,
        Self::CommitAfterTruncate,
        Self::DeposedReads,
        Self::SurplusDeletedEarly,
    ];
}

/// Whether this bug is to be.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted")]
mod chosen {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this bug is to be, on this thread.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }

    /// Chooses the bug of this thread.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }
}

#[cfg(feature = "planted")]
pub use chosen::{is, plant};
