//! A model of one chunk, every state of it: written by two clients to a chain of chunkservers, synced,
//! bumped, fenced and repaired, with failures at any moment. What it mirrors, how far it went and what it
//! leaves out is told in `docs/model.md`.
//!
//! `MOOSENG_MODEL=full` explores what takes minutes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests may panic and print")]

mod client;
mod master;
mod server;
mod state;
mod steps;

use crate::{
    state::CLIENTS,
    steps::{Failure, Failure::*},
};
use stateright::{Checker, HasDiscoveries, Model};
use std::time::{Duration, Instant};

/// A mistake that the properties must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plant {
    VersionUnchecked,
    SyncIgnoresIncarnation,
    SuspectServed,
    FenceNotAwaited,
    RepeatApplied,
    SurplusEarly,
    NoteGoesEarly,
}

/// A change of the code that a counterexample asks for and that is not made yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cure {
    /// Write numbers are durable with the content that they belong to.
    NumbersDurable,
    /// What a server begins with nothing forgets numbers only with the content.
    NumbersWithContent,
    /// The winner among suspects becomes good at a new version, never at the one that others may have.
    BlessAtVersion,
    /// A client writes anew what was committed to a set that was made without those that had it.
    FreshIsLost,
    /// A bump that another task began is replaced by one with the next version, not carried on.
    BeginAnew,
}

/// What is explored.
#[derive(Clone, Debug)]
struct Config {
    wanted: u8,
    members: usize,
    fresh: bool,
    writes: [u8; CLIENTS],
    failures: u8,
    kinds: Vec<Failure>,
    versions: u8,
    /// A sync, a copy and a decision are several steps each, and servers answer in any order.
    fine: bool,
    /// Ask that good ends are reached.
    reach: bool,
    plant: Option<Plant>,
    cures: Vec<Cure>,
    /// Part of the names of the properties that are looked at.
    only: String,
}

const ALL: [Failure; 8] = [GiveUp, Stall, Crash, Wipe, Cut, Late, Abandon, Fence];

impl Config {
    fn new(failures: u8, kinds: &[Failure]) -> Self {
        Self {
            wanted: 2,
            members: 2,
            fresh: false,
            writes: [1, 1],
            failures,
            kinds: kinds.to_vec(),
            versions: 8,
            fine: false,
            reach: false,
            plant: None,
            cures: vec![],
            only: String::new(),
        }
    }

    fn explore(self, name: &str, limit: Option<Duration>) -> Vec<(&'static str, String)> {
        let begin = Instant::now();
        let mut checker = self.checker().threads(1).finish_when(HasDiscoveries::AnyFailures);
        if let Some(limit) = limit {
            checker = checker.timeout(limit);
        }
        let done = checker.spawn_bfs().join();
        let found: Vec<_> = done.discoveries().into_iter().collect();
        println!(
            "{name}: {} states, {} unique, depth {}, {:?}, done {}",
            done.state_count(),
            done.unique_state_count(),
            done.max_depth(),
            begin.elapsed(),
            done.is_done(),
        );
        let tell = |p: stateright::Path<_, _>| {
            let steps = p.into_actions();
            steps.iter().map(|s| format!("  {s:?}\n")).collect::<String>()
        };
        found.into_iter().map(|(n, p)| (n, tell(p))).collect()
    }
}

#[test]
fn try_it() {
    let n: u8 = std::env::var("F").map_or(1, |f| f.parse().unwrap());
    let mut cfg = Config::new(n, &ALL);
    if let Ok(k) = std::env::var("K") {
        cfg.kinds = k.split(',').map(|k| *ALL.iter().find(|f| format!("{f:?}") == k).unwrap()).collect();
    }
    if let Ok(w) = std::env::var("W") {
        let w: Vec<u8> = w.split(',').map(|w| w.parse().unwrap()).collect();
        cfg.writes = [w[0], w[1]];
    }
    cfg.versions = std::env::var("V").map_or(8, |f| f.parse().unwrap());
    cfg.fresh = std::env::var("FRESH").is_ok();
    cfg.fine = std::env::var("FINE").is_ok();
    cfg.reach = std::env::var("REACH").is_ok();
    if let Ok(p) = std::env::var("P") {
        let all = [
            Plant::VersionUnchecked,
            Plant::SyncIgnoresIncarnation,
            Plant::SuspectServed,
            Plant::FenceNotAwaited,
            Plant::RepeatApplied,
            Plant::SurplusEarly,
            Plant::NoteGoesEarly,
        ];
        cfg.plant = all.into_iter().find(|x| format!("{x:?}") == p);
        assert!(cfg.plant.is_some());
    }
    cfg.only = std::env::var("ONLY").unwrap_or_default();
    if let Ok(m) = std::env::var("M") {
        cfg.members = m.parse().unwrap();
        cfg.wanted = cfg.members as u8;
    }
    if let Ok(c) = std::env::var("C") {
        let all = [Cure::NumbersDurable, Cure::NumbersWithContent, Cure::BlessAtVersion, Cure::FreshIsLost, Cure::BeginAnew];
        cfg.cures = c.split(',').map(|c| *all.iter().find(|f| format!("{f:?}") == c).unwrap()).collect();
    }
    for (name, path) in
        cfg.explore("try", Some(Duration::from_secs(std::env::var("T").map_or(20, |f| f.parse().unwrap()))))
    {
        println!("FOUND {name}\n{path}");
    }
}
