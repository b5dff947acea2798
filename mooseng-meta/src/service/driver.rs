//! What a leader does by itself: takes up its term, ends silent sessions, finishes bumps, repairs,
//! deletes. One task, from election to deposition.

use super::{Inner, Lead, internal};
use crate::{
    namespace::meta_key,
    repair::{Risk, risk},
    state::check_session,
    store::*,
};
use futures::{StreamExt as _, stream};
use mooseng_core::{chunk::Control, error::MetaError, ids::*, meta::*};
use std::{sync::Arc, time::Duration};

/// Chunks settled at the same time.
const SETTLING_MAX: usize = 8;
/// Deletions sent in one round.
const DELETIONS_MAX: usize = 512;
/// Rounds between two looks at all chunks without a reason.
const LOOK_ROUNDS: u32 = 60;
const COMMIT: Duration = Duration::from_secs(10);

/// Follows leadership until the node's Raft ends.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut leadership = inner.raft.leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        if !now.is_me {
            *inner.lead.write() = None;
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        }
        let lead = tokio::select! {
            biased;
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            lead = inner.take_over(now.term) => lead,
        };
        match lead {
            Ok(lead) => {
                tracing::info!(master = %inner.id, term = %now.term, "this master leads");
                *inner.lead.write() = Some(lead.clone());
                tokio::select! {
                    biased;
                    changed = leadership.wait_for(|l| l.term != now.term || !l.is_me) => {
                        if changed.is_err() {
                            *inner.lead.write() = None;
                            return;
                        }
                    }
                    () = inner.drive(&lead) => {}
                }
                *inner.lead.write() = None;
            }
            Err(e) => {
                tracing::warn!(error = %e, "taking over failed, trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Inner {
    /// The first entries of a term: everything before them is applied when they are.
    async fn take_over(&self, term: Term) -> Result<Arc<Lead>, MetaError> {
        self.propose(Command::Lead { master: self.id }, COMMIT).await?;
        if self.view()?.get(Table::Meta, meta_key::CLUSTER).map_err(internal)?.is_none() {
            self.propose(Command::Init { cluster: self.cluster, class: self.class }, COMMIT).await?;
        }
        self.propose(Command::AddKey { key: self.key.public(), master: self.id }, COMMIT).await?;
        let lead = Lead {
            term,
            since: self.now(),
            memory: Default::default(),
            bumping: Default::default(),
            bumped: Default::default(),
            wake: Default::default(),
        };
        {
            let mut m = lead.memory.lock();
            let view = self.view()?;
            // Silence is counted from the election, for sessions and servers alike.
            for id in self.all_sessions(&view)? {
                m.contacts.insert(id, lead.since);
            }
            m.look_at_all = true;
        }
        Ok(Arc::new(lead))
    }

    async fn drive(self: &Arc<Self>, lead: &Arc<Lead>) {
        let mut round = 0u32;
        loop {
            let tick = tokio::time::timeout(self.timings.tick, lead.wake.notified());
            let _ = tick.await;
            round = round.wrapping_add(1);
            if let Err(e) = self.round(lead, round).await {
                tracing::warn!(error = %e, "a round of the leader failed, the next one goes on");
            }
        }
    }

    async fn round(self: &Arc<Self>, lead: &Arc<Lead>, round: u32) -> Result<(), MetaError> {
        self.end_silent_sessions(lead).await?;
        let mut work = self.wanted(lead, round)?;
        work.sort_by_key(|(risk, id, _)| (std::cmp::Reverse(*risk), *id));
        let settle = |(_, id, force): (Option<Risk>, ChunkId, bool)| async move {
            if let Err(e) = self.settle(lead, id, force).await {
                tracing::warn!(%id, error = %e, "a chunk could not be settled, it is tried again");
            }
        };
        stream::iter(work).for_each_concurrent(SETTLING_MAX, settle).await;
        self.delete(lead).await?;
        self.delete_surplus(lead).await
    }

    async fn end_silent_sessions(&self, lead: &Arc<Lead>) -> Result<(), MetaError> {
        let now = self.now();
        let silent: Vec<_> = {
            let m = lead.memory.lock();
            let of = m
                .contacts
                .iter()
                .filter(|(_, heard)| now.saturating_sub(**heard) > self.timings.session_lifetime);
            of.map(|(id, _)| *id).collect()
        };
        for id in silent {
            let view = self.view()?;
            if let Ok(epoch) = self.epoch_of(&view, id) {
                let session = SessionStamp { id, epoch };
                if check_session(&view, session).map_err(internal)?.is_ok() {
                    tracing::info!(%id, "session ended: nothing was heard of it");
                    self.propose(Command::SessionEnd { session }, COMMIT).await?;
                }
            }
            lead.memory.lock().forget(id);
        }
        Ok(())
    }

    /// Chunks that want a look: bumps and cuts under way, what clients and servers reported, and
    /// now and then all of them.
    fn wanted(&self, lead: &Lead, round: u32) -> Result<Vec<(Option<Risk>, ChunkId, bool)>, MetaError> {
        let view = self.view()?;
        let mut work = Vec::new();
        view.scan(Table::Busy, &[], &[], &mut |k, _| {
            work.push((Some(Risk::Endangered), ChunkId(number(k)), false));
            true
        })
        .map_err(internal)?;
        let (named, all) = {
            let mut m = lead.memory.lock();
            (std::mem::take(&mut m.wanted), std::mem::take(&mut m.look_at_all))
        };
        work.extend(named.into_iter().map(|(id, force)| (Some(Risk::Endangered), id, force)));
        if all || round.is_multiple_of(LOOK_ROUNDS) || self.somebody_died(lead) {
            self.look_at_all(lead, &view, &mut work)?;
        }
        work.sort_by_key(|(_, id, force)| (*id, !*force));
        work.dedup_by_key(|(_, id, _)| *id);
        Ok(work)
    }

    /// A server has been silent for long enough that its chunks are copied elsewhere.
    fn somebody_died(&self, lead: &Lead) -> bool {
        let (now, patience) = (self.now(), self.timings.server_dead + self.timings.repair_after);
        let m = lead.memory.lock();
        m.servers.values().any(|s| {
            let silent = now.saturating_sub(s.heard);
            silent > patience && silent <= patience + 3 * self.timings.tick
        })
    }

    fn look_at_all(
        &self,
        lead: &Lead,
        view: &RedbView,
        work: &mut Vec<(Option<Risk>, ChunkId, bool)>,
    ) -> Result<(), MetaError> {
        let patience = self.timings.server_dead + self.timings.repair_after;
        let now = self.now();
        let m = lead.memory.lock();
        // Before everybody had a chance to register nobody is missed.
        let early = now.saturating_sub(lead.since) <= patience;
        let gone = |s: &ServerId| match m.servers.get(s) {
            Some(server) => now.saturating_sub(server.heard) > patience,
            None => !early,
        };
        scan_recs(view, Table::Chunk, &[], &[], |k, rec: ChunkRec| {
            let id = ChunkId(number(k));
            let good = rec.members.iter().filter(|s| !gone(s) && !m.odd.contains_key(&(id, **s))).count();
            if let Some(risk) = risk(good, usize::from(rec.wanted)) {
                work.push((Some(risk), id, false));
            }
            true
        })
        .map_err(internal)
    }

    /// Sends deletions of chunks that no file has any more.
    async fn delete(self: &Arc<Self>, lead: &Arc<Lead>) -> Result<(), MetaError> {
        let mut todo = Vec::new();
        scan_recs(&self.view()?, Table::Deleting, &[], &[], |k, rec: DeletingRec| {
            let chunk = ChunkRef { id: ChunkId(number(k)), version: rec.version };
            todo.extend(rec.holders.into_iter().map(|s| (chunk, s)));
            todo.len() < DELETIONS_MAX
        })
        .map_err(internal)?;
        let now = self.now();
        todo.retain(|(_, s)| lead.memory.lock().is_alive(*s, now, self.timings.server_dead));
        let send = |(chunk, server): (ChunkRef, ServerId)| async move {
            let op = Control::Delete { chunk, term: lead.term };
            self.command(server, op, self.timings.control).await.is_ok().then_some((chunk.id, server))
        };
        let done: Vec<_> = stream::iter(todo)
            .map(send)
            .buffer_unordered(SETTLING_MAX)
            .filter_map(async |x| x)
            .collect()
            .await;
        if !done.is_empty() {
            self.propose(Command::DeleteDone { done }, COMMIT).await?;
        }
        Ok(())
    }

    /// Removes copies that no record names, once the full set is confirmed by its servers.
    async fn delete_surplus(self: &Arc<Self>, lead: &Arc<Lead>) -> Result<(), MetaError> {
        let surplus: Vec<_> = lead.memory.lock().surplus.keys().take(DELETIONS_MAX).copied().collect();
        for (id, server) in surplus {
            let rec: Option<ChunkRec> =
                load(&self.view()?, Table::Chunk, &key(id.get())).map_err(internal)?;
            let Some(rec) = rec else {
                lead.memory.lock().surplus.remove(&(id, server));
                continue;
            };
            if rec.members.contains(&server) {
                lead.memory.lock().surplus.remove(&(id, server));
                continue;
            }
            let now = self.now();
            if rec.pending.is_some() || !lead.memory.lock().is_alive(server, now, self.timings.server_dead) {
                continue;
            }
            let found = self.look_at(lead, id, rec.version, &rec.members).await?;
            let good = |f: &crate::repair::Found| *f == crate::repair::Found::Current(ReplicaState::Good);
            if found.len() < usize::from(rec.wanted) || !found.iter().all(|(_, f)| good(f)) {
                continue;
            }
            let chunk = ChunkRef { id, version: rec.version };
            let op = Control::Delete { chunk, term: lead.term };
            if self.command(server, op, self.timings.control).await.is_ok() {
                lead.memory.lock().surplus.remove(&(id, server));
            }
        }
        Ok(())
    }
}
