//! Who takes part in a run and what they share: the groups with their promises, the weather, the
//! journal, and whether it is calm.

use crate::{
    clocks::Clocks,
    journal::Journal,
    oracle::{NameOp, Worlds},
    weather::Weather,
    workload::{Contended, Names},
};
use mooseng_net::memory::MemoryNetwork;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A part of the namespace that one client changes at a time: entries of the root directory, which
/// all groups share, and what is below them.
#[derive(Debug)]
pub struct Group {
    /// Entries of the root begin so.
    pub prefix: String,
    /// Held by the client whose turn it is.
    pub turn: tokio::sync::Mutex<()>,
    /// What was promised.
    pub book: Mutex<Book>,
}

/// The promises of a group and what is under way in it.
#[derive(Debug, Default)]
pub struct Book {
    /// What may be there.
    pub worlds: Worlds,
    /// An operation that was asked for and not answered yet.
    pub pending: Option<NameOp>,
    /// Something ended unknown: the group is left in peace until then.
    pub settles: Option<Instant>,
}

impl Group {
    /// The full path of a name in the group.
    pub fn path(&self, name: &str) -> String {
        format!("/{}{name}", self.prefix)
    }
}

/// Tells when no fault is in force and the cluster was seen whole since the last one: then nothing
/// may fail.
#[derive(Debug, Default)]
pub struct Calm {
    /// Even while it is calm.
    epoch: AtomicU64,
}

impl Calm {
    /// Trouble begins.
    pub fn end(&self) {
        self.epoch.fetch_add(1 + self.epoch.load(Ordering::Relaxed) % 2, Ordering::Relaxed);
    }

    /// It is over.
    pub fn begin(&self) {
        self.epoch.fetch_add(self.epoch.load(Ordering::Relaxed) % 2, Ordering::Relaxed);
    }

    /// A name for the present state, to ask later.
    pub fn now(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Whether it has been calm since.
    pub fn since(&self, then: u64) -> bool {
        then.is_multiple_of(2) && self.now() == then
    }
}

/// What everybody of a run shares.
#[derive(Debug)]
pub struct Stage {
    /// What happened.
    pub journal: Arc<Journal>,
    /// The network's faults.
    pub weather: Arc<Weather>,
    /// The network.
    pub network: MemoryNetwork,
    /// What time the nodes believe it is.
    pub clocks: Clocks,
    /// All groups.
    pub groups: Vec<Group>,
    /// Whether anything may fail now.
    pub calm: Calm,
    /// Whether a power failure may have taken data of the file that all write.
    pub shared_lossy: AtomicBool,
    /// What is known of the files that all write.
    pub contended: Mutex<Contended>,
    /// How often all replicas of something may have lost power.
    pub power_failures: AtomicU64,
    /// Steps that were acknowledged, and that failed.
    pub acknowledged: AtomicU64,
    /// Steps that failed in a fault.
    pub failed: AtomicU64,
    /// The longest step, in milliseconds.
    pub longest_ms: AtomicU64,
    /// Reads, writes and fsyncs that an ill disk spoiled.
    pub ills_felt: AtomicU64,
    /// Sessions that were ended while they still reached the head of a chain.
    pub fenced: AtomicU64,
    /// Nodes whose directories came back older than they had vouched for.
    pub rolled_back: AtomicU64,
    /// What clients saw of names that all change.
    pub names: Mutex<Names>,
}

/// How long a group is left in peace after something ended unknown: longer than anything stays on
/// the network, in a chain or in a master that has not put it into its log.
pub const SETTLES: Duration = Duration::from_secs(15);

impl Stage {
    /// An empty stage with so many groups.
    pub fn new(
        weather: Arc<Weather>,
        journal: Arc<Journal>,
        network: MemoryNetwork,
        clocks: Clocks,
        groups: u64,
    ) -> Self {
        let group = |n| Group {
            prefix: format!("g{n}-"),
            turn: tokio::sync::Mutex::default(),
            book: Mutex::default(),
        };
        Self {
            journal,
            weather,
            network,
            clocks,
            groups: (0..groups).map(group).collect(),
            calm: Calm::default(),
            shared_lossy: AtomicBool::new(false),
            contended: Mutex::default(),
            power_failures: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            longest_ms: AtomicU64::new(0),
            ills_felt: AtomicU64::new(0),
            fenced: AtomicU64::new(0),
            rolled_back: AtomicU64::new(0),
            names: Mutex::default(),
        }
    }

    /// All replicas of whatever may have been started anew: of what was not synced nobody knows whether it is there.
    pub fn restarted(&self) {
        self.groups.iter().for_each(|g| g.book.lock().worlds.restarted());
    }

    /// All replicas of whatever may have lost power: what was not synced is promised to nobody.
    pub fn power_failed(&self) {
        self.shared_lossy.store(true, Ordering::Relaxed);
        self.power_failures.fetch_add(1, Ordering::Relaxed);
        self.contended.lock().begin_anew();
        self.groups.iter().for_each(|g| g.book.lock().worlds.power_failed());
    }
}

impl Stage {
    /// Whether a power failure may have taken data of a file that is still there.
    pub fn is_lossy(&self) -> bool {
        self.shared_lossy.load(Ordering::Relaxed)
            || self.groups.iter().any(|g| !g.book.lock().worlds.lossy().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calm_that_was_broken_between_was_not_calm() {
        let calm = Calm::default();
        let before = calm.now();
        assert!(calm.since(before));
        calm.end();
        calm.end();
        assert!(!calm.since(before) && !calm.since(calm.now()));
        calm.begin();
        calm.begin();
        assert!(!calm.since(before) && calm.since(calm.now()));
    }
}
