//! The first page: health with reason and cure, room, throughput, what happened.

use super::{bytes_per_s, line, or_unknown, over_time, rate};
use crate::{
    Shared,
    chart::{self, round_up, round_up_bytes},
    feed::Picture,
    history::{History, Sample},
    page::{self, Shell},
};
use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use mooseng_client::report;
use mooseng_core::{
    health::{Problem, Severity},
    meta::{ChunkHealth, ClusterEvent, EventCode},
};
use std::sync::Arc;

/// Events that are shown.
const EVENTS: usize = 20;

pub(super) struct ProblemRow {
    code: &'static str,
    severity: &'static str,
    cause: String,
    cure: &'static str,
}

impl ProblemRow {
    fn new(p: &Problem) -> Self {
        let severity = match p.severity {
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        };
        Self { code: p.code.name(), severity, cause: p.cause.clone(), cure: p.cure }
    }
}

struct EventRow {
    time: String,
    code: &'static str,
    problem: Option<String>,
    text: String,
    class: &'static str,
}

impl EventRow {
    fn new(e: &ClusterEvent) -> Self {
        Self {
            time: report::time(e.at),
            code: e.code.name(),
            problem: e.problem.clone(),
            text: e.text.clone(),
            class: class_of(e.code),
        }
    }
}

/// What is shown of a picture.
struct Body {
    cluster: String,
    problems: Vec<ProblemRow>,
    used: String,
    free: String,
    total: String,
    room_bar: String,
    used_percent: String,
    files_bytes: String,
    inodes: u64,
    chunks: ChunkHealth,
    chunks_bar: String,
    repair: Option<String>,
    sessions: u64,
    masters: (usize, usize),
    servers: (usize, usize),
}

/// What pulses tell of the last minutes.
struct Rates {
    read: String,
    written: String,
    throughput: (String, String),
    calls: String,
    operations: (String, String),
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    shell: Shell,
    /// `None` before the first look is done.
    body: Option<Body>,
    rates: Rates,
    events: Vec<EventRow>,
}

pub(crate) async fn overview(State(shared): State<Arc<Shared>>) -> Response {
    let seen = shared.feed.now().await;
    let shell = Shell::new(&shared, &seen, "/", "Overview");
    let (body, rates) = (seen.picture.as_deref().map(body), rates(&seen.pulse.history));
    let events = seen.pulse.events.iter().rev().take(EVENTS).map(EventRow::new).collect();
    page::html(StatusCode::OK, &Overview { shell, body, rates, events })
}

fn class_of(code: EventCode) -> &'static str {
    use EventCode as C;
    match code {
        _ if code.is_bad() => "bad",
        C::ChunkserverBack | C::ChunkserverJoined | C::ProblemCleared | C::RepairEnded => "good",
        _ => "plain",
    }
}

fn body(p: &Picture) -> Body {
    let (s, fs) = (&p.status, &p.status.fs);
    let used = fs.total_bytes.saturating_sub(fs.free_bytes);
    // As the problem that tells of silent masters has it.
    let silent =
        p.problems.iter().filter(|p| p.code == mooseng_core::health::HealthCode::MasterSilent).count();
    Body {
        cluster: s.cluster.to_string(),
        problems: p.problems.iter().map(ProblemRow::new).collect(),
        used: report::size(used),
        free: report::size(fs.free_bytes),
        total: report::size(fs.total_bytes),
        room_bar: chart::bar(used, fs.total_bytes, "used"),
        used_percent: report::percent(used, fs.total_bytes),
        files_bytes: report::size(fs.used_bytes),
        inodes: fs.inodes,
        chunks: s.chunks,
        chunks_bar: chart::bar(s.chunks.healthy, s.chunks.total, "good"),
        repair: report::repair_line(&p.care.repairs),
        sessions: s.sessions,
        masters: (s.masters.len().saturating_sub(silent), s.masters.len()),
        servers: (s.servers.iter().filter(|s| s.alive).count(), s.servers.len()),
    }
}

fn rates(h: &History) -> Rates {
    let last = h.samples().next_back();
    let (read, written) =
        (|s: &Sample| s.load.map(|l| l.read_bytes), |s: &Sample| s.load.map(|l| l.written_bytes));
    let throughput = [line(h, "read", read), line(h, "written", written)];
    let operations = [line(h, "calls", Sample::calls_per_s)];
    Rates {
        read: or_unknown(last.and_then(read), bytes_per_s),
        written: or_unknown(last.and_then(written), bytes_per_s),
        throughput: over_time(&throughput, "bytes read and written a second", round_up_bytes, bytes_per_s),
        calls: or_unknown(last.and_then(Sample::calls_per_s), rate),
        operations: over_time(&operations, "calls about files a second", round_up, rate),
    }
}
