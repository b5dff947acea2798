//! Which writes of which session a replica's content has: what comes again is a repeat (PROTOCOL §4).
//! They are in the chunk's header as of its last sync, and beside each image in the redo log. Never more
//! is claimed than is there: a frame that is taken for a repeat by mistake is lost.

use crate::format::WRITERS_MAX;
use mooseng_core::{
    ids::*,
    planted::{self, Bug},
};
use std::collections::BTreeMap;

/// Whose write, and which.
pub(crate) type Writer = (SessionId, WriteNumber);

/// The last write of each session that the content here has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    last: BTreeMap<SessionId, WriteNumber>,
    /// Whether the file was asked for those that it has.
    loaded: bool,
    /// Whether these are all that count: a head that has started since asks those behind it first.
    pub complete: bool,
}

impl Numbers {
    /// Takes those of the chunk's header, once after a start.
    pub fn load(&mut self, writers: &[Writer]) {
        if !self.loaded {
            self.loaded = true;
            writers.iter().for_each(|(session, number)| self.applied(*session, *number));
        }
    }

    /// Takes those of a record for all that there are.
    pub fn set(&mut self, writers: Vec<Writer>) {
        self.last = writers.into_iter().collect();
    }

    /// Whether a write of a session can be remembered. Sessions that are over are forgotten for it: nothing of
    /// them is admitted any more. One that is not may repeat what it wrote.
    pub fn has_room(&mut self, session: SessionId, is_over: impl Fn(SessionId) -> bool) -> bool {
        if self.last.len() >= WRITERS_MAX && !self.last.contains_key(&session) {
            self.last.retain(|s, _| !is_over(*s));
        }
        self.last.len() < WRITERS_MAX || self.last.contains_key(&session)
    }

    /// Whether a frame is to be applied. The first of a stream may leave numbers out: those were
    /// given up by their writer.
    pub fn admit(&self, session: SessionId, number: WriteNumber, first: bool) -> Result<bool, WriteNumber> {
        match self.last.get(&session) {
            Some(last) if number <= *last => Ok(planted::is(Bug::RepeatApplied)),
            Some(last) if !first && number != last.next() => Err(last.next()),
            _ => Ok(true),
        }
    }

    /// Remembers a write, for which there was room.
    pub fn applied(&mut self, session: SessionId, number: WriteNumber) {
        let last = self.last.entry(session).or_default();
        *last = number.max(*last);
    }

    /// All, when one more is there.
    pub fn with(&self, writer: Option<Writer>) -> Vec<Writer> {
        let mut all = self.clone();
        if let Some((session, number)) = writer {
            all.applied(session, number);
        }
        all.list()
    }

    /// What this content and that of another replica both have, of all that is a mixture of them.
    pub fn in_both(&self, others: &[Writer]) -> Vec<Writer> {
        let both = |(s, theirs): &Writer| Some((*s, *self.last.get(s)?.min(theirs)));
        others.iter().filter_map(both).collect()
    }

    /// All, for another server or for the header.
    pub fn list(&self) -> Vec<Writer> {
        self.last.iter().map(|(s, n)| (*s, *n)).collect()
    }

    /// Those of a server whose content is taken over; none for content that begins with nothing.
    pub fn replace(&mut self, list: Vec<Writer>) {
        *self = Self { last: list.into_iter().collect(), loaded: true, complete: false };
    }
}
