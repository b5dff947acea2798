//! # A chunkserver as a daemon
//!
//! Settings become [`ChunkserverOptions`]; a running [`Chunkserver`] gets health endpoints and
//! metrics. The `mooseng-chunkserver` binary and `mooseng chunkserver` are this one assembly.

mod telling;

use async_trait::async_trait;
use mooseng_chunk::{Chunkserver, ChunkserverOptions, StartError, Timings};
use mooseng_core::{ids::ServerId, net::Role, seam::Disk};
use mooseng_host::{DirLock, OsDisk, host_seams};
use mooseng_support::{
    addr,
    config::{ConfigError, Flags, Settings},
    daemon::{self, HttpPort, Service},
    disk_meter::DiskMeter,
    http::Health,
    keys,
    metrics::Metrics,
    node::{Common, TransportKind, advertised, bind_addr, data_dir_error, master_addrs, mebibytes},
    ports,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Disks of one chunkserver at most.
const DISKS_MAX: usize = 256;

/// A chunkserver's own settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where others reach it.
    pub advertise: String,
    /// Where HTTP answers.
    pub metrics: SocketAddr,
    /// Its storage directories.
    pub data_dirs: Vec<PathBuf>,
    /// Client addresses of the masters.
    pub masters: Vec<String>,
    /// Bytes of each disk that chunks never use.
    pub reserve: u64,
    /// Bytes a second that scrubs read from each disk.
    pub scrub_bytes_per_s: u64,
}

impl Config {
    /// From settings; the certificate tells who this is.
    pub fn new(settings: &Settings, common: &Common) -> Result<Self, ConfigError> {
        common.check_number(settings, "server_id")?;
        let listen = bind_addr(settings, "listen_port")?;
        if listen.port() == 0 && settings.text("advertise_addr").is_some() {
            return Err(settings.bad("listen_port", "with advertise_addr others must find it again"));
        }
        let data_dirs: Vec<PathBuf> = settings.list("data_dirs").into_iter().map(Into::into).collect();
        match data_dirs.len() {
            0 => return Err(settings.missing("data_dirs")),
            1..=DISKS_MAX => {}
            n => return Err(settings.bad("data_dirs", format!("{n} are over the limit of {DISKS_MAX}"))),
        }
        let mut named = BTreeSet::new();
        if let Some(twice) = data_dirs.iter().find(|dir| !named.insert(*dir)) {
            return Err(settings.bad("data_dirs", format!("{} is named twice", twice.display())));
        }
        Ok(Self {
            listen,
            advertise: advertised(settings, listen, &addr::host_name())?,
            metrics: bind_addr(settings, "metrics_port")?,
            data_dirs,
            masters: master_addrs(settings)?,
            reserve: mebibytes(settings, "reserve_mb", 0..=u64::MAX >> 20)?,
            scrub_bytes_per_s: mebibytes(settings, "scrub_mb_per_s", 0..=1 << 20)?,
        })
    }
}

/// Roles of the certificates that it takes.
const ROLES: &[Role] = &[Role::Chunkserver];

/// Judges settings and the identity as [`run`] would, and begins nothing.
pub fn check(flags: &Flags<keys::Chunkserver>) -> anyhow::Result<()> {
    let settings = Settings::load(flags)?;
    Config::new(&settings, &Common::new(&settings, ROLES)?)?;
    Ok(())
}

/// Runs a chunkserver until it is told to stop.
pub fn run(flags: &Flags<keys::Chunkserver>) -> anyhow::Result<()> {
    let Some((settings, common)) = daemon::begin(flags, ROLES)? else { return Ok(()) };
    let config = Config::new(&settings, &common)?;
    let (mut locks, mut disks) = (Vec::new(), Vec::new());
    for dir in &config.data_dirs {
        let unusable = |e| data_dir_error(dir, &e);
        locks.push(DirLock::take(dir).map_err(unusable)?);
        disks.push(Arc::new(OsDisk::open(dir).map_err(unusable)?) as Arc<dyn Disk>);
    }
    let mut http = vec![HttpPort { at: config.metrics, flag: "metrics-port" }];
    if common.transport == TransportKind::Quic {
        http.push(HttpPort { at: config.listen, flag: "listen-port" });
    }
    ports::probe(common.transport.ports(), config.listen, "listen-port")?;
    daemon::run(&common, &http, async |parts| {
        let meter = DiskMeter::new(&parts.metrics);
        let disks = disks.into_iter().map(|disk| meter.disk(disk)).collect();
        let options = ChunkserverOptions {
            server: ServerId(common.peer.node),
            cluster: common.peer.cluster,
            listen: config.listen.to_string(),
            advertise: config.advertise.clone(),
            disks,
            transport: parts.transport,
            masters: config.masters.clone(),
            seams: host_seams(),
            timings: Timings { scrub_bytes_per_s: config.scrub_bytes_per_s, ..Default::default() },
            reserve: config.reserve,
        };
        let server = Chunkserver::start(options).await.map_err(|e| match e {
            StartError::Disk { dir, cause } => data_dir_error(Path::new(&dir), &cause),
            other => other.into(),
        })?;
        tracing::info!(at = config.advertise, "chunks are served");
        Ok(Arc::new(Running::new(server, locks, &common, &parts.metrics)) as Arc<dyn Service>)
    })
}

/// A chunkserver, until it is stopped.
pub(crate) type Node = Arc<Mutex<Option<Chunkserver>>>;

struct Running {
    node: Node,
    common: Common,
    _locks: Vec<DirLock>,
}

impl Running {
    fn new(server: Chunkserver, locks: Vec<DirLock>, common: &Common, metrics: &Metrics) -> Self {
        let node = Arc::new(Mutex::new(Some(server)));
        telling::register(&node, metrics);
        Self { node, common: common.clone(), _locks: locks }
    }
}

#[async_trait]
impl Service for Running {
    fn health(&self) -> Health {
        telling::health(&self.node, &self.common.peer)
    }
    async fn stop(&self) -> anyhow::Result<()> {
        let server = self.node.lock().take();
        if let Some(server) = server {
            server.shutdown().await;
        }
        Ok(())
    }
}
