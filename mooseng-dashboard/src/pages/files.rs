//! The file browser: directories, and where the copies of a file are.

use super::chunks::risk;
use crate::{
    Shared,
    api::ENTRIES_MAX,
    fresh::in_time,
    page::{self, Shell, encoded},
};
use askama::Template;
use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use mooseng_client::{Result, report};
use mooseng_core::{
    attr::{Attr, FileKind},
    ids::ChunkIndex,
    limits::{CHUNK_BYTES, LAYOUT_CHUNKS_MAX},
    meta::{ChunkInfo, DirCookie, DirEntry, GetLayout, ReplicaInfo, ReplicaState},
};
use serde::Deserialize;
use std::sync::Arc;

#[derive(Deserialize)]
pub(crate) struct Place {
    #[serde(default)]
    path: String,
    /// Of a directory: the place to go on from.
    after: Option<u64>,
    /// Of a file: the chunk to go on from.
    from: Option<u64>,
}

/// A part of a path, and where its page is.
struct Crumb {
    name: String,
    link: String,
}

struct Entry {
    name: String,
    /// None of a name that is not UTF-8.
    link: Option<String>,
    kind: &'static str,
    mode: String,
    owner: String,
    size: String,
    modified: String,
}

#[derive(Template)]
#[template(path = "dir.html")]
struct DirPage {
    shell: Shell,
    crumbs: Vec<Crumb>,
    entries: Vec<Entry>,
    next: Option<String>,
}

struct Copy {
    server: u64,
    addr: String,
    state: &'static str,
    is_silent: bool,
    class: &'static str,
}

struct ChunkRow {
    index: u64,
    chunk: String,
    version: u64,
    good: usize,
    leaving: usize,
    wanted: u8,
    class: &'static str,
    is_changing: bool,
    copies: Vec<Copy>,
}

#[derive(Template)]
#[template(path = "file.html")]
struct FilePage {
    shell: Shell,
    crumbs: Vec<Crumb>,
    item: report::FileItem,
    shown_mode: String,
    size: String,
    is_inline: bool,
    is_file: bool,
    chunks: Vec<ChunkRow>,
    next: Option<String>,
}

fn crumbs(path: &str) -> Vec<Crumb> {
    let mut all = vec![Crumb { name: "/".into(), link: "/files?path=/".into() }];
    let mut at = String::new();
    for name in path.split('/').filter(|p| !p.is_empty()) {
        at = format!("{at}/{name}");
        all.push(Crumb { name: name.into(), link: format!("/files?path={}", encoded(&at)) });
    }
    all
}

pub(crate) async fn files(State(shared): State<Arc<Shared>>, Query(place): Query<Place>) -> Response {
    let path = format!("/{}", place.path.trim_matches('/'));
    match in_time(look(&shared, &path, &place)).await {
        Ok(page) => page,
        Err(e) => page::failed(&shared, "/files", &e).await,
    }
}

async fn look(shared: &Shared, path: &str, place: &Place) -> Result<Response> {
    let attr = shared.client.filesystem().symlink_metadata(path).await?;
    match attr.kind {
        FileKind::Dir => dir(shared, path, place.after).await,
        _ => file(shared, path, &attr, place.from).await,
    }
}

async fn dir(shared: &Shared, path: &str, after: Option<u64>) -> Result<Response> {
    let fs = shared.client.filesystem();
    let found = fs.read_dir_page(path, DirCookie(after.unwrap_or(0)), ENTRIES_MAX).await?;
    let base = path.trim_end_matches('/');
    let entry = |e: &DirEntry| {
        let text = std::str::from_utf8(e.name.as_bytes()).ok();
        let attr = e.attr.as_ref();
        Entry {
            name: e.name.to_string(),
            link: text.map(|name| format!("/files?path={}", encoded(&format!("{base}/{name}")))),
            kind: report::kind(e.kind),
            mode: attr.map(|a| report::mode(a.kind, a.mode)).unwrap_or_default(),
            owner: attr.map(|a| format!("{}:{}", a.uid, a.gid)).unwrap_or_default(),
            size: attr.map(|a| report::size(a.size)).unwrap_or_default(),
            modified: attr.map(|a| report::time(a.mtime)).unwrap_or_default(),
        }
    };
    let last = found.entries.last().filter(|_| !found.eof);
    let next = last.map(|e| format!("/files?path={}&after={}", encoded(path), e.cookie.0));
    let shell = Shell::new(shared, &*shared.feed.now().await, "/files", path).still();
    let page =
        DirPage { shell, crumbs: crumbs(path), entries: found.entries.iter().map(entry).collect(), next };
    Ok(page::html(StatusCode::OK, &page))
}

fn chunk_row(c: &ChunkInfo) -> ChunkRow {
    let of = |state| c.replicas.iter().filter(|r| r.alive && r.state == Some(state)).count();
    let (good, leaving) = (of(ReplicaState::Good), of(ReplicaState::Leaving));
    let copy = |r: &ReplicaInfo| Copy {
        server: r.place.server.get(),
        addr: r.place.addr.clone(),
        state: report::replica_state(r.state),
        is_silent: !r.alive,
        class: match (r.alive, r.state) {
            (true, Some(ReplicaState::Good)) => "good",
            (true, Some(ReplicaState::Leaving)) => "leaving",
            _ => "bad",
        },
    };
    ChunkRow {
        index: c.index.get(),
        chunk: format!("{:016x}", c.chunk.id.get()),
        version: c.chunk.version.get(),
        good,
        leaving,
        wanted: c.wanted,
        class: risk(c.wanted, u8::try_from(good).unwrap_or(u8::MAX), leaving),
        is_changing: c.changing,
        copies: c.replicas.iter().map(copy).collect(),
    }
}

async fn file(shared: &Shared, path: &str, attr: &Attr, from: Option<u64>) -> Result<Response> {
    let (fs, from) = (shared.client.filesystem(), from.unwrap_or(0));
    let (is_file, is_link) = (attr.kind == FileKind::File, attr.kind == FileKind::Symlink);
    let target = match is_link {
        true => Some(String::from_utf8_lossy(&fs.read_link(path).await?).into_owned()),
        false => None,
    };
    let (mut is_inline, mut chunks, mut next) = (false, Vec::new(), None);
    if is_file {
        let layout = GetLayout { inode: attr.inode, from: ChunkIndex(0), count: 1 };
        is_inline = shared.client.request(layout).await?.inline.is_some();
        chunks = fs.chunks_from(path, ChunkIndex(from)).await?.iter().map(chunk_row).collect();
        let more = from.saturating_add(u64::from(LAYOUT_CHUNKS_MAX));
        next = (more < attr.size.div_ceil(CHUNK_BYTES))
            .then(|| format!("/files?path={}&from={more}", encoded(path)));
    }
    let shell = Shell::new(shared, &*shared.feed.now().await, "/files", path).still();
    let page = FilePage {
        shell,
        crumbs: crumbs(path),
        item: report::FileItem::new(path, attr, target),
        shown_mode: report::mode(attr.kind, attr.mode),
        size: report::size(attr.size),
        is_inline,
        is_file,
        chunks,
        next,
    };
    Ok(page::html(StatusCode::OK, &page))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{
        ids::{ChunkId, ChunkRef, ChunkVersion, ServerId},
        meta::Replica,
    };

    #[test]
    fn each_part_of_a_path_leads_to_its_page() {
        let all: Vec<_> = crumbs("/a b/ü&c").into_iter().map(|c| (c.name, c.link)).collect();
        let wanted =
            [("/", "/files?path=/"), ("a b", "/files?path=/a%20b"), ("ü&c", "/files?path=/a%20b/%C3%BC%26c")];
        assert_eq!(all, wanted.map(|(name, link)| (name.to_owned(), link.to_owned())));
        assert_eq!(crumbs("/").len(), 1);
    }

    #[test]
    fn a_copy_on_a_disk_that_is_being_emptied_is_there() {
        let replica = |server, alive, state| ReplicaInfo {
            place: Replica { server: ServerId(server), addr: "c:1".into() },
            alive,
            state: Some(state),
            version: None,
        };
        let of = |replicas| {
            let chunk = ChunkRef { id: ChunkId(1), version: ChunkVersion(1) };
            chunk_row(&ChunkInfo { index: ChunkIndex(0), chunk, wanted: 2, replicas, changing: false })
        };
        let row = of(vec![replica(1, true, ReplicaState::Leaving), replica(2, false, ReplicaState::Good)]);
        assert_eq!((row.good, row.leaving, row.class), (0, 1, "endangered"));
        assert_eq!(row.copies.iter().map(|c| c.class).collect::<Vec<_>>(), ["leaving", "bad"]);
        assert_eq!(row.copies.iter().map(|c| c.is_silent).collect::<Vec<_>>(), [false, true]);
        let row = of(vec![replica(1, false, ReplicaState::Leaving), replica(2, true, ReplicaState::Damaged)]);
        assert_eq!((row.good, row.leaving, row.class), (0, 0, "missing"));
    }
}
