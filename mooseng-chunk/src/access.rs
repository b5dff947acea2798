//! Who may do what: capabilities, fences, terms.

use mooseng_core::{
    capability::{Capability, Claims, KeyRing, Rights},
    context::CallContext,
    error::ChunkError,
    ids::*,
    meta::ServerOrders,
    net::{CertHash, Role},
    seam::Clock,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// Capabilities whose signature was verified and is remembered.
const VERIFIED_MAX: usize = 4096;

#[derive(Default)]
struct Rules {
    /// Whether the masters' orders have come since the start.
    ordered: bool,
    term: Term,
    keys: KeyRing,
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
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, rules: Mutex::default(), refresh: Default::default(), refreshed: Default::default() }
    }

    /// Takes the masters' orders.
    pub fn obey(&self, orders: ServerOrders) {
        {
            let mut r = self.rules.lock();
            r.ordered = true;
            r.term = r.term.max(orders.term);
            r.keys = KeyRing::new(orders.keys);
            for f in orders.fences {
                let epoch = r.fences.entry(f.id).or_default();
                *epoch = (*epoch).max(f.epoch);
            }
        }
        self.refreshed.notify_waiters();
    }

    pub fn fence(&self, session: SessionStamp) {
        let mut r = self.rules.lock();
        let epoch = r.fences.entry(session.id).or_default();
        *epoch = (*epoch).max(session.epoch);
    }

    pub fn not_fenced(&self, session: SessionStamp) -> Result<(), ChunkError> {
        match self.rules.lock().fences.get(&session.id) {
            Some(epoch) if session.epoch < *epoch => Err(ChunkError::Fenced),
            _ => Ok(()),
        }
    }

    /// Writes wait for the first orders: fences may have been set while the server was down.
    pub fn may_write(&self, session: SessionStamp) -> Result<(), ChunkError> {
        if !self.rules.lock().ordered {
            return Err(ChunkError::Busy("starting: the masters' fences are not known yet".into()));
        }
        self.not_fenced(session)
    }

    pub fn term_is_not_old(&self, got: Term) -> Result<(), ChunkError> {
        let mut r = self.rules.lock();
        if got < r.term {
            return Err(ChunkError::OldTerm { got, seen: r.term });
        }
        r.term = got;
        Ok(())
    }

    /// Whether the caller may touch the chunk. Masters and chunkservers need no capability.
    pub async fn allows(
        &self,
        cx: &CallContext,
        chunk: ChunkRef,
        rights: Rights,
        cap: Option<&Capability>,
    ) -> Result<(), ChunkError> {
        let peer = cx.peer.as_ref().ok_or_else(|| ChunkError::Forbidden("the caller is not known".into()))?;
        if matches!(peer.role, Role::Master | Role::Chunkserver) {
            return Ok(());
        }
        let cap = cap.ok_or_else(|| ChunkError::Forbidden("a client needs a capability".into()))?;
        let claims = match self.verified(cap, peer.cert_hash) {
            Err(_) => {
                // Its key may be new: ask the masters once.
                let new_orders = self.refreshed.notified();
                tokio::pin!(new_orders);
                new_orders.as_mut().enable();
                self.refresh.notify_one();
                let _ = tokio::time::timeout(std::time::Duration::from_secs(1), new_orders).await;
                self.verified(cap, peer.cert_hash)?
            }
            Ok(claims) => claims,
        };
        self.not_fenced(claims.session)?;
        claims.allows(chunk, rights)
    }

    fn verified(&self, cap: &Capability, cert: CertHash) -> Result<Arc<Claims>, ChunkError> {
        let key = (cert, mooseng_core::checksum::crc32c(&cap.claims), cap.signature.clone());
        let now = self.clock.wall();
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
