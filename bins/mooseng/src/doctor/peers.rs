//! The masters as this machine sees them: whether they answer, their versions, how far the clocks are apart.

use super::Check;
use crate::settings::RoleFlags;
use jiff::Timestamp;
use mooseng_core::health::CLOCK_SKEW;
use mooseng_support::{addr, config::Settings};
use serde::Deserialize;
use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

/// Wait for a connection, and for each part of an answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: u64 = 256 << 10;
/// Certificates begin so long before they were issued: past this they may be refused.
const SKEW_MAX: f64 = 300.0;

/// What a master's `/health` tells.
#[derive(Deserialize)]
struct Told {
    status: String,
    version: String,
    /// RFC 3339.
    time: String,
}

/// One check for each master, and one of all of them.
pub(super) fn masters(role: &RoleFlags, settings: &Settings) -> Vec<Check> {
    const NAME: &str = "masters";
    let addrs = addrs(settings);
    if addrs.is_empty() {
        return vec![];
    }
    let told: Vec<_> = addrs.iter().map(|at| (at, ask(at))).collect();
    let answer = told.iter().filter(|(_, told)| told.is_ok()).count();
    let found = format!("{answer} of {} answer", addrs.len());
    let cure = "check that masters run and that TCP and UDP of their client ports can be reached from here";
    let all = match (answer, role) {
        (n, _) if n == addrs.len() => Check::ok(NAME, found),
        // The first one of a new cluster finds nobody.
        (0, RoleFlags::Chunkserver(_) | RoleFlags::Mount(_) | RoleFlags::Dashboard(_)) => {
            Check::problem(NAME, found, cure)
        }
        _ => Check::warning(NAME, found, cure),
    };
    let each = told.iter().map(|(at, told)| match told {
        Ok((told, skew)) => judge(at, told, *skew),
        Err(e) => Check::warning("master", format!("{at}: {e}"), "start it, or mend the way to it"),
    });
    std::iter::once(all).chain(each).collect()
}

/// Client addresses of the masters; of a master without them, the hosts of its peers.
fn addrs(settings: &Settings) -> Vec<String> {
    let given = settings.list("master_addrs");
    if !given.is_empty() || settings.entries().all(|e| e.key != "raft_peers") {
        return given;
    }
    let port = settings.get::<u16>("listen_port").unwrap_or(9421);
    let host = |peer: &String| {
        let peer = peer.split_once('=').map_or(peer.as_str(), |(_, at)| at);
        let (host, _) = addr::split(peer).ok()?;
        Some(addr::host_port(host, port))
    };
    let peers = settings.list("raft_peers");
    peers.iter().filter(|p| *p != "wait").filter_map(host).collect()
}

/// What it tells, and by how many seconds its clock is ahead of this one's: at least, for it looked at its clock some time
/// between question and answer.
fn ask(at: &str) -> Result<(Told, f64), String> {
    let begin = Timestamp::now();
    let body = get(at, "/health").map_err(|e| e.to_string())?;
    let end = Timestamp::now();
    let odd = |e: &dyn std::fmt::Display| format!("no answer of a master of this version ({e})");
    let told: Told = serde_json::from_str(&body).map_err(|e| odd(&e))?;
    let time = told.time.parse::<Timestamp>().map_err(|e| odd(&e))?;
    let secs = |t: Timestamp| t.as_nanosecond() as f64 / 1e9;
    Ok((told, ahead(secs(begin), secs(time), secs(end))))
}

/// The smallest difference that fits a time between two others.
fn ahead(begin: f64, time: f64, end: f64) -> f64 {
    if time > end { time - end } else { (time - begin).min(0.0) }
}

/// `GET` of a plain HTTP port: the body, whatever the status.
pub(super) fn get(at: &str, path: &str) -> io::Result<String> {
    let mut connected = Err(io::Error::other("the name has no address"));
    for to in at.to_socket_addrs()? {
        connected = TcpStream::connect_timeout(&to, ANSWER);
        if connected.is_ok() {
            break;
        }
    }
    let mut s = connected?;
    s.set_read_timeout(Some(ANSWER))?;
    s.set_write_timeout(Some(ANSWER))?;
    s.write_all(format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    s.take(ANSWER_BYTES_MAX).read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| io::Error::other("it does not answer as a master does"))
}

fn judge(at: &str, told: &Told, skew: f64) -> Check {
    const NAME: &str = "master";
    let ours = env!("CARGO_PKG_VERSION");
    let apart = format!("clock {:+.1} s", skew);
    let found = format!("{at}: {}, version {}, {apart}", told.status, told.version);
    let set = "set the clocks right on both machines, by NTP (systemd-timesyncd, chrony)";
    match skew.abs() {
        apart if apart > SKEW_MAX => Check::problem(NAME, found, set),
        apart if apart >= CLOCK_SKEW.as_secs_f64() => Check::warning(NAME, found, set),
        _ if told.version != ours => Check::warning(
            NAME,
            found,
            format!("this is version {ours}: update the older one when that is meant"),
        ),
        _ if told.status != "ok" => {
            Check::warning(NAME, found, "`mooseng health` tells what is wrong with the cluster")
        }
        _ => Check::ok(NAME, found),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn a_slow_answer_makes_no_clock_wrong() {
        assert_eq!(ahead(100.0, 100.0, 105.0), 0.0);
        assert_eq!(ahead(100.0, 105.0, 105.0), 0.0);
        assert_eq!(ahead(100.0, 107.0, 105.0), 2.0);
        assert_eq!(ahead(100.0, 97.0, 105.0), -3.0);
    }

    #[test]
    fn clocks_versions_and_states_are_judged() {
        let told = |status: &str, version: &str| Told {
            status: status.into(),
            version: version.into(),
            time: String::new(),
        };
        let ours = env!("CARGO_PKG_VERSION");
        for (status, version, skew, verdict) in [
            ("ok", ours, -0.9, Verdict::Ok),
            ("ok", ours, 1.1, Verdict::Warning),
            ("ok", ours, -301.0, Verdict::Problem),
            ("ok", "0.0.1", 0.0, Verdict::Warning),
            ("MASTER_NO_QUORUM", ours, 0.0, Verdict::Warning),
        ] {
            let check = judge("m1:1", &told(status, version), skew);
            assert_eq!(check.verdict, verdict, "{check:?}");
            assert!(check.found.contains(&format!("clock {skew:+.1} s")), "{check:?}");
        }
    }

    #[test]
    fn what_is_no_master_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let other = std::thread::spawn(move || {
            for answer in ["HTTP/1.0 200 OK\r\n\r\n{\"status\":\"ok\"}", "220 smtp"] {
                let (mut s, _) = listener.accept().unwrap();
                // All of it: what is left unread would make the close a reset.
                let (mut asked, mut part) = (Vec::new(), [0; 512]);
                while !asked.ends_with(b"\r\n\r\n") {
                    let n = s.read(&mut part).unwrap();
                    asked.extend_from_slice(&part[..n]);
                }
                s.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert!(ask(&at).err().unwrap().contains("no answer of a master of this version"));
        assert!(ask(&at).err().unwrap().contains("does not answer as a master does"));
        other.join().unwrap();
        assert!(ask(&at).err().unwrap().contains("refused"));
    }
}
