//! What every daemon knows of itself: certificate, cluster, number, times.

use crate::{
    addr,
    config::{ConfigError, Settings},
    ports, telemetry,
};
use anyhow::Context as _;
use mooseng_core::net::{PeerIdentity, Role};
use mooseng_net::identity::Identity;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Threads of a runtime at most.
const THREADS_MAX: usize = 1024;

/// Which transport a cluster speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportKind {
    /// QUIC on UDP.
    Quic,
    /// TLS 1.3 on TCP.
    Tcp,
}

impl std::str::FromStr for TransportKind {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "quic" => Ok(Self::Quic),
            "tcp" => Ok(Self::Tcp),
            _ => Err("there is no such transport".into()),
        }
    }
}

impl TransportKind {
    /// The ports it listens on.
    pub const fn ports(self) -> ports::Kind {
        match self {
            Self::Quic => ports::Kind::Udp,
            Self::Tcp => ports::Kind::Tcp,
        }
    }
}

/// What every daemon knows of itself.
#[derive(Clone, Debug)]
pub struct Common {
    /// Its certificate and key.
    pub identity: Identity,
    /// Whom the certificate names.
    pub peer: PeerIdentity,
    /// How it speaks.
    pub transport: TransportKind,
    /// Threads of its runtime.
    pub worker_threads: usize,
    /// Longest clean stop.
    pub stop_timeout: Duration,
    /// How long a call takes that is told in the log; `None`: none is.
    pub slow_call: Option<Duration>,
}

impl Common {
    /// From settings; the certificate must be of one of `roles` and agree with what is set.
    pub fn new(settings: &Settings, roles: &[Role]) -> anyhow::Result<Self> {
        let dir = settings.get::<String>("identity")?;
        let identity = load_identity(Path::new(&dir))?;
        // The others would refuse it, and this node would only be silent.
        identity.check_now().with_context(|| {
            format!(
                "the identity in {dir} cannot be used now: set the clock right, or have the cluster's \
                 authority issue a new one (`mooseng cluster issue`)"
            )
        })?;
        let peer = identity.peer();
        if !roles.contains(&peer.role) {
            let wanted: Vec<_> = roles.iter().map(|r| r.as_str()).collect();
            let (role, name) = (peer.role, &peer.name);
            let cause =
                format!("its certificate is of role {role} ({name}), role {} is needed", wanted.join(" or "));
            return Err(settings.bad("identity", cause).into());
        }
        let cluster: Option<mooseng_core::ids::ClusterId> = settings.opt("cluster_id")?;
        if cluster.is_some_and(|c| c != peer.cluster) {
            let cause = format!("the certificate is of cluster {}", peer.cluster);
            return Err(settings.bad("cluster_id", cause).into());
        }
        let threads = |s: &str| match s.parse::<usize>() {
            Ok(n) if (1..=THREADS_MAX).contains(&n) => Ok(n),
            Ok(_) => Err("it is out of range".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        let worker_threads = match settings.text("worker_threads") {
            Some(_) => settings.get_with("worker_threads", threads)?,
            None => default_threads(peer.role),
        };
        settings.get_with("log_level", telemetry::filter)?;
        let time = |s: &str| humantime::parse_duration(s).map_err(|e| e.to_string());
        let stop_timeout = settings.get_with("stop_timeout", time)?;
        let slow_call = Some(settings.get_with("slow_call", time)?).filter(|slow| !slow.is_zero());
        Ok(Self {
            identity,
            peer,
            transport: settings.get("transport")?,
            worker_threads,
            stop_timeout,
            slow_call,
        })
    }

    /// Refuses a number in the settings that is not the certificate's (its name is as good).
    pub fn check_number(&self, settings: &Settings, key: &str) -> Result<(), ConfigError> {
        let (node, name) = (self.peer.node, &self.peer.name);
        match settings.text(key) {
            Some(text) if text.parse() != Ok(node) && text != name => {
                Err(settings.bad(key, format!("the certificate is number {node} ({name})")))
            }
            _ => Ok(()),
        }
    }
}

/// A client's work is one file after the other, and each thread more is a wake-up more; servers get
/// half of the processors, for the disks' and Raft's threads, and the programs beside them, need some too.
fn default_threads(role: Role) -> usize {
    match role {
        Role::Client | Role::Admin => 1,
        _ => std::thread::available_parallelism().map_or(1, |n| usize::from(n).div_ceil(2)),
    }
}

/// Reads an identity directory, with the cure when that fails.
pub fn load_identity(dir: &Path) -> anyhow::Result<Identity> {
    Identity::load(dir).with_context(|| {
        format!(
            "no identity in {}: join by a token (`mooseng cluster join`), or make one where the cluster's \
             authority is (`mooseng cluster init`, `mooseng cluster issue`) and copy its directory here; \
             give it with --identity or MOOSENG_IDENTITY_DIR",
            dir.display()
        )
    })
}

/// Address to bind for a port key: `listen_addr`, or every address.
pub fn bind_addr(settings: &Settings, port_key: &str) -> Result<SocketAddr, ConfigError> {
    let bare = |s: &str| s.trim_matches(['[', ']']).parse::<IpAddr>().map_err(|e| e.to_string());
    let ip = match settings.text("listen_addr") {
        Some(_) => settings.get_with("listen_addr", bare)?,
        None => addr::any(),
    };
    Ok(SocketAddr::new(ip, settings.get(port_key)?))
}

/// Where others reach a service: `advertise_addr`, or an address that is not "all", or `fallback`.
pub fn advertised(settings: &Settings, at: SocketAddr, fallback: &str) -> Result<String, ConfigError> {
    if settings.text("advertise_addr").is_some() {
        let full = |s: &str| {
            let (host, port) = addr::split(s)?;
            Ok(addr::host_port(host, port.unwrap_or(at.port())))
        };
        return settings.get_with("advertise_addr", full);
    }
    let host = if at.ip().is_unspecified() { fallback.to_owned() } else { at.ip().to_string() };
    Ok(addr::host_port(&host, at.port()))
}

/// Addresses of the masters; at least one.
pub fn master_addrs(settings: &Settings) -> Result<Vec<String>, ConfigError> {
    let addrs = settings.list("master_addrs");
    if addrs.is_empty() {
        return Err(settings.missing("master_addrs"));
    }
    addrs.iter().map(|a| addr::with_port(a).map_err(|e| settings.bad("master_addrs", e))).collect()
}

/// Bytes of a key in MiB, within a range of MiB.
pub fn mebibytes(
    settings: &Settings,
    key: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, ConfigError> {
    settings.get_with(key, |s| match s.parse::<u64>() {
        Ok(n) if range.contains(&n) => Ok(n << 20),
        Ok(_) => Err("it is out of range".into()),
        Err(e) => Err(e.to_string()),
    })
}

/// Explains why a data directory cannot be used, and what to do.
pub fn data_dir_error(dir: &Path, e: &io::Error) -> anyhow::Error {
    let dir: PathBuf = dir.into();
    let user = rustix::process::geteuid().as_raw();
    let cure = match e.kind() {
        io::ErrorKind::ResourceBusy => {
            return anyhow::anyhow!("{e}; stop that process, or give each node a directory of its own");
        }
        io::ErrorKind::PermissionDenied => format!("give it to user {user} (chown), or choose another"),
        io::ErrorKind::ReadOnlyFilesystem => "mount it writable, or choose another".into(),
        io::ErrorKind::StorageFull => "make room on its disk, or choose another".into(),
        _ => "check its disk, or choose another".into(),
    };
    anyhow::anyhow!("data directory {} cannot be used: {e}; {cure}", dir.display())
}
