//! `events`: what the leading master has seen since its election.

use crate::{
    connect::Connection,
    output::{self, Format, time, words},
};
use anyhow::Result;
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::meta::{ClusterEvent, EventMark};
use std::{io::Write, time::Duration};

/// Between two looks while events are followed.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Goes on with what happens, also through a change of leader, until Ctrl-C.
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many of those that there are.
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Format; with --follow `json` is one object a line, as `jsonl`.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub(crate) async fn events(client: &Client, args: &EventsArgs, out: &mut impl Write) -> Result<()> {
    let (mut all, mut next) = (Vec::new(), None);
    loop {
        let page = more(client, &mut next).await?;
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    let first = args.last.map_or(0, |n| all.len().saturating_sub(n));
    let format = if args.follow && args.output == Format::Json { Format::Jsonl } else { args.output };
    let columns = [words("TIME"), words("CODE"), words("WHAT")];
    output::list(out, (format, "mooseng.events/1"), &all[first..], report::event_item, columns, row)?;
    if !args.follow {
        return Ok(());
    }
    loop {
        out.flush()?;
        tokio::time::sleep(LOOK).await;
        match more(client, &mut next).await {
            Ok(page) => page.iter().try_for_each(|e| line(e, format, out))?,
            Err(e) => eprintln!("{e}; looking again"),
        }
    }
}

/// The next page; and where to go on.
async fn more(client: &Client, next: &mut Option<EventMark>) -> mooseng_client::Result<Vec<ClusterEvent>> {
    let page = client.events(*next).await?;
    if page.lost > 0 && next.is_some() {
        eprintln!("{} events are forgotten: the leader keeps the newest only", page.lost);
    }
    *next = Some(page.next);
    Ok(page.events)
}

fn row(e: &ClusterEvent) -> [String; 3] {
    let code = match &e.problem {
        Some(problem) => format!("{} {problem}", e.code),
        None => e.code.to_string(),
    };
    [time(e.at), code, e.text.clone()]
}

fn line(e: &ClusterEvent, format: Format, out: &mut impl Write) -> Result<()> {
    if format != Format::Table {
        return Ok(writeln!(out, "{}", report::event_item(e))?);
    }
    Ok(writeln!(out, "{}", row(e).join("  "))?)
}
