//! A model of one chunk, every state of it: written by two clients to a chain of chunkservers, synced,
//! bumped, fenced and repaired, with failures at any moment. What it mirrors, how far it went, what it found
//! and what it leaves out is told in `docs/model.md`.
//!
//! `MOOSENG_MODEL=full` explores what takes minutes, and is meant for `cargo test --release`.
#![allow(clippy::print_stdout, reason = "what was explored is told")]

mod client;
mod faults;
mod master;
mod server;
mod state;
mod steps;

use crate::{
    faults::{Fault, found_in},
    state::CLIENTS,
    steps::{
        Failure::{self, *},
        WHOLE,
    },
};
use stateright::{Checker, HasDiscoveries, Model};
use std::time::Instant;

/// What is explored.
#[derive(Clone, Debug)]
struct Config {
    /// Copies that are wanted, and that there are at first; of three servers.
    copies: usize,
    /// Nobody has written the chunk yet.
    fresh: bool,
    /// Writes of each client.
    writes: [u8; CLIENTS],
    /// Clients close their files before they sync them.
    closes: bool,
    failures: u8,
    kinds: Vec<Failure>,
    faults: Vec<Fault>,
}

/// All kinds of failures.
const ALL: [Failure; 9] = [GiveUp, Stall, Crash, Stop, Wipe, Cut, Late, Abandon, Fence];

impl Config {
    /// A chunk with two copies that is written once by each client.
    fn new(failures: u8, kinds: &[Failure]) -> Self {
        let (kinds, faults) = (kinds.to_vec(), vec![]);
        Self { copies: 2, fresh: false, writes: [1, 1], closes: false, failures, kinds, faults }
    }

    fn fresh(self, writes: [u8; CLIENTS]) -> Self {
        Self { fresh: true, writes, ..self }
    }

    fn writes(self, writes: [u8; CLIENTS]) -> Self {
        Self { writes, ..self }
    }

    fn closes(self) -> Self {
        Self { closes: true, ..self }
    }

    fn copies(self, copies: usize) -> Self {
        Self { copies, ..self }
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Explores all states, or up to the first that is wrong: answers how it is reached, and whether there is
    /// one in which all went well.
    fn explore(self) -> (Option<String>, bool) {
        let (begin, name) = (Instant::now(), self.name());
        let wrong = self.properties().into_iter().map(|p| p.name).filter(|n| *n != WHOLE).collect();
        let checker = self.checker().threads(1).finish_when(HasDiscoveries::AnyOf(wrong));
        let done = checker.spawn_bfs().join();
        println!(
            "{name}: {} states, {} of them different, {} steps deep, {:.1} s",
            done.state_count(),
            done.unique_state_count(),
            done.max_depth(),
            begin.elapsed().as_secs_f32(),
        );
        let (mut found, mut whole) = (None, false);
        for (property, path) in done.discoveries() {
            if property == WHOLE {
                whole = true;
                continue;
            }
            let steps = path.into_actions();
            let steps: String = steps.iter().map(|s| format!("\n  {s:?}")).collect();
            found = Some(format!("not true: {property}{steps}"));
        }
        (found, whole)
    }

    fn name(&self) -> String {
        let Self { copies, writes, failures, kinds, .. } = self;
        let kinds = if kinds.len() == ALL.len() { "all kinds".into() } else { format!("{kinds:?}") };
        let fresh = if self.fresh { ", never written" } else { "" };
        let closes = if self.closes { ", closed" } else { "" };
        format!(
            "{copies} copies{fresh}, writes {writes:?}{closes}, {failures} failures of {kinds}, {:?}",
            self.faults
        )
    }
}

fn is_full() -> bool {
    std::env::var("MOOSENG_MODEL").is_ok_and(|m| m == "full")
}

#[test]
fn nothing_that_was_promised_is_lost() {
    let mut all = vec![
        Config::new(1, &ALL),
        Config::new(2, &ALL).writes([1, 0]),
        Config::new(1, &ALL).closes(),
        Config::new(1, &ALL).copies(3),
        Config::new(1, &ALL).fresh([1, 1]),
        Config::new(1, &ALL).fresh([2, 0]),
        Config::new(2, &ALL).writes([1, 0]).closes(),
        Config::new(2, &ALL).fresh([1, 0]),
    ];
    if is_full() {
        all.push(Config::new(2, &ALL));
    }
    for cfg in all {
        let (found, whole) = cfg.clone().explore();
        assert_eq!(found, None, "{cfg:?}");
        assert!(whole, "nothing was explored of what is usual: {cfg:?}");
    }
}

/// A model that finds nothing proves nothing.
#[test]
fn each_mistake_is_found() {
    for (faults, cfg) in found_in() {
        let cfg = Config { faults: faults.to_vec(), ..cfg };
        let (found, _) = cfg.clone().explore();
        let found = found.unwrap_or_else(|| panic!("not found: {cfg:?}"));
        println!("{faults:?}: {found}");
    }
}
