//! One picture of the spans of all nodes, whose clocks differ.

use crate::output::{self, Format, shown};
use anyhow::Result;
use mooseng_core::{
    ids::{SpanId, TraceId},
    trace::{SpanRecord, in_order},
};
use serde::Serialize;
use serde_json::json;
use std::{collections::BTreeMap, io::Write};

/// Columns of the bars.
const WIDTH: usize = 32;

/// A span at its place.
#[derive(Clone, Debug)]
struct Placed {
    node: usize,
    id: SpanId,
    parent: SpanId,
    name: String,
    /// Microseconds after the trace began, on this machine's clock.
    begin: i64,
    micros: u64,
}

impl Placed {
    fn end(&self) -> i64 {
        self.begin.saturating_add_unsigned(self.micros)
    }
}

/// A node that does not tell what it did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Missing {
    pub node: String,
    pub cause: String,
}

/// The spans of a trace.
pub(super) struct Waterfall {
    nodes: Vec<String>,
    /// In the order in which they are shown, with their depths.
    rows: Vec<(usize, Placed)>,
    missing: Vec<Missing>,
}

impl Waterfall {
    /// From what this process and the other nodes noted. A node's clock is set so that what it did for a caller
    /// lies in the middle of the caller's wait.
    pub(super) fn new(
        here: Vec<SpanRecord>,
        others: Vec<(String, Vec<SpanRecord>)>,
        missing: Vec<Missing>,
    ) -> Self {
        let all = std::iter::once((String::from("here"), here)).chain(others);
        let (nodes, spans): (Vec<_>, Vec<_>) = all.unzip();
        let start = spans[0].iter().map(|s| s.begin.0).min().unwrap_or_default();
        let mut placed = BTreeMap::new();
        for (node, spans) in spans.into_iter().enumerate() {
            for s in spans {
                let begin = s.begin.0.saturating_sub(start) / 1000;
                let p = Placed { node, id: s.id, parent: s.parent, name: s.name, begin, micros: s.micros };
                placed.entry(s.id).or_insert(p);
            }
        }
        set_clocks(&mut placed, nodes.len());
        let rows = in_order(placed.into_values().collect(), |p: &Placed| (p.id, p.parent, p.begin));
        Self { nodes, rows, missing }
    }

    pub(super) fn show(&self, format: Format, trace: TraceId, to: &mut impl Write) -> Result<()> {
        if format == Format::Table {
            return self.draw(trace, to);
        }
        let spans = self.rows.iter().map(|(depth, s)| {
            json!({
                "node": self.nodes[s.node], "id": hex(s.id.get()), "parent": hex(s.parent.get()), "depth": depth,
                "name": s.name, "begin_us": s.begin, "duration_us": s.micros,
            })
        });
        let whole = json!({
            "schema": "mooseng.trace/1", "trace": hex(trace.get()), "spans": spans.collect::<Vec<_>>(),
            "missing": self.missing,
        });
        output::json(to, format, &whole)
    }

    fn draw(&self, trace: TraceId, to: &mut impl Write) -> Result<()> {
        let begin = self.rows.iter().map(|(_, s)| s.begin).min().unwrap_or_default();
        let end = self.rows.iter().map(|(_, s)| s.end()).max().unwrap_or_default();
        let whole = end.saturating_sub(begin).max(1) as u128;
        let column = |at: i64| (at.saturating_sub(begin) as u128 * WIDTH as u128 / whole) as usize;
        let width = self.nodes.iter().map(String::len).max().unwrap_or_default();
        writeln!(to, "trace {}", hex(trace.get()))?;
        for (depth, s) in &self.rows {
            let from = column(s.begin).min(WIDTH - 1);
            let upto = column(s.end()).clamp(from + 1, WIDTH);
            let bar = format!("{}{}{}", " ".repeat(from), "█".repeat(upto - from), " ".repeat(WIDTH - upto));
            writeln!(
                to,
                "{:>9.3} ms {:>9.3} ms │{bar}│ {:width$}  {}{}",
                s.begin.saturating_sub(begin) as f64 / 1000.0,
                s.micros as f64 / 1000.0,
                self.nodes[s.node],
                "  ".repeat(*depth),
                shown(&s.name),
            )?;
        }
        for m in &self.missing {
            writeln!(to, "missing: {}: {}", m.node, shown(&m.cause))?;
        }
        Ok(())
    }
}

fn hex(n: u64) -> String {
    format!("{n:016x}")
}

/// Moves each node's spans by what its clock is off, from this machine's outwards.
fn set_clocks(placed: &mut BTreeMap<SpanId, Placed>, nodes: usize) {
    let mut known = vec![false; nodes];
    known[0] = true;
    loop {
        // Of each node that a known one called: the call whose wait is the least longer than the work.
        let mut off: BTreeMap<usize, (u64, i64)> = BTreeMap::new();
        for s in placed.values().filter(|s| !known[s.node]) {
            let Some(above) = placed.get(&s.parent).filter(|p| known[p.node]) else { continue };
            let wait = above.micros.abs_diff(s.micros);
            // Streams go on when their call has been answered: their beginning counts.
            let lead = if above.micros > s.micros { (wait / 2) as i64 } else { 0 };
            let found = (wait, above.begin.saturating_add(lead).saturating_sub(s.begin));
            off.entry(s.node).and_modify(|best| *best = found.min(*best)).or_insert(found);
        }
        if off.is_empty() {
            return;
        }
        for s in placed.values_mut() {
            if let Some((_, by)) = off.get(&s.node) {
                s.begin = s.begin.saturating_add(*by);
            }
        }
        off.keys().for_each(|node| known[*node] = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::looks::pinned;
    use mooseng_core::attr::Timestamp;

    fn span(id: u64, parent: u64, name: &str, begin_us: i64, micros: u64) -> SpanRecord {
        let begin = Timestamp(begin_us * 1000);
        SpanRecord { id: SpanId(id), parent: SpanId(parent), name: name.into(), begin, micros }
    }

    #[test]
    fn nodes_with_other_clocks_are_put_where_their_callers_waited() {
        let here = vec![span(1, 0, "put", 1_000_000, 9000), span(2, 1, "call", 1_001_000, 4000)];
        // An hour ahead, and one that the other one called, an hour behind.
        let hour = 3_600_000_000;
        let first = vec![
            span(3, 2, "serve", hour, 3000),
            span(4, 3, "disk", hour + 100, 200),
            span(5, 3, "call next", hour + 500, 2000),
        ];
        let second = vec![span(6, 5, "serve next", -hour, 1000)];
        let fall = Waterfall::new(here, vec![("first".into(), first), ("second".into(), second)], vec![]);
        let rows: Vec<_> = fall.rows.iter().map(|(d, s)| (*d, s.name.as_str(), s.begin)).collect();
        assert_eq!(
            rows,
            [
                (0, "put", 0),
                (1, "call", 1000),
                (2, "serve", 1500),
                (3, "disk", 1600),
                (3, "call next", 2000),
                (4, "serve next", 2500),
            ]
        );
        let mut out = Vec::new();
        fall.show(Format::Table, TraceId(7), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let bars: Vec<_> = text.lines().skip(1).map(|l| l.split('│').nth(1).unwrap()).collect();
        assert!(bars.iter().all(|b| b.chars().count() == WIDTH), "{text}");
        assert_eq!(bars[0], "█".repeat(WIDTH));
        assert!(text.lines().nth(6).unwrap().ends_with("second          serve next"), "{text}");
    }

    #[test]
    fn a_stream_that_outlives_its_call_begins_with_it_and_orphans_are_shown() {
        let here = vec![span(1, 0, "put", 0, 100)];
        let other = vec![span(2, 1, "stream", 77_000, 5000), span(9, 8, "an orphan", 77_010, 1)];
        let fall = Waterfall::new(here, vec![("other".into(), other)], vec![]);
        let rows: Vec<_> = fall.rows.iter().map(|(d, s)| (*d, s.name.as_str(), s.begin)).collect();
        assert_eq!(rows, [(0, "put", 0), (1, "stream", 0), (0, "an orphan", 10)]);
    }

    #[test]
    fn a_trace_that_nobody_noted_is_empty() {
        let mut out = Vec::new();
        Waterfall::new(vec![], vec![], vec![]).show(Format::Jsonl, TraceId(7), &mut out).unwrap();
        let whole = json!({
            "schema": "mooseng.trace/1", "trace": "0000000000000007", "spans": [], "missing": [],
        });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), whole);
    }

    #[test]
    fn nodes_that_do_not_tell_are_named_and_what_peers_say_is_harmless() {
        let here = vec![span(1, 0, "put \x1b[2J", 0, 100)];
        let missing = vec![Missing { node: "chunkserver 2".into(), cause: "no answer in time".into() }];
        // Numbers that no good node tells.
        let other = vec![span(2, 1, "call", i64::MIN / 1000, u64::MAX), span(3, 3, "itself", 0, 0)];
        let fall = Waterfall::new(here, vec![("other".into(), other)], missing);
        let show = |format| {
            let mut out = Vec::new();
            fall.show(format, TraceId(7), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let text = show(Format::Table);
        let last = "missing: chunkserver 2: no answer in time\n";
        assert!(text.ends_with(last) && !text.contains('\x1b'), "{text}");
        let json: serde_json::Value = serde_json::from_str(&show(Format::Json)).unwrap();
        assert_eq!(json["missing"], json!([{"node": "chunkserver 2", "cause": "no answer in time"}]));
        assert_eq!(json["spans"][0]["name"], "put \x1b[2J");
        pinned("trace", &json);
    }
}
