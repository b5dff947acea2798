//! Looking at the cluster, and changing it.

use super::{
    Inner, Lead, answer, internal,
    walk::{Step, step},
};
use crate::{
    namespace,
    raft::Member,
    repair::{Risk, risk_of},
    store::*,
};
use mooseng_core::{context::CallContext, error::MetaError, ids::*, meta::*};
use std::sync::Arc;

impl Inner {
    pub(super) async fn look(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        req: MetaRequest,
    ) -> Result<MetaReply, MetaError> {
        let view = self.fresh_view(cx.budget).await?;
        match req {
            MetaRequest::GetStatus(_) => self.status(lead, &view, |_, _| ()).await.map(MetaReply::GetStatus),
            MetaRequest::GetChunks(r) => self.chunks(lead, &view, &r).await.map(MetaReply::GetChunks),
            MetaRequest::ListSessions(_) => self.sessions(lead, &view).map(MetaReply::ListSessions),
            MetaRequest::CheckChunks(r) => self.check_chunks(lead, &r).await.map(MetaReply::CheckChunks),
            MetaRequest::GetScrub(_) => Ok(MetaReply::GetScrub(self.scrubs(lead))),
            MetaRequest::GetCare(_) => self.care(lead, &view).await.map(MetaReply::GetCare),
            MetaRequest::ListEvents(r) => Ok(MetaReply::ListEvents(self.list_events(lead, &r))),
            MetaRequest::GetChunkMatrix(_) => {
                self.chunk_matrix(lead, &view).await.map(MetaReply::GetChunkMatrix)
            }
            MetaRequest::ListCell(r) => self.cell(lead, &view, &r).await.map(MetaReply::ListCell),
            MetaRequest::GetOpCounts(_) => {
                let since = self.now().saturating_sub(lead.since);
                Ok(MetaReply::GetOpCounts(lead.counts.tell(lead.term, since)))
            }
            MetaRequest::GetLoad(_) => Ok(MetaReply::GetLoad(self.loads(lead))),
            other => Err(MetaError::Invalid(format!("{} does not look at the cluster", other.name()))),
        }
    }

    /// State of the cluster; `each` hears of every chunk how many copies are wanted, and how many are good.
    pub(super) async fn status(
        &self,
        lead: &Lead,
        view: &RedbView,
        each: impl FnMut(u8, usize) + Send,
    ) -> Result<ClusterStatus, MetaError> {
        let raft = self.raft.status();
        let (now, me) = (self.now(), |m: &Member| m.id == self.id);
        let silent = |m: &Member| {
            let never = || now.saturating_sub(lead.since);
            raft.silent.get(&m.id).copied().flatten().unwrap_or_else(never).as_millis() as u64
        };
        let master = |m: &Member, voter: bool| MasterInfo {
            id: m.id,
            raft_addr: m.raft_addr.clone(),
            client_addr: m.client_addr.clone(),
            voter,
            leader: me(m),
            lag: if me(m) { Some(0) } else { raft.lag.get(&m.id).copied().flatten() },
            silent_ms: if me(m) { 0 } else { silent(m) },
        };
        let voters = raft.voters.iter().map(|m| master(m, true));
        let masters = voters.chain(raft.learners.iter().map(|m| master(m, false))).collect();
        let servers = self.server_infos(lead, view)?;
        let chunks = self.chunk_health(lead, view, each).await?;
        let (total, free) = lead.memory.lock().space();
        Ok(ClusterStatus {
            cluster: self.cluster,
            term: lead.term,
            revision: raft.applied.unwrap_or_default(),
            masters,
            servers,
            chunks,
            sessions: self.all_sessions(view)?.len() as u64,
            fs: answer(namespace::fs_stat(view, total, free))?,
        })
    }

    pub(super) fn server_infos(&self, lead: &Lead, view: &RedbView) -> Result<Vec<ServerInfo>, MetaError> {
        let mut servers = Vec::new();
        scan_recs(view, Table::Server, &[], &[], |k, rec: ServerRec| {
            servers.push((ServerId(number(k)), rec.addr));
            true
        })
        .map_err(internal)?;
        let (m, now) = (lead.memory.lock(), self.now());
        let info = |(id, addr): (ServerId, String)| {
            let heard = m.servers.get(&id);
            let silent = now.saturating_sub(heard.map_or(lead.since, |s| s.heard));
            ServerInfo {
                id,
                addr: heard.map_or(addr, |s| s.addr.clone()),
                alive: m.is_alive(id, now, self.timings.server_dead),
                silent_ms: silent.as_millis() as u64,
                clock_ms: heard.map_or(0, |s| s.clock.millis()),
                disks: heard.map_or_else(Vec::new, |s| s.disks.clone()),
                silent: silent >= self.timings.server_dead,
            }
        };
        Ok(servers.into_iter().map(info).collect())
    }

    async fn chunk_health(
        &self,
        lead: &Lead,
        view: &RedbView,
        mut each: impl FnMut(u8, usize) + Send,
    ) -> Result<ChunkHealth, MetaError> {
        let mut chunks = ChunkHealth::default();
        let now = self.now();
        self.walk_chunks(lead, view, ChunkId(0), |m, id, rec| {
            let copies = m.copies(id, &rec.members, |s| m.is_alive(*s, now, self.timings.server_dead));
            chunks.total += 1;
            each(rec.wanted, copies.0);
            match risk_of(copies, usize::from(rec.wanted)) {
                None => chunks.healthy += 1,
                Some(Risk::Undergoal) => chunks.undergoal += 1,
                Some(Risk::Endangered) => chunks.endangered += 1,
                Some(Risk::Missing) => chunks.missing += 1,
                Some(Risk::Overgoal) => chunks.overgoal += 1,
            }
            true
        })
        .await?;
        let mut at = Some(ChunkId(0));
        while let Some(from) = at {
            let Step { records, next } = step::<DeletingRec>(view, Table::Deleting, from)?;
            chunks.deleting += records.len() as u64;
            at = next;
            tokio::task::yield_now().await;
        }
        Ok(chunks)
    }

    async fn chunks(&self, lead: &Lead, view: &RedbView, r: &GetChunks) -> Result<Vec<ChunkInfo>, MetaError> {
        let mut infos = Vec::new();
        for (index, chunk, rec) in answer(namespace::layout_chunks(view, r.inode, r.from, r.count))? {
            let mut replicas = Vec::new();
            for (server, found) in self.look_at(lead, chunk.id, &rec).await? {
                let now = self.now();
                replicas.push(ReplicaInfo {
                    place: self.replica(view, server)?,
                    alive: lead.memory.lock().is_alive(server, now, self.timings.server_dead),
                    state: if let crate::repair::Found::Current(s) = found { Some(s) } else { None },
                    version: matches!(found, crate::repair::Found::Current(_)).then_some(chunk.version),
                });
            }
            infos.push(ChunkInfo {
                index,
                chunk,
                wanted: rec.wanted,
                replicas,
                changing: rec.pending.is_some(),
            });
        }
        Ok(infos)
    }

    fn sessions(&self, lead: &Lead, view: &RedbView) -> Result<Vec<SessionInfo>, MetaError> {
        let mut all = Vec::new();
        scan_recs(view, Table::Session, &[], &[], |k, s: SessionRec| {
            all.push((SessionId(number(k)), s));
            true
        })
        .map_err(internal)?;
        let m = lead.memory.lock();
        let info = |(id, s): (SessionId, SessionRec)| SessionInfo {
            stamp: SessionStamp { id, epoch: s.epoch },
            client: s.client,
            host: s.host,
            version: s.version,
            open: m.opens.get(&id).copied().unwrap_or_default() as u64,
            calls: m.calls.get(&id).copied().unwrap_or_default(),
            since: s.since,
        };
        Ok(all.into_iter().map(info).collect())
    }

    pub(super) async fn admin(
        &self,
        lead: &Lead,
        cx: &CallContext,
        req: MetaRequest,
    ) -> Result<MetaReply, MetaError> {
        match req {
            MetaRequest::ScrubNow(_) => Ok(MetaReply::ScrubNow(self.scrub_now(lead))),
            MetaRequest::Drain(r) => self.drain(lead, cx, r).await.map(MetaReply::Drain),
            MetaRequest::DrainDisk(r) => self.drain_disk(lead, cx, r).await.map(MetaReply::DrainDisk),
            MetaRequest::AllowRemovals(r) => {
                self.allow_removals(lead, r.server).map(MetaReply::AllowRemovals)
            }
            MetaRequest::AddMaster(r) => {
                let member = Member { id: r.id, raft_addr: r.raft_addr, client_addr: r.client_addr };
                self.raft.add_master(&member).await?;
                Ok(MetaReply::AddMaster(()))
            }
            MetaRequest::RemoveMaster(r) => {
                self.raft.remove_master(r.id).await?;
                Ok(MetaReply::RemoveMaster(()))
            }
            MetaRequest::TransferLeadership(r) => {
                self.raft.transfer_leadership(r.to).await?;
                Ok(MetaReply::TransferLeadership(()))
            }
            MetaRequest::CreateToken(r) => self.create_token(cx, r).await.map(MetaReply::CreateToken),
            other => Err(MetaError::Invalid(format!("{} does not change the cluster", other.name()))),
        }
    }
}
