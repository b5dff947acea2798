//! Who uses the cluster.

use crate::{
    Shared,
    page::{self, Shell},
};
use askama::Template;
use axum::{extract::State, http::StatusCode, response::Response};
use mooseng_client::report;
use std::sync::Arc;

/// Sessions that are shown.
const SHOWN_MAX: usize = 1000;

struct Row {
    id: u64,
    client: String,
    host: String,
    version: String,
    open: u64,
    calls: u64,
    since: String,
}

#[derive(Template)]
#[template(path = "sessions.html")]
struct Sessions {
    shell: Shell,
    rows: Vec<Row>,
    total: usize,
}

pub(crate) async fn sessions(State(shared): State<Arc<Shared>>) -> Response {
    let (all, before) = match shared.sessions().await.last() {
        Ok(all) => all,
        Err(e) => return page::failed(&shared, "/sessions", &e).await,
    };
    let row = |s: &mooseng_core::meta::SessionInfo| Row {
        id: s.stamp.id.get(),
        client: s.client.clone(),
        host: s.host.clone(),
        version: s.version.clone(),
        open: s.open,
        calls: s.calls,
        since: report::time(s.since),
    };
    let mut rows: Vec<_> = all.iter().take(SHOWN_MAX).map(row).collect();
    rows.sort_by_key(|r| r.id);
    let shell = Shell::new(&shared, &*shared.feed.now().await, "/sessions", "Sessions");
    page::html(StatusCode::OK, &Sessions { shell: shell.of_before(&before), rows, total: all.len() })
}
