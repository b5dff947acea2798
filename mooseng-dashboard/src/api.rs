//! The same as JSON, in the command line's schemas.

use crate::{
    Shared,
    feed::{Failed, Picture, Seen},
    fresh::in_time,
    guard, status_of,
};
use axum::{
    Json, Router,
    extract::{FromRequestParts, Query, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mooseng_client::{Client, Error, ErrorKind, report};
use mooseng_core::{
    attr::{Attr, FileKind},
    context::Credentials,
    ids::{ChunkId, ChunkIndex, Term},
    meta::{DirCookie, EventMark, GetLayout, StatFs},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::sync::Arc;

type App = State<Arc<Shared>>;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/status", get(status))
        .route("/health", get(health))
        .route("/df", get(df))
        .route("/disks", get(disks))
        .route("/sessions", get(sessions))
        .route("/gc", get(gc))
        .route("/scrub", get(scrub))
        .route("/events", get(events))
        .route("/matrix", get(matrix))
        .route("/cell", get(cell))
        .route("/operations", get(operations))
        .route("/load", get(load))
        .route("/rates", get(rates))
        .route("/ls", get(ls))
        .route("/stat", get(stat))
        .route("/info", get(info))
        .fallback(guard::no_call)
        .method_not_allowed_fallback(|| async {
            guard::error(StatusCode::METHOD_NOT_ALLOWED, "invalid", "the dashboard changes nothing: GET only")
        })
}

/// A call's parameters; those that cannot be read are told as every error is.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let read = Query::<T>::try_from_uri(&parts.uri);
        read.map(|Query(q)| Self(q))
            .map_err(|e| guard::error(StatusCode::BAD_REQUEST, "invalid", &e.body_text()))
    }
}

fn answer(asked: mooseng_client::Result<Value>) -> Response {
    match asked {
        Ok(whole) => Json(whole).into_response(),
        Err(e) => {
            let (status, kind) = status_of(&e);
            guard::error(status, kind, &e.to_string())
        }
    }
}

/// What the last pulse told; an error when it had no answers.
fn of_pulse(seen: &Seen, show: impl FnOnce() -> Value) -> Response {
    match &seen.failed {
        None => Json(show()).into_response(),
        Some(failed) => unreachable(failed),
    }
}

fn unreachable(failed: &Failed) -> Response {
    guard::error(StatusCode::SERVICE_UNAVAILABLE, "unreachable", &failed.to_string())
}

/// What the last look saw; an error when what is now is not known.
fn of_picture(seen: &Seen, show: impl FnOnce(&Picture) -> Value) -> Response {
    match (&seen.failed, &seen.late, &seen.picture) {
        (None, None, Some(p)) => Json(show(p)).into_response(),
        (Some(failed), ..) => unreachable(failed),
        (None, late, _) => {
            let why = late.as_deref().unwrap_or("the first look at all chunks is under way: ask again");
            guard::error(StatusCode::GATEWAY_TIMEOUT, "timeout", why)
        }
    }
}

async fn status(State(s): App) -> Response {
    of_picture(&*s.feed.now().await, |p| report::status(&p.status, &p.care))
}

async fn health(State(s): App) -> Response {
    let seen = s.feed.now().await;
    match seen.failed.as_ref().and_then(|failed| failed.no_quorum.clone()) {
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, Json(report::health(&[problem]))).into_response(),
        None => of_picture(&seen, |p| report::health(&p.problems)),
    }
}

async fn disks(State(s): App) -> Response {
    of_picture(&*s.feed.now().await, |p| report::disks(&p.status))
}

async fn gc(State(s): App) -> Response {
    of_picture(&*s.feed.now().await, |p| report::gc(&p.care))
}

async fn scrub(State(s): App) -> Response {
    let seen = s.feed.asked().await;
    of_pulse(&seen, || report::scrub(&seen.pulse.scrubs))
}

async fn df(State(s): App) -> Response {
    answer(in_time(s.client.request(StatFs {})).await.map(|fs| report::df(&fs)))
}

async fn sessions(State(s): App) -> Response {
    answer(s.sessions().await.answer().map(|all| report::sessions(&all)))
}

#[derive(Deserialize)]
struct After {
    term: Option<u64>,
    number: Option<u64>,
}

/// One page of the leader's events, after `term` and `number` when both are given; `next` is where to go on, `lost` how
/// many before the first one here the leader has forgotten.
async fn events(State(s): App, Asked(q): Asked<After>) -> Response {
    let after = q.term.zip(q.number).map(|(term, number)| EventMark { term: Term(term), number });
    answer(in_time(s.client.events(after)).await.map(|page| report::events(&page)))
}

async fn matrix(State(s): App) -> Response {
    answer(s.matrix().await.answer().map(|m| report::matrix(&m)))
}

#[derive(Deserialize)]
struct Cell {
    wanted: u8,
    copies: u8,
    from: Option<String>,
}

async fn cell(State(s): App, Asked(q): Asked<Cell>) -> Response {
    let Some(from) = chunk_id(q.from.as_deref()) else {
        return guard::error(
            StatusCode::BAD_REQUEST,
            "invalid",
            "from is a chunk's id, in hexadecimal digits",
        );
    };
    let page = in_time(s.client.chunks_of_cell(q.wanted, q.copies, from)).await;
    answer(page.map(|page| report::cell((q.wanted, q.copies), &page)))
}

/// The id that a page begins with; the first without one.
pub(crate) fn chunk_id(text: Option<&str>) -> Option<ChunkId> {
    text.map_or(Some(ChunkId(0)), |t| u64::from_str_radix(t, 16).ok().map(ChunkId))
}

async fn operations(State(s): App) -> Response {
    answer(in_time(s.client.op_counts()).await.map(|c| report::ops(&c)))
}

async fn load(State(s): App) -> Response {
    answer(in_time(s.client.loads()).await.map(|all| report::loads(&all)))
}

/// What the dashboard remembers of the last minutes: samples of calls about files, and all operations lately.
async fn rates(State(s): App) -> Response {
    let seen = s.feed.asked().await;
    let history = &seen.pulse.history;
    of_pulse(&seen, || {
        let samples = history.samples().map(|s| {
            json!({
                "seconds_ago": history.now().saturating_sub(s.at).as_secs_f64(), "calls_per_s": s.calls_per_s(),
                "p50_us": s.quantile(0.5), "p99_us": s.quantile(0.99),
                "read_bytes_per_s": s.load.map(|l| l.read_bytes),
                "written_bytes_per_s": s.load.map(|l| l.written_bytes),
            })
        });
        let ops = history.lately().into_iter().map(|o| {
            json!({
                "op": o.op, "per_s": o.per_s, "calls": o.calls, "failed": o.failed, "p50_us": o.p50_us,
                "p99_us": o.p99_us,
            })
        });
        json!({
            "schema": "mooseng.rates/1", "samples": samples.collect::<Vec<_>>(),
            "last_minute": ops.collect::<Vec<_>>(),
        })
    })
}

#[derive(Deserialize)]
struct Dir {
    #[serde(default = "root")]
    path: String,
    after: Option<u64>,
}

fn root() -> String {
    "/".into()
}

/// Entries of one page at most.
pub(crate) const ENTRIES_MAX: u32 = 256;
/// Links of a page that are read at a time.
const LINKS_AT_ONCE: usize = 16;

/// Where a link leads. `None` of what is none, and of one that was removed since it was seen.
async fn target(client: &Client, attr: &Attr) -> mooseng_client::Result<Option<String>> {
    if attr.kind != FileKind::Symlink {
        return Ok(None);
    }
    match client.vfs().readlink(&Credentials::root(), attr.inode).await {
        Ok(target) => Ok(Some(String::from_utf8_lossy(&target).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// One item of a listing.
async fn item(client: Client, name: String, attr: Attr) -> mooseng_client::Result<Value> {
    let target = target(&client, &attr).await?;
    Ok(json!(report::FileItem::new(name, &attr, target)))
}

/// One page of a directory; `next` is where to go on.
async fn ls(State(s): App, Asked(q): Asked<Dir>) -> Response {
    let fs = s.client.filesystem();
    let asked = async {
        let page = fs.read_dir_page(&q.path, DirCookie(q.after.unwrap_or(0)), ENTRIES_MAX).await?;
        let next = page.entries.last().filter(|_| !page.eof).map(|e| e.cookie.0);
        let entries = page.entries.into_iter().filter_map(|e| Some((e.name.to_string(), e.attr?)));
        let read = entries.map(|(name, attr)| item(s.client.clone(), name, attr));
        let items: Vec<_> = stream::iter(read).buffered(LINKS_AT_ONCE).try_collect().await?;
        let mut whole = report::list("mooseng.files/1", items);
        whole["next"] = next.into();
        Ok(whole)
    };
    answer(in_time(asked).await)
}

async fn stat(State(s): App, Asked(q): Asked<Dir>) -> Response {
    let fs = s.client.filesystem();
    let asked = async {
        let attr = fs.symlink_metadata(&q.path).await?;
        Ok(report::list("mooseng.files/1", vec![item(s.client.clone(), q.path.clone(), attr).await?]))
    };
    answer(in_time(asked).await)
}

#[derive(Deserialize)]
struct File {
    path: String,
    from: Option<u64>,
}

/// Where up to 64 chunks of a file are, from one on.
async fn info(State(s): App, Asked(q): Asked<File>) -> Response {
    let fs = s.client.filesystem();
    let asked = async {
        let attr = fs.metadata(&q.path).await?;
        if attr.kind != FileKind::File {
            return Err(Error::Invalid(format!(
                "{} is a {}: only files have chunks",
                q.path,
                report::kind(attr.kind)
            )));
        }
        let layout = GetLayout { inode: attr.inode, from: ChunkIndex(0), count: 1 };
        let inline = s.client.request(layout).await?.inline.is_some();
        let chunks = fs.chunks_from(&q.path, ChunkIndex(q.from.unwrap_or(0))).await?;
        Ok(report::info(&q.path, &attr, inline, &chunks))
    };
    answer(in_time(asked).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_client::embedded::Cluster;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_link_that_was_removed_leads_nowhere() {
        let cluster = Cluster::builder().masters(1).chunkservers(2).start().await.unwrap();
        let client = cluster.client().await.unwrap();
        let fs = client.filesystem();
        fs.symlink("/f", "/link").await.unwrap();
        let seen = fs.symlink_metadata("/link").await.unwrap();
        assert_eq!(target(&client, &seen).await.unwrap().as_deref(), Some("/f"));
        fs.remove_file("/link").await.unwrap();
        assert_eq!(target(&client, &seen).await.unwrap(), None);
        cluster.shutdown().await;
    }
}
