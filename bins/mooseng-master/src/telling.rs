//! What a master tells: its health, its metrics.

use crate::Node;
use mooseng_core::{
    health::{self, HealthCode, Problem, problems},
    ids::{MasterId, Revision, ServerId},
    net::PeerIdentity,
};
use mooseng_meta::{
    server::{Master, MasterStatus},
    service::Survey,
};
use mooseng_support::{
    catalog::{self, Metric},
    http::Health,
    metrics::{Metrics, Point, plain},
};
use opentelemetry::KeyValue;
use serde_json::json;

impl Node {
    fn status(&self) -> Option<MasterStatus> {
        self.master.lock().as_ref().map(Master::status)
    }

    /// What is wrong, as far as this master can tell: all of it at the leader, at each that there surely is none. `None`
    /// where another one tells.
    fn problems(&self, s: &MasterStatus) -> Option<Vec<Problem>> {
        if !s.raft.led {
            return Some(vec![health::no_quorum(s.raft.voters.len())]);
        }
        self.seen(|survey| problems(&survey.status, &survey.care))
    }

    /// Of what it saw lately of the cluster, while it leads.
    fn seen<T>(&self, look: impl FnOnce(&Survey) -> T) -> Option<T> {
        let term = self.status().filter(|s| s.leading)?.raft.leadership.term;
        self.survey.lock().as_ref().filter(|survey| survey.status.term == term).map(look)
    }
}

/// Ready: it leads, or knows who does.
pub(crate) fn health(node: &Node, me: &PeerIdentity) -> Health {
    let Some(s) = node.status() else {
        return Health { status: "stopping".into(), ready: false, live: true, details: json!(null) };
    };
    let status = match &s.raft.failed {
        Some(_) => "failed",
        None if !s.raft.led => HealthCode::MasterNoQuorum.name(),
        None if !s.ready() => "taking over",
        None => "ok",
    };
    let problems = node.problems(&s);
    let leader = s.raft.leadership.leader.as_ref().filter(|_| s.raft.led);
    let details = json!({
        "role": "master",
        "name": me.name,
        "node": me.node,
        "cluster": me.cluster.to_string(),
        "leading": s.leading,
        "leader": leader.map(|m| m.id.get()),
        "leader_addr": leader.map(|m| &m.client_addr),
        "term": s.raft.leadership.term.get(),
        "last_log": s.raft.last_log.map(Revision::get),
        "applied": s.raft.applied.map(Revision::get),
        "voters": s.raft.voters.iter().map(|m| m.id.get()).collect::<Vec<_>>(),
        "failed": s.raft.failed,
        // Of the cluster, as `mooseng health` tells them; null where another master does, and before a leader has looked.
        "health": problems.as_deref().map(health::word),
        "problems": problems,
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
    let of_master = |look: fn(&MasterStatus) -> Vec<Point>| {
        let node = node.clone();
        move || node.status().map(|s| look(&s)).unwrap_or_default()
    };
    let gauge =
        |row: &'static Metric, look: fn(&MasterStatus) -> Vec<Point>| metrics.gauge(row, of_master(look));
    gauge(&catalog::RAFT_IS_LEADER, |s| plain(f64::from(u8::from(s.leading))));
    gauge(&catalog::RAFT_HAS_LEADER, |s| plain(f64::from(u8::from(s.ready()))));
    gauge(&catalog::RAFT_TERM, |s| plain(s.raft.leadership.term.get() as f64));
    gauge(&catalog::RAFT_LAST_LOG, |s| index(s.raft.last_log));
    gauge(&catalog::RAFT_COMMIT, |s| index(s.raft.committed));
    gauge(&catalog::RAFT_APPLIED, |s| index(s.raft.applied));
    gauge(&catalog::RAFT_VOTERS, |s| plain(s.raft.voters.len() as f64));
    gauge(&catalog::RAFT_LAG, |s| {
        let point = |(id, lag): (&MasterId, &Option<u64>)| {
            Some(((*lag)? as f64, vec![KeyValue::new("master", id.get().to_string())]))
        };
        s.raft.lag.iter().filter_map(point).collect()
    });
    metrics.counter(&catalog::RAFT_LEADER_CHANGES, of_master(|s| plain(s.raft.leader_changes as f64)));
    of_problems(node, metrics);
    of_cluster(node, metrics);
    of_repairs(node, metrics);
}

fn index(r: Option<Revision>) -> Vec<Point> {
    plain(r.map_or(0.0, |r| r.get() as f64))
}

/// All codes at the leader, 0 for those that are clear; one where no leader is known; none at followers.
fn of_problems(node: &Node, metrics: &Metrics) {
    let node = node.clone();
    metrics.gauge(&catalog::HEALTH_PROBLEMS, move || {
        let Some(s) = node.status() else { return vec![] };
        let Some(problems) = node.problems(&s) else { return vec![] };
        let known = HealthCode::ALL.iter().filter(|c| s.raft.led || **c == HealthCode::MasterNoQuorum);
        let point = |c: &HealthCode| {
            let labels =
                vec![KeyValue::new("code", c.name()), KeyValue::new("severity", c.severity().name())];
            (problems.iter().filter(|p| p.code == *c).count() as f64, labels)
        };
        known.map(point).collect()
    });
}

/// What only the leader knows; others show nothing.
fn of_survey(node: &Node, look: fn(&Survey) -> Vec<Point>) -> impl Fn() -> Vec<Point> + Send + Sync + use<> {
    let node = node.clone();
    move || node.seen(look).unwrap_or_default()
}

fn of_cluster(node: &Node, metrics: &Metrics) {
    let gauge =
        |row: &'static Metric, look: fn(&Survey) -> Vec<Point>| metrics.gauge(row, of_survey(node, look));
    gauge(&catalog::SESSIONS, |c| plain(c.status.sessions as f64));
    gauge(&catalog::INODES, |c| plain(c.status.fs.inodes as f64));
    gauge(&catalog::FILES_BYTES, |c| plain(c.status.fs.used_bytes as f64));
    gauge(&catalog::SPACE_TOTAL, |c| plain(c.status.fs.total_bytes as f64));
    gauge(&catalog::SPACE_FREE, |c| plain(c.status.fs.free_bytes as f64));
    gauge(&catalog::CHUNKS, |c| {
        let h = &c.status.chunks;
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
    gauge(&catalog::CHUNK_COPIES, |c| {
        let point = |((expected, actual), n): (&(u8, u8), &u64)| {
            let number = |name: &'static str, n: &u8| KeyValue::new(name, n.to_string());
            (*n as f64, vec![number("expected", expected), number("actual", actual)])
        };
        c.copies.iter().map(point).collect()
    });
    gauge(&catalog::CHUNKSERVERS_SEEN, |c| {
        let servers = &c.status.servers;
        let alive = servers.iter().filter(|s| s.alive).count();
        let counts = [("alive", alive), ("silent", servers.len() - alive)];
        counts.map(|(state, n)| (n as f64, vec![KeyValue::new("state", state)])).into()
    });
    gauge(&catalog::CLOCK_SKEW, |c| {
        let alive = c.status.servers.iter().filter(|s| s.alive);
        alive.map(|s| (s.clock_ms as f64 / 1e3, of_chunkserver(s.id))).collect()
    });
    gauge(&catalog::DRAINING_CHUNKS, |c| {
        c.care.drains.iter().map(|d| (d.left as f64, of_chunkserver(d.server))).collect()
    });
}

fn of_chunkserver(server: ServerId) -> Vec<KeyValue> {
    vec![KeyValue::new("chunkserver", server.get().to_string())]
}

fn of_repairs(node: &Node, metrics: &Metrics) {
    let gauge =
        |row: &'static Metric, look: fn(&Survey) -> Vec<Point>| metrics.gauge(row, of_survey(node, look));
    gauge(&catalog::REPAIR_QUEUE_CHUNKS, |c| plain(c.care.repairs.chunks as f64));
    gauge(&catalog::REPAIR_QUEUE_BYTES, |c| plain(c.care.repairs.bytes as f64));
    gauge(&catalog::REPAIR_STUCK, |c| plain(c.care.repairs.stuck as f64));
    gauge(&catalog::REPAIR_RUNNING, |c| plain(c.care.repairs.running as f64));
    gauge(&catalog::REPAIR_SPEED, |c| plain(c.care.repairs.bytes_per_s as f64));
    gauge(&catalog::REPAIR_TIME_TO_SAFE, |c| {
        c.care.repairs.until_safe_secs.map(|secs| plain(secs as f64)).unwrap_or_default()
    });
    metrics.counter(&catalog::REPAIR_DONE, of_survey(node, |c| plain(c.care.repairs.done as f64)));
    metrics.counter(&catalog::REPAIR_FAILURES, of_survey(node, |c| plain(c.repair_failures as f64)));
}
