//! # A master as a daemon
//!
//! Settings become [`MasterOptions`]; a running [`Master`] gets health endpoints and metrics. The
//! `mooseng-master` binary and `mooseng master` are this one assembly.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod config;
mod telling;

pub use config::Config;

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use mooseng_core::{
    join::{Authority, JoinError, JoinRequest, Joined},
    meta::StorageClass,
    net::Role,
    seam::Disk as _,
};
use mooseng_host::{BallastDisk, DirLock, OsDisk, host_seams};
use mooseng_meta::{
    server::{Master, MasterOptions, StartError},
    service::{ServiceTimings, Survey, reserve_of},
};
use mooseng_net::identity::{AUTHORITY_DIR, ClusterCa};
use mooseng_support::{
    config::{Flags, Settings},
    daemon::{self, HttpPort, Service},
    disk_meter::DiskMeter,
    http::Health,
    joins::Joins,
    keys,
    metrics::Metrics,
    node::{Common, TransportKind, data_dir_error},
    ports,
};
use parking_lot::Mutex;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// Between two looks of a leader at the whole cluster, for metrics and health, and longest wait for a quorum that
/// confirms it. A look reads every chunk's record, twice.
const LOOK: Duration = Duration::from_secs(10);
/// So many times as long as a look took is waited before the next one: they take a twentieth of a processor at most.
const REST: u32 = 20;
/// Between a look that failed and the next one.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two looks whether this master leads.
const LEADS: Duration = Duration::from_secs(1);

/// Roles of the certificates that it takes.
const ROLES: &[Role] = &[Role::Master];

/// Judges settings and the identity as [`run`] would, and begins nothing.
pub fn check(flags: &Flags<keys::Master>) -> anyhow::Result<()> {
    let settings = Settings::load(flags)?;
    let common = Common::new(&settings, ROLES)?;
    Config::new(&settings, &common)?;
    authority(Path::new(&settings.get::<String>("identity")?), &common)?;
    Ok(())
}

/// Runs a master until it is told to stop.
pub fn run(flags: &Flags<keys::Master>) -> anyhow::Result<()> {
    let Some((settings, common)) = daemon::begin(flags, ROLES)? else { return Ok(()) };
    let config = Config::new(&settings, &common)?;
    let authority = authority(Path::new(&settings.get::<String>("identity")?), &common)?;
    let unusable = |e| data_dir_error(&config.data_dir, &e);
    let lock = DirLock::take(&config.data_dir).map_err(unusable)?;
    let disk = Arc::new(OsDisk::open(&config.data_dir).map_err(unusable)?);
    // Half of what is for removing only is there whatever else fills the disk.
    let (total, _) = disk.space().map_err(unusable)?;
    let ballast = reserve_of(total, config.reserve) / 2;
    let mut http = vec![HttpPort { at: config.metrics, flag: "metrics-port" }];
    if common.transport == TransportKind::Quic {
        http.push(HttpPort { at: config.listen, flag: "listen-port" });
    }
    ports::probe(common.transport.ports(), config.listen, "listen-port")?;
    ports::probe(common.transport.ports(), config.raft_listen, "raft-port")?;
    daemon::run(&common, &http, async |parts| {
        let measured = DiskMeter::new(&parts.metrics).disk(disk);
        let held = BallastDisk::new(measured, ballast);
        let disk = Arc::new(held.map_err(|e| data_dir_error(&config.data_dir, &e))?);
        let options = MasterOptions {
            id: config.id,
            cluster: common.peer.cluster,
            listen: config.listen.to_string(),
            raft_listen: config.raft_listen.to_string(),
            members: config.members.clone(),
            disk,
            transport: parts.transport,
            seams: host_seams(),
            raft_timings: Default::default(),
            log: Default::default(),
            timings: ServiceTimings { repair_bytes_per_s: config.repair_bytes_per_s, ..Default::default() },
            class: StorageClass { copies: config.copies },
            cache_bytes: config.cache_bytes,
            reserve: config.reserve,
            authority,
        };
        let master = Master::start(options).await.map_err(|e| match e {
            StartError::Disk { cause, .. } => data_dir_error(&config.data_dir, &cause),
            other => other.into(),
        })?;
        let running = Running::new(master, lock, &config, &common, &parts.metrics);
        parts.endpoints.serve_joins(Arc::new(running.node.clone()));
        Ok(Arc::new(running) as Arc<dyn Service>)
    })
}

/// The cluster's authority, when a copy of it is beside the identity: then joins are answered.
fn authority(identity: &Path, common: &Common) -> anyhow::Result<Option<Arc<dyn Authority>>> {
    let dir = identity.join(AUTHORITY_DIR);
    if !dir.try_exists().with_context(|| dir.display().to_string())? {
        tracing::info!("no {}: this master signs no certificates for joins", dir.display());
        return Ok(None);
    }
    let cure = || format!("the CA in {} cannot be used: mend it, or remove the directory", dir.display());
    let ca = ClusterCa::load(&dir).with_context(cure)?;
    ensure!(
        ca.hash() == common.identity.ca_hash(),
        "the CA in {} is not the one that issued this master's certificate: copy the cluster's own, or \
         remove the directory",
        dir.display()
    );
    Ok(Some(Arc::new(ca)))
}

/// A master, until it is stopped.
#[derive(Clone)]
pub(crate) struct Node {
    master: Arc<Mutex<Option<Master>>>,
    /// The cluster as this master saw it lately, while it leads.
    survey: Arc<Mutex<Option<Survey>>>,
}

#[async_trait]
impl Joins for Node {
    async fn join(&self, request: JoinRequest) -> Result<Joined, JoinError> {
        let stopping = || JoinError::Busy("this master is stopping".into());
        let joined = self.master.lock().as_ref().map(|m| m.join(request)).ok_or_else(stopping)?;
        joined.await
    }
}

struct Running {
    node: Node,
    common: Common,
    looking: JoinHandle<()>,
    data_dir: PathBuf,
    _lock: DirLock,
}

impl Running {
    fn new(master: Master, lock: DirLock, config: &Config, common: &Common, metrics: &Metrics) -> Self {
        let node = Node { master: Arc::new(Mutex::new(Some(master))), survey: Arc::default() };
        telling::register(&node, metrics);
        let looking = tokio::spawn(look(node.clone()));
        let (common, data_dir) = (common.clone(), config.data_dir.clone());
        Self { node, common, looking, data_dir, _lock: lock }
    }
}

/// While this master leads, keeps what it knows of the cluster fresh.
async fn look(node: Node) {
    let mut next = Instant::now();
    loop {
        let begin = Instant::now();
        let is_due = begin >= next;
        let survey = node.master.lock().as_ref().filter(|m| m.status().leading).map(|m| m.survey(LOOK));
        match survey {
            // What it saw is not of its next term.
            None => {
                next = begin;
                *node.survey.lock() = None;
            }
            Some(survey) if is_due => {
                let seen = survey.await;
                if let Err(e) = &seen {
                    tracing::warn!(error = %e, "a look at the cluster failed, the next one follows soon");
                }
                next = Instant::now() + pause(seen.is_ok(), begin.elapsed());
                *node.survey.lock() = seen.ok();
            }
            Some(_) => {}
        }
        tokio::time::sleep(LEADS).await;
    }
}

/// After a look that succeeded or not, and took so long.
fn pause(seen: bool, took: Duration) -> Duration {
    if seen { LOOK.max(took * REST) } else { AGAIN }
}

#[async_trait]
impl Service for Running {
    fn health(&self) -> Health {
        telling::health(&self.node, &self.common.peer)
    }
    /// A master whose disk failed it ends: it can do nothing more for anybody, the others serve, and
    /// whoever supervises it starts it again.
    async fn ended(&self) -> anyhow::Result<()> {
        let failed = self.node.master.lock().as_ref().map(Master::failed);
        let Some(failed) = failed else { return std::future::pending().await };
        let cause = failed.await;
        bail!(
            "this master cannot go on: {cause}; make room on the disk of {}, or mend it, and start it again \
             (what was acknowledged is kept, and the other masters serve meanwhile)",
            self.data_dir.display()
        )
    }
    async fn stop(&self) -> anyhow::Result<()> {
        self.looking.abort();
        let master = self.node.master.lock().take();
        if let Some(master) = master {
            master.shutdown().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_look_that_failed_the_next_one_follows_soon() {
        assert_eq!(pause(false, LOOK), AGAIN);
        assert_eq!(pause(true, Duration::ZERO), LOOK);
        assert_eq!(pause(true, LOOK), LOOK * REST);
    }
}
