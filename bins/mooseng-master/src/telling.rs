//! What a master tells: its health, its metrics.

use crate::Node;
use mooseng_core::{ids::Revision, meta::ClusterStatus, net::PeerIdentity};
use mooseng_meta::server::{Master, MasterStatus};
use mooseng_support::{
    http::Health,
    metrics::{Metrics, Point, plain},
};
use opentelemetry::KeyValue;
use serde_json::json;

impl Node {
    fn status(&self) -> Option<MasterStatus> {
        self.master.lock().as_ref().map(Master::status)
    }
}

/// Ready: it leads, or knows who does.
pub(crate) fn health(node: &Node, me: &PeerIdentity) -> Health {
    let Some(s) = node.status() else {
        return Health { status: "stopping".into(), ready: false, live: true, details: json!(null) };
    };
    let status = match (&s.raft.failed, s.ready()) {
        (Some(_), _) => "failed",
        (None, true) => "ok",
        (None, false) => "MASTER_NO_QUORUM",
    };
    let details = json!({
        "role": "master",
        "name": me.name,
        "node": me.node,
        "cluster": me.cluster.to_string(),
        "leading": s.leading,
        "leader": s.raft.leadership.leader.as_ref().map(|m| m.id.get()),
        "leader_addr": s.raft.leadership.leader.as_ref().map(|m| &m.client_addr),
        "term": s.raft.leadership.term.get(),
        "last_log": s.raft.last_log.map(Revision::get),
        "applied": s.raft.applied.map(Revision::get),
        "voters": s.raft.voters.iter().map(|m| m.id.get()).collect::<Vec<_>>(),
        "failed": s.raft.failed,
    });
    Health {
        status: status.into(),
        ready: s.ready() && s.raft.failed.is_none(),
        live: s.raft.failed.is_none(),
        details,
    }
}

/// Registers the master's metrics.
pub(crate) fn register(node: &Node, metrics: &Metrics) {
    let of_raft = |look: fn(&MasterStatus) -> f64| {
        let node = node.clone();
        move || node.status().map(|s| plain(look(&s))).unwrap_or_default()
    };
    let index = |r: Option<Revision>| r.map_or(0.0, |r| r.get() as f64);
    metrics.gauge(
        "mooseng_raft_is_leader",
        "1 where this master leads and has taken over",
        of_raft(|s| f64::from(u8::from(s.leading))),
    );
    metrics.gauge(
        "mooseng_raft_has_leader",
        "1 where this master knows who leads",
        of_raft(|s| f64::from(u8::from(s.ready()))),
    );
    metrics.gauge("mooseng_raft_term", "Raft's term", of_raft(|s| s.raft.leadership.term.get() as f64));
    metrics.gauge("mooseng_raft_last_log_index", "The last entry of the log", {
        let node = node.clone();
        move || node.status().map(|s| plain(index(s.raft.last_log))).unwrap_or_default()
    });
    metrics.gauge("mooseng_raft_applied_index", "The last entry in the namespace", {
        let node = node.clone();
        move || node.status().map(|s| plain(index(s.raft.applied))).unwrap_or_default()
    });
    metrics.gauge("mooseng_raft_voters", "Masters that vote", of_raft(|s| s.raft.voters.len() as f64));
    metrics.gauge("mooseng_raft_lag_entries", "Entries that another master lacks, at the leader", {
        let node = node.clone();
        move || {
            let lag = node.status().map(|s| s.raft.lag).unwrap_or_default();
            let point = |(id, lag): (mooseng_core::ids::MasterId, Option<u64>)| {
                Some((lag? as f64, vec![KeyValue::new("master", id.get().to_string())]))
            };
            lag.into_iter().filter_map(point).collect()
        }
    });
    of_cluster(node, metrics);
}

/// What only the leader knows; others show nothing.
fn of_cluster(node: &Node, metrics: &Metrics) {
    let gauge = |name, help, look: fn(&ClusterStatus) -> Vec<Point>| {
        let cluster = node.cluster.clone();
        metrics.gauge(name, help, move || cluster.lock().as_ref().map(look).unwrap_or_default());
    };
    gauge("mooseng_sessions", "Open sessions of clients", |c| plain(c.sessions as f64));
    gauge("mooseng_inodes", "Inodes in use", |c| plain(c.fs.inodes as f64));
    gauge("mooseng_files_bytes", "Bytes of all files, without copies", |c| plain(c.fs.used_bytes as f64));
    gauge("mooseng_space_total_bytes", "Bytes of all disks", |c| plain(c.fs.total_bytes as f64));
    gauge("mooseng_space_free_bytes", "Free bytes of all disks", |c| plain(c.fs.free_bytes as f64));
    gauge("mooseng_chunks", "Chunks by state of their copies", |c| {
        let h = &c.chunks;
        let states = [
            ("healthy", h.healthy),
            ("undergoal", h.undergoal),
            ("endangered", h.endangered),
            ("missing", h.missing),
            ("overgoal", h.overgoal),
            ("deleting", h.deleting),
        ];
        states.map(|(state, n)| (n as f64, vec![KeyValue::new("state", state)])).into()
    });
    gauge("mooseng_chunkservers", "Chunkservers by whether they were heard of lately", |c| {
        let alive = c.servers.iter().filter(|s| s.alive).count();
        let counts = [("alive", alive), ("silent", c.servers.len() - alive)];
        counts.map(|(state, n)| (n as f64, vec![KeyValue::new("state", state)])).into()
    });
}
