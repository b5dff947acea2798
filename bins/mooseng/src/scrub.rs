//! `scrub`: how far the reading and verifying of all chunks is, and a round at once.

use crate::{
    connect::Connection,
    exit,
    output::{self, Format, numbers, size, time, words},
};
use anyhow::{Context as _, Result};
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::{
    attr::Timestamp,
    meta::{DiskScrub, ScrubNow, ServerScrub},
};
use std::{
    io::{IsTerminal as _, Write},
    time::Duration,
};

/// Between two looks at a scrub that is followed.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct ScrubArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Begins a round on all disks now, faster than usual, and follows it to its end. Needs an admin's
    /// identity. Ctrl-C ends the looking, not the round.
    #[arg(long)]
    pub now: bool,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Chunks to do, done, and found damaged of a round that was asked for; and whether all have answered.
fn progress(all: &[ServerScrub], asked: Timestamp) -> (u64, u64, u64, bool) {
    let (mut total, mut done, mut found, mut ended) = (0, 0, 0, true);
    let alive = || all.iter().filter(|s| s.alive);
    // A server that has not told of its disks yet has not answered.
    ended &= alive().all(|s| !s.disks.is_empty());
    for d in alive().flat_map(|s| &s.disks) {
        let answered = d.answered >= Some(asked);
        ended &= answered;
        found += if answered || d.fast { d.found } else { 0 };
        (total, done) = (total + d.total, done + d.done);
    }
    (total, done, found, ended)
}

pub(crate) async fn scrub(client: &Client, args: &ScrubArgs, out: &mut impl Write) -> Result<()> {
    let mut found_now = 0;
    if args.now {
        let asked = client.request(ScrubNow {}).await.context("no round was begun")?;
        let on_terminal = std::io::stderr().is_terminal();
        loop {
            let (total, done, found, ended) = progress(&client.scrubs().await?, asked);
            if on_terminal {
                eprint!("\rscrub: {done} of {total} chunks of the rounds under way, {found} damaged   ");
            }
            if ended {
                found_now = found;
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        if on_terminal {
            eprintln!();
        }
    }
    let all = client.scrubs().await?;
    show_scrubs(&all, args.output, out)?;
    match found_now {
        0 => Ok(()),
        n => Err(exit::integrity(format!(
            "{n} damaged chunks were found; the masters mend them from other copies"
        ))),
    }
}

fn show_scrubs(all: &[ServerScrub], format: Format, out: &mut impl Write) -> Result<()> {
    let disks: Vec<_> = all.iter().flat_map(|s| s.disks.iter().map(move |d| (s, d))).collect();
    let columns = [
        words("CHUNKSERVER"),
        words("DISK"),
        words("STATE"),
        numbers("ROUNDS"),
        numbers("VERIFIED"),
        numbers("DAMAGED"),
        words("LAST ROUND ENDED"),
    ];
    let row = |(s, d): &(&ServerScrub, &DiskScrub)| {
        [
            s.server.get().to_string(),
            report::disk_name(d.disk),
            report::scrub_state(s, d),
            d.rounds.to_string(),
            size(d.bytes),
            d.damages.to_string(),
            d.ended.map_or("-".into(), time),
        ]
    };
    output::list(out, (format, "mooseng.scrub/1"), &disks, |(s, d)| report::scrub_item(s, d), columns, row)
}
