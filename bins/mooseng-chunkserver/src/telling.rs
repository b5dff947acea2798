//! What a chunkserver tells: its health, its metrics.

use crate::Node;
use mooseng_chunk::{Chunkserver, Counters};
use mooseng_core::{
    meta::{DiskReport, DiskScrub},
    net::PeerIdentity,
};
use mooseng_support::{
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
    let aside = s.disks.iter().any(|d| d.error.is_some());
    let drained = |d: &DiskReport| d.drains && d.chunks == 0;
    let status = match (s.ready, aside, s.drain_left) {
        (false, _, _) => "MASTER_UNKNOWN",
        (true, true, _) => "DISK_ERROR",
        (true, false, Some(0)) => "DRAINED",
        (true, false, Some(_)) => "DRAINING",
        (true, false, None) if s.disks.iter().any(|d| d.drains && !drained(d)) => "DISK_DRAINING",
        (true, false, None) if s.disks.iter().any(drained) => "DISK_DRAINED",
        (true, false, None) => "ok",
    };
    let disk = |d: &DiskReport| {
        json!({
            "id": format!("{:016x}", d.disk.get()),
            "path": d.path,
            "total_bytes": d.total_bytes,
            "free_bytes": d.free_bytes,
            "chunks": d.chunks,
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
    });
    Health { status: status.into(), ready: s.ready, live: true, details }
}

/// Registers the chunkserver's metrics.
pub(crate) fn register(node: &Node, metrics: &Metrics) {
    let of_server = |look: fn(&Chunkserver) -> Vec<Point>| {
        let node = node.clone();
        move || node.lock().as_ref().map(look).unwrap_or_default()
    };
    metrics.gauge(
        "mooseng_chunkserver_ready",
        "1 where the leading master knows it and all its chunks",
        of_server(|c| plain(f64::from(u8::from(c.is_ready())))),
    );
    metrics.gauge(
        "mooseng_chunkserver_chunks",
        "Replicas here by state",
        of_server(|c| {
            let s = c.status();
            let states = [("good", s.good), ("suspect", s.suspect), ("damaged", s.damaged)];
            states.map(|(state, n)| (n as f64, vec![KeyValue::new("state", state)])).into()
        }),
    );
    metrics.gauge(
        "mooseng_chunkserver_dirty_chunks",
        "Replicas with writes that are not on disk yet",
        of_server(|c| plain(c.store().dirty_chunks() as f64)),
    );
    let of_disks = |look: fn(&DiskReport) -> f64| {
        let node = node.clone();
        move || {
            let disks = node.lock().as_ref().map(|c| c.status().disks).unwrap_or_default();
            disks.iter().map(|d| (look(d), vec![KeyValue::new("disk", d.path.clone())])).collect()
        }
    };
    metrics.gauge("mooseng_disk_size_bytes", "Bytes of the disk", of_disks(|d| d.total_bytes as f64));
    metrics.gauge(
        "mooseng_disk_used_bytes",
        "Bytes of the disk that chunks cannot use: taken, or reserved",
        of_disks(|d| d.total_bytes.saturating_sub(d.free_bytes) as f64),
    );
    metrics.gauge("mooseng_disk_chunks", "Chunks on the disk", of_disks(|d| d.chunks as f64));
    metrics.gauge(
        "mooseng_disk_set_aside",
        "1 where the disk failed and is not used any more",
        of_disks(|d| f64::from(u8::from(d.error.is_some()))),
    );
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
    type Look = fn(&DiskScrub) -> f64;
    let counters: [(_, _, Look); 4] = [
        ("mooseng_disk_scrub_rounds_total", "Whole rounds of scrubs", |s| s.rounds as f64),
        ("mooseng_disk_scrub_chunks_total", "Chunks verified by scrubs", |s| s.chunks as f64),
        ("mooseng_disk_scrub_bytes_total", "Bytes verified by scrubs", |s| s.bytes as f64),
        ("mooseng_disk_scrub_damages_total", "Chunks that scrubs found damaged", |s| s.damages as f64),
    ];
    for (name, help, look) in counters {
        metrics.counter(name, help, of_disks(look));
    }
    metrics.gauge(
        "mooseng_disk_last_scrub_timestamp_seconds",
        "When the last whole round of the scrub ended; 0 before the first",
        of_disks(|s| s.ended.map_or(0.0, |t| t.secs() as f64)),
    );
}

fn counters(node: &Node, metrics: &Metrics) {
    let counter = |name, help, look: fn(&Counters) -> &AtomicU64| {
        let node = node.clone();
        metrics.counter(name, help, move || {
            let count = |c: &Chunkserver| look(c.store().counters()).load(Ordering::Relaxed) as f64;
            node.lock().as_ref().map(|c| plain(count(c))).unwrap_or_default()
        });
    };
    counter("mooseng_chunk_read_bytes_total", "Bytes served", |c| &c.read_bytes);
    counter("mooseng_chunk_written_bytes_total", "Bytes written", |c| &c.written_bytes);
    counter("mooseng_chunk_reads_total", "Reads begun", |c| &c.reads);
    counter("mooseng_chunk_writes_total", "Frames written", |c| &c.writes);
    counter("mooseng_chunk_syncs_total", "Syncs to disk", |c| &c.syncs);
    counter("mooseng_chunk_pulls_total", "Copies made from other replicas", |c| &c.pulls);
    counter("mooseng_chunk_damages_total", "Damaged blocks or chunks met", |c| &c.damages);
}
