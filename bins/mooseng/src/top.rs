//! `top`: what is going on, again and again: calls, chunkservers and sessions by load.

use crate::{
    connect::Connection,
    output::{self, Format, numbers, size, words},
    stats,
};
use anyhow::Result;
use clap::Args;
use mooseng_client::{
    Client,
    report::{self, ServedRate, ServedRates},
};
use mooseng_core::{
    ids::ServerId,
    meta::{OpCounts, ServerLoad, SessionInfo},
};
use serde_json::{Value, json};
use std::{
    io::{IsTerminal as _, Write},
    time::{Duration, Instant},
};

/// Clears a terminal, and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

#[derive(Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Between two looks. Chunkservers tell every five seconds what they have served.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = stats::time_span)]
    pub every: Duration,
    /// Shows it once.
    #[arg(long)]
    pub once: bool,
    /// Lines of each list at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub lines: usize,
    /// Format; without --once `json` is one object a line, as `jsonl`.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub(crate) async fn top(client: &Client, args: &TopArgs, out: &mut impl Write) -> Result<()> {
    let format = if args.output == Format::Json && !args.once { Format::Jsonl } else { args.output };
    let clears = format == Format::Table && !args.once && std::io::stdout().is_terminal();
    let mut board = Board::new(look(client).await?);
    loop {
        tokio::time::sleep(args.every).await;
        let seen = match look(client).await {
            Ok(seen) => seen,
            Err(e) if args.once => return Err(e),
            Err(e) => {
                eprintln!("{}; looking again", output::shown_lines(&format!("{e:#}")));
                continue;
            }
        };
        let Some(shown) = board.add(seen) else {
            eprintln!("another master leads now: counting again");
            continue;
        };
        if clears {
            write!(out, "{CLEAR}")?;
        }
        match format {
            Format::Table => shown.table(args.lines, out)?,
            format => output::json(out, format, &shown.json(args.lines))?,
        }
        if args.once {
            return Ok(());
        }
        if format == Format::Table && !clears {
            writeln!(out)?;
        }
        out.flush()?;
    }
}

/// What the leader tells at one time.
struct Look {
    at: Instant,
    counts: OpCounts,
    sessions: Vec<SessionInfo>,
    loads: Vec<ServerLoad>,
}

async fn look(client: &Client) -> Result<Look> {
    let (counts, sessions, loads) =
        futures::try_join!(client.op_counts(), client.sessions(), client.loads())?;
    Ok(Look { at: Instant::now(), counts, sessions, loads })
}

/// The last look, and what chunkservers serve by the last two times that each of them told.
struct Board {
    begin: Instant,
    last: Look,
    served: ServedRates,
}

impl Board {
    fn new(first: Look) -> Self {
        let mut served = ServedRates::default();
        served.hear(Duration::ZERO, &first.loads);
        Self { begin: first.at, last: first, served }
    }

    /// What went on between the last look and this one; `None` where each was at another leader.
    fn add(&mut self, seen: Look) -> Option<Shown> {
        self.served.hear(seen.at.duration_since(self.begin), &seen.loads);
        let last = std::mem::replace(&mut self.last, seen);
        let seen = &self.last;
        let mut counts = seen.counts.since(&last.counts)?;
        counts.ops.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.op.cmp(&b.op)));
        let secs = seen.at.duration_since(last.at).as_secs_f64();
        let rate = |s: &SessionInfo| {
            let was = last.sessions.iter().find(|l| l.stamp.id == s.stamp.id).map_or(0, |l| l.calls);
            s.calls.saturating_sub(was) as f64 / secs
        };
        let mut sessions: Vec<_> = seen.sessions.iter().map(|s| (s.clone(), rate(s))).collect();
        sessions.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.stamp.id.cmp(&b.stamp.id)));
        let mut servers: Vec<_> = seen.loads.iter().map(|l| (l.server, self.served.of(l.server))).collect();
        let load = |s: &Option<ServedRate>| s.map_or(-1.0, |s| s.read_bytes + s.written_bytes);
        servers.sort_by(|(a, x), (b, y)| load(y).total_cmp(&load(x)).then(a.cmp(b)));
        Some(Shown { counts, sessions, servers })
    }
}

/// What went on between two looks, who has most to do first.
struct Shown {
    counts: OpCounts,
    sessions: Vec<(SessionInfo, f64)>,
    servers: Vec<(ServerId, Option<ServedRate>)>,
}

impl Shown {
    fn table(&self, most: usize, out: &mut impl Write) -> Result<()> {
        let (sessions, servers) = (self.sessions.len(), self.servers.len());
        writeln!(out, "{}", stats::sum(&self.counts))?;
        writeln!(out, "{sessions} sessions, {servers} chunkservers\n")?;
        stats::operations(&self.counts, most, out)?;
        writeln!(out)?;
        let columns = [
            numbers("CHUNKSERVER"),
            numbers("READ/S"),
            numbers("WRITTEN/S"),
            numbers("READS/S"),
            numbers("WRITES/S"),
            numbers("SYNCS/S"),
        ];
        let row = |(id, s): &(ServerId, Option<ServedRate>)| {
            let of = |what: fn(&ServedRate) -> String| s.as_ref().map_or_else(|| "-".into(), what);
            [
                id.get().to_string(),
                of(|s| size(s.read_bytes as u64)),
                of(|s| size(s.written_bytes as u64)),
                of(|s| format!("{:.1}", s.reads)),
                of(|s| format!("{:.1}", s.writes)),
                of(|s| format!("{:.1}", s.syncs)),
            ]
        };
        output::table(out, columns, self.servers.iter().take(most).map(row))?;
        writeln!(out)?;
        let columns =
            [numbers("SESSION"), words("CLIENT"), words("HOST"), numbers("OPEN FILES"), numbers("CALLS/S")];
        let row = |(s, per_s): &(SessionInfo, f64)| {
            let (id, open) = (s.stamp.id.get().to_string(), s.open.to_string());
            [id, s.client.clone(), s.host.clone(), open, format!("{per_s:.1}")]
        };
        output::table(out, columns, self.sessions.iter().take(most).map(row))
    }

    /// `mooseng.top/1`.
    fn json(&self, most: usize) -> Value {
        let (ops, all) = (report::ops(&self.counts), self.counts.latencies());
        let first = |items: &Value| items.as_array().into_iter().flatten().take(most).cloned().collect();
        let operations: Vec<Value> = first(&ops["items"]);
        let server = |(id, s): &(ServerId, Option<ServedRate>)| {
            json!({
                "server": id.get(),
                "read_bytes_per_s": s.map(|s| s.read_bytes), "written_bytes_per_s": s.map(|s| s.written_bytes),
                "reads_per_s": s.map(|s| s.reads), "writes_per_s": s.map(|s| s.writes),
                "syncs_per_s": s.map(|s| s.syncs),
            })
        };
        let session = |(s, per_s): &(SessionInfo, f64)| {
            json!({
                "session": s.stamp.id.get(), "client": s.client, "host": s.host, "open_files": s.open,
                "calls_per_s": per_s,
            })
        };
        json!({
            "schema": "mooseng.top/1",
            "term": self.counts.term.get(),
            "seconds": ops["seconds"],
            "calls_per_s": self.counts.per_s(self.counts.ops.iter().map(|o| o.calls).sum()),
            "p50_us": all.quantile(0.5),
            "p99_us": all.quantile(0.99),
            "operations": operations,
            "chunkservers": self.servers.iter().take(most).map(server).collect::<Vec<_>>(),
            "sessions": self.sessions.iter().take(most).map(session).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{attr::Timestamp, ids::*, meta::*};

    fn load(server: u64, told: i64, read_bytes: u64) -> ServerLoad {
        ServerLoad {
            server: ServerId(server),
            incarnation: Incarnation(7),
            told: Timestamp::new(told, 0),
            served: Served { read_bytes, reads: read_bytes / 10, ..Served::default() },
        }
    }

    fn session(id: u64, calls: u64) -> SessionInfo {
        SessionInfo {
            stamp: SessionStamp { id: SessionId(id), epoch: SessionEpoch(1) },
            client: "c\x1b[2J".into(),
            host: "h".into(),
            version: "1".into(),
            open: 2,
            calls,
            since: Timestamp::new(0, 0),
        }
    }

    fn at(begin: Instant, secs: u64, term: u64, calls: [u64; 2], loads: Vec<ServerLoad>) -> Look {
        let sum = calls.iter().sum();
        let op = OpCount {
            op: "GetAttr".into(),
            calls: sum,
            failed: 0,
            micros: 0,
            latencies: Latencies(vec![(0, sum)]),
        };
        let counts = OpCounts { term: Term(term), micros: secs * 1_000_000, ops: vec![op] };
        let sessions = vec![session(1, calls[0]), session(2, calls[1])];
        Look { at: begin + Duration::from_secs(secs), counts, sessions, loads }
    }

    #[test]
    fn who_has_most_to_do_is_first() {
        let begin = Instant::now();
        let mut board = Board::new(at(begin, 0, 1, [0, 0], vec![load(1, 100, 0), load(2, 100, 0)]));
        let loads = vec![load(1, 105, 50), load(2, 105, 5000), load(3, 105, 9)];
        let shown = board.add(at(begin, 5, 1, [10, 100], loads)).unwrap();
        assert_eq!(shown.counts.per_s(shown.counts.ops[0].calls), 22.0);
        let sessions: Vec<_> = shown.sessions.iter().map(|(s, n)| (s.stamp.id.get(), *n)).collect();
        assert_eq!(sessions, [(2, 20.0), (1, 2.0)]);
        let servers: Vec<_> =
            shown.servers.iter().map(|(id, s)| (id.get(), s.map(|s| s.read_bytes))).collect();
        assert_eq!(servers, [(2, Some(1000.0)), (1, Some(10.0)), (3, None)]);
        let mut out = Vec::new();
        shown.table(1, &mut out).unwrap();
        let said = String::from_utf8(out).unwrap();
        assert!(said.contains(r"c\u{1b}[2J") && said.lines().count() == 11, "{said}");
        assert!(board.add(at(begin, 15, 2, [1, 1], vec![])).is_none(), "another leader counts from 0");
    }
}
