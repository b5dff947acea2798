//! Looking after chunks while leading: bumps and cuts under way, what clients and servers reported,
//! and now and then all of them. Bounded, the worst first, and none waits for another's copy.

use super::{
    Inner, Lead,
    ahead::Asked,
    internal,
    outlook::{bytes_of, names},
};
use crate::{
    namespace,
    repair::{Risk, risk_of},
    store::*,
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mooseng_core::{error::MetaError, ids::*};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Chunks looked after at the same time because they lack copies.
const REPAIRS_MAX: usize = 8;
/// The same, with those that somebody waits for.
const SETTLING_MAX: usize = 32;
/// Chunks that wait for their turn; more are found again by the next look at all.
const QUEUE_MAX: usize = 65_536;
/// Rounds between two looks at all chunks without a reason; while a server or a disk is being emptied.
const LOOK_ROUNDS: (u32, u32) = (60, 10);

/// How soon a chunk's turn comes: those that somebody waits for first, then by risk.
type Turn = (bool, Risk);

/// Chunks that wait for their turn.
#[derive(Default)]
struct Queue {
    order: BTreeSet<(Reverse<Turn>, ChunkId)>,
    chunks: BTreeMap<ChunkId, (Turn, bool)>,
}

impl Queue {
    /// Those that somebody waits for always find room.
    fn add(&mut self, id: ChunkId, turn: Turn, force: bool) {
        let (before, forced) = self.chunks.get(&id).copied().unwrap_or((turn, false));
        if !self.chunks.contains_key(&id) && self.chunks.len() >= QUEUE_MAX && !turn.0 {
            return;
        }
        self.order.remove(&(Reverse(before), id));
        let turn = turn.max(before);
        self.order.insert((Reverse(turn), id));
        self.chunks.insert(id, (turn, force || forced));
    }

    /// The next one, without those that nobody waits for when `urgent_only`.
    fn take(&mut self, urgent_only: bool) -> Option<(ChunkId, Turn, bool)> {
        let (Reverse(turn), id) = *self.order.first()?;
        if urgent_only && !turn.0 {
            return None;
        }
        self.order.pop_first();
        let (_, force) = self.chunks.remove(&id)?;
        Some((id, turn, force))
    }
}

impl Inner {
    /// Looks after chunks, for ever.
    pub(super) async fn keep_chunks(self: &Arc<Self>, lead: &Arc<Lead>) {
        let (mut queue, mut repairs) = (Queue::default(), 0);
        let mut running: FuturesUnordered<BoxFuture<'_, bool>> = FuturesUnordered::new();
        let mut round = 0u32;
        let tick = tokio::time::sleep(self.timings.tick);
        tokio::pin!(tick);
        loop {
            tokio::select! {
                biased;
                Some(urgent) = running.next() => {
                    if !urgent {
                        repairs -= 1;
                        lead.memory.lock().progress.running = repairs;
                    }
                }
                () = lead.wake.notified() => self.find(lead, false, &mut queue),
                () = tick.as_mut() => {
                    round = round.wrapping_add(1);
                    let drains = lead.memory.lock().empties();
                    let rounds = if drains { LOOK_ROUNDS.1 } else { LOOK_ROUNDS.0 };
                    let all = round.is_multiple_of(rounds) || self.somebody_died(lead);
                    self.find(lead, all, &mut queue);
                    tick.set(tokio::time::sleep(self.timings.tick));
                }
            }
            while running.len() < SETTLING_MAX
                && let Some((id, (urgent, risk), force)) = queue.take(!self.may_copy(lead, repairs))
            {
                repairs += usize::from(!urgent);
                lead.memory.lock().progress.running = repairs;
                let settled = async move {
                    if urgent {
                        self.look_after(lead, id, force).await;
                    } else {
                        self.mend(lead, id, risk).await;
                    }
                    urgent
                };
                running.push(settled.boxed());
            }
        }
    }

    /// Whether a chunk that nobody waits for may be looked after now.
    fn may_copy(&self, lead: &Lead, repairs: usize) -> bool {
        repairs < REPAIRS_MAX && lead.memory.lock().progress.may_begin(self.now())
    }

    /// Looks after a chunk that nobody waits for, and counts what was copied.
    async fn mend(self: &Arc<Self>, lead: &Arc<Lead>, id: ChunkId, risk: Risk) {
        let before = self.record(id);
        let ahead = self.look_after(lead, id, false).await as u64;
        let (Some(before), Some(after)) = (before, self.record(id)) else { return };
        let new = after.members.iter().filter(|s| !before.members.contains(s)).count() as u64;
        let opened = before.version != after.version && after.pending.is_none() && risk != Risk::Overgoal;
        let bytes = self.view().and_then(|v| bytes_of(&v, &after).map_err(internal)).unwrap_or_default();
        let (mut m, per_s) = (lead.memory.lock(), self.timings.repair_bytes_per_s);
        match opened {
            // One that was filled again in its place counts as a copy, too.
            true => m.progress.copied(self.now(), bytes * new.max(ahead).max(1), risk, per_s),
            // What was copied ahead for nothing took its time.
            false => m.progress.spent(self.now(), bytes * ahead, risk, per_s),
        }
    }

    pub(super) fn record(&self, id: ChunkId) -> Option<ChunkRec> {
        let rec = self.view().and_then(|v| namespace::chunk(&v, id).map_err(internal));
        rec.ok().flatten()
    }

    /// Answers how many copies were begun ahead of a bump.
    async fn look_after(self: &Arc<Self>, lead: &Arc<Lead>, id: ChunkId, force: bool) -> usize {
        let mut asked = Asked::default();
        let done = match force {
            true => self.settle(lead, id, true).await,
            false => self.settle_ahead(lead, id, &mut asked).await,
        };
        if let Err(e) = done {
            tracing::warn!(%id, error = %e, "a chunk could not be settled, it is tried again");
            let mut m = lead.memory.lock();
            m.back_off(id, self.now());
            m.progress.failed += 1;
        }
        asked.all.len()
    }

    fn find(&self, lead: &Lead, all: bool, queue: &mut Queue) {
        if let Err(e) = self.find_work(lead, all, queue) {
            tracing::warn!(error = %e, "a look at the chunks failed, the next one goes on");
        }
    }

    /// Queues chunks that want a look: what is under way, what somebody asked for, and `all`.
    fn find_work(&self, lead: &Lead, all: bool, queue: &mut Queue) -> Result<(), MetaError> {
        let (view, now) = (self.view()?, self.now());
        let mut busy = Vec::new();
        view.scan(Table::Busy, &[], &[], &mut |k, _| {
            busy.push(ChunkId(number(k)));
            true
        })
        .map_err(internal)?;
        let asked = {
            let mut m = lead.memory.lock();
            m.forgive(now);
            let named = std::mem::take(&mut m.wanted);
            // A bump under way, or one that a client asked for: somebody waits.
            let named = named.into_iter().map(|(id, force)| (id, force, force));
            for (id, urgent, force) in named.chain(busy.into_iter().map(|id| (id, true, false))) {
                if m.is_early(id, now) && !force {
                    m.wanted.entry(id).or_insert(false);
                } else {
                    queue.add(id, (urgent, Risk::Endangered), force);
                }
            }
            for id in std::mem::take(&mut m.hurt) {
                if !m.is_early(id, now) {
                    queue.add(id, (true, Risk::Undergoal), false);
                }
            }
            std::mem::take(&mut m.look_at_all)
        };
        if all || asked {
            self.look_at_all(lead, &view, queue)?;
        }
        Ok(())
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

    fn look_at_all(&self, lead: &Lead, view: &RedbView, queue: &mut Queue) -> Result<(), MetaError> {
        let patience = self.timings.server_dead + self.timings.repair_after;
        let now = self.now();
        let mut m = lead.memory.lock();
        let mut left: BTreeMap<_, u64> = m.draining.keys().map(|s| (*s, 0)).collect();
        // Before everybody had a chance to register nobody is missed.
        let early = now.saturating_sub(lead.since) <= patience;
        scan_recs(view, Table::Chunk, &[], &[], |k, rec: ChunkRec| {
            let id = ChunkId(number(k));
            let gone = |s: &ServerId| match m.servers.get(s) {
                Some(server) => now.saturating_sub(server.heard) > patience,
                None => !early,
            };
            let (good, sources) = m.copies(id, &rec.members, |s| !gone(s));
            for (server, n) in &mut left {
                *n += u64::from(names(&rec, *server));
            }
            let leaves = rec.members.iter().any(|s| m.draining.contains_key(s) || m.is_leaving(id, *s));
            let at_risk = risk_of((good, sources), usize::from(rec.wanted));
            if let Some(risk) = at_risk.max(leaves.then_some(Risk::Undergoal))
                && !m.is_early(id, now)
            {
                queue.add(id, (false, risk), false);
            }
            true
        })
        .map_err(internal)?;
        m.drain_left = left;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_copies_leave_room_for_those_waited_for() {
        let mut q = Queue::default();
        q.add(ChunkId(1), (false, Risk::Undergoal), false);
        q.add(ChunkId(2), (false, Risk::Missing), false);
        q.add(ChunkId(3), (true, Risk::Endangered), true);
        q.add(ChunkId(1), (true, Risk::Endangered), false);
        q.add(ChunkId(3), (false, Risk::Missing), false);
        let order: Vec<_> = std::iter::from_fn(|| q.take(true)).map(|(id, _, force)| (id, force)).collect();
        assert_eq!(order, [(ChunkId(1), false), (ChunkId(3), true)]);
        assert_eq!(q.take(false).map(|t| t.0), Some(ChunkId(2)));
        assert!(q.take(false).is_none() && q.chunks.is_empty());
    }
}
