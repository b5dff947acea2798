//! What a chunkserver tells: its health, its metrics.

use crate::Node;
use mooseng_chunk::{Chunkserver, Counters, Status};
use mooseng_core::{
    health::{self, HealthCode, Problem},
    meta::{DiskReport, DiskScrub},
    net::PeerIdentity,
};
use mooseng_support::{
    catalog::{self, Metric},
    http::Health,
    metrics::{Metrics, Point, plain},
};
use opentelemetry::KeyValue;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ready: the leading master knows it and all its chunks.
pub(crate) fn health(node: &Node, me: &PeerIdentity) -> Health {
    let Some(s) = node.lock().as_ref().map(Chunkserver::status) else {
        return Health { status: "stopping".into(), ready: false, live: true, details: json!(null) };
    };
    let drained = |d: &DiskReport| d.drains && d.chunks == 0;
    let problems = problems(&s);
    let status = match (problems.first(), s.drain_left) {
        (Some(worst), _) => worst.code.name(),
        // The leading master hears of all its chunks.
        (None, _) if !s.ready => "REPORTING",
        (None, Some(0)) => "DRAINED",
        (None, Some(_)) => "DRAINING",
        (None, None) if s.disks.iter().any(|d| d.drains && !drained(d)) => "DISK_DRAINING",
        (None, None) if s.disks.iter().any(drained) => "DISK_DRAINED",
        (None, None) => "ok",
    };
    let disk = |d: &DiskReport| {
        json!({
            "id": format!("{:016x}", d.disk.get()),
            "path": d.path,
            "total_bytes": d.total_bytes,
            "free_bytes": d.free_bytes,
            "chunks": d.chunks,
            "errors": d.errors,
            "error": d.error,
            "drain": d.drains.then(|| json!({ "chunks_left": d.chunks, "safe_to_take_away": drained(d) })),
        })
    };
    let details = json!({
        "role": "chunkserver",
        "name": me.name,
        "node": me.node,
        "cluster": me.cluster.to_string(),
        "chunks": { "good": s.good, "suspect": s.suspect, "damaged": s.damaged },
        "drain": s.drain_left.map(|left| json!({ "chunks_left": left, "safe_to_take_away": left == 0 })),
        "disks": s.disks.iter().map(disk).collect::<Vec<_>>(),
        "problems": problems,
    });
    Health { status: status.into(), ready: s.ready, live: true, details }
}

/// What is wrong with it, the worst first.
fn problems(s: &Status) -> Vec<Problem> {
    let lost = (!s.registered).then(health::master_unreachable);
    let aside = |d: &DiskReport| {
        let cause = format!("disk {} was set aside: {}", d.path, d.error.as_ref()?);
        Some(Problem::new(HealthCode::DiskError, cause))
    };
    lost.into_iter().chain(s.disks.iter().filter_map(aside)).collect()
}

/// Registers the chunkserver's metrics.
pub(crate) fn register(node: &Node, metrics: &Metrics) {
    let of_server = |look: fn(&Chunkserver) -> Vec<Point>| {
        let node = node.clone();
        move || node.lock().as_ref().map(look).unwrap_or_default()
    };
    metrics.gauge(&catalog::CHUNKSERVER_READY, of_server(|c| plain(f64::from(u8::from(c.is_ready())))));
    metrics.gauge(
        &catalog::CHUNKSERVER_ANSWERED,
        of_server(|c| plain(f64::from(u8::from(c.status().registered)))),
    );
    metrics.gauge(
        &catalog::CHUNKSERVER_CHUNKS,
        of_server(|c| {
            let s = c.status();
            let states = [("good", s.good), ("suspect", s.suspect), ("damaged", s.damaged)];
            states.map(|(state, n)| (n as f64, vec![KeyValue::new("state", state)])).into()
        }),
    );
    metrics.gauge(&catalog::CHUNKSERVER_DIRTY, of_server(|c| plain(c.store().dirty_chunks() as f64)));
    let of_disks = |row: &'static Metric, look: fn(&DiskReport) -> f64| {
        let node = node.clone();
        metrics.gauge(row, move || {
            let disks = node.lock().as_ref().map(|c| c.status().disks).unwrap_or_default();
            disks.iter().map(|d| (look(d), vec![KeyValue::new("disk", d.path.clone())])).collect()
        });
    };
    of_disks(&catalog::DISK_SIZE, |d| d.total_bytes as f64);
    of_disks(&catalog::DISK_USED, |d| d.total_bytes.saturating_sub(d.free_bytes) as f64);
    of_disks(&catalog::DISK_CHUNKS, |d| d.chunks as f64);
    of_disks(&catalog::DISK_SET_ASIDE, |d| f64::from(u8::from(d.error.is_some())));
    scrubs(node, metrics);
    counters(node, metrics);
}

fn scrubs(node: &Node, metrics: &Metrics) {
    let of_disks = |look: fn(&DiskScrub) -> f64| {
        let node = node.clone();
        move || {
            let Some(s) = node.lock().as_ref().map(Chunkserver::status) else { return vec![] };
            let each = s.disks.iter().zip(&s.scrubs);
            each.map(|(d, s)| (look(s), vec![KeyValue::new("disk", d.path.clone())])).collect()
        }
    };
    metrics.counter(&catalog::DISK_SCRUB_ROUNDS, of_disks(|s| s.rounds as f64));
    metrics.counter(&catalog::DISK_SCRUB_CHUNKS, of_disks(|s| s.chunks as f64));
    metrics.counter(&catalog::DISK_SCRUB_BYTES, of_disks(|s| s.bytes as f64));
    metrics.counter(&catalog::DISK_SCRUB_DAMAGES, of_disks(|s| s.damages as f64));
    metrics.gauge(&catalog::DISK_LAST_SCRUB, of_disks(|s| s.ended.map_or(0.0, |t| t.secs() as f64)));
}

fn counters(node: &Node, metrics: &Metrics) {
    let counter = |row: &'static Metric, look: fn(&Counters) -> &AtomicU64| {
        let node = node.clone();
        metrics.counter(row, move || {
            let count = |c: &Chunkserver| look(c.store().counters()).load(Ordering::Relaxed) as f64;
            node.lock().as_ref().map(|c| plain(count(c))).unwrap_or_default()
        });
    };
    counter(&catalog::CHUNK_READ_BYTES, |c| &c.read_bytes);
    counter(&catalog::CHUNK_WRITTEN_BYTES, |c| &c.written_bytes);
    counter(&catalog::CHUNK_READS, |c| &c.reads);
    counter(&catalog::CHUNK_WRITES, |c| &c.writes);
    counter(&catalog::CHUNK_SYNCS, |c| &c.syncs);
    counter(&catalog::CHUNK_PULLS, |c| &c.pulls);
    counter(&catalog::CHUNK_DAMAGES, |c| &c.damages);
}
