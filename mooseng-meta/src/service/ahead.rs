//! Copies that are made ahead of a bump, while the open version is read and written as ever: the bump copies only
//! what changed meanwhile. As virtual machines move while they run (pre-copy: Clark et al., NSDI 2005).
//!
//! What is made has no version: it counts as nothing, and is surplus when the bump does not come.

use super::{Inner, Lead, outlook::names};
use mooseng_core::{
    chunk::Control,
    error::{ChunkError, MetaError},
    ids::*,
};
use std::{
    collections::{BTreeSet, btree_map::Entry},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// How often servers are asked for one bump: those that fail are replaced by others.
const TRIES_MAX: usize = 3;

/// What is to be copied before the bump.
pub(super) struct CopyAhead {
    /// At the version that is open.
    pub chunk: ChunkRef,
    pub from: Vec<ServerId>,
    pub to: Vec<ServerId>,
}

/// Servers that were asked for copies ahead of one bump.
#[derive(Default)]
pub(super) struct Asked {
    /// Those that made one.
    pub made: BTreeSet<ServerId>,
    pub all: BTreeSet<ServerId>,
}

/// Forgets that a chunk is copied ahead when it is dropped.
struct Copying<'a> {
    lead: &'a Lead,
    chunk: ChunkId,
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        self.lead.ahead.lock().remove(&self.chunk);
    }
}

impl Inner {
    /// Looks at a chunk that nobody waits for, and does what is to be done. New members are copied to before the
    /// bump, and in `asked`. A bump that another task begins meanwhile ends this.
    pub(super) async fn settle_ahead(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        id: ChunkId,
        asked: &mut Asked,
    ) -> Result<(), MetaError> {
        let done = self.copy_and_advance(lead, id, asked).await;
        let rec = self.record(id);
        let left_out = |s: &&ServerId| rec.as_ref().is_none_or(|rec| !names(rec, **s));
        let open = rec.as_ref().map_or(ChunkVersion(u64::MAX), |rec| rec.version);
        for server in asked.all.iter().filter(left_out) {
            lead.memory.lock().note_surplus(id, *server, ChunkVersion(0), open);
        }
        done
    }

    async fn copy_and_advance(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        id: ChunkId,
        asked: &mut Asked,
    ) -> Result<(), MetaError> {
        for _ in 0..TRIES_MAX {
            let Some(copy) = self.advance(lead, id, false, Some(&asked.made)).await? else { return Ok(()) };
            if !self.copy_ahead(lead, copy, asked).await? {
                return Ok(());
            }
        }
        match self.advance(lead, id, false, Some(&asked.made)).await? {
            None => Ok(()),
            Some(_) => Err(MetaError::ChunkBusy(id)),
        }
    }

    /// `false`: another copies, or a bump has begun.
    async fn copy_ahead(&self, lead: &Lead, copy: CopyAhead, asked: &mut Asked) -> Result<bool, MetaError> {
        let CopyAhead { chunk, from, to } = copy;
        let view = self.view()?;
        let from = from.into_iter().map(|s| self.replica(&view, s)).collect::<Result<Vec<_>, _>>()?;
        drop(view);
        let stop = CancellationToken::new();
        match lead.ahead.lock().entry(chunk.id) {
            Entry::Occupied(_) => return Ok(false),
            Entry::Vacant(free) => free.insert(stop.clone()),
        };
        let _copying = Copying { lead, chunk: chunk.id };
        for server in &to {
            lead.memory.lock().surplus.remove(&(chunk.id, *server));
            asked.all.insert(*server);
        }
        tracing::info!(id = %chunk.id, version = %chunk.version, ?to, "copied ahead of a bump");
        let pull = |server: ServerId| {
            let (from, member_of) = (from.clone(), None);
            let op = Control::Pull { chunk, from, ahead: true, member_of, term: lead.term };
            async move { (server, self.pull(lead, server, op).await) }
        };
        let asked_at = self.now();
        let all = futures::future::join_all(to.into_iter().map(pull));
        let done = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(false),
            done = all => done,
        };
        for (server, done) in done {
            match done {
                Ok(_) => {
                    lead.memory.lock().took(server);
                    asked.made.insert(server);
                }
                // A bump that left it out came so far there: what it lacks is for the next to copy.
                Err(ChunkError::Stale { here, .. }) if here == chunk.version => {
                    asked.made.insert(server);
                }
                Err(e) => {
                    tracing::warn!(id = %chunk.id, %server, error = %e, "a copy could not be made ahead");
                    lead.memory.lock().avoid(server, asked_at, self.now());
                }
            }
        }
        Ok(true)
    }
}
