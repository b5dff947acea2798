//! Masters with term and lag; chunkservers, their disks, what is wrong with them.

use super::{bytes_per_s, or_unknown};
use crate::{
    Shared, chart,
    feed::{Picture, Seen},
    page::{self, Shell},
};
use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use mooseng_client::report;
use mooseng_core::meta::{MasterInfo, ServerInfo};
use std::sync::Arc;

struct MasterRow {
    id: u64,
    client_addr: String,
    raft_addr: String,
    state: &'static str,
    lag: String,
    heard: String,
}

struct DiskRow {
    id: String,
    path: String,
    state: String,
    is_bad: bool,
    bar: String,
    free: String,
    total: String,
    chunks: u64,
    errors: u64,
}

struct ServerRow {
    id: u64,
    addr: String,
    state: String,
    class: &'static str,
    read: String,
    written: String,
    disks: Vec<DiskRow>,
}

struct Body {
    term: u64,
    revision: u64,
    masters: Vec<MasterRow>,
    servers: Vec<ServerRow>,
}

#[derive(Template)]
#[template(path = "topology.html")]
struct Topology {
    shell: Shell,
    body: Option<Body>,
}

pub(crate) async fn topology(State(shared): State<Arc<Shared>>) -> Response {
    let seen = shared.feed.now().await;
    let shell = Shell::new(&shared, &seen, "/topology", "Topology");
    page::html(StatusCode::OK, &Topology { shell, body: seen.picture.as_deref().map(|p| body(&seen, p)) })
}

fn body(seen: &Seen, p: &Picture) -> Body {
    Body {
        term: p.status.term.get(),
        revision: p.status.revision.get(),
        masters: p.status.masters.iter().map(master).collect(),
        servers: p.status.servers.iter().map(|s| server(seen, p, s)).collect(),
    }
}

fn master(m: &MasterInfo) -> MasterRow {
    let heard = match (m.leader, m.silent_ms) {
        (true, _) => "-".into(),
        (false, ms @ 0..1000) => format!("{ms} ms ago"),
        (false, ms) => format!("{} ago", report::secs(ms / 1000)),
    };
    MasterRow {
        id: m.id.get(),
        client_addr: m.client_addr.clone(),
        raft_addr: m.raft_addr.clone(),
        state: report::master_state(m),
        lag: m.lag.map_or_else(|| "?".into(), |l| l.to_string()),
        heard,
    }
}

fn server(seen: &Seen, p: &Picture, s: &ServerInfo) -> ServerRow {
    let rate = seen.pulse.history.rate_of(s.id);
    let disk = |d: &mooseng_core::meta::DiskReport| DiskRow {
        id: report::disk_name(d.disk),
        path: d.path.clone(),
        state: report::disk_state(s, d),
        is_bad: d.error.is_some() || !s.alive,
        bar: chart::bar(d.total_bytes.saturating_sub(d.free_bytes), d.total_bytes, "used"),
        free: report::size(d.free_bytes),
        total: report::size(d.total_bytes),
        chunks: d.chunks,
        errors: d.errors,
    };
    ServerRow {
        id: s.id.get(),
        addr: s.addr.clone(),
        state: report::server_state(s, &p.care),
        class: match (s.alive, s.silent) {
            (true, _) => "good",
            (false, true) => "bad",
            (false, false) => "plain",
        },
        read: or_unknown(rate.map(|r| r.read_bytes), bytes_per_s),
        written: or_unknown(rate.map(|r| r.written_bytes), bytes_per_s),
        disks: s.disks.iter().map(disk).collect(),
    }
}
