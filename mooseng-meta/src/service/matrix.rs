//! How many copies chunks want and have, and which files those of one cell belong to.

use super::{Inner, Lead, paths::Paths, walk::STEP};
use crate::store::*;
use mooseng_core::{error::MetaError, ids::*, meta::*};
use std::collections::BTreeMap;

/// Chunks that one page names: their files cost walks over directories.
const CELL_PAGE_MAX: usize = 64;
/// Records that one page looks at.
const CELL_RECORDS_MAX: usize = 256 * STEP;
/// Entries of directories that one page looks through for paths.
const CELL_ENTRIES_MAX: usize = 1 << 18;

impl Inner {
    /// All chunks by copies wanted and had.
    pub(super) async fn chunk_matrix(&self, lead: &Lead, view: &RedbView) -> Result<ChunkMatrix, MetaError> {
        let mut cells: BTreeMap<(u8, u8), u64> = BTreeMap::new();
        let (now, dead) = (self.now(), self.timings.server_dead);
        self.walk_chunks(lead, view, ChunkId(0), |m, id, rec| {
            let (copies, _) = m.copies(id, &rec.members, |s| m.is_alive(*s, now, dead));
            *cells.entry((rec.wanted, narrow(copies))).or_default() += 1;
            true
        })
        .await?;
        let cell = |((wanted, copies), chunks)| MatrixCell { wanted, copies, chunks };
        Ok(ChunkMatrix { cells: cells.into_iter().map(cell).collect() })
    }

    /// One page of the chunks of a cell.
    pub(super) async fn cell(
        &self,
        lead: &Lead,
        view: &RedbView,
        r: &ListCell,
    ) -> Result<CellPage, MetaError> {
        let max = (r.count as usize).clamp(1, CELL_PAGE_MAX);
        let (mut page, mut looked) = (CellPage::default(), 0);
        let (now, dead) = (self.now(), self.timings.server_dead);
        self.walk_chunks(lead, view, r.from, |m, id, rec| {
            if page.chunks.len() == max || looked == CELL_RECORDS_MAX {
                page.next = Some(id);
                return false;
            }
            looked += 1;
            let (copies, _) = m.copies(id, &rec.members, |s| m.is_alive(*s, now, dead));
            if (rec.wanted, narrow(copies)) == (r.wanted, r.copies) {
                page.chunks.push(CellChunk {
                    chunk: ChunkRef { id, version: rec.version },
                    inode: rec.inode,
                    index: rec.index,
                    path: None,
                    servers: rec.members.clone(),
                });
            }
            true
        })
        .await?;
        let files: Vec<_> = page.chunks.iter().map(|c| c.inode).collect();
        let mut paths = Paths::new(view, files, CELL_ENTRIES_MAX);
        for c in &mut page.chunks {
            c.path = paths.of(c.inode).await?.map(Into::into);
        }
        Ok(page)
    }
}

fn narrow(copies: usize) -> u8 {
    u8::try_from(copies).unwrap_or(u8::MAX)
}
