//! Driving one chunk's bump: ask its servers, decide, act. Each step is idempotent; a new leader
//! takes up what an old one left (PROTOCOL §4).

use super::{Inner, Lead, internal, lead::Odd};
use crate::{
    namespace,
    repair::{Found, Plan, plan},
    store::{ChunkRec, PendingBump},
};
use futures::future::join_all;
use mooseng_core::{
    chunk::{Control, ControlReply},
    context::CallContext,
    error::{ChunkError, MetaError},
    ids::*,
    meta::*,
};
use std::{sync::Arc, time::Duration};

/// Time for one entry of a bump to pass the log.
const COMMIT: Duration = Duration::from_secs(10);

/// Forgets that a chunk is being driven when it is dropped.
struct Driving {
    lead: Arc<Lead>,
    chunk: ChunkId,
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.lead.bumping.lock().remove(&self.chunk);
        self.lead.bumped.notify_waiters();
    }
}

impl Inner {
    /// Looks at a chunk and does what is to be done. Returns at once when another task does so.
    /// `force` makes a new version even when all replicas seem good.
    pub(super) async fn settle(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        id: ChunkId,
        force: bool,
    ) -> Result<(), MetaError> {
        if !lead.bumping.lock().insert(id) {
            return Ok(());
        }
        let _driving = Driving { lead: lead.clone(), chunk: id };
        let Some(mut rec) = namespace::chunk(&self.view()?, id).map_err(internal)? else { return Ok(()) };
        if let Some(bump) = rec.pending.clone() {
            self.carry_out(lead, id, &rec, bump).await?;
            let Some(now) = namespace::chunk(&self.view()?, id).map_err(internal)? else { return Ok(()) };
            rec = now;
        }
        for _ in 0..2 {
            let found = self.look_at(lead, id, rec.version, &rec.members).await?;
            // A member that may still come back is waited for, however long this master leads.
            let all_heard = found.iter().all(|(s, f)| *f != Found::Silent || self.long_dead(lead, *s));
            let candidates = lead.memory.lock().candidates(self.now(), self.timings.server_dead);
            let force = force || rec.cut_to.is_some();
            match plan(id, &rec, &found, &candidates, all_heard, force) {
                Plan::Leave => {
                    self.in_order(lead, id, &rec.members);
                    return Ok(());
                }
                Plan::Wait => return Ok(()),
                Plan::Bless(winner) => {
                    let chunk = ChunkRef { id, version: rec.version };
                    tracing::warn!(%id, %winner, "every replica was dirty at an unclean stop: the first in the chain wins");
                    let op = Control::Bless { chunk, term: lead.term };
                    self.command(winner, op, self.timings.control)
                        .await
                        .map_err(|e| internal(e.to_string()))?;
                }
                Plan::Bump { survivors, joining } => {
                    return self.bump(lead, id, &rec, survivors, joining).await;
                }
            }
        }
        Ok(())
    }

    fn long_dead(&self, lead: &Lead, server: ServerId) -> bool {
        let patience = self.timings.server_dead + self.timings.repair_after;
        let m = lead.memory.lock();
        let heard = m.servers.get(&server).map_or(lead.since, |s| s.heard);
        self.now().saturating_sub(heard) > patience
    }

    async fn bump(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        id: ChunkId,
        rec: &ChunkRec,
        survivors: Vec<ServerId>,
        joining: Vec<ServerId>,
    ) -> Result<(), MetaError> {
        let from = ChunkRef { id, version: rec.version };
        let bump = PendingBump {
            version: rec.version.next(),
            survivors: survivors.clone(),
            joining: joining.clone(),
            cut_to: rec.cut_to,
        };
        tracing::info!(%id, version = %bump.version, ?survivors, ?joining, cut_to = ?bump.cut_to, "bump");
        let command = Command::BumpStart { from, survivors, joining, cut_to: rec.cut_to };
        if self.propose(command, COMMIT).await? != Applied::Done(true) {
            return Ok(());
        }
        self.carry_out(lead, id, rec, bump).await
    }

    /// Steps 2 to 4: the survivors take the version, everybody else is filled from them, the version
    /// opens.
    async fn carry_out(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        id: ChunkId,
        rec: &ChunkRec,
        bump: PendingBump,
    ) -> Result<(), MetaError> {
        let chunk = ChunkRef { id, version: bump.version };
        let all: Vec<_> = bump.survivors.iter().chain(&bump.joining).copied().collect();
        let set = |server: ServerId| {
            let (members, cut_to, term) = (all.clone(), bump.cut_to, lead.term);
            let op = Control::SetVersion { chunk: id, to: bump.version, members, cut_to, term };
            async move { (server, self.command(server, op, self.timings.control).await) }
        };
        let (mut ready, mut empty) = (Vec::new(), Vec::new());
        for (server, done) in join_all(bump.survivors.iter().map(|s| set(*s))).await {
            match done {
                Ok(_) => ready.push(server),
                Err(ChunkError::NotFound(_)) if !rec.committed => empty.push(server),
                Err(e) => tracing::warn!(%id, %server, error = %e, "a survivor did not take the new version"),
            }
        }
        let mut members = ready.clone();
        if ready.is_empty() {
            // Never written anywhere: the places are enough, the first write makes the replicas.
            if rec.committed || (empty.is_empty() && !bump.survivors.is_empty()) {
                return Err(MetaError::ChunkBusy(id));
            }
            members = empty;
            members.extend(bump.joining.iter().copied());
        } else {
            let view = self.view()?;
            let sources = ready.iter().map(|s| self.replica(&view, *s)).collect::<Result<Vec<_>, _>>()?;
            let fill = ready[1..].iter().chain(&empty).chain(&bump.joining).copied();
            let pull = |server: ServerId| {
                let from: Vec<_> = sources.iter().filter(|r| r.server != server).cloned().collect();
                let op = Control::Pull { chunk, from, term: lead.term };
                async move { (server, self.command(server, op, self.timings.pull).await) }
            };
            for (server, done) in join_all(fill.map(pull)).await {
                match done {
                    Ok(_) if !members.contains(&server) => members.push(server),
                    Ok(_) => {}
                    Err(e) => {
                        tracing::warn!(%id, %server, error = %e, "a member could not be made equal");
                        members.retain(|m| *m != server);
                    }
                }
            }
        }
        let command = Command::BumpOpen { chunk, members: members.clone() };
        if self.propose(command, COMMIT).await? == Applied::Done(true) {
            self.in_order(lead, id, &members);
            let mut m = lead.memory.lock();
            for server in rec.members.iter().chain(&bump.survivors).filter(|s| !members.contains(s)) {
                m.surplus.insert((id, *server), rec.version);
            }
            // A set that is still too small is looked at again.
            if members.len() < usize::from(rec.wanted) {
                m.wanted.entry(id).or_insert(false);
            }
        }
        Ok(())
    }

    fn in_order(&self, lead: &Lead, id: ChunkId, members: &[ServerId]) {
        let mut m = lead.memory.lock();
        let odd: Vec<_> =
            m.odd.range((id, ServerId(0))..=(id, ServerId(u64::MAX))).map(|(k, _)| *k).collect();
        for k in odd {
            m.odd.remove(&k);
        }
        for server in members {
            m.surplus.remove(&(id, *server));
        }
    }

    /// Asks servers what they have of a chunk.
    pub(super) async fn look_at(
        &self,
        lead: &Lead,
        id: ChunkId,
        version: ChunkVersion,
        members: &[ServerId],
    ) -> Result<Vec<(ServerId, Found)>, MetaError> {
        let noted = |s: ServerId| lead.memory.lock().odd.get(&(id, s)).copied();
        let ask = |server: ServerId| async move {
            let found = match self.command(server, Control::Stat { chunk: id }, self.timings.control).await {
                Ok(ControlReply::Done(stat)) if stat.report.chunk.version == version => {
                    let state = stat.report.state;
                    // Damage that was reported is believed until the replica was mended.
                    match noted(server) {
                        Some(Odd::State(ReplicaState::Damaged)) => Found::Current(ReplicaState::Damaged),
                        _ => Found::Current(state),
                    }
                }
                Ok(_) => Found::Other,
                Err(ChunkError::NotFound(_)) => Found::Nothing,
                Err(_) => Found::Silent,
            };
            (server, found)
        };
        Ok(join_all(members.iter().map(|s| ask(*s))).await)
    }

    pub(super) async fn command(
        &self,
        server: ServerId,
        op: Control,
        budget: Duration,
    ) -> Result<ControlReply, ChunkError> {
        let place = self.view().and_then(|v| self.replica(&v, server));
        let place = place.map_err(|e| ChunkError::Busy(e.to_string()))?;
        self.peers.control(&place.addr, op, budget).await
    }

    /// A client could not write or read through a replica: look, and bump. Answers when the layout
    /// can be read again.
    pub(super) async fn report_replica(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        cx: &CallContext,
        r: ReportReplica,
    ) -> Result<(), MetaError> {
        let view = self.fresh_view(cx.budget).await?;
        let Some((chunk, rec)) = namespace::chunk_at(&view, r.inode, r.index).map_err(internal)? else {
            return Ok(());
        };
        if chunk.id != r.chunk.id || chunk.version > r.chunk.version {
            return Ok(());
        }
        drop(view);
        tracing::warn!(id = %chunk.id, server = %r.server, problem = r.problem, "a client reports a replica");
        if rec.members.contains(&r.server) || rec.pending.is_some() {
            self.settle(lead, chunk.id, true).await?;
        }
        Ok(())
    }
}
