//! Going through all chunks without anybody having to wait: in steps, each read from the disk before the leader's
//! memory is looked at, between which that is free and others have their turn.

use super::{Inner, Lead, internal, lead::Memory};
use crate::store::*;
use mooseng_core::{error::MetaError, ids::*};
use serde::de::DeserializeOwned;

/// Records of one step: looking at so many in memory takes a fraction of a millisecond.
pub(super) const STEP: usize = 256;

/// Some records in the order of their chunks' ids.
pub(super) struct Step<T> {
    pub records: Vec<(ChunkId, T)>,
    /// Where the next step begins; `None` after the last.
    pub next: Option<ChunkId>,
}

/// Reads the next records of a table that is kept by chunk.
pub(super) fn step<T: DeserializeOwned>(
    view: &RedbView,
    table: Table,
    from: ChunkId,
) -> Result<Step<T>, MetaError> {
    let mut step = Step { records: Vec::with_capacity(STEP), next: None };
    scan_recs(view, table, &key(from.get()), &[], |k, rec: T| {
        let id = ChunkId(number(k));
        if step.records.len() == STEP {
            step.next = Some(id);
            return false;
        }
        step.records.push((id, rec));
        true
    })
    .map_err(internal)?;
    Ok(step)
}

impl Inner {
    /// Looks at chunks in the order of their ids, from one on, until `visit` says `false`. What it is told of
    /// memory, which is locked while it looks, is of the moment of each step.
    pub(super) async fn walk_chunks(
        &self,
        lead: &Lead,
        view: &RedbView,
        from: ChunkId,
        mut visit: impl FnMut(&Memory, ChunkId, &ChunkRec) -> bool + Send,
    ) -> Result<(), MetaError> {
        let mut at = Some(from);
        while let Some(from) = at {
            let Step { records, next } = step::<ChunkRec>(view, Table::Chunk, from)?;
            at = next;
            {
                let m = lead.memory.lock();
                if !records.iter().all(|(id, rec)| visit(&m, *id, rec)) {
                    return Ok(());
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
