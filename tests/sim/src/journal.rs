//! What happened in a run, in order: for the hash that shows that one seed is one run, and for
//! people who look for the cause of a broken promise.

use parking_lot::Mutex;
use std::{fmt::Display, time::Duration};
use tokio::time::Instant;

/// FNV-1a, which needs no more than to differ when runs differ.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The journal of one run.
#[derive(Debug)]
pub struct Journal {
    start: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    hash: u64,
    lines: Vec<String>,
}

impl Kept {
    fn hash(&mut self, bytes: impl IntoIterator<Item = u8>) {
        for b in bytes {
            self.hash = (self.hash ^ u64::from(b)).wrapping_mul(FNV_PRIME);
        }
    }
}

impl Journal {
    /// An empty journal that counts virtual time from now.
    pub fn new() -> Self {
        Self { start: Instant::now(), kept: Mutex::new(Kept { hash: FNV_START, lines: Vec::new() }) }
    }

    /// Virtual time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Folds a decision into the hash without a line of its own.
    pub fn fold(&self, bytes: impl IntoIterator<Item = u8>) {
        self.kept.lock().hash(bytes);
    }

    /// Notes what `who` did.
    pub fn note(&self, who: &str, what: impl Display) {
        let line = format!("{:10.3} s  {who:<14} {what}", self.elapsed().as_secs_f64());
        let mut kept = self.kept.lock();
        kept.hash(line.bytes());
        kept.lines.push(line);
    }

    /// The hash of all that was noted and folded.
    pub fn hash(&self) -> u64 {
        self.kept.lock().hash
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.kept.lock().lines.clone()
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}
