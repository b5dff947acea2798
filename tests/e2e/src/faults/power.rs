//! Everything killed at once under load: masters, chunkservers, clients.

use super::{Amount, DEADLINE, Stage, can_mount, runtime, shared};
use crate::{
    cluster::{PATIENCE, Plan, wait_for},
    load::{Done, Load},
    report::{Report, secs},
    surface::{Sdk, Surface, connect},
};
use anyhow::Result;
use std::time::{Duration, Instant};

/// Threads of load of each kind.
const WORKERS: usize = 3;

/// Kills every process with -9 under load, starts all again and looks for what was acknowledged.
pub fn power(amount: Amount, report: &mut Report) -> Result<()> {
    let rounds = amount.of(1, 2, 6);
    let stage = &mut Stage::start(Plan::new(3, 3))?;
    let fuse = can_mount(report);
    let mut before: Vec<Done> = Vec::new();
    for round in 1..=rounds {
        before.extend(kill_all(stage, report, round, fuse)?);
        for done in &before {
            report.fail_all(&format!("round {round}"), done.check(&stage.sdk() as &dyn Surface)?);
        }
        if fuse {
            let mount = stage.mount("mount-after")?;
            for done in &before {
                report.fail_all(&format!("round {round}, by a mount"), done.check(&mount.surface())?);
            }
        }
        stage.heal(report);
    }
    let totals = before.iter().map(Done::totals).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    report.say(format!("{} files of {} MiB looked for after the last round", totals.0, totals.1 >> 20));
    Ok(())
}

fn kill_all(stage: &mut Stage, report: &mut Report, round: usize, fuse: bool) -> Result<Vec<Done>> {
    // This client dies with its runtime, without a goodbye.
    let rt = runtime()?;
    let client = rt.block_on(connect(&stage.cluster, "dying", DEADLINE))?;
    let (sdk, kill) = Sdk::mortal(client.filesystem(), rt.handle().clone());
    let mut mount = if fuse { Some(stage.mount("mount-a")?) } else { None };
    let pace = Duration::from_millis(5);
    let mut loads = vec![Load::start(&shared(sdk), &format!("/sdk-{round}"), WORKERS, pace)?];
    if let Some(mount) = &mount {
        loads.push(Load::start(&shared(mount.surface()), &format!("/mount-{round}"), WORKERS, pace)?);
    }
    for load in &loads {
        wait_for("load goes on", PATIENCE, || (load.acknowledged() > 300).then_some(()))?;
    }
    loads.iter().for_each(Load::all_dies);
    stage.cluster.kill9_all()?;
    if let Some(mount) = &mut mount {
        mount.kill9()?;
    }
    kill.send_replace(true);
    let dones = loads.into_iter().map(Load::finish).collect::<Result<Vec<_>>>()?;
    drop(client);
    rt.shutdown_background();
    let begin = Instant::now();
    stage.cluster.start_all()?;
    let ready = begin.elapsed();
    let errors = dones.iter().flat_map(Done::errors).collect();
    report.fail_all(&format!("round {round}: error before the kill"), errors);
    let acknowledged: u64 = dones.iter().map(|d| d.acknowledged).sum();
    report.say(format!(
        "round {round}: {acknowledged} operations were acknowledged before all was killed; ready again {} after the start",
        secs(ready)
    ));
    Ok(dones)
}
