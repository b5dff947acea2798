//! # A mount as a daemon
//!
//! Settings become a client and a mount; it unmounts at SIGTERM, and ends when somebody else
//! unmounts. The `mooseng-mount` binary and `mooseng mount` are this one assembly.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests may panic"))]

mod telling;

use anyhow::Context as _;
use async_trait::async_trait;
use mooseng_client::Client;
use mooseng_core::{health, net::Role};
use mooseng_fuse::{Mount, MountError, MountOptions};
use mooseng_support::{
    addr, catalog,
    config::{ConfigError, Flags, Settings},
    daemon::{self, HttpPort, Parts, Service},
    http::Health,
    keys,
    metrics::plain,
    node::{Common, bind_addr, master_addrs, mebibytes},
};
use serde_json::json;
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// Between two looks at whether the masters answer, and longest wait for their answer.
const LOOK: Duration = Duration::from_secs(5);
/// Longest wait for the end of the session after the unmount.
const SESSION_END: Duration = Duration::from_secs(10);

/// A mount's own settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Client addresses of the masters.
    pub masters: Vec<String>,
    /// What is mounted, as it was given: `m1:9421,m2:9421:/`. A line of fstab is found again by it.
    pub source: String,
    /// Where HTTP answers.
    pub metrics: SocketAddr,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Other users may use it.
    pub allow_other: bool,
    /// Programs cannot be run from it.
    pub no_exec: bool,
    /// Bytes of file data that it holds in memory.
    pub cache: u64,
}

impl Config {
    /// From settings.
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            mount_point: settings.get("mount_point")?,
            masters: master_addrs(settings)?,
            source: format!("{}:/", settings.text("master_addrs").unwrap_or_default()),
            metrics: bind_addr(settings, "metrics_port")?,
            read_only: settings.get("read_only")?,
            allow_other: settings.get("allow_other")?,
            no_exec: settings.get("no_exec")?,
            cache: mebibytes(settings, "cache_size_mb", 16..=1 << 20)?,
        })
    }
}

/// Roles of the certificates that it takes.
const ROLES: &[Role] = &[Role::Client, Role::Admin];

/// Judges settings and the identity as [`run`] would, and begins nothing.
pub fn check(flags: &Flags<keys::Mount>) -> anyhow::Result<()> {
    let settings = Settings::load(flags)?;
    Common::new(&settings, ROLES)?;
    Config::new(&settings)?;
    Ok(())
}

/// Mounts, and serves until it is told to stop or somebody unmounts.
pub fn run(flags: &Flags<keys::Mount>) -> anyhow::Result<()> {
    let Some((settings, common)) = daemon::begin(flags, ROLES)? else { return Ok(()) };
    let config = Config::new(&settings)?;
    let http = [HttpPort { at: config.metrics, flag: "metrics-port" }];
    daemon::run(&common, &http, async |parts| {
        let mounted = Mounted::start(&config, &common, parts).await?;
        Ok(Arc::new(mounted) as Arc<dyn Service>)
    })
}

struct Mounted {
    mount: Arc<Mount>,
    client: Client,
    name: String,
    /// Whether the masters answered lately.
    answered: Arc<AtomicBool>,
    looking: JoinHandle<()>,
}

impl Mounted {
    async fn start(config: &Config, common: &Common, parts: Parts) -> anyhow::Result<Self> {
        let client = Client::builder()
            .masters(config.masters.clone())
            .transport(parts.transport)
            .dirty_max((config.cache / 4 * 3) as usize)
            .read_ahead_max(config.cache / 4)
            .seams(mooseng_host::host_seams())
            .name(common.peer.name.clone())
            .host(addr::host_name())
            .connect()
            .await
            .with_context(|| format!("no session with the masters ({})", config.masters.join(", ")))?;
        telling::reads(&parts.metrics, client.vfs());
        let options = MountOptions {
            read_only: config.read_only,
            allow_other: config.allow_other,
            no_exec: config.no_exec,
            fs_name: config.source.clone(),
            observer: telling::Requests::new(&parts.metrics),
            ..MountOptions::default()
        };
        let mount = Arc::new(Mount::start(client.vfs().clone(), &config.mount_point, options).await?);
        tracing::info!(at = %mount.point().display(), "mounted");
        let answered = Arc::new(AtomicBool::new(true));
        let seen = answered.clone();
        parts.metrics.gauge(&catalog::MOUNT_ANSWERED, move || {
            plain(f64::from(u8::from(seen.load(Ordering::Relaxed))))
        });
        let served = Arc::downgrade(&mount);
        parts.metrics.gauge(&catalog::FUSE_IN_FLIGHT, move || {
            served.upgrade().map(|m| plain(m.under_way() as f64)).unwrap_or_default()
        });
        let looking = tokio::spawn(look(client.clone(), answered.clone()));
        Ok(Self { mount, client, name: common.peer.name.clone(), answered, looking })
    }
}

/// Asks the masters from time to time.
async fn look(client: Client, answered: Arc<AtomicBool>) {
    let fs = client.filesystem();
    loop {
        let answer = tokio::time::timeout(LOOK, fs.stat_fs()).await;
        answered.store(matches!(answer, Ok(Ok(_))), Ordering::Relaxed);
        tokio::time::sleep(LOOK).await;
    }
}

#[async_trait]
impl Service for Mounted {
    fn health(&self) -> Health {
        let ready = self.answered.load(Ordering::Relaxed);
        let problem = (!ready).then(health::master_unreachable);
        let status = problem.as_ref().map_or("ok", |p| p.code.name()).into();
        let details = json!({
            "role": "client",
            "name": self.name,
            "mount_point": self.mount.point().display().to_string(),
            "problems": problem.as_slice(),
        });
        Health { status, ready, live: true, details }
    }

    /// Unmounts when nothing is open there; else it is detached, and what is open loses its files.
    async fn stop(&self) -> anyhow::Result<()> {
        self.looking.abort();
        let unmounted = match self.mount.unmount().await {
            Err(e @ MountError::Busy { .. }) => {
                tracing::warn!(error = %e, "still in use: detached with the end of this process");
                Ok(())
            }
            other => other.map_err(anyhow::Error::from),
        };
        let ended =
            self.client.clone().shutdown(SESSION_END).await.context("what was written last is not safe");
        unmounted.and(ended)
    }

    async fn ended(&self) -> anyhow::Result<()> {
        self.mount.wait().await?;
        tracing::info!("unmounted by somebody else");
        Ok(())
    }
}
