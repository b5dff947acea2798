//! What the machine offers: ports, open files, FUSE.

use super::Check;
use crate::settings::RoleFlags;
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
        n => format!("{n} at once"),
    };
    match limit {
        ..OPEN_FILES_MIN => Check::problem(NAME, found, cure),
        OPEN_FILES_MIN..OPEN_FILES => Check::warning(NAME, found, cure),
        _ => Check::ok(NAME, found),
    }
}

/// The ports of a role, each with what it speaks there.
pub(super) fn ports(role: &RoleFlags, settings: &Settings) -> Vec<Check> {
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
        RoleFlags::Dashboard(_) => &[("listen_port", &[Kind::Tcp])],
    };
    let of = |(key, kinds): &(&str, &[Kind])| {
        let at = match bind_addr(settings, key) {
            Ok(at) => at,
            Err(e) => return vec![Check::problem("port", e.to_string(), "change it where it comes from")],
        };
        kinds.iter().map(|kind| port(*kind, at, key)).collect()
    };
    wanted.iter().flat_map(of).collect()
}

fn port(kind: Kind, at: SocketAddr, key: &str) -> Check {
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
    let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let holder = ports::holder(kind, at.port()).map(|pid| (pid, name(pid)));
    match holder {
        Some((pid, name)) if e.kind() == ErrorKind::AddrInUse && is_daemon(&name) => Check::ok(
            NAME,
            format!(
                "{key}: {word} {} is in use by process {pid} ({name}), this daemon if it runs already",
                at.port()
            ),
        ),
        Some((pid, name)) if e.kind() == ErrorKind::AddrInUse => Check::problem(
            NAME,
            format!("{key}: {word} {} is in use by process {pid} ({name})", at.port()),
            format!("stop it, or choose another port with --{}", key.replace('_', "-")),
        ),
        _ => {
            let said = ports::explain(&e, kind, at, &key.replace('_', "-"));
            let (found, cure) = said.split_once("; ").unwrap_or((&said, "choose another port"));
            Check::problem(NAME, format!("{key}: {word}: {found}"), cure)
        }
    }
}

/// Bytes of a program's name that the kernel keeps.
const COMM_BYTES: usize = 15;

/// Whether a process has the name of one of our programs.
fn is_daemon(name: &str) -> bool {
    ["mooseng", "mooseng-master", "mooseng-chunkserver", "mooseng-mount"]
        .iter()
        .any(|ours| name == &ours[..ours.len().min(COMM_BYTES)])
}

/// The device, the helper where it is needed, the mount point.
pub(super) fn fuse(settings: &Settings) -> Vec<Check> {
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
    let point = settings.text("mount_point").map(|p| mount_point(Path::new(p)));
    [Some(device), helper, point].into_iter().flatten().collect()
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

pub(super) fn mount_point(point: &Path) -> Check {
    const NAME: &str = "mount point";
    let at = point.display();
    let entries = match fs::read_dir(point) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Check::problem(NAME, format!("{at} does not exist"), format!("mkdir -p {at}"));
        }
        // A mount that lost its process; a start takes it away.
        Err(e) if e.kind() == ErrorKind::NotConnected => {
            return Check::warning(
                NAME,
                format!("{at} has a mount without its process"),
                format!("mooseng umount {at}"),
            );
        }
        Err(e) => return Check::problem(NAME, format!("{at}: {e}"), "choose an empty directory"),
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let ours = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == point.to_str() && fields.next() == Some("fuse.mooseng")
    };
    if mounts.lines().any(ours) {
        return Check::ok(NAME, format!("{at} is mounted already"));
    }
    match entries.take(1).count() {
        0 => Check::ok(NAME, format!("{at} is an empty directory")),
        _ => Check::problem(
            NAME,
            format!("{at} is not empty: what is in it would be hidden"),
            "choose an empty directory",
        ),
    }
}
