//! Whether the daemon that is looked for runs already: then its ports are taken as they should be. A process is known by
//! what it answers, not by its program's name: another chunkserver of this machine has that, too.

use super::peers::get;
use crate::settings::RoleFlags;
use mooseng_core::net::PeerIdentity;
use mooseng_support::{catalog, config::Settings, node::bind_addr, ports};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// The daemon of these settings, which runs.
pub(super) struct Running {
    /// Its process, where `/proc` tells.
    pid: Option<u32>,
}

impl Running {
    /// Whether a port that this process has is its own. Where `/proc` does not tell, it is: it is one of the settings'.
    pub(super) fn has(&self, holder: Option<u32>) -> bool {
        holder.is_none() || self.pid.is_none() || holder == self.pid
    }
}

/// Asks at the HTTP port of the settings.
pub(super) fn find(role: &RoleFlags, settings: &Settings, me: Option<&PeerIdentity>) -> Option<Running> {
    let at = bind_addr(settings, "metrics_port").ok().filter(|at| at.port() != 0)?;
    let me = me?;
    let is_it = |to: SocketAddr| {
        let to = to.to_string();
        is_node(&to, me)
            && match role {
                RoleFlags::Mount(_) => mounted_at(&to).is_some_and(|p| is_same(&p, settings)),
                // A mount may have the same identity.
                RoleFlags::Dashboard(_) => mounted_at(&to).is_none(),
                RoleFlags::Master(_) | RoleFlags::Chunkserver(_) => true,
            }
    };
    let is_found = reachable(at).into_iter().any(is_it);
    is_found.then(|| Running { pid: ports::holder(ports::Kind::Tcp, at.port()) })
}

/// Where one can connect to what listens there. Who listens at all addresses is at those of version 4, too, and a machine
/// may have no other, as a container.
fn reachable(at: SocketAddr) -> Vec<SocketAddr> {
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    let ips: Vec<IpAddr> = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![v4],
        IpAddr::V6(ip) if ip.is_unspecified() => vec![v6, v4],
        ip => vec![ip],
    };
    ips.into_iter().map(|ip| SocketAddr::new(ip, at.port())).collect()
}

/// Whether a node of this identity answers there. Its metrics say so from its start on.
fn is_node(at: &str, me: &PeerIdentity) -> bool {
    get(at, "/metrics").is_ok_and(|text| text.lines().any(|line| names(line, me)))
}

fn names(line: &str, me: &PeerIdentity) -> bool {
    let labels = line.strip_prefix(catalog::BUILD_INFO.name).and_then(|l| l.strip_prefix('{'));
    let labels = labels.and_then(|l| l.split_once('}')).map_or("", |(labels, _)| labels);
    let has = |name: &str, value: &str| labels.split(',').any(|l| l == format!("{name}=\"{value}\""));
    has("role", me.role.as_str()) && has("node", &me.name) && has("cluster", &me.cluster.to_string())
}

/// Where a mount says that it is mounted.
fn mounted_at(at: &str) -> Option<String> {
    let told: serde_json::Value = serde_json::from_str(&get(at, "/health").ok()?).ok()?;
    told["details"]["mount_point"].as_str().map(str::to_owned)
}

/// Several mounts of a machine may have one identity.
fn is_same(told: &str, settings: &Settings) -> bool {
    let full = |p: &str| fs::canonicalize(p).ok();
    settings
        .text("mount_point")
        .is_some_and(|ours| Path::new(ours) == Path::new(told) || full(ours) == full(told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::net::Role;

    #[test]
    fn who_listens_everywhere_is_found_without_addresses_of_version_6() {
        let asked = |at: &str| {
            let all = reachable(at.parse().unwrap());
            all.into_iter().map(|to| to.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(asked("[::]:9427"), ["[::1]:9427", "127.0.0.1:9427"]);
        assert_eq!(asked("0.0.0.0:9427"), ["127.0.0.1:9427"]);
        assert_eq!(asked("10.0.0.1:9427"), ["10.0.0.1:9427"]);
    }

    #[test]
    fn a_node_is_known_by_its_role_name_and_cluster() {
        let cluster = "0193f3a0-0000-7000-8000-000000000001".parse().unwrap();
        let me = |role, name: &str| PeerIdentity {
            cluster,
            role,
            node: 1,
            name: name.into(),
            cert_hash: Default::default(),
        };
        let line = "mooseng_build_info{cluster=\"0193f3a0-0000-7000-8000-000000000001\",node=\"m1\",role=\"master\",version=\"1\"} 1";
        assert!(names(line, &me(Role::Master, "m1")));
        assert!(!names(line, &me(Role::Master, "m2")));
        assert!(!names(line, &me(Role::Chunkserver, "m1")));
        assert!(!names(&line.replace("8000-", "8001-"), &me(Role::Master, "m1")));
        assert!(!names(&line.replace("build_info", "other"), &me(Role::Master, "m1")));
    }
}
