//! How many calls the leading master answers, and how fast.

use super::{line, over_time, rate};
use crate::{
    Shared,
    chart::round_up,
    history::{History, OpRate, Sample},
    page::{self, Shell},
};
use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use mooseng_client::report;
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
    /// Why there are none.
    empty: &'static str,
}

#[derive(Template)]
#[template(path = "operations.html")]
struct Operations {
    shell: Shell,
    body: Body,
}

pub(crate) async fn operations(State(shared): State<Arc<Shared>>) -> Response {
    let seen = shared.feed.now().await;
    let shell = Shell::new(&shared, &seen, "/operations", "Operations");
    page::html(StatusCode::OK, &Operations { shell, body: body(&seen.pulse.history) })
}

fn body(h: &History) -> Body {
    let quantile = |q| move |s: &Sample| s.quantile(q).map(|us| us as f64);
    let times = [line(h, "p50", quantile(0.5)), line(h, "p99", quantile(0.99))];
    let row = |o: OpRate| Row {
        op: o.op,
        per_s: rate(o.per_s),
        calls: o.calls,
        failed: o.failed,
        p50: report::micros(o.p50_us),
        p99: report::micros(o.p99_us),
    };
    let empty = match h.samples().next_back() {
        None => "Two pulses are needed for a rate: it comes in some seconds.",
        Some(s) if s.load.is_none() => "The masters do not answer: nothing is known.",
        Some(_) => "Nothing was called.",
    };
    Body {
        calls: over_time(
            &[line(h, "calls", Sample::calls_per_s)],
            "calls about files a second",
            round_up,
            rate,
        ),
        times: over_time(
            &times,
            "median and 99th percentile of the time of calls about files",
            round_up,
            |us| report::micros(us as u64),
        ),
        rows: h.lately().into_iter().map(row).collect(),
        empty,
    }
}
