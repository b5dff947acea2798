//! `stats`: calls of each operation that come to the leading master over some seconds, and how long they take.

use crate::{
    connect::Connection,
    output::{self, Format, numbers, words},
};
use anyhow::Result;
use clap::Args;
use mooseng_client::{Client, report};
use mooseng_core::meta::{Latencies, OpCount, OpCounts};
use std::{io::Write, time::Duration};

#[derive(Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub to: Connection,
    /// How long is counted.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time_span)]
    pub window: Duration,
    /// Since the leading master's election instead, at once.
    #[arg(long, conflicts_with = "window")]
    pub all: bool,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// A time that something can be counted over.
pub(crate) fn time_span(text: &str) -> Result<Duration, String> {
    const MIN: Duration = Duration::from_millis(100);
    let span = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if span < MIN { Err(format!("{text} is too short: at least {MIN:?}")) } else { Ok(span) }
}

pub(crate) async fn stats(client: &Client, args: &StatsArgs, out: &mut impl Write) -> Result<()> {
    let mut counts = if args.all { client.op_counts().await? } else { over(client, args.window).await? };
    counts.ops.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.op.cmp(&b.op)));
    match args.output {
        Format::Table => {
            writeln!(out, "{}\n", sum(&counts))?;
            operations(&counts, usize::MAX, out)
        }
        Format::Json => output::json(out, args.output, &report::ops(&counts)),
        Format::Jsonl => {
            let whole = report::ops(&counts);
            whole["items"].as_array().into_iter().flatten().try_for_each(|i| Ok(writeln!(out, "{i}")?))
        }
    }
}

/// What comes to one leader within a time from now on.
async fn over(client: &Client, window: Duration) -> Result<OpCounts> {
    let mut before = client.op_counts().await?;
    loop {
        tokio::time::sleep(window).await;
        let after = client.op_counts().await?;
        match after.since(&before) {
            Some(counts) => return Ok(counts),
            None => eprintln!("another master leads now: counting again"),
        }
        before = after;
    }
}

/// All calls in one line.
pub(crate) fn sum(counts: &OpCounts) -> String {
    let (calls, all) = (counts.ops.iter().map(|o| o.calls).sum(), counts.latencies());
    format!(
        "{:.1} calls/s over {:.1} s at the leader of term {}; p50 {}, p99 {}",
        counts.per_s(calls),
        counts.micros as f64 / 1e6,
        counts.term.get(),
        quantile(&all, 0.5),
        quantile(&all, 0.99)
    )
}

/// The first operations, as a table.
pub(crate) fn operations(counts: &OpCounts, most: usize, out: &mut impl Write) -> Result<()> {
    let columns = [
        words("OPERATION"),
        numbers("CALLS/S"),
        numbers("CALLS"),
        numbers("FAILED"),
        numbers("P50"),
        numbers("P99"),
    ];
    let row = |o: &OpCount| {
        [
            o.op.clone(),
            format!("{:.1}", counts.per_s(o.calls)),
            o.calls.to_string(),
            o.failed.to_string(),
            quantile(&o.latencies, 0.5),
            quantile(&o.latencies, 0.99),
        ]
    };
    output::table(out, columns, counts.ops.iter().take(most).map(row))
}

fn quantile(times: &Latencies, q: f64) -> String {
    times.quantile(q).map_or_else(|| "-".into(), report::micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_for_people() {
        let shown = |micros| quantile(&Latencies(vec![(Latencies::bucket(micros), 1)]), 1.0);
        assert_eq!([shown(400), shown(2000), shown(2_000_000)], ["500 µs", "2.5 ms", "2.5 s"]);
        assert_eq!(quantile(&Latencies::default(), 0.5), "-");
        assert!(time_span("5s").is_ok() && time_span("0s").is_err() && time_span("x").is_err());
    }
}
