//! Each bug that can be planted, and a seed that catches it: docs/simulation.md has the table.
//!
//! Begins at the seed that caught a bug when the table was made, so that each costs one seed.
//! `MOOSENG_PLANTED=all` looks for the first seed of each anew, from 0; `MOOSENG_PLANTED=FenceNotAwaited`
//! that of one.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests may panic, and show the table of what was caught"
)]

use mooseng_core::planted::{Bug, plant};
use mooseng_sim::world::run;
use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// Seeds that may pass before a bug counts as missed.
const SEEDS_MAX: u64 = 500;
/// Threads that look, each at a bug of its own: a bug is its thread's.
const THREADS: usize = 2;

/// The seed that catches a bug today.
const fn caught_by(bug: Bug) -> u64 {
    match bug {
        Bug::CapabilityUnbound | Bug::CommitAfterTruncate => 0,
        Bug::BadTailCut => 1,
        Bug::AckBeforeQuorum => 69,
        Bug::LogSyncSkipped => 2,
        Bug::PurgePastDurable => 4,
        Bug::DeposedReads => 12,
        Bug::ReplyDropped => 22,
        Bug::SuspectServed => 29,
        Bug::SurplusDeletedEarly => 66,
        Bug::FsyncSkipped => 34,
        Bug::CopyUncompared => 41,
        Bug::VersionUnchecked => 120,
        Bug::IncarnationIgnored => 96,
        Bug::FenceNotAwaited => 255,
        Bug::RepeatApplied => 229,
    }
}

/// What one seed says of a bug that is in force on this thread.
fn verdict(seed: u64) -> Option<String> {
    let ran = std::panic::catch_unwind(|| run(seed));
    match ran {
        Ok(ran) => ran.outline.err().map(|e| {
            let said: Vec<_> = e.chain().skip(1).map(ToString::to_string).collect();
            said.join(": ")
        }),
        Err(_) => Some("a panic".into()),
    }
}

/// The first seed from `from` on that breaks a promise, and which. One that breaks it without the bug as
/// well does not count.
fn search(bug: Bug, from: u64) -> Option<(u64, String)> {
    let found = (from..from + SEEDS_MAX).find_map(|seed| {
        plant(Some(bug));
        let said = verdict(seed);
        plant(None);
        said.filter(|_| verdict(seed).is_none()).map(|said| (seed, said))
    });
    plant(None);
    found
}

#[test]
fn each_planted_bug_is_caught() {
    let wish = std::env::var("MOOSENG_PLANTED").ok();
    let all = wish.as_deref() == Some("all");
    let named = |b: &Bug| all || wish.as_ref().is_none_or(|w| *w == format!("{b:?}"));
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(named).collect();
    assert!(!bugs.is_empty(), "MOOSENG_PLANTED names no bug");
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let from = if wish.is_some() { 0 } else { caught_by(*bug) };
                    let caught = search(*bug, from);
                    println!("{bug:?}: {caught:?}");
                    found.lock().unwrap().push((*bug, caught));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort();
    println!("| planted bug | caught by seed | what was broken |\n|---|---|---|");
    for (bug, caught) in &found {
        let (seed, said) = caught.clone().map_or_else(
            || ("none".into(), "nothing".into()),
            |(seed, said)| (seed.to_string(), said.replace('|', "/").chars().take(160).collect::<String>()),
        );
        println!("| {bug:?} | {seed} | {said} |");
    }
    let missed: Vec<_> = found.iter().filter(|(_, caught)| caught.is_none()).map(|(b, _)| b).collect();
    assert!(missed.is_empty(), "missed within {SEEDS_MAX} seeds: {missed:?}");
}
