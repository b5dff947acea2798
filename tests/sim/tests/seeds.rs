//! Seeds in CI. Others: `MOOSENG_SEEDS=from..to cargo test -p mooseng-sim --test seeds`.
//! `MOOSENG_JOURNAL=1` with one seed prints all that happened in it, `MOOSENG_LOG=debug` what the
//! cluster logged, `MOOSENG_TRACES=1` the hash of each seed's run: it is the same in each run of these tests.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests may panic, and tell how to run a seed again"
)]

use mooseng_sim::world::{Outline, run};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

/// Lines of a failed seed's journal that are shown unasked.
const TAIL: usize = 60;
/// Threads that run seeds; each seed is a world of its own.
const THREADS: usize = 2;

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("MOOSENG_SEEDS").unwrap_or_else(|_| "0..300".into());
    let (from, to) = text.split_once("..").expect("MOOSENG_SEEDS is FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

/// Virtual time, from about the run's start when it is the only one.
struct Virtual(tokio::time::Instant);

impl tracing_subscriber::fmt::time::FormatTime for Virtual {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> std::fmt::Result {
        write!(w, "{:9.3} s", self.0.elapsed().as_secs_f64())
    }
}

fn log() {
    if let Ok(filter) = std::env::var("MOOSENG_LOG") {
        let format = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_test_writer()
            .with_timer(Virtual(tokio::time::Instant::now()));
        let _ = format.try_init();
    }
}

/// Runs one seed; says how to run it again when a promise was broken.
fn judge(seed: u64) -> Option<Outline> {
    let ran = run(seed);
    if std::env::var_os("MOOSENG_TRACES").is_some() {
        eprintln!("seed {seed}: trace {:016x}", ran.trace);
    }
    let all = std::env::var_os("MOOSENG_JOURNAL").is_some();
    let shown = if all { ran.journal.len() } else { TAIL.min(ran.journal.len()) };
    if all || ran.outline.is_err() {
        eprintln!("{}", ran.journal[ran.journal.len() - shown..].join("\n"));
    }
    ran.outline
        .inspect_err(|e| {
            eprintln!("BROKEN: {e:#}");
            eprintln!(
                "again, with all that happened: MOOSENG_JOURNAL=1 MOOSENG_SEEDS={seed}..{} cargo test -p mooseng-sim --test seeds no_promise",
                seed + 1
            );
        })
        .ok()
}

#[test]
fn no_promise_is_broken() {
    log();
    let (seeds, broken) = (seeds(), Mutex::new(Vec::new()));
    let next = AtomicU64::new(seeds.start);
    let outlines = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    match judge(seed) {
                        Some(outline) => outlines.lock().unwrap().push(outline),
                        None => broken.lock().unwrap().push(seed),
                    }
                }
            });
        }
    });
    let (outlines, broken) = (outlines.into_inner().unwrap(), broken.into_inner().unwrap());
    let sum = |of: fn(&Outline) -> u64| outlines.iter().map(of).sum::<u64>();
    let max = |of: fn(&Outline) -> u64| outlines.iter().map(of).max().unwrap_or(0);
    eprintln!(
        "{} seeds: {} steps acknowledged, {} failed in a fault; the longest took {} ms, the slowest convergence {} ms; {} replicas compared; {} calls on names explained, {} entries committed, {} sessions fenced, {} ills of disks felt, {} nodes rolled back; {} s of virtual time",
        outlines.len(),
        sum(|o| o.acknowledged),
        sum(|o| o.failed),
        max(|o| o.longest_ms),
        max(|o| o.converged_ms),
        sum(|o| o.replicas),
        sum(|o| o.calls),
        sum(|o| o.committed),
        sum(|o| o.fenced),
        sum(|o| o.ills_felt),
        sum(|o| o.rolled_back),
        sum(|o| o.virtual_ms) / 1000
    );
    assert!(broken.is_empty(), "promises were broken in seeds {broken:?}");
    assert!(sum(|o| o.acknowledged) > 0, "nothing was acknowledged: nothing was proven");
    assert!(sum(|o| o.replicas) > 0, "no replicas were compared");
}

#[test]
fn one_seed_is_one_run() {
    // The last has rare faults.
    for seed in [3, 11, 14] {
        assert_eq!(run(seed).outline.unwrap(), run(seed).outline.unwrap(), "seed {seed}");
    }
}
