//! The key that this master signs capabilities with (PROTOCOL §1). The leader makes itself a new one when
//! its own is old, has the public half in the log first, and signs with it when the chunkservers were
//! told. Keys that nobody uses any more are removed when all that they signed has expired.
//!
//! No fence goes with a key: what a chunkserver was told of living sessions and of the next one's number
//! refuses all that have ended, and a server that has not heard of a fence is told until it has.

use super::{Inner, Lead, internal};
use crate::store::*;
use mooseng_core::{
    capability::{KeyId, PublicKey, SigningKey},
    error::MetaError,
    meta::Command,
    seam::Seams,
};
use std::{sync::Arc, time::Duration};

const COMMIT: Duration = Duration::from_secs(10);

/// A key and when it was made.
#[derive(Clone)]
struct Made {
    key: Arc<SigningKey>,
    at: Duration,
}

impl Made {
    fn now(seams: &Seams) -> Self {
        let mut seed = [0; 32];
        for part in seed.chunks_mut(8) {
            part.copy_from_slice(&seams.rng.next_u64().to_le_bytes());
        }
        let key = SigningKey::from_seed(KeyId(seams.rng.next_u64()), &seed);
        Self { key: Arc::new(key), at: seams.clock.now() }
    }
}

/// The next key.
struct Next {
    made: Made,
    /// When the state had its public half.
    published: Option<Duration>,
}

/// Keys of a master.
pub(super) struct Keys {
    used: Made,
    next: Option<Next>,
}

impl Keys {
    pub fn new(seams: &Seams) -> Self {
        Self { used: Made::now(seams), next: None }
    }

    /// A term begins: the key that is to be known for it. Who led in between may have removed the next one.
    pub fn begin(&mut self) -> PublicKey {
        self.next = None;
        self.used.key.public()
    }
}

impl Inner {
    pub(super) fn signing_key(&self) -> Arc<SigningKey> {
        self.keys.lock().used.key.clone()
    }

    pub(super) async fn keep_keys(&self, lead: &Lead) {
        loop {
            tokio::time::sleep(self.timings.tick).await;
            if let Err(e) = self.renew_key(lead).await {
                tracing::warn!(error = %e, "the signing key could not be renewed, it is tried again");
            }
            if let Err(e) = self.remove_old_keys().await {
                tracing::warn!(error = %e, "old keys could not be removed, it is tried again");
            }
        }
    }

    /// One step towards a new key: it is made, its public half is committed, it comes into use.
    async fn renew_key(&self, lead: &Lead) -> Result<(), MetaError> {
        let key = {
            let mut keys = self.keys.lock();
            if self.now().saturating_sub(keys.used.at) < self.timings.key_period {
                return Ok(());
            }
            let next =
                keys.next.get_or_insert_with(|| Next { made: Made::now(&self.seams), published: None });
            if let Some(published) = next.published {
                if self.all_are_told(lead, published) {
                    keys.used = next.made.clone();
                    keys.next = None;
                }
                return Ok(());
            }
            next.made.key.public()
        };
        self.propose(Command::AddKey { key, master: self.id }, COMMIT).await?;
        if let Some(next) = &mut self.keys.lock().next {
            next.published = Some(self.now());
        }
        Ok(())
    }

    /// Whether every living chunkserver had its orders after a moment. One that lost them asks again when it
    /// meets the key.
    fn all_are_told(&self, lead: &Lead, since: Duration) -> bool {
        let (now, dead) = (self.now(), self.timings.server_dead);
        // All had the time to come to this leader.
        let all_came = now.saturating_sub(lead.since) >= dead;
        let m = lead.memory.lock();
        all_came && m.servers.iter().all(|(id, s)| s.heard > since || m.is_dead(*id, now, dead))
    }

    async fn remove_old_keys(&self) -> Result<(), MetaError> {
        let unused_secs = (self.timings.capability + self.timings.key_slack).as_secs();
        let (view, now, mut is_over) = (self.view()?, self.wall(), false);
        scan_recs(&view, Table::Key, &[], &[], |_, rec: KeyRec| {
            let unused = rec.unused.map(|at| now.secs().saturating_sub(at.secs()));
            is_over = unused.is_some_and(|secs| secs > unused_secs as i64);
            !is_over
        })
        .map_err(internal)?;
        drop(view);
        if is_over {
            self.propose(Command::RemoveKeys { unused_secs }, COMMIT).await?;
        }
        Ok(())
    }
}
