//! `drain`: empties a chunkserver, so that it can be taken away.

use crate::connect::Connection;
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::Client;
use mooseng_core::{
    ids::ServerId,
    meta::{Care, Drain, Draining, GetCare},
};
use std::io::Write;

#[derive(Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub to: Connection,
    /// The chunkserver's number. Needs an admin's identity.
    #[arg(value_name = "SERVER")]
    pub server: u64,
    /// Takes it back: the server gets copies again.
    #[arg(long)]
    pub stop: bool,
}

/// How far a drain is.
pub(crate) fn line(d: &Draining) -> String {
    let server = d.server.get();
    match d.left {
        0 => format!("chunkserver {server} is empty: no file needs it, it is safe to take away"),
        n => format!("chunkserver {server} is being emptied: {n} chunks are left, do not stop it yet"),
    }
}

pub(crate) async fn drain(client: &Client, args: &DrainArgs, out: &mut impl Write) -> Result<()> {
    let (server, on) = (ServerId(args.server), !args.stop);
    let done = client.request(Drain { server, on }).await;
    done.with_context(|| format!("nothing was changed at chunkserver {}", args.server))?;
    let care = client.request(GetCare {}).await?;
    match care.drains.iter().find(|d| d.server == server) {
        Some(d) => {
            writeln!(out, "{}", line(d))?;
            told_besides(d, &care)
        }
        None => writeln!(out, "chunkserver {} gets copies", args.server)?,
    }
    Ok(())
}

fn told_besides(d: &Draining, care: &Care) {
    if d.left > 0 && care.repairs.stuck > 0 {
        eprintln!(
            "{} chunks want more chunkservers than there are with room without it: their copies stay until \
             there are more (start one, or `mooseng drain {} --stop`)",
            care.repairs.stuck,
            d.server.get()
        );
    } else if d.left > 0 {
        eprintln!("`mooseng status` tells how far it is");
    }
}
