//! What was done to a medium, in order, as one number: two runs of one seed that differ anywhere differ there, also
//! where no client sees it.

use super::bytes::Change;
use mooseng_core::checksum::crc32c;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An odd number: what is folded in stays told apart.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number so far.
#[derive(Debug, Default)]
pub(super) struct Trace(AtomicU64);

impl Trace {
    fn fold(&self, name: &str, what: [u64; 3]) {
        let name = u64::from(crc32c(name.as_bytes()));
        let mix = |hash: u64, part: u64| (hash.rotate_left(23) ^ part).wrapping_mul(MIX);
        self.0.store(what.into_iter().fold(mix(self.0.load(Relaxed), name), mix), Relaxed);
    }

    /// A file is changed.
    pub fn changed(&self, name: &str, change: &Change) {
        self.fold(
            name,
            match change {
                Change::Write { at, data } => [*at, data.len() as u64, u64::from(crc32c(data))],
                Change::SetLen(len) => [*len, 0, 1],
                Change::Allocate(len) => [*len, 0, 2],
                Change::Punch { at, len } => [*at, *len, 3],
            },
        );
    }

    /// A file or directory is synced.
    pub fn synced(&self, name: &str) {
        self.fold(name, [0, 0, 4]);
    }

    /// All so far.
    pub fn number(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
