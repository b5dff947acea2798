//! How many copies chunks want and have; and the files of one cell.

use crate::{
    Shared,
    api::chunk_id,
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

/// What so many copies of so many wanted ones are: the words of the health codes.
pub(super) fn risk(wanted: u8, copies: u8) -> &'static str {
    match (wanted, copies) {
        (_, 0) => "missing",
        (w, 1) if w > 1 => "endangered",
        (w, c) if c < w => "undergoal",
        (w, c) if c > w => "overgoal",
        _ => "healthy",
    }
}

fn rows(m: &ChunkMatrix) -> (Vec<u8>, Vec<Row>) {
    let most = m.cells.iter().map(|c| c.copies.max(c.wanted)).max().unwrap_or(0).max(COPIES_SHOWN);
    let columns: Vec<u8> = (0..=most).collect();
    let mut wanted: Vec<_> = m.cells.iter().map(|c| c.wanted).collect();
    wanted.dedup();
    let row = |wanted: u8| {
        let cell = |copies: &u8| {
            let there = m.cells.iter().find(|c| (c.wanted, c.copies) == (wanted, *copies));
            Cell {
                wanted,
                copies: *copies,
                chunks: there.map_or(0, |c| c.chunks),
                class: risk(wanted, *copies),
            }
        };
        Row { wanted, cells: columns.iter().map(cell).collect() }
    };
    let rows = wanted.into_iter().map(row).collect();
    (columns, rows)
}

pub(crate) async fn chunks(State(shared): State<Arc<Shared>>) -> Response {
    let matrix = match shared.matrix.get(shared.client.chunk_matrix()).await {
        Ok(m) => m,
        Err(e) => return page::failed(&shared, "/chunks", &e).await,
    };
    let shell = Shell::new(&shared, &*shared.feed.now().await, "/chunks", "Chunks");
    let (columns, rows) = rows(&matrix);
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
    class: &'static str,
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
    let found = match shared.client.chunks_of_cell(wanted, copies, from).await {
        Ok(page) => page,
        Err(e) => return page::failed(&shared, "/chunks", &e).await,
    };
    let title = format!("Chunks with {copies} of {wanted} copies");
    let shell = Shell::new(&shared, &*shared.feed.now().await, "/chunks", title).still();
    let next = found.next.map(|id| format!("/chunks/{wanted}/{copies}?from={:016x}", id.get()));
    let rows = found.chunks.iter().map(chunk_row).collect();
    let (class, is_first) = (risk(wanted, copies), from.get() == 0);
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
        let (columns, rows) = rows(&m);
        assert_eq!(columns, [0, 1, 2, 3, 4, 5]);
        assert_eq!(rows.iter().map(|r| r.wanted).collect::<Vec<_>>(), [1, 2]);
        let second: Vec<_> = rows[1].cells.iter().map(|c| (c.chunks, c.class)).collect();
        assert_eq!(second[..3], [(0, "missing"), (3, "endangered"), (90, "healthy")]);
        assert_eq!(second[5], (1, "overgoal"));
        assert_eq!((risk(3, 2), risk(1, 1)), ("undergoal", "healthy"));
        assert_eq!(super::rows(&ChunkMatrix::default()).0, [0, 1, 2, 3]);
    }
}
