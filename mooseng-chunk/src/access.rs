//! Who may do what: capabilities, fences, terms.

use mooseng_core::{
    attr::Timestamp,
    capability::{Capability, Claims, KeyId, KeyRing, Rights},
    context::CallContext,
    error::ChunkError,
    ids::*,
    meta::ServerOrders,
    net::{CertHash, Role},
    seam::Clock,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Wait for new orders when a capability's key is not known.
const ORDERS: Duration = Duration::from_secs(1);
/// Capabilities whose signature was verified and is remembered.
const VERIFIED_MAX: usize = 4096;

#[derive(Default)]
struct Rules {
    /// Whether the masters' orders have come since the start.
    ordered: bool,
    term: Term,
    keys: KeyRing,
    key_ids: BTreeSet<KeyId>,
    /// Sessions that live, by the last orders, and the first that was opened after them.
    living: BTreeMap<SessionId, SessionEpoch>,
    next_session: SessionId,
    /// Fences told since.
    fences: BTreeMap<SessionId, SessionEpoch>,
    verified: BTreeMap<(CertHash, u32, bytes::Bytes), Arc<Claims>>,
}

pub(crate) struct Access {
    clock: Arc<dyn Clock>,
    rules: Mutex<Rules>,
    /// Asks the masters again.
    pub refresh: tokio::sync::Notify,
    /// New orders came.
    pub refreshed: tokio::sync::Notify,
}

impl Access {
    pub fn new(clock: Arc<dyn Clock>, term: Term) -> Self {
        let rules = Mutex::new(Rules { term, ..Rules::default() });
        Self { clock, rules, refresh: Default::default(), refreshed: Default::default() }
    }

    /// The time of day by which rights expire here.
    pub fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    /// Takes the masters' orders.
    pub fn obey(&self, orders: ServerOrders) {
        {
            let mut r = self.rules.lock();
            r.ordered = true;
            r.term = r.term.max(orders.term);
            r.key_ids = orders.keys.iter().map(|k| k.id).collect();
            r.keys = KeyRing::new(orders.keys);
            // A verified capability is good as long as its key.
            let Rules { verified, key_ids, .. } = &mut *r;
            verified.retain(|_, claims| key_ids.contains(&claims.key));
            r.living = orders.sessions.into_iter().map(|s| (s.id, s.epoch)).collect();
            r.next_session = orders.next_session;
            // What the orders say by leaving it out need not be remembered besides.
            let Rules { fences, living, next_session, .. } = &mut *r;
            fences.retain(|id, _| id >= next_session || living.contains_key(id));
        }
        self.refreshed.notify_waiters();
    }

    pub fn fence(&self, session: SessionStamp) {
        let mut r = self.rules.lock();
        let epoch = r.fences.entry(session.id).or_default();
        *epoch = (*epoch).max(session.epoch);
    }

    pub fn not_fenced(&self, session: SessionStamp) -> Result<(), ChunkError> {
        let r = self.rules.lock();
        let told = r.fences.get(&session.id).is_some_and(|epoch| session.epoch < *epoch);
        let ended = session.id < r.next_session
            && r.living.get(&session.id).is_none_or(|in_force| session.epoch < *in_force);
        if told || ended { Err(ChunkError::Fenced) } else { Ok(()) }
    }

    /// Whether a session has ended for good.
    pub fn is_over(&self, session: SessionId) -> bool {
        let r = self.rules.lock();
        session < r.next_session && !r.living.contains_key(&session)
    }

    /// Writes wait for the first orders: sessions may have ended while the server was down.
    pub fn may_write(&self) -> Result<(), ChunkError> {
        match self.rules.lock().ordered {
            true => Ok(()),
            false => Err(ChunkError::Busy("starting: the masters' fences are not known yet".into())),
        }
    }

    pub fn term_is_not_old(&self, got: Term) -> Result<(), ChunkError> {
        let mut r = self.rules.lock();
        if got < r.term {
            return Err(ChunkError::OldTerm { got, seen: r.term });
        }
        r.term = got;
        Ok(())
    }

    /// Whether the caller may touch the chunk, in the name of `session` when it names one. Masters and
    /// chunkservers need no capability; what is unknown is refused. What it claims, where one is needed.
    pub async fn allows(
        &self,
        cx: &CallContext,
        chunk: ChunkRef,
        rights: Rights,
        session: Option<SessionStamp>,
        cap: Option<&Capability>,
    ) -> Result<Option<Arc<Claims>>, ChunkError> {
        let no = |why: &str| ChunkError::Forbidden(why.into());
        let peer = cx.peer.as_ref().ok_or_else(|| no("the caller is not known"))?;
        if matches!(peer.role, Role::Master | Role::Chunkserver) {
            return Ok(None);
        }
        let cap = cap.ok_or_else(|| no("a client needs a capability"))?;
        if !self.knows_key_of(cap)? {
            // Its key may be new: the masters are asked once.
            let new_orders = self.refreshed.notified();
            tokio::pin!(new_orders);
            new_orders.as_mut().enable();
            self.refresh.notify_one();
            let _ = tokio::time::timeout(ORDERS, new_orders).await;
        }
        let claims = self.verified(cap, peer.cert_hash)?;
        if session.is_some_and(|s| s != claims.session) {
            return Err(no("it was given to another session"));
        }
        self.not_fenced(claims.session)?;
        claims.allows(chunk, rights)?;
        Ok(Some(claims))
    }

    fn knows_key_of(&self, cap: &Capability) -> Result<bool, ChunkError> {
        let claims: Claims = mooseng_core::wire::decode(&cap.claims)?;
        Ok(self.rules.lock().key_ids.contains(&claims.key))
    }

    fn verified(&self, cap: &Capability, cert: CertHash) -> Result<Arc<Claims>, ChunkError> {
        let key = (cert, mooseng_core::checksum::crc32c(&cap.claims), cap.signature.clone());
        let now = self.wall();
        let mut r = self.rules.lock();
        if let Some(claims) = r.verified.get(&key).filter(|c| c.expires >= now) {
            // The signature is part of the key, and it was made over these claims only.
            if mooseng_core::wire::encode(&**claims) == cap.claims {
                return Ok(claims.clone());
            }
        }
        let claims = Arc::new(r.keys.verify(cap, cert, now)?);
        if r.verified.len() >= VERIFIED_MAX {
            r.verified.clear();
        }
        r.verified.insert(key, claims.clone());
        Ok(claims)
    }
}
