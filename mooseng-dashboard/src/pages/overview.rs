//! The first page: health with reason and cure, room, throughput, what happened.

use super::{line, over_time, rate};
use crate::{
    Shared, chart,
    feed::Picture,
    page::{self, Shell},
};
use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use mooseng_client::report;
use mooseng_core::health::{Problem, Severity};
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
    chunks: mooseng_core::meta::ChunkHealth,
    chunks_bar: String,
    repair: Option<String>,
    sessions: u64,
    masters: (usize, usize),
    servers: (usize, usize),
    read: String,
    written: String,
    throughput: (String, String),
    calls: String,
    operations: (String, String),
    events: Vec<EventRow>,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    shell: Shell,
    body: Option<Body>,
}

pub(crate) async fn overview(State(shared): State<Arc<Shared>>) -> Response {
    let seen = shared.feed.now().await;
    let shell = Shell::new(&shared, &seen, "/", "Overview");
    page::html(StatusCode::OK, &Overview { shell, body: seen.picture.as_deref().map(body) })
}

fn class_of(code: mooseng_core::meta::EventCode) -> &'static str {
    use mooseng_core::meta::EventCode as C;
    match code {
        C::ChunkserverLost | C::DiskSetAside | C::ProblemRaised | C::SessionFenced => "bad",
        C::ChunkserverBack | C::ChunkserverJoined | C::ProblemCleared | C::RepairEnded => "good",
        C::MasterElected | C::RepairBegun => "plain",
    }
}

fn body(p: &Picture) -> Body {
    let (s, fs) = (&p.status, &p.status.fs);
    let used = fs.total_bytes.saturating_sub(fs.free_bytes);
    let per_s = |bytes: f64| format!("{}/s", report::size(bytes as u64));
    let last = p.history.samples().next_back();
    let throughput =
        [line(&p.history, "read", |s| s.read_per_s), line(&p.history, "written", |s| s.written_per_s)];
    let operations = [line(&p.history, "calls", |s| s.calls_per_s())];
    let events = p.events.iter().rev().take(EVENTS).map(|e| EventRow {
        time: report::time(e.at),
        code: e.code.name(),
        problem: e.problem.clone(),
        text: e.text.clone(),
        class: class_of(e.code),
    });
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
        read: per_s(last.map_or(0.0, |s| s.read_per_s)),
        written: per_s(last.map_or(0.0, |s| s.written_per_s)),
        throughput: over_time(&throughput, "bytes read and written a second", per_s),
        calls: rate(last.map_or(0.0, |s| s.calls_per_s())),
        operations: over_time(&operations, "calls a second", rate),
        events: events.collect(),
    }
}
