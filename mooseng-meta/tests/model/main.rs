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
    steps::{Failure, Failure::*, WHOLE},
};
use stateright::{Checker, HasDiscoveries, Model};
use std::time::{Duration, Instant};

/// A mistake that the properties must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// A restart forgets write numbers (they are durable with the content that they belong to).
    NumbersForgotten,
    /// A sync puts content on the disk, and not the numbers that belong to it.
    NumbersBehindSync,
    /// Who is told to make a new version from nothing forgets numbers, and keeps content.
    NumbersCutAlone,
    /// The winner among suspects becomes good at the version that others may have.
    BlessedInPlace,
    /// A bump that another task began is carried on at its version.
    BumpTakenUp,
    /// A client lets go of what is synced at a set that the masters do not know to be written.
    FreshSetAbandoned,
    /// A commit that names a set older than the one that was made anew is taken once that is committed.
    OldSetCommitted,
    /// The right to make a chunk outlives the server's start that it was given for.
    CreateUnbound,
    /// A bump that begins with nothing is replaced by one with survivors; what it has said may arrive yet.
    AnewForgotten,
    /// A server that has deleted a chunk makes it again for a late first write.
    DeletedForgotten,
    /// A head that has the chunk lets those behind it make it.
    CreatePassedOn,
    /// What the earlier start of a head has sent on is taken after what its present start sends.
    OldStreamsLive,
    /// Empty replicas are made at a version that has survivors, for a chunk that may be committed meanwhile.
    EmptyForCommitted,
    VersionUnchecked,
    IncarnationIgnored,
    SuspectServed,
    FenceNotAwaited,
    RepeatApplied,
    SurplusEarly,
    NoteGoesEarly,
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
    faults: Vec<Fault>,
}

const ALL: [Failure; 9] = [GiveUp, Stall, Crash, Stop, Wipe, Cut, Late, Abandon, Fence];

impl Config {
    fn new(failures: u8, kinds: &[Failure]) -> Self {
        let (kinds, faults) = (kinds.to_vec(), vec![]);
        Self { wanted: 2, members: 2, fresh: false, writes: [1, 1], failures, kinds, faults }
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn explore(self, name: &str, limit: Option<Duration>) -> Vec<(&'static str, String)> {
        let begin = Instant::now();
        let wrong: Vec<_> = self.properties().into_iter().map(|p| p.name).filter(|n| *n != WHOLE).collect();
        let mut checker =
            self.checker().threads(1).finish_when(HasDiscoveries::AnyOf(wrong.into_iter().collect()));
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
    cfg.fresh = std::env::var("FRESH").is_ok();
    if let Ok(m) = std::env::var("M") {
        cfg.members = m.parse().unwrap();
        cfg.wanted = cfg.members as u8;
    }
    if let Ok(p) = std::env::var("P") {
        use Fault::*;
        let all = [
            NumbersForgotten,
            NumbersBehindSync,
            NumbersCutAlone,
            BlessedInPlace,
            BumpTakenUp,
            FreshSetAbandoned,
            OldSetCommitted,
            VersionUnchecked,
            CreateUnbound,
            AnewForgotten,
            DeletedForgotten,
            CreatePassedOn,
            OldStreamsLive,
            EmptyForCommitted,
            IncarnationIgnored,
            SuspectServed,
            FenceNotAwaited,
            RepeatApplied,
            SurplusEarly,
            NoteGoesEarly,
        ];
        cfg.faults = p.split(',').map(|c| *all.iter().find(|f| format!("{f:?}") == c).unwrap()).collect();
    }
    for (name, path) in
        cfg.explore("try", Some(Duration::from_secs(std::env::var("T").map_or(20, |f| f.parse().unwrap()))))
    {
        println!("FOUND {name}\n{path}");
    }
}
