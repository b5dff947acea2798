//! `status` and `info`: how the cluster is, where a file is.

use crate::{
    connect::Connection,
    output::{self, Format, numbers, shown, size, words},
};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::{
    attr::FileKind,
    ids::ChunkIndex,
    meta::{Care, ClusterStatus, GetLayout, ReplicaState, ServerCare},
};
use std::io::Write;

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

pub(crate) async fn status(client: &Client, format: Format, out: &mut impl Write) -> Result<()> {
    let s = client.status().await?;
    let care = client.care().await?;
    if format == Format::Table {
        return status_table(&s, &care, out);
    }
    output::json(out, format, &report::status(&s, &care))
}

fn status_table(s: &ClusterStatus, care: &Care, out: &mut impl Write) -> Result<()> {
    let (c, codes) = (&s.chunks, report::codes(s, care));
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
    if let Some(line) = report::repair_line(&care.repairs) {
        writeln!(out, "repair    {line}")?;
    }
    for d in &care.drains {
        writeln!(out, "drain     {}", report::drain_line(d))?;
    }
    for d in &care.disks {
        writeln!(out, "drain     {}", shown(&report::disk_drain_line(d)))?;
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
        let lag = m.lag.map_or("?".into(), |l| l.to_string());
        [m.id.get().to_string(), m.client_addr.clone(), report::master_state(m).into(), lag]
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
        let alive = report::server_state(server, care);
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
                report::disk_name(d.disk),
                free,
                total,
                d.chunks.to_string(),
            ]
        });
        unheard.into_iter().chain(disks)
    });
    output::table(out, columns, disks)
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
        let whole = report::info(path, &attr, inline, &chunks);
        return output::json(out, format, &whole);
    }
    let place = if inline { "inside the inode".to_owned() } else { format!("{} chunks", chunks.len()) };
    writeln!(out, "{}: inode {}, {} bytes, {place}", shown(path), attr.inode.get(), attr.size)?;
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
            let state = format!("{}{alive}", report::replica_state(r.state));
            [r.place.server.get().to_string(), r.place.addr.clone(), state]
        });
        let rows: Vec<_> = replicas.chain(none).collect();
        rows.into_iter().map(move |[server, addr, state]| {
            [index.clone(), chunk.clone(), version.clone(), copies.clone(), server, addr, state]
        })
    });
    output::table(out, columns, rows)
}
