//! Keeps a node from voting as if it knew all that it acknowledged when it may not: its last batch was
//! cut off, or its log began empty (a new node, or one whose disk was lost).
//!
//! With a cut batch it may vote, and stand for election, once a leader has made up for the loss
//! ([`super::segment::TornTail::healed_by`]); or for a log that is at least as long as that of
//! *every* voter, each asked since the restart: what was committed is then in it, because at least
//! one other voter of the quorum that committed it has it (and if all were cut, nobody does).
//!
//! With an empty log its votes may be lost as well. It votes only in terms after the newest of any
//! voter when first asked: whoever it may have voted for was in that term by then. When its log is as
//! long as the longest was, and its term as new, it has nothing to make up for.

use super::log::DurableLog;
use super::segment::{LogPos, TornTail};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Where a node's log ends, and in which term it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct End {
    pub last: Option<LogPos>,
    pub term: u64,
}

/// Decides whether this node may vote.
#[derive(Debug)]
pub(super) struct Gate {
    log: DurableLog,
    /// The longest log and the newest term among all voters; `None` while not all have answered.
    floor: Mutex<Option<End>>,
}

impl Gate {
    pub(super) fn new(log: DurableLog) -> Self {
        Self { log, floor: Mutex::new(None) }
    }

    /// Whether something may be lost, and nobody has made up for it.
    pub(super) fn is_torn(&self) -> bool {
        self.log.torn().is_some()
    }

    /// Whether the log began empty, and it is not known yet that nothing is lost.
    pub(super) fn is_unproven(&self) -> bool {
        self.log.torn() == Some(TornTail::UNPROVEN)
    }

    /// Whether a candidate whose log ends at `last` may have this node's vote in `term`.
    pub(super) fn may_vote(&self, last: Option<LogPos>, term: u64) -> bool {
        let unproven = self.is_unproven();
        let good = |floor: End| last >= floor.last && (!unproven || term > floor.term);
        !self.is_torn() || self.floor.lock().is_some_and(good)
    }

    /// Whether this node may stand for election, in a term after its own.
    pub(super) fn may_stand(&self) -> bool {
        self.may_vote(self.log.last(), u64::MAX)
    }

    /// The node's log.
    pub(super) fn log(&self) -> &DurableLog {
        &self.log
    }

    /// Where this node's log ends.
    pub(super) fn last(&self) -> Option<LogPos> {
        self.log.last()
    }

    /// Takes the ends of all other voters. The first answers are what an unproven node goes by: what
    /// it may have lost was there already.
    pub(super) fn all_answered(&self, others: &[End]) {
        let mut floor = self.floor.lock();
        if self.is_unproven() && floor.is_some() {
            return;
        }
        let last = others.iter().map(|e| e.last).fold(self.log.last(), Option::max);
        *floor = Some(End { last, term: others.iter().map(|e| e.term).max().unwrap_or(0) });
    }

    /// Ends the unproven state when nothing can be missing any more; `term` is this node's.
    pub(super) fn prove(&self, term: u64) {
        let proven = |floor: End| self.log.last() >= floor.last && term >= floor.term;
        if self.is_unproven() && self.floor.lock().is_some_and(proven) {
            self.log.heal_later();
        }
    }
}
