//! One page each, from what the feed has seen, and what is asked for besides.

mod chunks;
mod files;
mod jobs;
mod operations;
mod overview;
mod sessions;
mod topology;

pub(crate) use chunks::{cell, chunks};
pub(crate) use files::files;
pub(crate) use jobs::jobs;
pub(crate) use operations::operations;
pub(crate) use overview::overview;
pub(crate) use sessions::sessions;
pub(crate) use topology::topology;

use crate::{
    Shared,
    chart::{self, Line},
    history::{History, KEPT, Sample},
};
use axum::{extract::State, http::StatusCode};
use mooseng_client::report;
use std::sync::Arc;

/// Whether the masters answered the last pulse.
pub(crate) async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    match shared.feed.asked().await.failed {
        None => (StatusCode::OK, "ok\n"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "MASTER_UNREACHABLE\n"),
    }
}

/// A series of the last minutes as a chart's line: now is at the right.
fn line(history: &History, class: &'static str, value: impl Fn(&Sample) -> Option<f64>) -> Line {
    let x = |s: &Sample| 1.0 - history.now().saturating_sub(s.at).as_secs_f64() / KEPT.as_secs_f64();
    Line { class, points: history.samples().map(|s| (x(s), value(s))).collect() }
}

/// A chart over the last ten minutes, and the top of its scale.
fn over_time(
    lines: &[Line],
    what: &str,
    round_up: impl Fn(f64) -> f64,
    name: impl Fn(f64) -> String,
) -> (String, String) {
    let top = round_up(chart::max_of(lines));
    let name = name(top);
    (chart::lines(lines, top, &format!("{what} over the last 10 minutes, at most {name}")), name)
}

/// A rate for people.
fn rate(per_s: f64) -> String {
    if per_s >= 100.0 { format!("{per_s:.0}") } else { format!("{per_s:.1}") }
}

/// Bytes a second for people.
fn bytes_per_s(bytes: f64) -> String {
    format!("{}/s", report::size(bytes as u64))
}

/// A value of now, when it is known.
fn or_unknown(value: Option<f64>, name: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "?".into(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([rate(0.04), rate(12.34), rate(1234.5)], ["0.0", "12.3", "1234"]);
        assert_eq!([or_unknown(None, rate), or_unknown(Some(2048.0), bytes_per_s)], ["?", "2.0 KiB/s"]);
    }
}
