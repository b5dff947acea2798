//! JSON of what operators watch: events, the chunk matrix, operations, load.

use super::{list, time};
use mooseng_core::meta::{
    CellChunk, CellPage, ChunkMatrix, ClusterEvent, EventPage, Latencies, MatrixCell, OpCount, OpCounts,
    ServerLoad,
};
use serde_json::{Value, json};

/// One item of `mooseng.events/1`.
pub fn event_item(e: &ClusterEvent) -> Value {
    json!({
        "term": e.mark.term.get(), "number": e.mark.number, "time": time(e.at), "code": e.code.name(),
        "problem": e.problem, "text": e.text,
    })
}

/// `mooseng.events/1`: one page. `next` is the place to go on from; `lost`, how many events before these the leader
/// has forgotten.
pub fn events(page: &EventPage) -> Value {
    let mut whole = list("mooseng.events/1", page.events.iter().map(event_item).collect());
    whole["next"] = json!({ "term": page.next.term.get(), "number": page.next.number });
    whole["lost"] = page.lost.into();
    whole
}

/// `mooseng.matrix/1`.
pub fn matrix(m: &ChunkMatrix) -> Value {
    let cell = |c: &MatrixCell| json!({ "wanted": c.wanted, "copies": c.copies, "chunks": c.chunks });
    list("mooseng.matrix/1", m.cells.iter().map(cell).collect())
}

/// One item of `mooseng.cell/1`.
pub fn cell_item(c: &CellChunk) -> Value {
    json!({
        "chunk": format!("{:016x}", c.chunk.id.get()), "version": c.chunk.version.get(),
        "inode": c.inode.get(), "index": c.index.get(),
        "path": c.path.as_ref().map(|p| String::from_utf8_lossy(p)),
        "servers": c.servers.iter().map(|s| s.get()).collect::<Vec<_>>(),
    })
}

/// `mooseng.cell/1`: one page. `next` is the id to go on from, as `chunk` is written.
pub fn cell((wanted, copies): (u8, u8), page: &CellPage) -> Value {
    let mut whole = list("mooseng.cell/1", page.chunks.iter().map(cell_item).collect());
    whole["wanted"] = wanted.into();
    whole["copies"] = copies.into();
    whole["next"] = page.next.map(|id| format!("{:016x}", id.get())).into();
    whole
}

fn quantiles(l: &Latencies) -> Value {
    json!({ "p50_us": l.quantile(0.5), "p90_us": l.quantile(0.9), "p99_us": l.quantile(0.99) })
}

/// One item of `mooseng.operations/1`.
pub fn op_item(c: &OpCount) -> Value {
    let mut item = quantiles(&c.latencies);
    item["op"] = c.op.as_str().into();
    item["calls"] = c.calls.into();
    item["failed"] = c.failed.into();
    item["total_us"] = c.micros.into();
    item
}

/// `mooseng.operations/1`: calls since the leader's election, or between two counts.
pub fn ops(c: &OpCounts) -> Value {
    let mut whole = list("mooseng.operations/1", c.ops.iter().map(op_item).collect());
    for (item, op) in whole["items"].as_array_mut().into_iter().flatten().zip(&c.ops) {
        item["per_s"] = c.per_s(op.calls).into();
    }
    whole["term"] = c.term.get().into();
    whole["seconds"] = (c.micros as f64 / 1e6).into();
    whole
}

/// One item of `mooseng.load/1`.
pub fn load_item(l: &ServerLoad) -> Value {
    let s = &l.served;
    json!({
        "server": l.server.get(), "incarnation": format!("{:016x}", l.incarnation.get()), "told": time(l.told),
        "read_bytes": s.read_bytes, "written_bytes": s.written_bytes, "reads": s.reads, "writes": s.writes,
        "syncs": s.syncs, "copies": s.copies, "damages": s.damages,
    })
}

/// `mooseng.load/1`: what each chunkserver served since its start.
pub fn loads(all: &[ServerLoad]) -> Value {
    list("mooseng.load/1", all.iter().map(load_item).collect())
}
