//! Who has a port, as far as `/proc` tells.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

/// Kind of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Of HTTP, and of the `tcp` transport.
    Tcp,
    /// Of QUIC.
    Udp,
}

/// A process that has the port open, when `/proc` may be read.
pub fn holder(kind: Kind, port: u16) -> Option<u32> {
    let tables = match kind {
        Kind::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Kind::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let texts = tables.iter().filter_map(|t| fs::read_to_string(t).ok());
    let sockets: Vec<String> = texts.flat_map(|t| sockets_of(&t, kind, port)).collect();
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    processes.filter_map(|p| p.file_name().to_str()?.parse().ok()).find(|pid| has_socket(*pid, &sockets))
}

/// `socket:[inode]` of each socket of the table that has the port (a listening one, of TCP).
fn sockets_of(table: &str, kind: Kind, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let socket = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
        let inode = fields.nth(5)?;
        let ours = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()? == port;
        (ours && (kind == Kind::Udp || state == LISTEN)).then(|| format!("socket:[{inode}]"))
    };
    table.lines().skip(1).filter_map(socket).collect()
}

fn has_socket(pid: u32, sockets: &[String]) -> bool {
    let Ok(fds) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else { return false };
    let target = |fd: io::Result<fs::DirEntry>| fs::read_link(fd.ok()?.path()).ok();
    fds.filter_map(target).any(|t| t.to_str().is_some_and(|t| sockets.iter().any(|s| s == t)))
}

/// What to tell about a port that could not be bound; `flag` is the flag that changes it.
pub fn explain(e: &io::Error, kind: Kind, at: SocketAddr, flag: &str) -> String {
    let port = at.port();
    match e.kind() {
        ErrorKind::AddrInUse => {
            let by = holder(kind, port).map(|pid| format!(" by process {pid}")).unwrap_or_default();
            format!("port {port} is in use{by}; use --{flag} to choose another")
        }
        ErrorKind::PermissionDenied => {
            format!("port {port} may not be opened by this user; use --{flag} with one from 1024 up")
        }
        ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this machine; use --listen-addr with one that is", at.ip())
        }
        _ => format!("cannot listen on {at}: {e}; use --{flag} or --listen-addr to choose another"),
    }
}

/// Finds out early, with a good message, that a port is taken. (The transport binds it again.)
pub fn probe(kind: Kind, at: SocketAddr, flag: &str) -> anyhow::Result<()> {
    let bound = match kind {
        Kind::Tcp => TcpListener::bind(at).map(drop),
        Kind::Udp => UdpSocket::bind(at).map(drop),
    };
    bound.map_err(|e| anyhow::anyhow!(explain(&e, kind, at, flag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let me = std::process::id();
        assert_eq!(holder(Kind::Tcp, tcp.local_addr().unwrap().port()), Some(me));
        let at = udp.local_addr().unwrap();
        assert_eq!(holder(Kind::Udp, at.port()), Some(me));
        let told = probe(Kind::Udp, at, "listen-port").unwrap_err().to_string();
        let port = at.port();
        assert_eq!(
            told,
            format!("port {port} is in use by process {me}; use --listen-port to choose another")
        );
        drop(udp);
        probe(Kind::Udp, at, "listen-port").unwrap();
        assert!(probe(Kind::Tcp, tcp.local_addr().unwrap(), "raft-port").is_err());
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        let table = "head\nnonsense\n 0: 0100007F:24CD 00000000:0000 0A 0:0 0:0 0 0 0 77 1\n 1: 0100007F:24CD 0:0 01 0:0 0:0 0 0 0 78 1";
        assert_eq!(sockets_of(table, Kind::Tcp, 0x24cd), ["socket:[77]"]);
    }
}
