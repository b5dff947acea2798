//! Asking the masters: finds the leader, keeps one connection to it, retries with backoff until the
//! deadline, with the same slot stamp, so that a mutation is carried out once.

use crate::error::{Error, Result};
use futures::{
    FutureExt as _,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt as _},
};
use mooseng_core::{
    attr::Access,
    context::{CallContext, Credentials},
    error::{MetaError, NetError, Outcome},
    ids::*,
    meta::*,
    net::{Connection, Transport},
    rpc::RemoteMeta,
    seam::Seams,
    trace,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

/// One try's longest wait: a master that hangs is left for another.
const TRY: Duration = Duration::from_secs(4);
/// A try that has waited for this long is no reason to doubt the master, but one to look whether
/// another leads: it costs two small calls, and a killed leader would be waited for till the try's end.
const LOOK_AFTER: Duration = Duration::from_millis(400);
/// Between two looks, and the longest wait for one.
const LOOK_EACH: Duration = Duration::from_millis(100);
const LOOK_TRY: Duration = Duration::from_secs(1);
/// First and longest wait between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Mutations in flight.
const SLOTS: usize = 64;

/// What a client calls itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub client: String,
    pub host: String,
}

#[derive(Clone, Copy)]
struct Session {
    stamp: SessionStamp,
    lifetime: Duration,
    term: Term,
}

/// Time for which a full cluster is asked again: space may come back, or its servers. With what comes
/// before and after, whoever writes hears ENOSPC within 5 s.
pub(crate) const NO_SPACE: Duration = Duration::from_millis(2500);
/// Longest wait of a re-assertion for opens and releases under way.
const QUIET: Duration = Duration::from_secs(2);
/// New sessions for one request.
const SESSIONS_MAX: u32 = 4;

/// A request that failed, and whether an earlier try of it may have been carried out.
struct Failed {
    error: Error,
    maybe_applied: bool,
}

/// The masters of a cluster, as one session sees them.
pub(crate) struct Masters {
    transport: Arc<dyn Transport>,
    addrs: Vec<String>,
    names: Names,
    seams: Seams,
    deadline: Duration,
    leader: Mutex<Option<(String, Arc<dyn Connection>)>>,
    /// One call looks for another leader on behalf of all that wait.
    looking: tokio::sync::Mutex<()>,
    next: AtomicU64,
    session: tokio::sync::RwLock<Option<Session>>,
    /// A session that is open and has not been told yet what this client has open.
    fresh: Mutex<Option<Session>>,
    slots: Mutex<Vec<(SlotId, SlotSeq)>>,
    free: Semaphore,
    /// Inodes open, with which rights: what a new leader is told.
    open: Mutex<BTreeMap<InodeId, Access>>,
    /// Held for reading by opens and releases under way, for writing while a new leader is told.
    settling: tokio::sync::RwLock<()>,
    /// The client was shut down: no session is opened any more.
    closed: AtomicBool,
    /// The keeper of the session is to look at once.
    pub(crate) look: Notify,
}

impl Masters {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        addrs: Vec<String>,
        names: Names,
        seams: Seams,
        deadline: Duration,
    ) -> Self {
        Self {
            transport,
            addrs,
            names,
            seams,
            deadline,
            leader: Mutex::default(),
            looking: Default::default(),
            next: AtomicU64::new(0),
            session: Default::default(),
            fresh: Mutex::default(),
            settling: Default::default(),
            slots: Mutex::new((0..SLOTS as u16).map(|s| (SlotId(s), SlotSeq(1))).collect()),
            free: Semaphore::new(SLOTS),
            open: Mutex::default(),
            closed: AtomicBool::new(false),
            look: Notify::new(),
        }
    }

    /// How the masters are reached, and where.
    pub(crate) fn reach(&self) -> (Arc<dyn Transport>, Vec<String>) {
        (self.transport.clone(), self.addrs.clone())
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whom to ask: the leader that is known, or the next in turn.
    fn target(&self) -> (String, Option<Arc<dyn Connection>>) {
        if let Some((addr, c)) = self.leader.lock().clone().filter(|(_, c)| !c.is_closed()) {
            return (addr, Some(c));
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        (self.addrs[n % self.addrs.len()].clone(), None)
    }

    async fn connect(&self, addr: String) -> std::result::Result<Arc<dyn Connection>, MetaError> {
        let c = self.transport.connect(&addr).await?;
        *self.leader.lock() = Some((addr, c.clone()));
        self.look.notify_one();
        Ok(c)
    }

    fn forget(&self, c: &Arc<dyn Connection>) {
        let mut leader = self.leader.lock();
        if leader.as_ref().is_some_and(|(_, l)| Arc::ptr_eq(l, c)) {
            *leader = None;
        }
    }

    /// As [`Masters::forget`], by its address.
    fn leave(&self, addr: &str) {
        self.leader.lock().take_if(|(at, _)| at == addr);
    }

    /// Ends when another master than `asked` is known to lead, which is the one to ask then.
    async fn elsewhere(&self, asked: &str) {
        tokio::time::sleep(LOOK_AFTER).await;
        let others = self.addrs.iter().filter(|a| *a != asked);
        let mut others: Vec<_> = others.map(|a| (a, None)).collect();
        loop {
            let looking = self.looking.lock().await;
            if self.leader.lock().as_ref().is_some_and(|(at, c)| at != asked && !c.is_closed()) {
                return;
            }
            let mut looks: FuturesUnordered<_> =
                others.iter_mut().map(|(addr, known)| self.leads(addr, known)).collect();
            while let Some(found) = looks.next().await {
                if let Some(found) = found {
                    *self.leader.lock() = Some(found);
                    self.look.notify_one();
                    return;
                }
            }
            drop(looks);
            drop(looking);
            tokio::time::sleep(LOOK_EACH).await;
        }
    }

    /// A master that leads says so by any answer but those of one that does not.
    async fn leads(
        &self,
        addr: &str,
        known: &mut Option<Arc<dyn Connection>>,
    ) -> Option<(String, Arc<dyn Connection>)> {
        let look = async {
            let c = match known.take().filter(|c| !c.is_closed()) {
                Some(c) => c,
                None => self.transport.connect(addr).await.ok()?,
            };
            *known = Some(c.clone());
            let cx = self.context(&Credentials::root(), LOOK_TRY);
            match RemoteMeta::new(c.clone()).call(&cx, StatFs {}.into()).await {
                Err(
                    MetaError::Net(_)
                    | MetaError::NotLeader { .. }
                    | MetaError::NoQuorum(_)
                    | MetaError::Busy(_)
                    | MetaError::Deadline(_),
                ) => None,
                _ => Some((addr.to_owned(), c)),
            }
        };
        tokio::time::timeout(LOOK_TRY, look).await.ok().flatten()
    }

    fn context(&self, creds: &Credentials, budget: Duration) -> CallContext {
        let (mut cx, here) = (self.fresh_context(creds, budget), trace::here());
        if here.is_known() {
            cx.trace = here.trace;
        }
        cx
    }

    /// A context in a trace of its own.
    fn fresh_context(&self, creds: &Credentials, budget: Duration) -> CallContext {
        let mut cx = CallContext::internal(budget);
        cx.creds = creds.clone();
        cx.trace = TraceId::passing(self.seams.rng.next_u64());
        cx
    }

    /// One request until it is answered or the deadline passes.
    async fn ask(
        &self,
        cx: &CallContext,
        req: &MetaRequest,
        until: Instant,
    ) -> std::result::Result<MetaReply, Failed> {
        let begin = Instant::now();
        let mut maybe_applied = false;
        let mut backoff = BACKOFF.0;
        let mut hint = None;
        let mut longest = TRY;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let cx = cx.clone().with_budget(left.min(longest));
            let (asked, known) = hint.take().map_or_else(|| self.target(), |addr| (addr, None));
            let tried = async {
                let c = match known {
                    Some(c) => c,
                    None => self.connect(asked.clone()).await?,
                };
                let reply = RemoteMeta::new(c.clone()).call(&cx, req.clone()).await;
                if let Err(MetaError::Net(_) | MetaError::NotLeader { .. }) = &reply {
                    self.forget(&c);
                }
                reply
            };
            let tried = tokio::time::timeout(left.min(longest), tried);
            let (e, is_cut) = tokio::select! {
                biased;
                done = tried => match done {
                    Ok(Ok(reply)) => return Ok(reply),
                    // The transport's clock of the same time.
                    Ok(Err(e @ MetaError::Net(NetError::Deadline { .. }))) => (e, true),
                    Ok(Err(e)) => (e, false),
                    Err(_) => (MetaError::Deadline("a master did not answer".into()), true),
                },
                () = self.elsewhere(&asked) => (MetaError::Deadline("another master leads".into()), false),
            };
            let full = matches!(e, MetaError::NoServers { .. }) && begin.elapsed() >= NO_SPACE;
            if !e.is_retryable() || full {
                return Err(Failed { error: e.into(), maybe_applied });
            }
            maybe_applied |= e.outcome() != Outcome::NotApplied;
            // A look may go through all chunks, and never ends where it is cut at the same time again and again.
            if is_cut && req.kind() == OpKind::Look {
                longest = longest.saturating_mul(2);
            }
            // A leader that can only say "no quorum" or nothing may be cut off: ask another.
            if matches!(e, MetaError::NoQuorum(_) | MetaError::Deadline(_)) {
                self.leave(&asked);
            }
            let pause = match &e {
                MetaError::NotLeader { leader: Some((_, addr)) } => {
                    hint = Some(addr.clone());
                    BACKOFF.0
                }
                _ => backoff,
            };
            if Instant::now() + pause >= until {
                let millis = begin.elapsed().as_millis() as u64;
                let error = Error::Masters { tried: self.addrs.join(", "), millis, last: e };
                return Err(Failed { error, maybe_applied });
            }
            let jitter = pause.mul_f64((self.seams.rng.next_u64() % 1000) as f64 / 2000.0);
            tokio::time::sleep(pause / 2 + jitter).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Opens a session when there is none; returns its stamp. A session is used once it was told
    /// what this client has open.
    async fn stamp(&self, until: Instant) -> Result<SessionStamp> {
        if let Some(s) = &*self.session.read().await {
            return Ok(s.stamp);
        }
        let mut session = self.session.write().await;
        if let Some(s) = &*session {
            return Ok(s.stamp);
        }
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        loop {
            let known = *self.fresh.lock();
            let fresh = match known {
                Some(fresh) => fresh,
                None => self.open_session(until).await?,
            };
            *self.fresh.lock() = Some(fresh);
            // Whoever opens a session knows that it has nothing open.
            let nothing = self.open.lock().is_empty();
            let told = if nothing { Ok(()) } else { self.reassert(fresh.stamp, until).await };
            match told {
                Ok(()) => {}
                Err(Error::Meta(MetaError::SessionEnded)) if Instant::now() < until => {
                    *self.fresh.lock() = None;
                    tokio::time::sleep(BACKOFF.1).await;
                    continue;
                }
                Err(Error::Meta(MetaError::Fenced { epoch })) if Instant::now() < until => {
                    *self.fresh.lock() = Some(at_epoch(fresh, epoch));
                    continue;
                }
                Err(e) => return Err(e),
            }
            *self.fresh.lock() = None;
            *session = Some(fresh);
            return Ok(fresh.stamp);
        }
    }

    async fn open_session(&self, until: Instant) -> Result<Session> {
        // The trace tells a repeat from another opening: it is this one's alone.
        let cx = self.fresh_context(&Credentials::root(), TRY);
        let (client, host) = (self.names.client.clone(), self.names.host.clone());
        let open = OpenSession { client, host, version: env!("CARGO_PKG_VERSION").into() };
        let request = open.into();
        let asked = trace::step("a session is opened", self.ask(&cx, &request, until));
        let reply = asked.await.map_err(|f| f.error)?;
        let opened =
            OpenSession::from_reply(reply).map_err(|_| Error::Invalid("a wrong reply came".into()))?;
        let lifetime = Duration::from_secs(opened.lifetime_secs);
        Ok(Session { stamp: opened.stamp, lifetime, term: opened.term })
    }

    /// Tells the leader what this client has open. A new leader is told of nothing too: until it has
    /// heard of a session it counts it as a holder of whatever is unlinked, which then stays.
    async fn reassert(&self, stamp: SessionStamp, until: Instant) -> Result<()> {
        let opens: Vec<_> = self.open.lock().iter().map(|(i, a)| (*i, *a)).collect();
        let mut cx = self.context(&Credentials::root(), TRY);
        cx.session = Some(stamp);
        self.ask(&cx, &Reassert { opens }.into(), until).await.map(drop).map_err(|f| f.error)
    }

    /// The session that is used now, when there is one.
    pub(crate) fn session_now(&self) -> Option<SessionStamp> {
        self.session.try_read().ok()?.as_ref().map(|s| s.stamp)
    }

    /// The session that the next request goes under; opens one when there is none.
    pub(crate) async fn session(&self) -> Result<SessionStamp> {
        self.stamp(Instant::now() + self.deadline).await
    }

    /// Opens the session.
    pub(crate) async fn begin(&self) -> Result<()> {
        self.stamp(Instant::now() + self.deadline).await.map(drop)
    }

    /// A session is not to be used any more: it has ended, or goes on at a later epoch.
    async fn session_ended(&self, stamp: SessionStamp, e: &MetaError) {
        let mut s = self.session.write().await;
        let Some(old) = s.filter(|s| s.stamp == stamp) else { return };
        *s = None;
        *self.fresh.lock() = match e {
            MetaError::Fenced { epoch } if *epoch > stamp.epoch.get() => {
                tracing::warn!(session = %stamp.id, epoch, "the session was fenced; going on at its new epoch");
                Some(at_epoch(old, *epoch))
            }
            _ => {
                tracing::warn!(session = %stamp.id, "the session has ended; opening another");
                None
            }
        };
    }

    /// One typed operation as `creds`.
    pub(crate) async fn call<O: MetaOp + Clone>(&self, creds: &Credentials, op: O) -> Result<O::Reply> {
        self.call_within(creds, op, self.deadline).await
    }

    /// The same with another time limit.
    pub(crate) async fn call_within<O: MetaOp>(
        &self,
        creds: &Credentials,
        op: O,
        within: Duration,
    ) -> Result<O::Reply> {
        self.call_stamped(creds, op, within).await.map(|(reply, _)| reply)
    }

    /// The same, with the session it went under: what a capability in the reply is bound to.
    pub(crate) async fn call_stamped<O: MetaOp>(
        &self,
        creds: &Credentials,
        op: O,
        within: Duration,
    ) -> Result<(O::Reply, SessionStamp)> {
        let until = Instant::now() + within;
        let req: MetaRequest = op.into();
        let (reply, stamp) = if O::KIND == OpKind::FsWrite {
            self.mutate(creds, &req, None, until).await?
        } else {
            self.under_session(creds, &req, (None, None), until).await?
        };
        let reply = O::from_reply(reply)
            .map_err(|r| MetaError::WrongReply { asked: O::NAME.into(), got: r.name().into() })?;
        Ok((reply, stamp))
    }

    /// A mutation that is carried out under this session or not at all. Errors:
    /// [`MetaError::SessionEnded`], [`MetaError::Fenced`] when it is over.
    pub(crate) async fn call_under<O: MetaOp>(
        &self,
        creds: &Credentials,
        op: O,
        session: SessionStamp,
    ) -> Result<O::Reply> {
        let until = Instant::now() + self.deadline;
        let (reply, _) = self.mutate(creds, &op.into(), Some(session), until).await?;
        O::from_reply(reply)
            .map_err(|r| MetaError::WrongReply { asked: O::NAME.into(), got: r.name().into() }.into())
    }

    fn mutate<'a>(
        &'a self,
        creds: &'a Credentials,
        req: &'a MetaRequest,
        only: Option<SessionStamp>,
        until: Instant,
    ) -> BoxFuture<'a, Result<(MetaReply, SessionStamp)>> {
        let work = async move {
            let _free = tokio::time::timeout_at(until, self.free.acquire())
                .await
                .map_err(|_| MetaError::Busy("all slots of the session are busy".into()))?
                .map_err(|_| Error::Closed)?;
            let taken = self.slots.lock().pop();
            let (slot, seq) = taken.ok_or_else(|| Error::Invalid("no free slot".into()))?;
            // The number counts up whatever happens, also when this future is dropped: a number is
            // never used for two requests.
            let _back = Back { masters: self, slot, seq: seq.next() };
            self.under_session(creds, req, (Some(SlotStamp { slot, seq }), only), until).await
        };
        work.boxed()
    }

    /// Asks under the session, and again under the next when it ended before the request was carried
    /// out. A fence leaves a session its saved replies, so that the same stamp may be repeated; with
    /// an ended session they are gone, and what may have been carried out is told as unknown. With `only`
    /// it goes under no other session.
    fn under_session<'a>(
        &'a self,
        creds: &'a Credentials,
        req: &'a MetaRequest,
        (slot, only): (Option<SlotStamp>, Option<SessionStamp>),
        until: Instant,
    ) -> BoxFuture<'a, Result<(MetaReply, SessionStamp)>> {
        let work = async move {
            let mut maybe_applied = false;
            for _ in 0..SESSIONS_MAX {
                let stamp = self.stamp(until).await?;
                if only.is_some_and(|only| only != stamp) {
                    return Err(MetaError::SessionEnded.into());
                }
                let mut cx = self.context(creds, TRY);
                cx.session = Some(stamp);
                cx.slot = slot;
                let failed = match self.ask(&cx, req, until).await {
                    Ok(reply) => return Ok((reply, stamp)),
                    Err(failed) => failed,
                };
                maybe_applied |= failed.maybe_applied;
                let Error::Meta(last @ (MetaError::SessionEnded | MetaError::Fenced { .. })) = failed.error
                else {
                    return Err(failed.error);
                };
                self.session_ended(stamp, &last).await;
                let lost = last == MetaError::SessionEnded && slot.is_some() && maybe_applied;
                if lost && !is_repeatable(req) {
                    return Err(Error::Unknown { request: req.name().into(), last });
                }
            }
            Err(MetaError::Busy("the session ended again and again".into()).into())
        };
        work.boxed()
    }

    /// Notes what is open with which rights, for a new leader.
    pub(crate) fn note_open(&self, inode: InodeId, access: Access) {
        let mut open = self.open.lock();
        let known = open.entry(inode).or_insert(Access(0));
        *known = known.and(access);
    }

    /// Notes that an inode is not open any more.
    pub(crate) fn note_closed(&self, inode: InodeId) {
        self.open.lock().remove(&inode);
    }

    /// Held while opens and releases are under way: a new leader is told of all or none of each.
    pub(crate) async fn settling(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.settling.read().await
    }

    /// Keeps the session alive and tells a new leader what is open. Ends when it is dropped.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            let lifetime = self.session.read().await.as_ref().map(|s| s.lifetime);
            let pause = lifetime.unwrap_or(Duration::from_secs(6)) / 6;
            let _ = tokio::time::timeout(pause, self.look.notified()).await;
            if lifetime.is_none() {
                continue;
            }
            if let Err(e) = self.keep_once().await {
                tracing::warn!(error = %e, "the session could not be kept alive, trying again");
            }
        }
    }

    async fn keep_once(&self) -> Result<()> {
        let root = Credentials::root();
        let kept = self.call_within(&root, KeepAlive {}, TRY * 2).await?;
        let Some(known) = *self.session.read().await else { return Ok(()) };
        if known.term != kept.term {
            // Opens that take long are told of again when they are done.
            let quiet = tokio::time::timeout(QUIET, self.settling.write()).await;
            self.reassert(known.stamp, Instant::now() + TRY * 2).await?;
            drop(quiet);
            if let Some(s) = self.session.write().await.as_mut().filter(|s| s.stamp == known.stamp) {
                s.term = kept.term;
            }
        }
        Ok(())
    }

    /// Ends the session.
    pub(crate) async fn close(&self, within: Duration) -> Result<()> {
        self.closed.store(true, Ordering::Relaxed);
        if self.session.read().await.is_none() {
            return Ok(());
        }
        let closed = self.call_within(&Credentials::root(), CloseSession {}, within).await;
        *self.session.write().await = None;
        match closed {
            // It had ended by itself.
            Err(Error::Closed) => Ok(()),
            other => other,
        }
    }
}

/// Whether a mutation that was carried out may be carried out again: chunks that are there stay, and
/// a size is raised to what it is already, unless the file was cut meanwhile, which is refused.
fn is_repeatable(req: &MetaRequest) -> bool {
    matches!(req, MetaRequest::Allocate(_) | MetaRequest::CommitWrite(_))
}

fn at_epoch(session: Session, epoch: u64) -> Session {
    Session { stamp: SessionStamp { epoch: SessionEpoch(epoch), ..session.stamp }, ..session }
}

/// Gives a slot back when it is dropped.
struct Back<'a> {
    masters: &'a Masters,
    slot: SlotId,
    seq: SlotSeq,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.masters.slots.lock().push((self.slot, self.seq));
    }
}
