//! What the machine offers: ports, open files, FUSE.

use super::{Check, peers::ANSWER, running::Running};
use crate::settings::RoleFlags;
use mooseng_fuse::Found;
use mooseng_support::{
    config::Settings,
    node::{TransportKind, bind_addr},
    ports::{self, Kind},
};
use rustix::process::{Resource, getrlimit};
use std::{
    fs::{self, File},
    io::ErrorKind,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    sync::mpsc,
    thread,
};

/// Files and sockets that a daemon with many clients or chunks has open.
const OPEN_FILES: u64 = 16_384;
/// Below it even a small cluster runs into the limit.
const OPEN_FILES_MIN: u64 = 1_024;

pub(super) fn open_files() -> Check {
    // No limit is the highest.
    judge_open_files(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

pub(super) fn judge_open_files(limit: u64) -> Check {
    const NAME: &str = "open files";
    let cure = format!("raise it to {OPEN_FILES} or more: LimitNOFILE= of its systemd unit, or ulimit -n");
    let found = match limit {
        u64::MAX => "as many as wanted".to_owned(),
        n => format!("{n} at once, of this shell"),
    };
    match limit {
        ..OPEN_FILES_MIN => Check::problem(NAME, found, cure),
        OPEN_FILES_MIN..OPEN_FILES => Check::warning(NAME, found, cure),
        _ => Check::ok(NAME, found),
    }
}

/// The ports of a role, each with what it speaks there.
pub(super) fn ports(role: &RoleFlags, settings: &Settings, running: Option<&Running>) -> Vec<Check> {
    let transport = settings.get::<TransportKind>("transport").unwrap_or(TransportKind::Quic).ports();
    // Health is on TCP of the service port, too.
    let (service, raft, metrics): (&[Kind], &[Kind], &[Kind]) = match transport {
        Kind::Udp => (&[Kind::Udp, Kind::Tcp], &[Kind::Udp], &[Kind::Tcp]),
        Kind::Tcp => (&[Kind::Tcp], &[Kind::Tcp], &[Kind::Tcp]),
    };
    let wanted: &[(&str, &[Kind])] = match role {
        RoleFlags::Master(_) => &[("listen_port", service), ("raft_port", raft), ("metrics_port", metrics)],
        RoleFlags::Chunkserver(_) => &[("listen_port", service), ("metrics_port", metrics)],
        RoleFlags::Mount(_) => &[("metrics_port", metrics)],
        RoleFlags::Dashboard(_) => &[("listen_port", &[Kind::Tcp]), ("metrics_port", metrics)],
    };
    let of = |(key, kinds): &(&str, &[Kind])| {
        let at = match bind_addr(settings, key) {
            Ok(at) => at,
            Err(e) => return vec![Check::problem("port", e.to_string(), "change it where it comes from")],
        };
        kinds.iter().map(|kind| port(*kind, at, key, running)).collect()
    };
    wanted.iter().flat_map(of).collect()
}

fn port(kind: Kind, at: SocketAddr, key: &str, running: Option<&Running>) -> Check {
    const NAME: &str = "port";
    let word = if kind == Kind::Udp { "UDP" } else { "TCP" };
    if at.port() == 0 {
        return Check::ok(NAME, format!("{key}: {word}, one that is free"));
    }
    let bound = match kind {
        Kind::Udp => UdpSocket::bind(at).map(drop),
        Kind::Tcp => TcpListener::bind(at).map(drop),
    };
    let e = match bound {
        Ok(()) => return Check::ok(NAME, format!("{key}: {word} {} is free", at.port())),
        Err(e) => e,
    };
    let taken = e.kind() == ErrorKind::AddrInUse;
    let holder = ports::holder(kind, at.port()).filter(|_| taken);
    if taken && running.is_some_and(|r| r.has(holder)) {
        let process = holder.map(|pid| format!(", process {pid}")).unwrap_or_default();
        return Check::ok(
            NAME,
            format!("{key}: {word} {} is in use by this daemon, which runs{process}", at.port()),
        );
    }
    if let Some(pid) = holder {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        return Check::problem(
            NAME,
            format!(
                "{key}: {word} {} is in use by process {pid} ({}), not by this daemon",
                at.port(),
                name.trim()
            ),
            format!("stop it, or choose another port with --{}", key.replace('_', "-")),
        );
    }
    let said = ports::explain(&e, kind, at, &key.replace('_', "-"));
    let (found, cure) = said.split_once("; ").unwrap_or((&said, "choose another port"));
    Check::problem(NAME, format!("{key}: {word}: {found}"), cure)
}

/// The device, the helper where it is needed, the mount point.
pub(super) fn fuse(settings: &Settings, running: Option<&Running>) -> Vec<Check> {
    const NAME: &str = "fuse";
    let device = match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Check::ok(NAME, "/dev/fuse can be opened"),
        Err(e) => Check::problem(
            NAME,
            format!("/dev/fuse: {e}"),
            "load the module (modprobe fuse), or give the container the device (--device /dev/fuse --cap-add SYS_ADMIN)",
        ),
    };
    let root = rustix::process::geteuid().is_root();
    let helper = (!root).then(|| match on_path("fusermount3") {
        true => Check::ok(NAME, "fusermount3 is installed"),
        false => Check::problem(
            NAME,
            "fusermount3 is not installed, and only root mounts without it",
            "install the package fuse3",
        ),
    });
    let point = settings.text("mount_point").map(|p| mount_point(Path::new(p), running));
    [Some(device), helper, point].into_iter().flatten().collect()
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// As a start would find it. A mount whose masters do not answer is not waited for.
pub(super) fn mount_point(point: &Path, running: Option<&Running>) -> Check {
    const NAME: &str = "mount point";
    let (tell, told) = mpsc::channel();
    let (at, looked) = (point.display(), point.to_path_buf());
    if running.is_some() {
        return Check::ok(NAME, format!("{at} is mounted by this daemon, which runs"));
    }
    // It ends with this process, when nobody answers it.
    thread::spawn(move || tell.send(mooseng_fuse::look_at(&looked)));
    match told.recv_timeout(ANSWER) {
        Ok(Ok(Found::Free(_))) => Check::ok(NAME, format!("{at} is an empty directory")),
        Ok(Ok(Found::Mounted)) => Check::warning(
            NAME,
            format!(
                "{at} has a MooseNG mounted already, and no daemon of these settings answers at its metrics port"
            ),
            format!("`mooseng umount {at}`, or choose another directory"),
        ),
        // A start takes it away.
        Ok(Ok(Found::Dead)) => Check::warning(
            NAME,
            format!("{at} has a mount without its process"),
            format!("mooseng umount {at}"),
        ),
        Ok(Err(_)) if !point.exists() => {
            Check::problem(NAME, format!("{at} does not exist"), format!("mkdir -p {at}"))
        }
        Ok(Err(e)) => {
            let said = e.to_string();
            let (found, cure) = said.split_once("; ").unwrap_or((&said, "choose an empty directory"));
            Check::problem(NAME, found, cure)
        }
        Err(_) => Check::warning(
            NAME,
            format!("{at} has a mount that does not answer within {ANSWER:?}"),
            "look whether masters answer; `mooseng umount --lazy` takes it away",
        ),
    }
}
