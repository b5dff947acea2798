//! The scenarios of the `faults` command: what real processes do when they are killed, stopped,
//! cut off, filled up and corrupted.

mod bitflips;
mod chunkserver;
mod flip;
mod full;
mod leader;
mod network;
mod pause;
mod power;

use crate::{
    cluster::{PATIENCE, Plan, ProcessCluster, wait_for},
    report::Report,
    surface::{MountProcess, Sdk, Surface, connect},
};
use anyhow::{Context as _, Result};
use mooseng_client::Client;
use mooseng_core::meta::{GetScrub, ScrubNow, ServerScrub};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

pub use bitflips::bitflips;
pub use chunkserver::chunkserver;
pub use full::full;
pub use leader::leader;
pub use network::network;
pub use pause::pause;
pub use power::power;

/// How much a run does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// What CI has time for.
    Little,
    /// A look.
    Quick,
    /// All of it.
    Full,
}

impl Amount {
    fn of<T>(self, little: T, quick: T, full: T) -> T {
        match self {
            Self::Little => little,
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// Longest a client of a scenario tries.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longest wait for repair.
const LONG: Duration = Duration::from_secs(300);

/// A cluster with a client that watches it.
pub struct Stage {
    /// The processes.
    pub cluster: ProcessCluster,
    /// The watching client.
    pub client: Client,
    rt: Runtime,
    dir: tempfile::TempDir,
}

impl Stage {
    /// Starts the cluster of a plan in a directory of its own.
    pub fn start(plan: Plan) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, plan)
    }

    /// As [`Stage::start`], in this directory.
    pub fn start_in(dir: tempfile::TempDir, plan: Plan) -> Result<Self> {
        let cluster = ProcessCluster::start_plan(&dir.path().join("cluster"), plan)?;
        let rt = runtime()?;
        let client = rt.block_on(connect(&cluster, "watcher", DEADLINE))?;
        Ok(Self { cluster, client, rt, dir })
    }

    /// A place in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The SDK through the watching client.
    pub fn sdk(&self) -> Sdk {
        Sdk::new(self.client.filesystem(), self.rt.handle().clone())
    }

    /// Runs to its end what the SDK promises.
    pub fn wait<F: Future>(&self, what: F) -> F::Output {
        self.rt.block_on(what)
    }

    /// A mount in a process of its own.
    pub fn mount(&self, name: &str) -> Result<MountProcess> {
        MountProcess::start(&self.cluster, name, &self.path(name))
    }

    /// Waits until every master follows closely, so that any two of them can go on.
    pub fn masters_follow(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.wait(self.client.status());
            let close = |s: &mooseng_core::meta::ClusterStatus| {
                s.masters.iter().all(|m| m.leader || m.lag.is_some_and(|l| l < 200))
            };
            match status {
                Ok(s) if close(&s) => return Ok(()),
                other if Instant::now() > until => {
                    anyhow::bail!("a master does not follow: {:?}", other.map(|s| s.masters))
                }
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Waits until all chunks have all their copies and all servers live.
    pub fn healed(&self) -> Result<Duration> {
        let (begin, mut last) = (Instant::now(), None);
        while begin.elapsed() < LONG {
            if let Ok(s) = self.wait(self.client.status()) {
                if s.chunks.healthy == s.chunks.total && s.servers.iter().all(|s| s.alive) {
                    return Ok(begin.elapsed());
                }
                last = Some(s.chunks);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("repair did not end within {LONG:?}: {last:?}")
    }

    /// Every chunk on every server is read and verified, once.
    fn scrub(&self) -> Result<()> {
        let asked = self.wait(self.client.request(ScrubNow {}))?;
        wait_for("a whole round of the scrub", LONG, || {
            let all = self.wait(self.client.request(GetScrub {})).ok()?;
            let ended =
                |s: &ServerScrub| !s.disks.is_empty() && s.disks.iter().all(|d| d.answered >= Some(asked));
            all.iter().all(ended).then_some(())
        })
    }

    /// Waits for all chunks to have all their copies, and complains if that does not come.
    fn heal(&self, report: &mut Report) {
        match self.healed() {
            Ok(took) => {
                report.say(format!("all chunks have all their copies after {:.1} s", took.as_secs_f64()))
            }
            Err(e) => report.fail(format!("{e:#}")),
        }
    }
}

fn runtime() -> Result<Runtime> {
    let made = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    made.context("no runtime")
}

fn shared(surface: impl Surface + 'static) -> Arc<dyn Surface> {
    Arc::new(surface)
}

/// Whether a mount can be made here; says so when not.
fn can_mount(report: &mut Report) -> bool {
    let can = std::path::Path::new("/dev/fuse").exists();
    if !can {
        report.skip("/dev/fuse is not here (modprobe fuse)");
    }
    can
}
