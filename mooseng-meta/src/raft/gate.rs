//! Keeps a node whose last batch was cut off from voting as if it knew all that it acknowledged.
//!
//! It may vote, and stand for election, once a leader has made up for the loss
//! ([`super::segment::TornTail::healed_by`]); or for a log that is at least as long as that of
//! *every* voter, each asked since the restart: what was committed is then in it, because at least
//! one other voter of the quorum that committed it has it (and if all were cut, nobody does).

use super::log::DurableLog;
use super::segment::LogPos;
use parking_lot::Mutex;

/// Decides whether this node may vote.
#[derive(Debug)]
pub(super) struct Gate {
    log: DurableLog,
    /// The longest log among all voters; `None` while not all have answered.
    floor: Mutex<Option<Option<LogPos>>>,
}

impl Gate {
    pub(super) fn new(log: DurableLog) -> Self {
        Self { log, floor: Mutex::new(None) }
    }

    /// Whether the last batch was cut off and nobody has made up for it.
    pub(super) fn is_torn(&self) -> bool {
        self.log.torn().is_some()
    }

    /// Whether a candidate whose log ends at `last` may have this node's vote.
    pub(super) fn may_vote(&self, last: Option<LogPos>) -> bool {
        !self.is_torn() || self.floor.lock().is_some_and(|floor| last >= floor)
    }

    /// Whether this node may stand for election.
    pub(super) fn may_stand(&self) -> bool {
        self.may_vote(self.log.last())
    }

    /// Where this node's log ends.
    pub(super) fn last(&self) -> Option<LogPos> {
        self.log.last()
    }

    /// Takes the ends of the logs of all other voters.
    pub(super) fn all_answered(&self, others: &[Option<LogPos>]) {
        let longest = others.iter().copied().fold(self.log.last(), Option::max);
        *self.floor.lock() = Some(longest);
    }
}
