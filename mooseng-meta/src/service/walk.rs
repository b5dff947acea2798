//! Going through all chunks without anybody having to wait: in steps, between which the leader's memory is
//! free and others have their turn.

use super::{Inner, Lead, internal, lead::Memory};
use crate::store::*;
use mooseng_core::{error::MetaError, ids::*};

/// Records looked at in one step: some milliseconds.
pub(super) const STEP: usize = 4096;

impl Inner {
    /// Looks at chunks in the order of their ids, from one on, until `visit` says `false`. What it is told of
    /// memory is of the moment of each step.
    pub(super) async fn walk_chunks(
        &self,
        lead: &Lead,
        view: &RedbView,
        from: ChunkId,
        mut visit: impl FnMut(&Memory, ChunkId, &ChunkRec) -> bool + Send,
    ) -> Result<(), MetaError> {
        let mut at = from;
        loop {
            let Some(next) = step(lead, view, at, &mut visit)? else { return Ok(()) };
            at = next;
            tokio::task::yield_now().await;
        }
    }
}

/// Looks at one step's chunks; where the next one begins.
fn step(
    lead: &Lead,
    view: &RedbView,
    from: ChunkId,
    visit: &mut impl FnMut(&Memory, ChunkId, &ChunkRec) -> bool,
) -> Result<Option<ChunkId>, MetaError> {
    let m = lead.memory.lock();
    let (mut seen, mut next) = (0, None);
    scan_recs(view, Table::Chunk, &key(from.get()), &[], |k, rec: ChunkRec| {
        let id = ChunkId(number(k));
        if seen == STEP {
            next = Some(id);
            return false;
        }
        seen += 1;
        visit(&m, id, &rec)
    })
    .map_err(internal)?;
    Ok(next)
}
