//! Slow calls in the log: a line for the call, and one for each of its steps that took long. Each has the trace's
//! number, so that one search finds them on all nodes.

use super::spans_of;
use mooseng_core::{
    ids::{SpanId, TraceId},
    trace::{SpanRecord, in_order},
};
use std::time::Duration;

/// Steps of one slow call that are told.
const ROWS_MAX: usize = 24;
/// Slow calls that are told within [`SPAN`]: when everything is slow, the log is to stay readable.
const TOLD_MAX: u32 = 32;
const SPAN: Duration = Duration::from_secs(10);

/// How many slow calls were told lately.
#[derive(Default)]
pub(super) struct Tells {
    since: Duration,
    told: u32,
    untold: u64,
}

/// Whether a slow call may be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// It may, and so many before it were not.
    Yes(u64),
    No,
}

impl Tells {
    /// Takes room for one at a time of the process.
    pub(super) fn room(&mut self, now: Duration) -> Room {
        if now.saturating_sub(self.since) >= SPAN {
            (self.since, self.told) = (now, 0);
        }
        if self.told >= TOLD_MAX {
            self.untold += 1;
            return Room::No;
        }
        self.told += 1;
        Room::Yes(std::mem::take(&mut self.untold))
    }
}

fn millis(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

/// What is below a span, in order, with depths from 1 and begins after its own in microseconds.
fn below(spans: Vec<SpanRecord>, id: SpanId) -> Vec<(usize, i64, SpanRecord)> {
    let rows = in_order(spans, |s| (s.id, s.parent, s.begin.0));
    let Some(at) = rows.iter().position(|(_, s)| s.id == id) else { return vec![] };
    let (top, begin) = (rows[at].0, rows[at].1.begin.0);
    let rest = rows.into_iter().skip(at + 1).take_while(|(depth, _)| *depth > top);
    rest.map(|(depth, s)| (depth - top, (s.begin.0 - begin) / 1000, s)).collect()
}

/// Tells of one.
pub(super) fn tell(trace: TraceId, id: SpanId, (name, took): (&str, Duration), room: Room) {
    let Room::Yes(untold) = room else { return };
    let trace_id = format_args!("{:016x}", trace.get());
    if untold > 0 {
        tracing::warn!(untold, "slow calls were not told: there were too many");
    }
    tracing::warn!(trace = trace_id, "slow: {:.1} ms  {name}", millis(took.as_micros() as i64));
    let rows = below(spans_of(trace), id);
    for (depth, begin, span) in rows.iter().take(ROWS_MAX) {
        let indent = "  ".repeat(*depth);
        tracing::warn!(
            trace = trace_id,
            "slow: {:.1} ms{indent}{} after {:.1} ms",
            millis(span.micros as i64),
            span.name,
            millis(*begin)
        );
    }
    if rows.len() > ROWS_MAX {
        tracing::warn!(trace = trace_id, "slow: and {} steps more", rows.len() - ROWS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::attr::Timestamp;

    #[test]
    fn a_flood_is_counted_instead_of_told() {
        let mut tells = Tells::default();
        let at = |ms| Duration::from_millis(ms);
        assert!((0..TOLD_MAX).all(|_| tells.room(at(5)) == Room::Yes(0)));
        assert_eq!([tells.room(at(9_999)), tells.room(at(9_999))], [Room::No, Room::No]);
        assert_eq!([tells.room(at(10_000)), tells.room(at(10_001))], [Room::Yes(2), Room::Yes(0)]);
    }

    #[test]
    fn of_a_trace_only_what_is_below_the_call_is_told() {
        let span = |id, parent, begin_us: i64| SpanRecord {
            id: SpanId(id),
            parent: SpanId(parent),
            name: id.to_string(),
            begin: Timestamp(begin_us * 1000),
            micros: 1,
        };
        let spans = || {
            vec![
                span(1, 0, 10),
                span(2, 1, 30),
                span(3, 2, 40),
                span(4, 1, 20),
                span(5, 0, 0),
                span(6, 5, 50),
            ]
        };
        let rows = |id| {
            below(spans(), SpanId(id)).into_iter().map(|(d, at, s)| (d, at, s.id.get())).collect::<Vec<_>>()
        };
        assert_eq!(rows(1), [(1, 10, 4), (1, 20, 2), (2, 30, 3)]);
        assert_eq!(rows(2), [(1, 10, 3)]);
        assert_eq!([rows(3), rows(77)], [vec![], vec![]]);
    }
}
