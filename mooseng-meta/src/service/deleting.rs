//! Removing replicas: of chunks that no file has any more, and copies that no set names. Each
//! server has its own queue: one that is dead or slow delays its own only.

use super::{
    Inner, Lead, internal,
    quarantine::May,
    walk::{Step, step},
};
use crate::{repair::Found, store::*};
use futures::{StreamExt as _, future::join_all, stream};
use mooseng_core::{
    chunk::Control,
    error::MetaError,
    ids::*,
    meta::*,
    planted::{self, Bug},
};
use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

/// Deletions sent to one server in one round.
const EACH_MAX: usize = 256;
/// Deletions sent in one round.
const ALL_MAX: usize = 4096;
/// Rows looked at in one round: bounds the time of a look over what waits for dead servers.
const ROWS_MAX: usize = 65_536;
/// Deletions under way at one server.
const AT_ONCE: usize = 4;
/// Copies without a record looked at in one round, and at the same time.
const SURPLUS_MAX: (usize, usize) = (64, 8);
const COMMIT: Duration = Duration::from_secs(10);

impl Inner {
    /// Deletes what is to go, for ever.
    pub(super) async fn keep_deleting(self: &Arc<Self>, lead: &Arc<Lead>) {
        let (mut rows, mut copies) = (None, None);
        loop {
            tokio::time::sleep(self.timings.tick).await;
            let deleted = self.delete(lead, &mut rows).await;
            let mut may = lead.memory.lock().removals(self.now(), self.timings.quarantine);
            let removed = self.delete_surplus(lead, &mut copies, &mut may).await;
            let unknown = self.delete_unknown(lead, &may).await;
            if let Err(e) = deleted.and(removed).and(unknown) {
                tracing::warn!(error = %e, "a round of deletions failed, the next one goes on");
            }
        }
    }

    /// The next deletions by server, from where the last round ended; `at` becomes where the next one begins.
    async fn deletions(
        &self,
        lead: &Lead,
        at: &mut Option<ChunkId>,
    ) -> Result<BTreeMap<ServerId, Vec<ChunkRef>>, MetaError> {
        let mut queues: BTreeMap<ServerId, Vec<ChunkRef>> = BTreeMap::new();
        let (view, now, dead) = (self.view()?, self.now(), self.timings.server_dead);
        let (mut rows, mut all, mut from) = (0, 0, at.take().unwrap_or_default());
        loop {
            let Step { records, next } = step::<DeletingRec>(&view, Table::Deleting, from)?;
            rows += records.len();
            {
                let m = lead.memory.lock();
                for (id, rec) in records {
                    for server in rec.holders.iter().filter(|s| m.is_alive(**s, now, dead)) {
                        let queue = queues.entry(*server).or_default();
                        if queue.len() < EACH_MAX {
                            queue.push(ChunkRef { id, version: rec.version });
                            all += 1;
                        }
                    }
                }
            }
            let Some(next) = next else { return Ok(queues) };
            if rows >= ROWS_MAX || all >= ALL_MAX {
                *at = Some(next);
                return Ok(queues);
            }
            from = next;
            tokio::task::yield_now().await;
        }
    }

    async fn delete(&self, lead: &Lead, at: &mut Option<ChunkId>) -> Result<(), MetaError> {
        let queues = self.deletions(lead, at).await?;
        let at_server = |(server, chunks): (ServerId, Vec<ChunkRef>)| async move {
            let send = |chunk: ChunkRef| async move {
                let op = Control::Delete { chunk, term: lead.term };
                self.command(server, op, self.timings.control).await.is_ok().then_some((chunk.id, server))
            };
            // One that fails ends the server's turn: the rest would wait for it as long.
            let done = stream::iter(chunks).map(send).buffered(AT_ONCE);
            done.take_while(|d| std::future::ready(d.is_some()))
                .filter_map(async |d| d)
                .collect::<Vec<_>>()
                .await
        };
        let done: Vec<_> = join_all(queues.into_iter().map(at_server)).await.into_iter().flatten().collect();
        if !done.is_empty() {
            self.propose(Command::DeleteDone { done }, COMMIT).await?;
        }
        Ok(())
    }

    /// Removes copies that their chunk's set does not name, once the full set is confirmed by its
    /// servers; as many as `may` be.
    async fn delete_surplus(
        &self,
        lead: &Lead,
        at: &mut Option<(ChunkId, ServerId)>,
        may: &mut BTreeMap<ServerId, May>,
    ) -> Result<(), MetaError> {
        let (mut todo, now) = (Vec::new(), self.now());
        {
            let m = lead.memory.lock();
            let goes_freely = m.goes_freely();
            let from = at.take().map_or(Bound::Unbounded, Bound::Excluded);
            for ((id, server), surplus) in m.surplus.range((from, Bound::Unbounded)).map(|(k, v)| (*k, *v)) {
                if !m.is_alive(server, now, self.timings.server_dead) {
                    continue;
                }
                let free = goes_freely(server, surplus);
                if free {
                    todo.push((id, server, free));
                } else if let Some(may) = may.get_mut(&server).filter(|may| may.surplus > 0) {
                    may.surplus -= 1;
                    todo.push((id, server, free));
                }
                if todo.len() == SURPLUS_MAX.0 {
                    *at = Some((id, server));
                    break;
                }
            }
        }
        let remove = |(id, server, free): (ChunkId, ServerId, bool)| async move {
            if let Err(e) = self.remove_surplus(lead, (id, server), free).await {
                tracing::warn!(%id, %server, error = %e, "a copy too many could not be removed, it is tried again");
            }
        };
        stream::iter(todo).for_each_concurrent(SURPLUS_MAX.1, remove).await;
        Ok(())
    }

    /// `free`: it does not count for the guard, being older than the open version, which it must be still.
    async fn remove_surplus(
        &self,
        lead: &Lead,
        (id, server): (ChunkId, ServerId),
        free: bool,
    ) -> Result<(), MetaError> {
        let view = self.view()?;
        let rec: Option<ChunkRec> = load(&view, Table::Chunk, &key(id.get())).map_err(internal)?;
        let gone = rec.is_none();
        let Some(rec) = rec.filter(|r| !r.members.contains(&server)) else {
            let noted = lead.memory.lock().surplus.remove(&(id, server));
            if let Some(noted) = noted.filter(|_| gone) {
                let chunk = ChunkRef { id, version: noted.version };
                self.surplus_without_record(lead, &view, server, chunk)?;
            }
            return Ok(());
        };
        drop(view);
        // What is copied ahead of a bump is wanted.
        if rec.pending.is_some() || lead.ahead.lock().contains_key(&id) {
            return Ok(());
        }
        let found = self.look_at(lead, id, &rec).await?;
        let good = |f: &Found| *f == Found::Current(ReplicaState::Good);
        let confirmed = found.len() >= usize::from(rec.wanted) && found.iter().all(|(_, f)| good(f));
        if !confirmed && !planted::is(Bug::SurplusDeletedEarly) {
            return Ok(());
        }
        let mut chunk = ChunkRef { id, version: rec.version };
        if free && !lead.memory.lock().is_emptied(server) {
            match self.version_at(server, id).await {
                Some(here) if here < rec.version => chunk.version = here,
                // It has become another since: it counts from now on.
                Some(here) => {
                    lead.memory.lock().note_surplus(id, server, here, rec.version);
                    return Ok(());
                }
                // It is gone, or told nothing: then this removes nothing else.
                None => chunk.version = ChunkVersion(0),
            }
        }
        let op = Control::Delete { chunk, term: lead.term };
        if self.command(server, op, self.timings.control).await.is_ok() {
            let mut m = lead.memory.lock();
            m.surplus.remove(&(id, server));
            if !free {
                m.was_removed(server, self.now());
            }
        }
        Ok(())
    }
}
