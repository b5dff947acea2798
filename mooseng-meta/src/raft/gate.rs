//! Keeps a node from voting as if it knew all that it acknowledged when it may not: its last batch was
//! cut off, its log began empty (a new node, or one whose disk was lost), or its directory was restored from an
//! older copy.
//!
//! With a cut batch it may vote, and stand for election, once a leader has made up for the loss
//! ([`super::segment::TornTail::healed_by`]); or for a log that is at least as long as that of
//! *every* voter, each asked since the restart: what was committed is then in it, because at least
//! one other voter of the quorum that committed it has it (and if all were cut, nobody does).
//!
//! With an empty log its votes may be lost as well. It votes only in terms after the newest of any
//! voter when first asked: whoever it may have voted for was in that term by then. When its log is as
//! long as the longest was, and its term as new, it has nothing to make up for.
//!
//! With a directory that was restored it is the same, once the node hears of it: the others remember its starts, and
//! what it vouched for ([`super::starts`]), and say so with each vote and each question for one, so that no vote
//! counts before both have looked. A node that starts asks all others as well, and its first votes wait for that a
//! moment, but not longer: others that are down must not keep it from voting.

use super::log::DurableLog;
use super::log_store::term_of_vote;
use super::segment::{LogPos, TornTail};
use super::starts::{History, Seen, Starts};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{io, time::Duration};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Where a node's log ends, and in which term it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct End {
    pub last: Option<LogPos>,
    pub term: u64,
}

/// What a node answers who asks where its log ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub end: End,
    /// Its starts.
    pub starts: History,
    /// What it has seen of the one who asks.
    pub seen: Seen,
}

/// Decides whether this node may vote.
#[derive(Debug)]
pub(super) struct Gate {
    log: DurableLog,
    starts: Starts,
    /// Until when a vote waits for what the others tell at the start.
    until: Instant,
    asked: watch::Sender<bool>,
    /// Tells that this node was found to be restored.
    found: Notify,
    /// The longest log and the newest term among all voters; `None` while not all have answered.
    floor: Mutex<Option<End>>,
}

impl Gate {
    /// `wait` is how long a vote waits for the others at most.
    pub(super) fn new(log: DurableLog, starts: Starts, wait: Duration) -> Self {
        let (asked, _) = watch::channel(false);
        let until = Instant::now() + wait;
        Self { log, starts, until, asked, found: Notify::new(), floor: Mutex::new(None) }
    }

    /// Up to where this master's log is on its disk.
    pub(super) fn durable(&self) -> Option<LogPos> {
        self.log.durable()
    }

    /// The starts of the masters.
    pub(super) fn starts(&self) -> &Starts {
        &self.starts
    }

    /// Returns when all others were asked what they know of this node, or enough time has passed since the start.
    pub(super) async fn asked(&self) {
        let _ = tokio::time::timeout_at(self.until, self.asked.subscribe().wait_for(|asked| *asked)).await;
    }

    /// All others were asked.
    pub(super) fn has_asked(&self) {
        self.asked.send_replace(true);
    }

    /// Takes what another master has seen of this one: a start that this directory does not know, a newer term or
    /// more of the log than it has. Then it was restored, and from now on it is as if its disk had been lost.
    pub(super) fn judge(&self, seen: &Seen) {
        let known = seen.start.is_none_or(|start| self.starts.knows(start));
        let term = self.log.vote().map_or(0, |vote| term_of_vote(&vote));
        if known && seen.term <= term && seen.last <= self.log.furthest() {
            return;
        }
        if !self.is_unproven() {
            tracing::error!(
                ?seen,
                term,
                last = ?self.log.last(),
                "the directory of this master is older than what another has seen of it: was it restored from a copy? \
                 It does not vote for everybody until nothing is missing"
            );
            *self.floor.lock() = None;
            self.log.distrust_later();
            self.found.notify_one();
        } else if !known {
            self.found.notify_one();
        }
    }

    /// Returns when this node may have been found to be restored.
    pub(super) async fn found(&self) {
        self.found.notified().await;
    }

    /// Begins a start that is above what the others know of this node, if they know of one that it does not. That it
    /// was restored is durable before.
    pub(super) async fn rise(&self) -> io::Result<bool> {
        if !self.starts.must_rise() {
            return Ok(false);
        }
        if self.is_unproven() {
            DurableLog::wait(|done| self.log.distrust(done)).await?;
        }
        self.starts.rise().await.map(|()| true)
    }

    /// Whether something may be lost, and nobody has made up for it.
    pub(super) fn is_torn(&self) -> bool {
        self.log.torn().is_some()
    }

    /// Whether the log began empty or the directory was restored, and it is not known yet that nothing is lost.
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
            self.log.heal_later(TornTail::UNPROVEN);
        }
    }
}
