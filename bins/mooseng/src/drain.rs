//! `drain`: empties a chunkserver or one of its disks, so that it can be taken away.

use crate::{
    connect::Connection,
    exit::usage,
    output::{self, Format, shown, time},
};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::{
    attr::Timestamp,
    ids::{DiskId, ServerId},
    meta::{Care, Drain, DrainDisk},
};
use serde_json::{Value, json};
use std::io::Write;

#[derive(Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub to: Connection,
    /// The chunkserver's number. Needs an admin's identity.
    #[arg(value_name = "SERVER")]
    pub server: u64,
    /// Empties one disk of it: its id or its directory, as `mooseng status` shows them.
    #[arg(long, value_name = "DISK")]
    pub disk: Option<String>,
    /// Takes it back: the server, or the disk, gets copies again.
    #[arg(long)]
    pub stop: bool,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub(crate) async fn drain(client: &Client, args: &DrainArgs, out: &mut impl Write) -> Result<()> {
    if let Some(disk) = &args.disk {
        return drain_disk(client, args, disk, out).await;
    }
    let (server, on) = (ServerId(args.server), !args.stop);
    let done = client.request(Drain { server, on }).await;
    done.with_context(|| format!("nothing was changed at chunkserver {}", args.server))?;
    let care = client.care().await?;
    let drains = care.drains.iter().find(|d| d.server == server);
    if args.output == Format::Table {
        let gets = || format!("chunkserver {} gets copies", args.server);
        writeln!(out, "{}", drains.map_or_else(gets, report::drain_line))?;
    } else {
        let state = state(server, None, drains.map(|d| (d.since, Some(d.left))));
        output::json(out, args.output, &state)?;
    }
    if let Some(d) = drains {
        told_besides(d.left, &care, || format!("mooseng drain {} --stop", args.server));
    }
    Ok(())
}

async fn drain_disk(client: &Client, args: &DrainArgs, disk: &str, out: &mut impl Write) -> Result<()> {
    let (server, on) = (ServerId(args.server), !args.stop);
    let disk = disk_of(client, server, disk).await?;
    let done = client.request(DrainDisk { server, disk, on }).await;
    done.with_context(|| format!("nothing was changed at chunkserver {}", args.server))?;
    let care = client.care().await?;
    let name = report::disk_name(disk);
    let drains = care.disks.iter().find(|d| (d.server, d.disk) == (server, disk));
    if args.output == Format::Table {
        let gets = || format!("disk {name} of chunkserver {} gets copies", args.server);
        writeln!(out, "{}", shown(&drains.map_or_else(gets, report::disk_drain_line)))?;
    } else {
        let state = state(server, Some(disk), drains.map(|d| (d.since, d.left)));
        output::json(out, args.output, &state)?;
    }
    if let Some(d) = drains {
        let stop = || format!("mooseng drain {} --disk {name} --stop", args.server);
        told_besides(d.left.unwrap_or(1), &care, stop);
    }
    Ok(())
}

/// `mooseng.drain/1`: a chunkserver or one of its disks, with the fields of `draining` and `draining_disks` in
/// `mooseng.status/1`. `drains`: since when, and how many chunks are left; `None` when it gets copies.
fn state(server: ServerId, disk: Option<DiskId>, drains: Option<(Timestamp, Option<u64>)>) -> Value {
    let (since, left) = drains.map_or((None, None), |(since, left)| (Some(time(since)), left));
    json!({
        "schema": "mooseng.drain/1", "server": server.get(), "disk": disk.map(report::disk_name),
        "drains": drains.is_some(), "since": since, "chunks_left": left,
        "safe_to_take_away": left == Some(0),
    })
}

/// The disk that somebody named by its directory or its id.
async fn disk_of(client: &Client, server: ServerId, named: &str) -> Result<DiskId> {
    let status = client.status().await?;
    let disks = status.servers.iter().filter(|s| s.id == server).flat_map(|s| &s.disks);
    let mut there = disks.filter(|d| d.path == named);
    match (there.next(), u64::from_str_radix(named, 16)) {
        (Some(d), _) => Ok(d.disk),
        (None, Ok(id)) if named.len() == 16 => Ok(DiskId(id)),
        _ => Err(usage(format!(
            "chunkserver {} has no disk {named} that is known now: name a disk by its id (16 hexadecimal digits) or its \
             directory, as `mooseng status` shows them; nothing was changed",
            server.get()
        ))),
    }
}

fn told_besides(left: u64, care: &Care, stop: impl Fn() -> String) {
    if left > 0 && care.repairs.stuck > 0 {
        eprintln!(
            "{} chunks want more chunkservers than there are with room without it: their copies stay until \
             there are more (start one, or `{}`)",
            care.repairs.stuck,
            stop()
        );
    } else if left > 0 {
        eprintln!("`mooseng status` tells how far it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::looks::pinned;

    #[test]
    fn what_is_emptied_and_what_gets_copies_are_told() {
        let since = Timestamp::new(1_763_850_000, 0);
        let server = state(ServerId(2), None, Some((since, Some(0))));
        assert_eq!(server["safe_to_take_away"], true);
        pinned("drain", &server);
        let disk = state(ServerId(2), Some(DiskId(7)), Some((since, None)));
        assert_eq!((&disk["drains"], &disk["safe_to_take_away"]), (&true.into(), &false.into()));
        pinned("drain-disk", &disk);
        let stopped = state(ServerId(2), Some(DiskId(7)), None);
        assert_eq!((&stopped["drains"], &stopped["safe_to_take_away"]), (&false.into(), &false.into()));
        pinned("drain-stopped", &stopped);
    }
}
