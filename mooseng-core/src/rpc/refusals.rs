//! Refusals in the log, so that an operator sees who asks for what he may not have.

use crate::net::{CertHash, PeerIdentity};
use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{Mutex, PoisonError},
};

/// Peers whose refusals are counted; past it all counts begin anew.
const PEERS_MAX: usize = 1024;

/// How often each peer was refused.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<CertHash, u64>>);

impl Refusals {
    /// Logs a peer's first refusal, and later each one with which their number has doubled: who asks
    /// without end does not fill the log.
    pub fn note(&self, peer: &PeerIdentity, why: impl Display) {
        let refusals = self.count(peer);
        if refusals.is_power_of_two() {
            let (name, role) = (&peer.name, peer.role);
            tracing::info!(peer = %name, %role, refusals, error = %why, "a call was refused");
        }
    }

    fn count(&self, peer: &PeerIdentity) -> u64 {
        // A count is never half done: a panic elsewhere does not matter here.
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS_MAX && !peers.contains_key(&peer.cert_hash) {
            peers.clear();
        }
        let count = peers.entry(peer.cert_hash).or_default();
        *count += 1;
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ids::ClusterId, net::Role};

    fn peer(n: u16) -> PeerIdentity {
        let mut hash = [0; 32];
        hash[..2].copy_from_slice(&n.to_le_bytes());
        PeerIdentity {
            cluster: ClusterId(uuid::Uuid::nil()),
            role: Role::Client,
            node: 0,
            name: "c".into(),
            cert_hash: CertHash(hash),
        }
    }

    #[test]
    fn peers_are_counted_apart_and_are_not_more_than_the_limit() {
        let refusals = Refusals::default();
        assert_eq!([refusals.count(&peer(1)), refusals.count(&peer(1)), refusals.count(&peer(2))], [1, 2, 1]);
        for n in 3..=PEERS_MAX as u16 {
            refusals.count(&peer(n));
        }
        assert_eq!(refusals.count(&peer(1)), 3, "as many as there may be");
        assert_eq!(refusals.count(&peer(2000)), 1);
        assert_eq!(refusals.count(&peer(1)), 1, "one more: they begin anew");
    }
}
