//! What operators are shown: JSON of stable schemas, and words for states. The command line (`-o json`) and the
//! dashboard (`/api`) answer these.
//!
//! Each whole answer names its schema and version (`"schema": "mooseng.status/1"`); a change that a program could
//! trip over gets a new number. Times are RFC 3339 in UTC, sizes are bytes.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # use mooseng_client::{embedded::Cluster, report};
//! # let cluster = Cluster::builder().masters(1).chunkservers(2).start().await?;
//! # let client = cluster.client().await?;
//! let whole = report::health(&client.health().await?);
//! assert_eq!((&whole["schema"], &whole["health"]), (&"mooseng.health/1".into(), &"healthy".into()));
//! # anyhow::Ok(()) }).unwrap();
//! ```

mod files;
mod served;
mod watch;
mod words;

pub use files::{FileItem, chunk_item, info};
pub use served::{ServedRate, ServedRates};
pub use watch::{cell, cell_item, event_item, events, load_item, loads, matrix, op_item, ops};
pub use words::*;

use mooseng_core::{
    health::{Problem, problems},
    meta::{
        Care, ClusterStatus, DiskReport, DiskScrub, FsStat, MasterInfo, Repairs, ServerCare, ServerInfo,
        ServerScrub, SessionInfo,
    },
};
use serde_json::{Value, json};

/// A list under its schema, as every list is answered.
pub fn list(schema: &str, items: Vec<Value>) -> Value {
    json!({ "schema": schema, "items": items })
}

/// What is wrong, as stable names, the worst first; empty when nothing is.
pub fn codes(s: &ClusterStatus, care: &Care) -> Vec<&'static str> {
    let mut codes: Vec<_> = problems(s, care).iter().map(|p| p.code.name()).collect();
    codes.dedup();
    codes
}

/// One master of `mooseng.masters/1` and `mooseng.status/1`.
pub fn master_item(m: &MasterInfo) -> Value {
    json!({
        "id": m.id.get(), "client_addr": m.client_addr, "raft_addr": m.raft_addr,
        "voter": m.voter, "leader": m.leader, "lag_entries": m.lag, "silent_ms": m.silent_ms,
    })
}

/// `mooseng.status/1`.
pub fn status(s: &ClusterStatus, care: &Care) -> Value {
    json!({
        "schema": "mooseng.status/1",
        "cluster": s.cluster.to_string(),
        "health": codes(s, care),
        "term": s.term.get(),
        "revision": s.revision.get(),
        "sessions": s.sessions,
        "masters": s.masters.iter().map(master_item).collect::<Vec<_>>(),
        "chunkservers": s.servers.iter().map(|s| json!({
            "id": s.id.get(), "addr": s.addr, "alive": s.alive, "silent": s.silent, "silent_ms": s.silent_ms,
            "clock_ms": s.clock_ms,
            "disks": s.disks.iter().map(|d| json!({
                "id": disk_name(d.disk), "path": d.path, "total_bytes": d.total_bytes,
                "free_bytes": d.free_bytes, "chunks": d.chunks, "errors": d.errors, "error": d.error,
                "drains": d.drains,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "chunks": {
            "total": s.chunks.total, "healthy": s.chunks.healthy, "undergoal": s.chunks.undergoal,
            "endangered": s.chunks.endangered, "missing": s.chunks.missing,
            "overgoal": s.chunks.overgoal, "deleting": s.chunks.deleting,
        },
        "without_record": care.servers.iter().map(care_item).collect::<Vec<_>>(),
        "repair": repairs(&care.repairs),
        "draining": care.drains.iter().map(|d| json!({
            "server": d.server.get(), "since": time(d.since), "chunks_left": d.left,
            "safe_to_take_away": d.left == 0,
        })).collect::<Vec<_>>(),
        "draining_disks": care.disks.iter().map(|d| json!({
            "server": d.server.get(), "disk": disk_name(d.disk), "path": d.path,
            "since": time(d.since), "chunks_left": d.left, "safe_to_take_away": d.left == Some(0),
        })).collect::<Vec<_>>(),
        "files": {
            "inodes": s.fs.inodes, "used_bytes": s.fs.used_bytes,
            "total_bytes": s.fs.total_bytes, "free_bytes": s.fs.free_bytes,
        },
    })
}

/// How far repairs are, as `mooseng.status/1` has it.
pub fn repairs(r: &Repairs) -> Value {
    json!({
        "chunks": r.chunks, "bytes": r.bytes, "stuck": r.stuck, "running": r.running, "done": r.done,
        "bytes_per_s": r.bytes_per_s, "waits_secs": r.waits_secs, "until_safe_secs": r.until_safe_secs,
    })
}

/// `mooseng.health/1`.
pub fn health(problems: &[Problem]) -> Value {
    json!({ "schema": "mooseng.health/1", "health": health_word(problems), "problems": problems })
}

/// `mooseng.df/1`.
pub fn df(fs: &FsStat) -> Value {
    json!({
        "schema": "mooseng.df/1", "total_bytes": fs.total_bytes,
        "used_bytes": fs.total_bytes.saturating_sub(fs.free_bytes), "free_bytes": fs.free_bytes,
        "files_bytes": fs.used_bytes, "inodes": fs.inodes,
    })
}

/// One item of `mooseng.disks/1`.
pub fn disk_item(s: &ServerInfo, d: &DiskReport) -> Value {
    json!({
        "server": s.id.get(), "addr": s.addr, "alive": s.alive, "id": disk_name(d.disk), "path": d.path,
        "state": disk_state(s, d), "total_bytes": d.total_bytes, "free_bytes": d.free_bytes,
        "chunks": d.chunks, "errors": d.errors, "error": d.error, "drains": d.drains,
    })
}

/// `mooseng.disks/1`.
pub fn disks(s: &ClusterStatus) -> Value {
    let of = |s: &ServerInfo| s.disks.iter().map(|d| disk_item(s, d)).collect::<Vec<_>>();
    list("mooseng.disks/1", s.servers.iter().flat_map(of).collect())
}

/// One item of `mooseng.sessions/2`.
pub fn session_item(s: &SessionInfo) -> Value {
    json!({
        "session": s.stamp.id.get(), "epoch": s.stamp.epoch.get(), "client": s.client, "host": s.host,
        "version": s.version, "open_files": s.open, "calls": s.calls, "since": time(s.since),
    })
}

/// `mooseng.sessions/2`.
pub fn sessions(all: &[SessionInfo]) -> Value {
    list("mooseng.sessions/2", all.iter().map(session_item).collect())
}

/// One item of `mooseng.gc/1`.
pub fn care_item(c: &ServerCare) -> Value {
    json!({
        "server": c.server.get(), "unknown": c.unknown, "due": c.due, "ahead": c.ahead,
        "surplus": c.surplus, "removed_last_hour": c.removed, "held": c.held,
    })
}

/// `mooseng.gc/1`.
pub fn gc(care: &Care) -> Value {
    list("mooseng.gc/1", care.servers.iter().map(care_item).collect())
}

/// One item of `mooseng.scrub/1`.
pub fn scrub_item(s: &ServerScrub, d: &DiskScrub) -> Value {
    json!({
        "server": s.server.get(), "alive": s.alive, "disk": disk_name(d.disk),
        "rounds": d.rounds, "chunks": d.chunks, "bytes": d.bytes, "damages": d.damages,
        "round": { "done": d.done, "total": d.total, "found": d.found, "fast": d.fast },
        "ended": d.ended.map(time), "answered": d.answered.map(time),
    })
}

/// `mooseng.scrub/1`.
pub fn scrub(all: &[ServerScrub]) -> Value {
    let of = |s: &ServerScrub| s.disks.iter().map(|d| scrub_item(s, d)).collect::<Vec<_>>();
    list("mooseng.scrub/1", all.iter().flat_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::ids::{DiskId, ServerId};

    #[test]
    fn a_disk_has_errors_before_it_is_set_aside() {
        let mut disk = DiskReport {
            disk: DiskId(5),
            path: "/d".into(),
            total_bytes: 2,
            free_bytes: 1,
            chunks: 3,
            errors: 2,
            error: None,
            drains: false,
        };
        let server = ServerInfo {
            id: ServerId(1),
            addr: "c1:9420".into(),
            alive: true,
            silent_ms: 10,
            clock_ms: -3,
            disks: vec![],
            silent: false,
        };
        let item = disk_item(&server, &disk);
        assert_eq!((&item["state"], &item["errors"]), (&"ok".into(), &2.into()));
        (disk.errors, disk.error) = (3, Some("EIO".into()));
        let item = disk_item(&server, &disk);
        assert_eq!((&item["state"], &item["errors"]), (&"set aside: EIO".into(), &3.into()));
    }
}
