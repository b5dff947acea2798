//! Sessions: opening, keeping, re-asserting, releasing, ending.

use super::{Inner, Lead, internal};
use crate::{state::check_session, store::*};
use mooseng_core::{
    attr::Access, context::CallContext, error::MetaError, ids::*, limits::SLOTS_MAX, meta::*, net::CertHash,
};
use std::sync::Arc;

impl Inner {
    /// The session of a call, when it exists, its epoch is in force and the certificate is its own.
    pub(super) fn checked_session(
        &self,
        view: &RedbView,
        cx: &CallContext,
    ) -> Result<(SessionStamp, CertHash), MetaError> {
        let stamp = cx.session.ok_or_else(|| MetaError::Invalid("open a session first".into()))?;
        let rec = check_session(view, stamp).map_err(internal)??;
        match &cx.peer {
            Some(peer) if peer.cert_hash != rec.cert => {
                Err(MetaError::Invalid("the session belongs to another certificate".into()))
            }
            _ => Ok((stamp, rec.cert)),
        }
    }

    pub(super) fn epoch_of(&self, view: &RedbView, session: SessionId) -> Result<SessionEpoch, MetaError> {
        let rec: Option<SessionRec> = load(view, Table::Session, &key(session.get())).map_err(internal)?;
        rec.map(|r| r.epoch).ok_or(MetaError::SessionEnded)
    }

    /// All sessions.
    pub(super) fn all_sessions(&self, view: &RedbView) -> Result<Vec<SessionId>, MetaError> {
        let mut ids = Vec::new();
        view.scan(Table::Session, &[], &[], &mut |k, _| {
            ids.push(SessionId(number(k)));
            true
        })
        .map_err(internal)?;
        Ok(ids)
    }

    pub(super) async fn session(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        cx: &CallContext,
        req: MetaRequest,
    ) -> Result<MetaReply, MetaError> {
        if let MetaRequest::OpenSession(r) = req {
            return self.open_session(lead, cx, r).await.map(MetaReply::OpenSession);
        }
        let (stamp, _) = self.checked_session(&self.view()?, cx)?;
        match req {
            MetaRequest::KeepAlive(_) => {
                Ok(MetaReply::KeepAlive(KeptAlive { term: lead.term, epoch: stamp.epoch }))
            }
            MetaRequest::Reassert(r) => self.reassert(lead, cx, stamp, r).await.map(MetaReply::Reassert),
            MetaRequest::Release(r) => {
                if lead.memory.lock().released(r.inode, stamp.id) {
                    self.release_orphan(cx, r.inode, stamp.id).await?;
                }
                Ok(MetaReply::Release(()))
            }
            MetaRequest::CloseSession(_) => {
                self.propose(Command::SessionEnd { session: stamp }, cx.budget).await?;
                lead.memory.lock().forget(stamp.id);
                Ok(MetaReply::CloseSession(()))
            }
            MetaRequest::GrantIds(r) => {
                let command = Command::GrantIds { session: stamp, kind: r.kind, count: r.count };
                match self.propose(command, cx.budget).await? {
                    Applied::Ids(range) => range.map(MetaReply::GrantIds),
                    other => Err(internal(format!("a grant answered {other:?}"))),
                }
            }
            MetaRequest::ReportReplica(r) => {
                self.report_replica(lead, cx, r).await.map(MetaReply::ReportReplica)
            }
            other => Err(MetaError::Invalid(format!("{} is not about a session", other.name()))),
        }
    }

    async fn open_session(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        r: OpenSession,
    ) -> Result<SessionOpened, MetaError> {
        let cert = cx.peer.as_ref().map_or(CertHash::default(), |p| p.cert_hash);
        // The trace id of the call tells a repeat from a second opening.
        let command = Command::SessionOpen {
            cert,
            client: r.client,
            host: r.host,
            version: r.version,
            nonce: cx.trace.get(),
        };
        let Applied::Session(stamp) = self.propose(command, cx.budget).await? else {
            return Err(internal("opening a session answered something else"));
        };
        let mut m = lead.memory.lock();
        m.contacts.insert(stamp.id, self.now());
        m.asserted.insert(stamp.id);
        let lifetime_secs = self.timings.session_lifetime.as_secs().max(1);
        Ok(SessionOpened { stamp, slots: SLOTS_MAX, lifetime_secs, term: lead.term })
    }

    /// A session tells a new leader what it has open. Orphans that name it and that it has not open
    /// are released.
    async fn reassert(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        stamp: SessionStamp,
        r: Reassert,
    ) -> Result<(), MetaError> {
        let view = self.fresh_view(cx.budget).await?;
        {
            let mut m = lead.memory.lock();
            m.contacts.insert(stamp.id, self.now());
            for inode in &r.open {
                if !m.open.contains_key(&(*inode, stamp.id)) {
                    m.opened(*inode, stamp.id, Access(0));
                }
            }
            m.asserted.insert(stamp.id);
        }
        let mut stray = Vec::new();
        scan_recs(&view, Table::Orphan, &[], &[], |k, o: OrphanRec| {
            let inode = InodeId(number(k));
            if o.holders.contains(&stamp.id) && !r.open.contains(&inode) {
                stray.push(inode);
            }
            true
        })
        .map_err(internal)?;
        for inode in stray {
            self.release_orphan(cx, inode, stamp.id).await?;
        }
        Ok(())
    }

    /// Lets go of an unlinked inode, when the session is named as one of its holders.
    pub(super) async fn release_orphan(
        &self,
        cx: &CallContext,
        inode: InodeId,
        session: SessionId,
    ) -> Result<(), MetaError> {
        let orphan: Option<OrphanRec> =
            load(&self.view()?, Table::Orphan, &key(inode.get())).map_err(internal)?;
        if orphan.is_some_and(|o| o.holders.contains(&session)) {
            self.propose(Command::ReleaseOrphan { inode, session }, cx.budget).await?;
        }
        Ok(())
    }
}
