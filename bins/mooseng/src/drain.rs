//! `drain`: empties a chunkserver or one of its disks, so that it can be taken away.

use crate::{connect::Connection, exit::usage};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::{
    ids::{DiskId, ServerId},
    meta::{Care, Drain, DrainDisk},
};
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
}

pub(crate) async fn drain(client: &Client, args: &DrainArgs, out: &mut impl Write) -> Result<()> {
    if let Some(disk) = &args.disk {
        return drain_disk(client, args, disk, out).await;
    }
    let (server, on) = (ServerId(args.server), !args.stop);
    let done = client.request(Drain { server, on }).await;
    done.with_context(|| format!("nothing was changed at chunkserver {}", args.server))?;
    let care = client.care().await?;
    match care.drains.iter().find(|d| d.server == server) {
        Some(d) => {
            writeln!(out, "{}", report::drain_line(d))?;
            told_besides(d.left, &care, || format!("mooseng drain {} --stop", args.server));
        }
        None => writeln!(out, "chunkserver {} gets copies", args.server)?,
    }
    Ok(())
}

async fn drain_disk(client: &Client, args: &DrainArgs, disk: &str, out: &mut impl Write) -> Result<()> {
    let (server, on) = (ServerId(args.server), !args.stop);
    let disk = disk_of(client, server, disk).await?;
    let done = client.request(DrainDisk { server, disk, on }).await;
    done.with_context(|| format!("nothing was changed at chunkserver {}", args.server))?;
    let care = client.care().await?;
    match care.disks.iter().find(|d| (d.server, d.disk) == (server, disk)) {
        Some(d) => {
            writeln!(out, "{}", crate::output::shown(&report::disk_drain_line(d)))?;
            let stop = || format!("mooseng drain {} --disk {} --stop", args.server, report::disk_name(disk));
            told_besides(d.left.unwrap_or(1), &care, stop);
        }
        None => writeln!(out, "disk {} of chunkserver {} gets copies", report::disk_name(disk), args.server)?,
    }
    Ok(())
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
