//! `gc`: copies that no record names, and what becomes of them.

use crate::{
    connect::Connection,
    consent::Consent,
    output::{self, Format, numbers, words},
};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::{
    ids::ServerId,
    meta::{AllowRemovals, ServerCare},
};
use std::{io::Write, time::Duration};

#[derive(Args)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Lets the copies that wait at this chunkserver be removed, however many they are; those in
    /// quarantine when their time is over. Needs an admin's identity.
    #[arg(long, value_name = "SERVER")]
    pub allow: Option<u64>,
    #[command(flatten)]
    pub consent: Consent,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub(crate) async fn gc(client: &Client, args: &GcArgs, out: &mut impl Write) -> Result<()> {
    if let Some(server) = args.allow {
        let what = format!("lets all copies that wait at chunkserver {server} be removed for good");
        args.consent.given(&what).await?;
        let allowed = client.request(AllowRemovals { server: ServerId(server) }).await;
        let allowed = allowed.with_context(|| format!("nothing was allowed at chunkserver {server}"))?;
        eprintln!("{allowed} copies may be removed from chunkserver {server}");
    }
    let care = client.care().await?;
    let columns = [
        words("CHUNKSERVER"),
        numbers("UNKNOWN"),
        numbers("DUE"),
        numbers("AHEAD"),
        numbers("SURPLUS"),
        numbers("REMOVED"),
        words("STATE"),
    ];
    let row = |c: &ServerCare| {
        let n = |n: u64| n.to_string();
        let (server, state) = (c.server.get().to_string(), report::care_state(c).to_owned());
        [server, n(c.unknown), n(c.due), n(c.ahead), n(c.surplus), n(c.removed), state]
    };
    output::list(out, (args.output, "mooseng.gc/1"), &care.servers, report::care_item, columns, row)?;
    if args.output != Format::Table {
        return Ok(());
    }
    let kept = humantime::format_duration(Duration::from_secs(care.quarantine_secs));
    Ok(writeln!(out, "\nUnknown copies are kept for {kept}; REMOVED counts the last hour.")?)
}
