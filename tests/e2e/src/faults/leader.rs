//! kill -9 of the leading master under load.

use super::{Amount, Stage, can_mount, shared};
use crate::{
    cluster::{PATIENCE, Plan, wait_for},
    load::Load,
    report::{Report, distribution, secs},
    surface::Surface,
};
use anyhow::Result;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Threads of load.
const WORKERS: usize = 4;
/// Of a worker between its operations.
const PACE: Duration = Duration::from_millis(8);
/// Aims.
const MEDIAN: Duration = Duration::from_millis(1_500);
const WORST: Duration = Duration::from_secs(3);

/// Kills the leader again and again, with load through the SDK and through a mount.
pub fn leader(amount: Amount, report: &mut Report) -> Result<()> {
    let kills = amount.of(3, 5, 20);
    let stage = &mut Stage::start(Plan::new(3, 3))?;
    let sdk = shared(stage.sdk());
    kills_under(stage, report, "the SDK", &sdk, "/by-sdk", kills)?;
    if can_mount(report) {
        let mount = stage.mount("mount-a")?;
        kills_under(stage, report, "a mount", &shared(mount.surface()), "/by-mount", kills)?;
    }
    stage.heal(report);
    Ok(())
}

fn kills_under(
    stage: &mut Stage,
    report: &mut Report,
    by: &str,
    surface: &Arc<dyn Surface>,
    dir: &str,
    kills: usize,
) -> Result<()> {
    let load = Load::start(surface, dir, WORKERS, PACE)?;
    let mut waits = Vec::new();
    let quiet = Instant::now();
    steady(&load, 200)?;
    report.say(format!(
        "{by}: without a fault the longest operation took {}",
        secs(load.longest_since(quiet).0)
    ));
    for _ in 0..kills {
        stage.masters_follow()?;
        steady(&load, 100)?;
        let leader = stage.cluster.leader()?;
        let at = Instant::now();
        stage.cluster.masters[leader].kill9()?;
        let served = wait_for("load is served again", PATIENCE, || load.served_since(at).then_some(()));
        if let Err(e) = served {
            report.fail(format!("{by}: {e:#}"));
        }
        waits.push(load.longest_since(at));
        stage.cluster.masters[leader].start()?;
        stage.cluster.masters[leader].wait_ready()?;
    }
    steady(&load, 100)?;
    let done = load.finish()?;
    let (text, median, worst) = distribution(&waits.iter().map(|w| w.0).collect::<Vec<_>>());
    report.say(format!("{by}: the longest wait of a caller at each kill of the leader: {text}"));
    let all: Vec<_> = waits.iter().map(|(w, what)| format!("{:.2} {what}", w.as_secs_f64())).collect();
    report.say(format!("{by}: each in order: {}", all.join(", ")));
    report.aim(&format!("{by}: median unavailability"), median, MEDIAN);
    report.aim(&format!("{by}: worst unavailability"), worst, WORST);
    report.fail_all(&format!("{by}: error"), done.errors());
    report.fail_all(&format!("{by}: looked for through the same client"), done.check(&**surface)?);
    report.fail_all(&format!("{by}: looked for through the SDK"), done.check(&stage.sdk() as &dyn Surface)?);
    let (names, bytes) = done.totals();
    report.say(format!(
        "{by}: {} operations acknowledged, {} errors; {names} files of {} MiB looked for",
        done.acknowledged,
        done.errors().len(),
        bytes >> 20
    ));
    Ok(())
}

/// Waits until that many more operations were acknowledged.
fn steady(load: &Load, operations: u64) -> Result<()> {
    let from = load.acknowledged();
    wait_for("load goes on", PATIENCE, || (load.acknowledged() >= from + operations).then_some(()))
}
