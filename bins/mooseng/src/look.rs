//! `status` and `info`: how the cluster is, where a file is.

use crate::{
    connect::Connection,
    drain,
    gc::care_json,
    output::{self, Format, numbers, size, words},
};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::Client;
use mooseng_core::{
    attr::FileKind,
    health::problems,
    ids::ChunkIndex,
    meta::{Care, ChunkInfo, ClusterStatus, GetCare, GetLayout, Repairs, ReplicaState, ServerCare},
};
use serde_json::{Value, json};
use std::{io::Write, time::Duration};

#[derive(Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub to: Connection,
    /// A file.
    pub path: String,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// What is wrong, as stable names; empty when nothing is.
fn codes(s: &ClusterStatus, care: &Care) -> Vec<&'static str> {
    let mut codes: Vec<_> = problems(s, care).iter().map(|p| p.code.name()).collect();
    codes.dedup();
    codes
}

pub(crate) async fn status(client: &Client, format: Format, out: &mut impl Write) -> Result<()> {
    let s = client.status().await?;
    let care = client.request(GetCare {}).await?;
    if format == Format::Table {
        return status_table(&s, &care, out);
    }
    let whole = json!({
        "schema": "mooseng.status/1",
        "cluster": s.cluster.to_string(),
        "health": codes(&s, &care),
        "term": s.term.get(),
        "revision": s.revision.get(),
        "sessions": s.sessions,
        "masters": s.masters.iter().map(|m| json!({
            "id": m.id.get(), "client_addr": m.client_addr, "raft_addr": m.raft_addr,
            "voter": m.voter, "leader": m.leader, "lag_entries": m.lag, "silent_ms": m.silent_ms,
        })).collect::<Vec<_>>(),
        "chunkservers": s.servers.iter().map(|s| json!({
            "id": s.id.get(), "addr": s.addr, "alive": s.alive, "silent": s.silent, "silent_ms": s.silent_ms,
            "disks": s.disks.iter().map(|d| json!({
                "id": drain::name(d.disk), "path": d.path, "total_bytes": d.total_bytes,
                "free_bytes": d.free_bytes, "chunks": d.chunks, "error": d.error, "drains": d.drains,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "chunks": {
            "total": s.chunks.total, "healthy": s.chunks.healthy, "undergoal": s.chunks.undergoal,
            "endangered": s.chunks.endangered, "missing": s.chunks.missing,
            "overgoal": s.chunks.overgoal, "deleting": s.chunks.deleting,
        },
        "without_record": care.servers.iter().map(care_json).collect::<Vec<_>>(),
        "repair": repairs_json(&care.repairs),
        "draining": care.drains.iter().map(|d| json!({
            "server": d.server.get(), "since": output::time(d.since), "chunks_left": d.left,
            "safe_to_take_away": d.left == 0,
        })).collect::<Vec<_>>(),
        "draining_disks": care.disks.iter().map(|d| json!({
            "server": d.server.get(), "disk": drain::name(d.disk), "path": d.path,
            "since": output::time(d.since), "chunks_left": d.left, "safe_to_take_away": d.left == Some(0),
        })).collect::<Vec<_>>(),
        "files": {
            "inodes": s.fs.inodes, "used_bytes": s.fs.used_bytes,
            "total_bytes": s.fs.total_bytes, "free_bytes": s.fs.free_bytes,
        },
    });
    output::json(out, format, &whole)
}

fn repairs_json(r: &Repairs) -> Value {
    json!({
        "chunks": r.chunks, "bytes": r.bytes, "stuck": r.stuck, "running": r.running, "done": r.done,
        "bytes_per_s": r.bytes_per_s, "waits_secs": r.waits_secs, "until_safe_secs": r.until_safe_secs,
    })
}

/// How far the copying of what lacks copies is, what it waits for, and when all is safe.
fn repair_line(r: &Repairs) -> Option<String> {
    if r.chunks == 0 {
        return None;
    }
    let time = |secs| humantime::format_duration(Duration::from_secs(secs));
    let mut line = format!("{} chunks are to be copied, {}", r.chunks, size(r.bytes));
    if r.waits_secs > 0 {
        line += &format!("; a silent chunkserver is waited for another {}", time(r.waits_secs));
    } else if r.running > 0 || r.bytes_per_s > 0 {
        line += &format!("; {} under way, {}/s", r.running, size(r.bytes_per_s));
    }
    if r.stuck > 0 {
        line += &format!(
            "; {} cannot be mended: there are too few chunkservers with room (start one, or free space)",
            r.stuck
        );
    }
    if let Some(secs) = r.until_safe_secs {
        line += &format!("; all safe in some {}", time(secs.max(1)));
    }
    Some(line)
}

fn status_table(s: &ClusterStatus, care: &Care, out: &mut impl Write) -> Result<()> {
    let (c, codes) = (&s.chunks, codes(s, care));
    let word = if codes.is_empty() { "healthy".into() } else { codes.join(", ") };
    writeln!(out, "cluster   {}", s.cluster)?;
    writeln!(out, "health    {word}")?;
    writeln!(out, "term      {}, revision {}, {} sessions", s.term.get(), s.revision.get(), s.sessions)?;
    writeln!(
        out,
        "chunks    {} of {} with all copies; {} undergoal, {} endangered, {} missing, {} overgoal, {} to delete",
        c.healthy, c.total, c.undergoal, c.endangered, c.missing, c.overgoal, c.deleting
    )?;
    let sum = |of: fn(&ServerCare) -> u64| care.servers.iter().map(of).sum::<u64>();
    let (unknown, surplus, ahead) = (sum(|c| c.unknown), sum(|c| c.surplus), sum(|c| c.ahead));
    if unknown + surplus + ahead > 0 {
        writeln!(
            out,
            "copies    {unknown} unknown, {surplus} surplus, {ahead} newer than the masters: mooseng gc"
        )?;
    }
    if let Some(line) = repair_line(&care.repairs) {
        writeln!(out, "repair    {line}")?;
    }
    for d in &care.drains {
        writeln!(out, "drain     {}", drain::line(d))?;
    }
    for d in &care.disks {
        writeln!(out, "drain     {}", drain::disk_line(d))?;
    }
    let (free, total) = (size(s.fs.free_bytes), size(s.fs.total_bytes));
    writeln!(
        out,
        "files     {} inodes, {}; disks: {free} free of {total}\n",
        s.fs.inodes,
        size(s.fs.used_bytes)
    )?;
    let columns = [words("MASTER"), words("ADDRESS"), words("STATE"), numbers("LAG")];
    let masters = s.masters.iter().map(|m| {
        let state = match (m.leader, m.voter) {
            (true, _) => "leader",
            (false, true) => "follower",
            (false, false) => "learner",
        };
        let lag = m.lag.map_or("?".into(), |l| l.to_string());
        [m.id.get().to_string(), m.client_addr.clone(), state.into(), lag]
    });
    output::table(out, columns, masters)?;
    writeln!(out)?;
    let columns = [
        words("CHUNKSERVER"),
        words("ADDRESS"),
        words("STATE"),
        words("DISK"),
        words("DISK ID"),
        numbers("FREE"),
        numbers("TOTAL"),
        numbers("CHUNKS"),
    ];
    let disks = s.servers.iter().flat_map(|server| {
        let drain = care.drains.iter().find(|d| d.server == server.id);
        let alive = match (server.alive, drain) {
            (false, Some(d)) if d.left == 0 => "gone, was empty".into(),
            (false, _) if !server.silent => "not heard yet".into(),
            (false, _) => format!("silent {} s", server.silent_ms / 1000),
            (true, None) => "alive".into(),
            (true, Some(d)) if d.left == 0 => "empty, may go".into(),
            (true, Some(_)) => "alive, drains".into(),
        };
        let (id, addr) = (server.id.get().to_string(), server.addr.clone());
        let dash = || "-".to_owned();
        let unheard = [id.clone(), addr.clone(), alive.clone(), dash(), dash(), dash(), dash(), dash()];
        let unheard = server.disks.is_empty().then_some(unheard);
        let disks = server.disks.iter().map(move |d| {
            let drains = care.disks.iter().find(|c| (c.server, c.disk) == (server.id, d.disk));
            let state = match (&d.error, drains) {
                (Some(e), _) => format!("set aside: {e}"),
                (None, Some(c)) if server.alive && c.left == Some(0) => "empty, may go".into(),
                (None, Some(_)) if server.alive => "alive, disk drains".into(),
                (None, _) => alive.clone(),
            };
            let (free, total) = (size(d.free_bytes), size(d.total_bytes));
            [
                id.clone(),
                addr.clone(),
                state,
                d.path.clone(),
                drain::name(d.disk),
                free,
                total,
                d.chunks.to_string(),
            ]
        });
        unheard.into_iter().chain(disks)
    });
    output::table(out, columns, disks)
}

const fn state(s: Option<ReplicaState>) -> &'static str {
    match s {
        Some(ReplicaState::Good) => "good",
        Some(ReplicaState::Suspect) => "suspect",
        Some(ReplicaState::Damaged) => "damaged",
        Some(ReplicaState::Leaving) => "on a disk that is set aside or being emptied",
        None => "absent",
    }
}

pub(crate) async fn info(client: &Client, path: &str, format: Format, out: &mut impl Write) -> Result<()> {
    let fs = client.filesystem();
    let attr = fs.metadata(path).await.with_context(|| path.to_owned())?;
    if attr.kind != FileKind::File {
        let kind = output::kind(attr.kind);
        return Err(crate::exit::usage(format!(
            "{path} is a {kind}: only files have chunks; `mooseng stat` tells the rest"
        )));
    }
    let layout = client.request(GetLayout { inode: attr.inode, from: ChunkIndex(0), count: 1 }).await;
    let inline = layout.with_context(|| path.to_owned())?.inline.is_some();
    let chunks = fs.chunks(path).await.with_context(|| path.to_owned())?;
    if format != Format::Table {
        let whole = json!({
            "schema": "mooseng.info/1",
            "path": path,
            "inode": attr.inode.get(),
            "size": attr.size,
            "inline": inline,
            "chunks": chunks.iter().map(chunk_json).collect::<Vec<_>>(),
        });
        return output::json(out, format, &whole);
    }
    let place = if inline { "inside the inode".to_owned() } else { format!("{} chunks", chunks.len()) };
    writeln!(out, "{path}: inode {}, {} bytes, {place}", attr.inode.get(), attr.size)?;
    if chunks.is_empty() {
        return Ok(());
    }
    let columns = [
        numbers("INDEX"),
        words("CHUNK"),
        numbers("VERSION"),
        words("COPIES"),
        words("SERVER"),
        words("ADDRESS"),
        words("STATE"),
    ];
    let rows = chunks.iter().flat_map(|c| {
        let (index, chunk) = (c.index.get().to_string(), format!("{:016x}", c.chunk.id.get()));
        let version = c.chunk.version.get().to_string();
        let good = c.replicas.iter().filter(|r| r.alive && r.state == Some(ReplicaState::Good)).count();
        let changing = if c.changing { ", changing" } else { "" };
        let copies = format!("{good} of {}{changing}", c.wanted);
        let none = c.replicas.is_empty().then(|| ["-".into(), "-".into(), "missing".to_owned()]);
        let replicas = c.replicas.iter().map(|r| {
            let alive = if r.alive { "" } else { ", silent" };
            let state = format!("{}{alive}", state(r.state));
            [r.place.server.get().to_string(), r.place.addr.clone(), state]
        });
        let rows: Vec<_> = replicas.chain(none).collect();
        rows.into_iter().map(move |[server, addr, state]| {
            [index.clone(), chunk.clone(), version.clone(), copies.clone(), server, addr, state]
        })
    });
    output::table(out, columns, rows)
}

fn chunk_json(c: &ChunkInfo) -> Value {
    json!({
        "index": c.index.get(),
        "chunk": format!("{:016x}", c.chunk.id.get()),
        "version": c.chunk.version.get(),
        "wanted": c.wanted,
        "changing": c.changing,
        "replicas": c.replicas.iter().map(|r| json!({
            "server": r.place.server.get(), "addr": r.place.addr, "alive": r.alive,
            "state": state(r.state), "version": r.version.map(|v| v.get()),
        })).collect::<Vec<_>>(),
    })
}
