//! `df`, `disks`, `sessions`: lists of what there is.

use crate::{
    connect::Connection,
    output::{self, Format, numbers, size, time, words},
};
use anyhow::Result;
use clap::Args;
use mooseng_client::{
    Client,
    report::{self, percent},
};
use mooseng_core::meta::{DiskReport, ServerInfo, SessionInfo, StatFs};
use std::io::Write;

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub(crate) async fn df(client: &Client, format: Format, out: &mut impl Write) -> Result<()> {
    let fs = client.request(StatFs {}).await?;
    let used = fs.total_bytes.saturating_sub(fs.free_bytes);
    if format != Format::Table {
        return output::json(out, format, &report::df(&fs));
    }
    let columns = [
        numbers("DISKS"),
        numbers("USED"),
        numbers("FREE"),
        numbers("USE%"),
        numbers("FILES' BYTES"),
        numbers("INODES"),
    ];
    let row = [
        size(fs.total_bytes),
        size(used),
        size(fs.free_bytes),
        percent(used, fs.total_bytes),
        size(fs.used_bytes),
        fs.inodes.to_string(),
    ];
    output::table(out, columns, std::iter::once(row))
}

pub(crate) async fn disks(client: &Client, format: Format, out: &mut impl Write) -> Result<()> {
    let status = client.status().await?;
    let disks: Vec<_> = status.servers.iter().flat_map(|s| s.disks.iter().map(move |d| (s, d))).collect();
    let columns = [
        words("CHUNKSERVER"),
        words("DISK"),
        words("DISK ID"),
        words("STATE"),
        numbers("TOTAL"),
        numbers("FREE"),
        numbers("USE%"),
        numbers("CHUNKS"),
        numbers("ERRORS"),
    ];
    let row = |(s, d): &(&ServerInfo, &DiskReport)| {
        [
            s.id.get().to_string(),
            d.path.clone(),
            report::disk_name(d.disk),
            report::disk_state(s, d),
            size(d.total_bytes),
            size(d.free_bytes),
            percent(d.total_bytes.saturating_sub(d.free_bytes), d.total_bytes),
            d.chunks.to_string(),
            d.errors.to_string(),
        ]
    };
    output::list(out, (format, "mooseng.disks/1"), &disks, |(s, d)| report::disk_item(s, d), columns, row)
}

pub(crate) async fn sessions(client: &Client, format: Format, out: &mut impl Write) -> Result<()> {
    let mut all = client.sessions().await?;
    all.sort_by_key(|s| s.stamp.id);
    let columns = [
        numbers("SESSION"),
        words("CLIENT"),
        words("HOST"),
        words("VERSION"),
        numbers("OPEN FILES"),
        numbers("CALLS"),
        words("SINCE"),
    ];
    let row = |s: &SessionInfo| {
        [
            s.stamp.id.get().to_string(),
            s.client.clone(),
            s.host.clone(),
            s.version.clone(),
            s.open.to_string(),
            s.calls.to_string(),
            time(s.since),
        ]
    };
    output::list(out, (format, "mooseng.sessions/2"), &all, report::session_item, columns, row)
}
