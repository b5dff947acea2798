//! What may be wrong with a medium that has power: it is full, answers EIO, loses what an fsync was to
//! keep and tells or does not, writes to a wrong place, lets bits rot.

use super::bytes::PAGE_BYTES;
use mooseng_core::seam::Rng as _;
use mooseng_host::SeededRng;
use std::io;

/// Something that is wrong for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ill {
    /// No room: whatever needs some answers ENOSPC.
    Full,
    /// One of so many reads answers EIO.
    Reads(u64),
    /// One of so many writes answers EIO, and is there in part or not at all.
    Writes(u64),
    /// One of so many fsyncs answers EIO; what it was to keep is lost or torn, and the kernel does not try
    /// again.
    Syncs(u64),
    /// One of so many writes of data goes to another place of its file, and is acknowledged.
    Strays(u64),
    /// Every fsync is acknowledged, and nothing is on the medium for it: nobody sees that before power fails.
    Lies,
}

/// What is asked of a medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deed {
    Read,
    Write,
    Sync,
}

/// The state of a medium's health.
#[derive(Debug)]
pub(super) struct Health {
    ill: Option<Ill>,
    rng: SeededRng,
    /// Where it made itself felt since it began.
    pub felt: Vec<String>,
}

/// ENOSPC and EIO.
const NO_SPACE: i32 = 28;
const BROKEN: i32 = 5;

pub(super) fn no_space() -> io::Error {
    io::Error::from_raw_os_error(NO_SPACE)
}

pub(super) fn broken() -> io::Error {
    io::Error::from_raw_os_error(BROKEN)
}

impl Default for Health {
    fn default() -> Self {
        Self { ill: None, rng: SeededRng::new(0), felt: Vec::new() }
    }
}

impl Health {
    pub fn falls(&mut self, ill: Ill, seed: u64) {
        *self = Self { ill: Some(ill), rng: SeededRng::new(seed), felt: Vec::new() };
    }

    pub fn recovers(&mut self) {
        self.ill = None;
        self.felt.clear();
    }

    pub fn is_full(&self) -> bool {
        self.ill == Some(Ill::Full)
    }

    /// Something found no room.
    pub fn refuses(&mut self, name: &str) -> io::Error {
        self.felt.push(name.into());
        no_space()
    }

    fn one_in(&mut self, n: u64, name: &str) -> bool {
        let hit = self.rng.next_u64().is_multiple_of(n.max(1));
        if hit {
            self.felt.push(name.into());
        }
        hit
    }

    /// Whether this one fails.
    pub fn fails(&mut self, deed: Deed, name: &str) -> bool {
        match (self.ill, deed) {
            (Some(Ill::Reads(n)), Deed::Read)
            | (Some(Ill::Writes(n)), Deed::Write)
            | (Some(Ill::Syncs(n)), Deed::Sync) => self.one_in(n, name),
            _ => false,
        }
    }

    /// Whether an fsync is acknowledged and does nothing.
    pub fn lies(&mut self, name: &str) -> bool {
        let lies = self.ill == Some(Ill::Lies);
        if lies {
            self.felt.push(name.into());
        }
        lies
    }

    /// Where a write of data goes instead, among the pages that there are behind `from`.
    pub fn strays(
        &mut self,
        at: u64,
        from: u64,
        pages: impl Iterator<Item = u64>,
        name: &str,
    ) -> Option<u64> {
        let Some(Ill::Strays(n)) = self.ill else { return None };
        if at < from || !self.one_in(n, name) {
            return None;
        }
        let others: Vec<u64> = pages
            .map(|p| p * PAGE_BYTES)
            .filter(|p| *p >= from && *p / PAGE_BYTES != at / PAGE_BYTES)
            .collect();
        let to = *others.get((self.rng.next_u64() % others.len().max(1) as u64) as usize)?;
        Some(to + at % PAGE_BYTES)
    }

    pub fn rng(&self) -> &SeededRng {
        &self.rng
    }
}
