//! A master's own settings.

use mooseng_core::{
    ids::MasterId,
    limits::{COPIES_MAX, MASTERS_MAX},
};
use mooseng_meta::raft::Member;
use mooseng_support::{
    addr,
    config::{ConfigError, Settings},
    node::{Common, advertised, bind_addr, mebibytes},
};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// A master's own settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which master, from the certificate.
    pub id: MasterId,
    /// Where it listens for clients and chunkservers.
    pub listen: SocketAddr,
    /// Where it listens for masters.
    pub raft_listen: SocketAddr,
    /// Where HTTP answers.
    pub metrics: SocketAddr,
    /// Its directory.
    pub data_dir: PathBuf,
    /// All masters of a fresh cluster; none: it waits to be added to a running one.
    pub members: Vec<Member>,
    /// Copies of each chunk in a new filesystem.
    pub copies: u8,
    /// Bytes of the database's cache.
    pub cache_bytes: usize,
    /// Bytes of the disk that are kept for removing.
    pub reserve: u64,
    /// Bytes a second that are copied to restore lost copies.
    pub repair_bytes_per_s: u64,
}

impl Config {
    /// From settings; the certificate tells who this is.
    pub fn new(settings: &Settings, common: &Common) -> Result<Self, ConfigError> {
        common.check_number(settings, "node_id")?;
        let id = common.peer.node;
        let listen = bind_addr(settings, "listen_port")?;
        let copies = |s: &str| match s.parse::<u8>() {
            Ok(n) if (1..=COPIES_MAX).contains(&n) => Ok(n),
            Ok(_) => Err("it is out of range".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        Ok(Self {
            id: MasterId(id),
            listen,
            raft_listen: bind_addr(settings, "raft_port")?,
            metrics: bind_addr(settings, "metrics_port")?,
            data_dir: settings.get("data_dir")?,
            members: members(settings, id, listen)?,
            copies: settings.get_with("copies", copies)?,
            cache_bytes: mebibytes(settings, "cache_size_mb", 8..=1 << 20)? as usize,
            reserve: mebibytes(settings, "reserve_mb", 0..=u64::MAX >> 20)?,
            repair_bytes_per_s: mebibytes(settings, "repair_mb_per_s", 0..=1 << 20)?,
        })
    }
}

/// In the place of the masters' addresses: this one is added to a running cluster.
const WAIT: &str = "wait";

/// All masters: Raft addresses, and for clients `master_addrs`, or the same hosts with our port.
fn members(settings: &Settings, me: u64, listen: SocketAddr) -> Result<Vec<Member>, ConfigError> {
    if settings.text("raft_peers") == Some(WAIT) {
        return Ok(vec![]);
    }
    let raft = numbered(settings, "raft_peers")?;
    let bad = |cause: String| Err(settings.bad("raft_peers", cause));
    if raft.is_empty() {
        return Err(settings.missing("raft_peers"));
    }
    if raft.len() > MASTERS_MAX || raft.len().is_multiple_of(2) {
        return bad(format!("a quorum needs 1, 3, 5 or 7 masters, these are {}", raft.len()));
    }
    if !raft.contains_key(&me) {
        return bad(format!("number {me}, which the certificate says this is, is not among them"));
    }
    let clients = numbered(settings, "master_addrs")?;
    if !clients.is_empty() && !clients.keys().eq(raft.keys()) {
        return Err(settings.bad("master_addrs", "these are not the same masters as in raft_peers"));
    }
    let member = |(id, raft_addr): (&u64, &String)| {
        let host = addr::split(raft_addr).map(|(h, _)| h.to_owned()).unwrap_or_default();
        let client_addr = match clients.get(id) {
            _ if *id == me && settings.text("advertise_addr").is_some() => {
                advertised(settings, listen, &host)?
            }
            Some(addr) => addr.clone(),
            None => addr::host_port(&host, listen.port()),
        };
        Ok(Member { id: MasterId(*id), raft_addr: raft_addr.clone(), client_addr })
    };
    raft.iter().map(member).collect()
}

/// Addresses by number: `host:port` in order from 1, or `number=host:port`.
fn numbered(settings: &Settings, key: &str) -> Result<BTreeMap<u64, String>, ConfigError> {
    let bad = |cause: String| settings.bad(key, cause);
    let mut found = BTreeMap::new();
    let list = settings.list(key);
    let named = list.iter().filter(|a| a.contains('=')).count();
    if named != 0 && named != list.len() {
        return Err(bad("some have a number and some have not".into()));
    }
    for (at, text) in (1u64..).zip(&list) {
        let (id, addr) = match text.split_once('=') {
            Some((id, addr)) => (id.parse().map_err(|_| bad(format!("\"{id}\" is no number")))?, addr),
            None => (at, text.as_str()),
        };
        let addr = addr::with_port(addr).map_err(bad)?;
        if found.values().any(|a| *a == addr) || found.insert(id, addr).is_some() {
            return Err(bad(format!("\"{text}\" is there twice")));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, Command, FromArgMatches as _};
    use mooseng_support::{config::Flags, keys};

    fn settings(args: &[(&str, &str)]) -> Settings {
        let command = Flags::<keys::Master>::augment_args(Command::new("t"));
        let args = args.iter().flat_map(|(k, v)| [format!("--{k}"), (*v).to_owned()]);
        let matches = command.try_get_matches_from(std::iter::once("t".to_owned()).chain(args)).unwrap();
        Settings::with_env(&Flags::<keys::Master>::from_arg_matches(&matches).unwrap(), |_| None).unwrap()
    }

    fn of(me: u64, args: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let show = |m: Member| format!("{} {} {}", m.id, m.raft_addr, m.client_addr);
        let listen = "0.0.0.0:9421".parse().unwrap();
        members(&settings(args), me, listen)
            .map(|all| all.into_iter().map(show).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn members_come_in_order_or_by_number() {
        let three = ("raft-peers", "a:1,b:1,c:1");
        assert_eq!(of(2, &[three]).unwrap(), ["m1 a:1 a:9421", "m2 b:1 b:9421", "m3 c:1 c:9421"]);
        let clients = ("master-addrs", "a:5,b:6,c:7");
        assert_eq!(of(2, &[three, clients]).unwrap()[1], "m2 b:1 b:6");
        let mine = ("advertise-addr", "outside");
        assert_eq!(of(2, &[three, clients, mine]).unwrap()[1], "m2 b:1 outside:9421");
        assert_eq!(of(7, &[("raft-peers", "7=[::1]:1")]).unwrap(), ["m7 [::1]:1 [::1]:9421"]);
        assert!(of(4, &[("raft-peers", "wait")]).unwrap().is_empty(), "it waits to be added");
    }

    #[test]
    fn members_that_cannot_be_are_refused() {
        for (me, args, part) in [
            (1, &[][..], "raft_peers is not set"),
            (1, &[("raft-peers", "a:1,b:1")][..], "these are 2"),
            (4, &[("raft-peers", "a:1,b:1,c:1")][..], "number 4"),
            (1, &[("raft-peers", "a:1,a:1,c:1")][..], "twice"),
            (1, &[("raft-peers", "1=a:1,b:1,c:1")][..], "some have a number"),
            (1, &[("raft-peers", "a")][..], "no port"),
            (1, &[("raft-peers", "a:1"), ("master-addrs", "a:1,b:1")][..], "not the same masters"),
        ] {
            let said = of(me, args).unwrap_err();
            assert!(said.contains(part), "{args:?}: {said}");
        }
    }
}
