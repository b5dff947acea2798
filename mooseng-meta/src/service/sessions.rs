//! Sessions: opening, keeping, re-asserting, releasing, ending.

use super::{Inner, Lead, internal, lead::less};
use crate::{state::check_session, store::*};
use futures::future::join_all;
use mooseng_core::{
    chunk::Control,
    context::CallContext,
    error::MetaError,
    ids::*,
    limits::{PEER_SESSIONS_MAX, SLOTS_MAX},
    meta::*,
    net::CertHash,
    planted::{self, Bug},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Fences told to chunkservers in one round.
const FENCES_MAX: usize = 1024;
/// Holders that have let go, released in one round.
const STRAYS_MAX: usize = 64;
const COMMIT: Duration = Duration::from_secs(10);

/// Marks a session as being ended until it is dropped.
struct Ending<'a>(&'a Lead, SessionId);

impl<'a> Ending<'a> {
    fn begin(lead: &'a Lead, session: SessionId) -> Option<Self> {
        lead.memory.lock().ending.insert(session).then_some(Self(lead, session))
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.memory.lock().ending.remove(&self.1);
    }
}

/// Counts a session of a certificate as being opened until it is dropped.
struct Opening<'a>(&'a Lead, CertHash);

impl<'a> Opening<'a> {
    fn begin(lead: &'a Lead, cert: CertHash) -> Self {
        *lead.memory.lock().opening.entry(cert).or_default() += 1;
        Self(lead, cert)
    }

    fn count(&self) -> usize {
        self.0.memory.lock().opening.get(&self.1).copied().unwrap_or_default()
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        less(&mut self.0.memory.lock().opening, self.1);
    }
}

impl Inner {
    /// The session of a call, when it exists, its epoch is in force and the certificate is its own.
    pub(super) fn checked_session(
        &self,
        view: &RedbView,
        cx: &CallContext,
    ) -> Result<(SessionStamp, CertHash), MetaError> {
        let stamp = cx.session.ok_or_else(|| MetaError::Invalid("open a session first".into()))?;
        let rec = check_session(view, stamp).map_err(internal)??;
        // Between its fence and its end a session gets nothing under the new epoch.
        if self.lead.read().as_ref().is_some_and(|l| l.memory.lock().ending.contains(&stamp.id)) {
            return Err(MetaError::Busy("the session is being ended".into()));
        }
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
                self.end_session(lead, stamp, cx.budget).await?;
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
        let _opening = self.begin_session(lead, cx, cert)?;
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

    /// Counts a session that is being opened. Errors: its certificate has as many as it may. A repeat finds
    /// the session that there is.
    fn begin_session<'a>(
        &self,
        lead: &'a Lead,
        cx: &CallContext,
        cert: CertHash,
    ) -> Result<Opening<'a>, MetaError> {
        let opening = Opening::begin(lead, cert);
        let (mut there, mut is_repeat) = (0, false);
        // Behind the count: one that is opened meanwhile is counted twice, never left out.
        scan_recs(&self.view()?, Table::Session, &[], &[], |_, s: SessionRec| {
            let its = s.cert == cert;
            there += usize::from(its);
            is_repeat |= its && s.nonce == cx.trace.get();
            true
        })
        .map_err(internal)?;
        // Who has no certificate is in this process.
        if cx.peer.is_some() && !is_repeat && there + opening.count() > PEER_SESSIONS_MAX {
            return Err(MetaError::Limit {
                what: "sessions of one certificate".into(),
                limit: PEER_SESSIONS_MAX as u64,
                cure: "close some of them, or give the programs certificates of their own (mooseng cluster issue)".into(),
            });
        }
        Ok(opening)
    }

    /// Ends a session (PROTOCOL §1): its epoch is over, the chunkservers are told, then what it held
    /// is let go. Who did not answer is told later, and heads nothing for others until then.
    pub(super) async fn end_session(
        &self,
        lead: &Lead,
        session: SessionStamp,
        budget: Duration,
    ) -> Result<(), MetaError> {
        let Some(_ending) = Ending::begin(lead, session.id) else {
            return Err(MetaError::Busy("the session is being ended".into()));
        };
        if self.propose(Command::Fence { session }, budget).await? != Applied::Done(true) {
            return Ok(());
        }
        let fenced = SessionStamp { id: session.id, epoch: session.epoch.next() };
        let (view, mut servers) = (self.view()?, Vec::new());
        view.scan(Table::Server, &[], &[], &mut |k, _| {
            servers.push(ServerId(number(k)));
            true
        })
        .map_err(internal)?;
        drop(view);
        let tell =
            |server: ServerId| async move { (!self.fence_at(lead, server, fenced).await).then_some(server) };
        let unfenced = join_all(servers.into_iter().map(tell)).await.into_iter().flatten().collect();
        let unfenced = if planted::is(Bug::FenceNotAwaited) { vec![] } else { unfenced };
        self.propose(Command::SessionEnd { session: fenced, unfenced }, budget).await?;
        lead.memory.lock().forget(session.id);
        Ok(())
    }

    /// Tells one chunkserver of a fence; whether it is in force there. One that is known to be dead
    /// is not waited for.
    async fn fence_at(&self, lead: &Lead, server: ServerId, session: SessionStamp) -> bool {
        if lead.memory.lock().is_dead(server, self.now(), self.timings.server_dead) {
            return false;
        }
        let op = Control::Fence { session, term: lead.term };
        self.command(server, op, self.timings.control).await.is_ok()
    }

    /// Tells chunkservers of fences that they have not acknowledged yet.
    pub(super) async fn fence_the_rest(&self, lead: &Lead) -> Result<(), MetaError> {
        let mut owed = Vec::new();
        let (view, now) = (self.view()?, self.now());
        scan_recs(&view, Table::Unfenced, &[], &[], |k, epoch: SessionEpoch| {
            let (server, id) = (ServerId(number(k)), SessionId(second(k)));
            if lead.memory.lock().is_alive(server, now, self.timings.server_dead) {
                owed.push((server, SessionStamp { id, epoch }));
            }
            owed.len() < FENCES_MAX
        })
        .map_err(internal)?;
        drop(view);
        let tell = |(server, session): (ServerId, SessionStamp)| async move {
            self.fence_at(lead, server, session).await.then_some((session.id, server))
        };
        let done: Vec<_> = join_all(owed.into_iter().map(tell)).await.into_iter().flatten().collect();
        if !done.is_empty() {
            self.propose(Command::FenceDone { done }, COMMIT).await?;
            lead.bumped.notify_waiters();
        }
        Ok(())
    }

    /// Whether a chunkserver may still carry out writes of a session that has ended.
    pub(super) fn owes_a_fence(&self, view: &RedbView, server: ServerId) -> Result<bool, MetaError> {
        let (from, to) = range_of(server.get());
        let mut owes = false;
        view.scan(Table::Unfenced, &from, &to, &mut |_, _| {
            owes = true;
            false
        })
        .map_err(internal)?;
        Ok(owes)
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
            m.may_open(stamp.id, r.opens.iter().map(|(inode, _)| Some(*inode)))?;
            m.contacts.insert(stamp.id, self.now());
            for (inode, access) in &r.opens {
                m.opened(*inode, stamp.id, *access);
            }
            m.asserted.insert(stamp.id);
        }
        let mut stray = Vec::new();
        scan_recs(&view, Table::Orphan, &[], &[], |k, o: OrphanRec| {
            let inode = InodeId(number(k));
            if o.holders.contains(&stamp.id) && !lead.memory.lock().open.contains_key(&(inode, stamp.id)) {
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

    /// Releases unlinked inodes from holders that have let go. Who holds an inode is decided before its
    /// removal passes the log: a release, an assertion or a session's end that comes between finds no
    /// orphan yet, and nobody would speak of it again.
    pub(super) async fn release_strays(&self, lead: &Lead) -> Result<(), MetaError> {
        let view = self.view()?;
        let living: BTreeSet<_> = self.all_sessions(&view)?.into_iter().collect();
        let mut stray = Vec::new();
        scan_recs(&view, Table::Orphan, &[], &[], |k, o: OrphanRec| {
            let inode = InodeId(number(k));
            let m = lead.memory.lock();
            let let_go = |s: &&SessionId| {
                !living.contains(*s) || (m.asserted.contains(*s) && !m.open.contains_key(&(inode, **s)))
            };
            if !m.removing.contains_key(&inode) {
                stray.extend(o.holders.iter().filter(let_go).map(|s| (inode, *s)));
            }
            stray.len() < STRAYS_MAX
        })
        .map_err(internal)?;
        drop(view);
        for (inode, session) in stray {
            self.propose(Command::ReleaseOrphan { inode, session }, COMMIT).await?;
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
