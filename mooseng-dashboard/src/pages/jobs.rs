//! What the cluster does by itself: repairs with time until safe, drains, scrubs, copies without a record.

use crate::{
    Shared, chart,
    feed::{Picture, Pulse},
    page::{self, Shell},
};
use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use mooseng_client::report;
use mooseng_core::meta::{DiskScrub, Repairs, ServerCare, ServerScrub};
use std::sync::Arc;

struct ScrubRow {
    server: u64,
    disk: String,
    state: String,
    bar: String,
    rounds: u64,
    verified: String,
    damages: u64,
    ended: String,
}

struct Body {
    repair: Repairs,
    repair_line: Option<String>,
    repair_bar: String,
    bytes: String,
    speed: String,
    until_safe: String,
    drains: Vec<String>,
    scrubs: Vec<ScrubRow>,
    care: Vec<(ServerCare, &'static str)>,
    quarantine: String,
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct Jobs {
    shell: Shell,
    body: Option<Body>,
}

pub(crate) async fn jobs(State(shared): State<Arc<Shared>>) -> Response {
    let seen = shared.feed.now().await;
    let shell = Shell::new(&shared, &seen, "/jobs", "Jobs");
    page::html(StatusCode::OK, &Jobs { shell, body: seen.picture.as_deref().map(|p| body(p, &seen.pulse)) })
}

fn scrub(s: &ServerScrub, d: &DiskScrub) -> ScrubRow {
    ScrubRow {
        server: s.server.get(),
        disk: report::disk_name(d.disk),
        state: report::scrub_state(s, d),
        bar: chart::bar(d.done, d.total, "good"),
        rounds: d.rounds,
        verified: report::size(d.bytes),
        damages: d.damages,
        ended: d.ended.map_or_else(|| "-".into(), report::time),
    }
}

fn body(p: &Picture, pulse: &Pulse) -> Body {
    let (r, care) = (&p.care.repairs, &p.care);
    let drains = care.drains.iter().map(report::drain_line);
    let mended = r.done.saturating_sub(p.mended_before);
    let until_safe = match (r.chunks, r.until_safe_secs) {
        (0, _) => "safe now".into(),
        (_, Some(secs)) => format!("some {}", report::secs(secs.max(1))),
        (_, None) => "not known yet".into(),
    };
    Body {
        repair: *r,
        repair_line: report::repair_line(r),
        repair_bar: chart::bar(mended, mended + r.chunks, "good"),
        bytes: report::size(r.bytes),
        speed: format!("{}/s", report::size(r.bytes_per_s)),
        until_safe,
        drains: drains.chain(care.disks.iter().map(report::disk_drain_line)).collect(),
        scrubs: pulse.scrubs.iter().flat_map(|s| s.disks.iter().map(move |d| scrub(s, d))).collect(),
        care: care.servers.iter().map(|c| (c.clone(), report::care_state(c))).collect(),
        quarantine: report::secs(care.quarantine_secs),
    }
}
