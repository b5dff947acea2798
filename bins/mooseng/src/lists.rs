//! `df`, `disks`, `sessions`: lists of what there is.

use crate::{
    connect::Connection,
    drain,
    output::{self, Format, numbers, size, time, words},
};
use anyhow::Result;
use clap::Args;
use mooseng_client::Client;
use mooseng_core::meta::{DiskReport, ServerInfo, SessionInfo, StatFs};
use serde_json::{Value, json};
use std::io::Write;

#[derive(Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Hundredths of `total`, as df(1) has it; `-` of nothing.
fn percent(part: u64, total: u64) -> String {
    match total {
        0 => "-".into(),
        total => format!("{}%", (u128::from(part) * 100).div_ceil(u128::from(total))),
    }
}

pub(crate) async fn df(client: &Client, format: Format, out: &mut impl Write) -> Result<()> {
    let fs = client.request(StatFs {}).await?;
    let used = fs.total_bytes.saturating_sub(fs.free_bytes);
    if format != Format::Table {
        let whole = json!({
            "schema": "mooseng.df/1", "total_bytes": fs.total_bytes, "used_bytes": used,
            "free_bytes": fs.free_bytes, "files_bytes": fs.used_bytes, "inodes": fs.inodes,
        });
        return output::json(out, format, &whole);
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

fn disk_state(s: &ServerInfo, d: &DiskReport) -> String {
    match (&d.error, s.alive) {
        (Some(e), _) => format!("set aside: {e}"),
        (None, false) => "silent".into(),
        (None, true) if d.drains && d.chunks == 0 => "empty, may go".into(),
        (None, true) if d.drains => "drains".into(),
        (None, true) => "ok".into(),
    }
}

fn disk_json((s, d): &(&ServerInfo, &DiskReport)) -> Value {
    json!({
        "server": s.id.get(), "addr": s.addr, "alive": s.alive, "id": drain::name(d.disk), "path": d.path,
        "state": disk_state(s, d), "total_bytes": d.total_bytes, "free_bytes": d.free_bytes,
        "chunks": d.chunks, "error": d.error, "drains": d.drains,
    })
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
    ];
    let row = |(s, d): &(&ServerInfo, &DiskReport)| {
        [
            s.id.get().to_string(),
            d.path.clone(),
            drain::name(d.disk),
            disk_state(s, d),
            size(d.total_bytes),
            size(d.free_bytes),
            percent(d.total_bytes.saturating_sub(d.free_bytes), d.total_bytes),
            d.chunks.to_string(),
        ]
    };
    output::list(out, (format, "mooseng.disks/1"), &disks, disk_json, columns, row)
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
        words("SINCE"),
    ];
    let row = |s: &SessionInfo| {
        [
            s.stamp.id.get().to_string(),
            s.client.clone(),
            s.host.clone(),
            s.version.clone(),
            s.open.to_string(),
            time(s.since),
        ]
    };
    output::list(out, (format, "mooseng.sessions/1"), &all, session_json, columns, row)
}

fn session_json(s: &SessionInfo) -> Value {
    json!({
        "session": s.stamp.id.get(), "epoch": s.stamp.epoch.get(), "client": s.client, "host": s.host,
        "version": s.version, "open_files": s.open, "since": time(s.since),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_rounded_up() {
        assert_eq!(percent(0, 0), "-");
        assert_eq!(percent(0, 7), "0%");
        assert_eq!(percent(1, 1000), "1%");
        assert_eq!(percent(u64::MAX, u64::MAX), "100%");
    }
}
