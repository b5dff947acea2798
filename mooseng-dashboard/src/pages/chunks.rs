//! How many copies chunks want and have; and the files of one cell.

use crate::{
    Shared,
    api::chunk_id,
    feed::Seen,
    fresh::in_time,
    page::{self, Shell, encoded},
};
use askama::Template;
use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::Response,
};
use mooseng_core::meta::{CellChunk, ChunkMatrix};
use serde::Deserialize;
use std::sync::Arc;

/// Columns that are shown at least: 0, 1, 2, 3 copies.
const COPIES_SHOWN: u8 = 3;

struct Cell {
    wanted: u8,
    copies: u8,
    chunks: u64,
    class: &'static str,
    title: &'static str,
}

struct Row {
    wanted: u8,
    cells: Vec<Cell>,
}

#[derive(Template)]
#[template(path = "chunks.html")]
struct Chunks {
    shell: Shell,
    columns: Vec<u8>,
    rows: Vec<Row>,
    total: u64,
}

/// What is told of copies on disks that are set aside or being emptied.
const LEAVING: &str = "their copies can be read, and are all on disks that are set aside or being emptied";
/// The same where there are others of which no copy can be read.
const SOME_LEAVING: &str =
    "no copy can be read of some; those of the others are on disks that are set aside or being emptied";

/// What so many copies of so many wanted ones are, `leaving` of them besides on disks that are set aside or being
/// emptied: the words of the health codes, as the masters use them.
pub(super) fn risk(wanted: u8, copies: u8, leaving: usize) -> &'static str {
    match (wanted, copies) {
        (_, 0) if leaving > 0 => "endangered",
        (_, 0) => "missing",
        (w, 1) if w > 1 => "endangered",
        (w, c) if c < w => "undergoal",
        (w, c) if c > w => "overgoal",
        _ => "healthy",
    }
}

/// Class and words of a cell. The matrix counts what stays where it is; how many have no copy at all that can be read
/// (`missing`) the masters tell besides.
fn cell_words(
    wanted: u8,
    copies: u8,
    (without, missing): (u64, Option<u64>),
) -> (&'static str, &'static str) {
    match (copies, missing) {
        (0, Some(0)) => (risk(wanted, 0, 1), LEAVING),
        (0, Some(missing)) if missing < without => (risk(wanted, 0, 0), SOME_LEAVING),
        _ => {
            let class = risk(wanted, copies, 0);
            (class, class)
        }
    }
}

/// Chunks of which no copy counts; and of them, by the last look, those of which none can be read.
fn without(m: &ChunkMatrix, seen: &Seen) -> (u64, Option<u64>) {
    let without = m.cells.iter().filter(|c| c.copies == 0).map(|c| c.chunks).sum();
    (without, seen.picture.as_deref().map(|p| p.status.chunks.missing))
}

fn rows(m: &ChunkMatrix, without: (u64, Option<u64>)) -> (Vec<u8>, Vec<Row>) {
    let most = m.cells.iter().map(|c| c.copies.max(c.wanted)).max().unwrap_or(0).max(COPIES_SHOWN);
    let columns: Vec<u8> = (0..=most).collect();
    let mut wanted: Vec<_> = m.cells.iter().map(|c| c.wanted).collect();
    wanted.dedup();
    let row = |wanted: u8| {
        let cell = |copies: &u8| {
            let there = m.cells.iter().find(|c| (c.wanted, c.copies) == (wanted, *copies));
            let (class, title) = cell_words(wanted, *copies, without);
            Cell { wanted, copies: *copies, chunks: there.map_or(0, |c| c.chunks), class, title }
        };
        Row { wanted, cells: columns.iter().map(cell).collect() }
    };
    let rows = wanted.into_iter().map(row).collect();
    (columns, rows)
}

pub(crate) async fn chunks(State(shared): State<Arc<Shared>>) -> Response {
    let (matrix, before) = match shared.matrix().await.last() {
        Ok(m) => m,
        Err(e) => return page::failed(&shared, "/chunks", &e).await,
    };
    let seen = shared.feed.now().await;
    let shell = Shell::new(&shared, &seen, "/chunks", "Chunks").of_before(&before);
    let (columns, rows) = rows(&matrix, without(&matrix, &seen));
    let total = matrix.cells.iter().map(|c| c.chunks).sum();
    page::html(StatusCode::OK, &Chunks { shell, columns, rows, total })
}

#[derive(Deserialize)]
pub(crate) struct Place {
    from: Option<String>,
}

struct ChunkRow {
    chunk: String,
    version: u64,
    index: u64,
    inode: u64,
    /// Path, and where its page is.
    file: Option<(String, Option<String>)>,
    servers: String,
}

#[derive(Template)]
#[template(path = "cell.html")]
struct CellPage {
    shell: Shell,
    wanted: u8,
    copies: u8,
    /// Of a cell without copies there is none: what can be read of each chunk its file's page tells.
    class: Option<&'static str>,
    rows: Vec<ChunkRow>,
    next: Option<String>,
    is_first: bool,
}

fn chunk_row(c: &CellChunk) -> ChunkRow {
    let file = c.path.as_ref().map(|p| {
        let link = std::str::from_utf8(p).ok().map(|p| format!("/files?path={}", encoded(p)));
        (String::from_utf8_lossy(p).into_owned(), link)
    });
    let servers: Vec<_> = c.servers.iter().map(|s| s.get().to_string()).collect();
    ChunkRow {
        chunk: format!("{:016x}", c.chunk.id.get()),
        version: c.chunk.version.get(),
        index: c.index.get(),
        inode: c.inode.get(),
        file,
        servers: servers.join(", "),
    }
}

pub(crate) async fn cell(
    State(shared): State<Arc<Shared>>,
    Path((wanted, copies)): Path<(u8, u8)>,
    Query(q): Query<Place>,
) -> Response {
    let Some(from) = chunk_id(q.from.as_deref()) else {
        let why = "a page begins at a chunk's id, in hexadecimal digits";
        return page::refused(&shared, "/chunks", StatusCode::BAD_REQUEST, why).await;
    };
    let found = match in_time(shared.client.chunks_of_cell(wanted, copies, from)).await {
        Ok(page) => page,
        Err(e) => return page::failed(&shared, "/chunks", &e).await,
    };
    let title = format!("Chunks with {copies} of {wanted} copies");
    let shell = Shell::new(&shared, &*shared.feed.now().await, "/chunks", title).still();
    let next = found.next.map(|id| format!("/chunks/{wanted}/{copies}?from={:016x}", id.get()));
    let rows = found.chunks.iter().map(chunk_row).collect();
    let class = (copies > 0).then(|| risk(wanted, copies, 0));
    let is_first = from.get() == 0;
    page::html(StatusCode::OK, &CellPage { shell, wanted, copies, class, rows, next, is_first })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::meta::MatrixCell;

    #[test]
    fn the_matrix_has_all_columns_and_the_rows_that_there_are() {
        let cell = |wanted, copies, chunks| MatrixCell { wanted, copies, chunks };
        let m = ChunkMatrix { cells: vec![cell(1, 1, 5), cell(2, 1, 3), cell(2, 2, 90), cell(2, 5, 1)] };
        let (columns, rows) = rows(&m, (0, None));
        assert_eq!(columns, [0, 1, 2, 3, 4, 5]);
        assert_eq!(rows.iter().map(|r| r.wanted).collect::<Vec<_>>(), [1, 2]);
        let second: Vec<_> = rows[1].cells.iter().map(|c| (c.chunks, c.class)).collect();
        assert_eq!(second[..3], [(0, "missing"), (3, "endangered"), (90, "healthy")]);
        assert_eq!(second[5], (1, "overgoal"));
        assert_eq!((risk(3, 2, 0), risk(1, 1, 0)), ("undergoal", "healthy"));
        assert_eq!(super::rows(&ChunkMatrix::default(), (0, None)).0, [0, 1, 2, 3]);
    }

    #[test]
    fn what_can_be_read_from_a_disk_that_is_being_emptied_is_not_missing() {
        assert_eq!([risk(2, 0, 0), risk(2, 0, 1), risk(1, 0, 1)], ["missing", "endangered", "endangered"]);
        assert_eq!(risk(2, 1, 1), "endangered", "it does not count");
        assert_eq!(cell_words(2, 0, (5, Some(0))), ("endangered", LEAVING));
        assert_eq!(cell_words(2, 0, (5, Some(3))), ("missing", SOME_LEAVING));
        assert_eq!(cell_words(2, 0, (5, Some(5))), ("missing", "missing"));
        assert_eq!(cell_words(2, 0, (5, None)), ("missing", "missing"));
        assert_eq!(cell_words(2, 2, (5, Some(0))), ("healthy", "healthy"));
    }
}
