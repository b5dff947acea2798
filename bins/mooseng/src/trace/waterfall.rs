//! One picture of the spans of all nodes, whose clocks differ.

use crate::output::{self, Format};
use anyhow::Result;
use mooseng_core::{
    ids::{SpanId, TraceId},
    trace::SpanRecord,
};
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

/// The spans of a trace.
pub(super) struct Waterfall {
    nodes: Vec<String>,
    /// In the order in which they are shown, with their depths.
    rows: Vec<(usize, Placed)>,
}

impl Waterfall {
    /// From what this process and the other nodes noted. A node's clock is set so that what it did for a caller
    /// lies in the middle of the caller's wait.
    pub(super) fn new(here: Vec<SpanRecord>, others: Vec<(String, Vec<SpanRecord>)>) -> Self {
        let all = std::iter::once((String::from("here"), here)).chain(others);
        let (nodes, spans): (Vec<_>, Vec<_>) = all.unzip();
        let start = spans[0].iter().map(|s| s.begin.0).min().unwrap_or_default();
        let mut placed = BTreeMap::new();
        for (node, spans) in spans.into_iter().enumerate() {
            for s in spans {
                let begin = (s.begin.0 - start) / 1000;
                let p = Placed { node, id: s.id, parent: s.parent, name: s.name, begin, micros: s.micros };
                placed.entry(s.id).or_insert(p);
            }
        }
        set_clocks(&mut placed, nodes.len());
        Self { nodes, rows: in_order(placed) }
    }

    pub(super) fn show(&self, format: Format, trace: TraceId, to: &mut impl Write) -> Result<()> {
        if format == Format::Table {
            return self.draw(to);
        }
        let spans = self.rows.iter().map(|(depth, s)| {
            json!({
                "node": self.nodes[s.node], "id": hex(s.id.get()), "parent": hex(s.parent.get()), "depth": depth,
                "name": s.name, "begin_us": s.begin, "duration_us": s.micros,
            })
        });
        let whole = json!({
            "schema": "mooseng.trace/1", "trace": hex(trace.get()), "spans": spans.collect::<Vec<_>>(),
        });
        output::json(to, format, &whole)
    }

    fn draw(&self, to: &mut impl Write) -> Result<()> {
        let begin = self.rows.iter().map(|(_, s)| s.begin).min().unwrap_or_default();
        let end = self.rows.iter().map(|(_, s)| s.begin + s.micros as i64).max().unwrap_or_default();
        let column = |at: i64| (at - begin) as usize * WIDTH / ((end - begin).max(1) as usize);
        let width = self.nodes.iter().map(String::len).max().unwrap_or_default();
        for (depth, s) in &self.rows {
            let from = column(s.begin).min(WIDTH - 1);
            let upto = column(s.begin + s.micros as i64).clamp(from + 1, WIDTH);
            let bar = format!("{}{}{}", " ".repeat(from), "█".repeat(upto - from), " ".repeat(WIDTH - upto));
            writeln!(
                to,
                "{:>9.3} ms {:>9.3} ms │{bar}│ {:width$}  {}{}",
                (s.begin - begin) as f64 / 1000.0,
                s.micros as f64 / 1000.0,
                self.nodes[s.node],
                "  ".repeat(*depth),
                s.name,
            )?;
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
            let found = (wait, above.begin + lead - s.begin);
            off.entry(s.node).and_modify(|best| *best = found.min(*best)).or_insert(found);
        }
        if off.is_empty() {
            return;
        }
        for s in placed.values_mut() {
            if let Some((_, by)) = off.get(&s.node) {
                s.begin += by;
            }
        }
        off.keys().for_each(|node| known[*node] = true);
    }
}

/// Parents before their children, those by time. Whose parent was not told stands by itself.
fn in_order(placed: BTreeMap<SpanId, Placed>) -> Vec<(usize, Placed)> {
    let mut below: BTreeMap<SpanId, Vec<&Placed>> = BTreeMap::new();
    for s in placed.values() {
        let parent = if placed.contains_key(&s.parent) { s.parent } else { SpanId(0) };
        below.entry(parent).or_default().push(s);
    }
    below.values_mut().for_each(|spans| spans.sort_by_key(|s| std::cmp::Reverse((s.begin, s.id))));
    let first = below.remove(&SpanId(0)).unwrap_or_default();
    let mut todo: Vec<_> = first.into_iter().map(|s| (0, s)).collect();
    let mut rows = Vec::with_capacity(placed.len());
    while let Some((depth, s)) = todo.pop() {
        rows.push((depth, s.clone()));
        todo.extend(below.remove(&s.id).unwrap_or_default().into_iter().map(|s| (depth + 1, s)));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let fall = Waterfall::new(here, vec![("first".into(), first), ("second".into(), second)]);
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
        let bars: Vec<_> = text.lines().map(|l| l.split('│').nth(1).unwrap()).collect();
        assert!(bars.iter().all(|b| b.chars().count() == WIDTH), "{text}");
        assert_eq!(bars[0], "█".repeat(WIDTH));
        assert!(text.lines().nth(5).unwrap().ends_with("second          serve next"), "{text}");
    }

    #[test]
    fn a_stream_that_outlives_its_call_begins_with_it_and_orphans_are_shown() {
        let here = vec![span(1, 0, "put", 0, 100)];
        let other = vec![span(2, 1, "stream", 77_000, 5000), span(9, 8, "an orphan", 77_010, 1)];
        let fall = Waterfall::new(here, vec![("other".into(), other)]);
        let rows: Vec<_> = fall.rows.iter().map(|(d, s)| (*d, s.name.as_str(), s.begin)).collect();
        assert_eq!(rows, [(0, "put", 0), (1, "stream", 0), (0, "an orphan", 10)]);
    }

    #[test]
    fn a_trace_that_nobody_noted_is_empty() {
        let mut out = Vec::new();
        Waterfall::new(vec![], vec![]).show(Format::Jsonl, TraceId(7), &mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&json["schema"], &json["spans"]), (&"mooseng.trace/1".into(), &json!([])));
    }
}
