//! How many calls the leading master answers, and how fast.

use super::{line, micros, over_time, rate};
use crate::{
    Shared,
    feed::Picture,
    page::{self, Shell},
};
use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use std::sync::Arc;

struct Row {
    op: String,
    per_s: String,
    calls: u64,
    failed: u64,
    p50: String,
    p99: String,
}

struct Body {
    calls: (String, String),
    times: (String, String),
    rows: Vec<Row>,
    /// Whether there were two looks yet.
    is_known: bool,
}

#[derive(Template)]
#[template(path = "operations.html")]
struct Operations {
    shell: Shell,
    body: Option<Body>,
}

pub(crate) async fn operations(State(shared): State<Arc<Shared>>) -> Response {
    let seen = shared.feed.now().await;
    let shell = Shell::new(&shared, &seen, "/operations", "Operations");
    page::html(StatusCode::OK, &Operations { shell, body: seen.picture.as_deref().map(body) })
}

fn body(p: &Picture) -> Body {
    let h = &p.history;
    let quantile = |q| move |s: &crate::history::Sample| s.quantile(q).unwrap_or(0) as f64;
    let times = [line(h, "p50", quantile(0.5)), line(h, "p99", quantile(0.99))];
    let row = |o: crate::history::OpRate| Row {
        op: o.op,
        per_s: rate(o.per_s),
        calls: o.calls,
        failed: o.failed,
        p50: micros(o.p50_us),
        p99: micros(o.p99_us),
    };
    Body {
        calls: over_time(&[line(h, "calls", |s| s.calls_per_s())], "calls a second", rate),
        times: over_time(&times, "median and 99th percentile of the time of calls", |us| micros(us as u64)),
        rows: h.lately().into_iter().map(row).collect(),
        is_known: h.samples().next().is_some(),
    }
}
