//! Asking the masters: finds the leader, keeps one connection to it, retries with backoff until the
//! deadline, with the same slot stamp, so that a mutation is carried out once.

use crate::error::{Error, Result};
use mooseng_core::{
    context::{CallContext, Credentials},
    error::{MetaError, Outcome},
    ids::*,
    meta::*,
    net::{Connection, Transport},
    rpc::RemoteMeta,
    seam::Seams,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

/// One try's longest wait: a master that hangs is left for another.
const TRY: Duration = Duration::from_secs(4);
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

struct Session {
    stamp: SessionStamp,
    lifetime: Duration,
    term: Term,
}

/// The masters of a cluster, as one session sees them.
pub(crate) struct Masters {
    transport: Arc<dyn Transport>,
    addrs: Vec<String>,
    names: Names,
    seams: Seams,
    deadline: Duration,
    leader: Mutex<Option<(String, Arc<dyn Connection>)>>,
    next: AtomicU64,
    session: tokio::sync::RwLock<Option<Session>>,
    slots: Mutex<Vec<(SlotId, SlotSeq)>>,
    free: Semaphore,
    /// Inodes open, and how often: what a new leader is told.
    open: Mutex<BTreeMap<InodeId, u32>>,
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
            next: AtomicU64::new(0),
            session: Default::default(),
            slots: Mutex::new((0..SLOTS as u16).map(|s| (SlotId(s), SlotSeq(1))).collect()),
            free: Semaphore::new(SLOTS),
            open: Mutex::default(),
            look: Notify::new(),
        }
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    async fn connection(&self) -> std::result::Result<Arc<dyn Connection>, MetaError> {
        if let Some((_, c)) = self.leader.lock().clone().filter(|(_, c)| !c.is_closed()) {
            return Ok(c);
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        let addr = self.addrs[n % self.addrs.len()].clone();
        self.connect(addr).await
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

    fn context(&self, creds: &Credentials, budget: Duration) -> CallContext {
        let mut cx = CallContext::internal(budget);
        cx.creds = creds.clone();
        cx.trace = TraceId(self.seams.rng.next_u64());
        cx
    }

    /// One request until it is answered or the deadline passes.
    async fn ask(&self, cx: &CallContext, req: &MetaRequest, until: Instant) -> Result<MetaReply> {
        let begin = Instant::now();
        let mut backoff = BACKOFF.0;
        let mut hint = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let cx = cx.clone().with_budget(left.min(TRY));
            let tried = async {
                let c = match hint.take() {
                    Some(addr) => self.connect(addr).await?,
                    None => self.connection().await?,
                };
                let reply = RemoteMeta::new(c.clone()).call(&cx, req.clone()).await;
                if let Err(MetaError::Net(_) | MetaError::NotLeader { .. }) = &reply {
                    self.forget(&c);
                }
                reply
            };
            let e = match tokio::time::timeout(left.min(TRY), tried).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(e)) => e,
                Err(_) => {
                    *self.leader.lock() = None;
                    MetaError::Deadline("a master did not answer".into())
                }
            };
            if !e.is_retryable() {
                return Err(e.into());
            }
            // A leader that can only say "no quorum" or nothing may be cut off: ask another.
            if matches!(e, MetaError::NoQuorum(_) | MetaError::Deadline(_)) {
                *self.leader.lock() = None;
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
                return Err(Error::Masters { tried: self.addrs.join(", "), millis, last: e });
            }
            let jitter = pause.mul_f64((self.seams.rng.next_u64() % 1000) as f64 / 2000.0);
            tokio::time::sleep(pause / 2 + jitter).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// Opens a session when there is none; returns its stamp.
    async fn stamp(&self, until: Instant) -> Result<SessionStamp> {
        if let Some(s) = &*self.session.read().await {
            return Ok(s.stamp);
        }
        let mut session = self.session.write().await;
        if let Some(s) = &*session {
            return Ok(s.stamp);
        }
        let cx = self.context(&Credentials::root(), TRY);
        let (client, host) = (self.names.client.clone(), self.names.host.clone());
        let open = OpenSession { client, host, version: env!("CARGO_PKG_VERSION").into() };
        let reply = self.ask(&cx, &open.into(), until).await?;
        let opened =
            OpenSession::from_reply(reply).map_err(|_| Error::Invalid("a wrong reply came".into()))?;
        let lifetime = Duration::from_secs(opened.lifetime_secs);
        *session = Some(Session { stamp: opened.stamp, lifetime, term: opened.term });
        drop(session);
        let inodes: Vec<_> = self.open.lock().keys().copied().collect();
        if !inodes.is_empty() {
            let mut cx = self.context(&Credentials::root(), TRY);
            cx.session = Some(opened.stamp);
            self.ask(&cx, &Reassert { open: inodes }.into(), until).await?;
        }
        Ok(opened.stamp)
    }

    /// Opens the session.
    pub(crate) async fn begin(&self) -> Result<()> {
        self.stamp(Instant::now() + self.deadline).await.map(drop)
    }

    async fn session_ended(&self, stamp: SessionStamp) {
        let mut s = self.session.write().await;
        if s.as_ref().is_some_and(|s| s.stamp == stamp) {
            tracing::warn!(session = %stamp.id, "the session has ended; opening another");
            *s = None;
        }
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
        let until = Instant::now() + within;
        let req: MetaRequest = op.into();
        let reply = if O::KIND == OpKind::FsWrite {
            self.mutate(creds, &req, until).await?
        } else {
            self.under_session(creds, &req, None, until).await?
        };
        O::from_reply(reply)
            .map_err(|r| MetaError::WrongReply { asked: O::NAME.into(), got: r.name().into() }.into())
    }

    /// The same, with the session it went under: what a capability in the reply is bound to.
    pub(crate) async fn call_stamped<O: MetaOp>(
        &self,
        creds: &Credentials,
        op: O,
        within: Duration,
    ) -> Result<(O::Reply, SessionStamp)> {
        let reply = self.call_within(creds, op, within).await?;
        Ok((reply, self.stamp(Instant::now() + within).await?))
    }

    async fn mutate(&self, creds: &Credentials, req: &MetaRequest, until: Instant) -> Result<MetaReply> {
        let _free = tokio::time::timeout_at(until, self.free.acquire())
            .await
            .map_err(|_| MetaError::Deadline("all slots of the session are busy".into()))?
            .map_err(|_| Error::Closed)?;
        let taken = self.slots.lock().pop();
        let (slot, seq) = taken.ok_or_else(|| Error::Invalid("no free slot".into()))?;
        // The number counts up whatever happens, also when this future is dropped: a number is
        // never used for two requests.
        let _back = Back { masters: self, slot, seq: seq.next() };
        self.under_session(creds, req, Some(SlotStamp { slot, seq }), until).await
    }

    async fn under_session(
        &self,
        creds: &Credentials,
        req: &MetaRequest,
        slot: Option<SlotStamp>,
        until: Instant,
    ) -> Result<MetaReply> {
        let mut again = true;
        loop {
            let stamp = self.stamp(until).await?;
            let mut cx = self.context(creds, TRY);
            cx.session = Some(stamp);
            cx.slot = slot;
            match self.ask(&cx, req, until).await {
                Err(Error::Meta(e @ (MetaError::SessionEnded | MetaError::Fenced { .. }))) => {
                    self.session_ended(stamp).await;
                    // A refusal by the session check means that this try did nothing; an earlier try
                    // of the same mutation may have, and its saved answer is gone.
                    if !again || (slot.is_some() && e.outcome() == Outcome::Unknown && !self.read_only(req)) {
                        return Err(e.into());
                    }
                    again = false;
                }
                other => return other,
            }
        }
    }

    fn read_only(&self, req: &MetaRequest) -> bool {
        req.kind() != OpKind::FsWrite
    }

    /// Notes an open, for a new leader.
    pub(crate) fn note_open(&self, inode: InodeId) {
        *self.open.lock().entry(inode).or_default() += 1;
    }

    /// Notes the end of an open and tells the leader.
    pub(crate) async fn release(&self, inode: InodeId) -> Result<()> {
        {
            let mut open = self.open.lock();
            if let Some(n) = open.get_mut(&inode) {
                *n -= 1;
                if *n == 0 {
                    open.remove(&inode);
                }
            }
        }
        self.call(&Credentials::root(), Release { inode }).await
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
        let known = self.session.read().await.as_ref().map(|s| s.term);
        if known != Some(kept.term) {
            let open = self.open.lock().keys().copied().collect();
            self.call_within(&root, Reassert { open }, TRY * 2).await?;
            if let Some(s) = &mut *self.session.write().await {
                s.term = kept.term;
            }
        }
        Ok(())
    }

    /// Ends the session.
    pub(crate) async fn close(&self, within: Duration) -> Result<()> {
        if self.session.read().await.is_none() {
            return Ok(());
        }
        self.call_within(&Credentials::root(), CloseSession {}, within).await?;
        *self.session.write().await = None;
        Ok(())
    }
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
