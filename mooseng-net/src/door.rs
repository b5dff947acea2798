//! Who may come in to a listener, and how much one client may have there: how many strangers may shake
//! hands at once, how many connections a member may have, how many calls and bytes in flight a client. Pure
//! but for its log lines.

use mooseng_core::{
    error::NetError,
    limits::{
        ADDRESS_HANDSHAKES_MAX, HANDSHAKES_MAX, PEER_BYTES_MAX, PEER_CALLS_MAX, PEER_CONNECTIONS_MAX,
        PEER_STREAMS_MAX,
    },
    net::{CertHash, PeerIdentity, Role},
    rpc::Refusals,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Handshakes under way past which who comes by QUIC has to show that it has its address: before that
/// the round trip is saved.
const UNPROVEN_HANDSHAKES_MAX: usize = 64;

/// The state of one listener.
#[derive(Default)]
pub(crate) struct Door {
    shaking: Mutex<Shaking>,
    /// Connections of each certificate, and what it has in flight on them.
    inside: Mutex<BTreeMap<CertHash, (usize, Arc<Share>)>>,
    pub(crate) refusals: Refusals,
}

#[derive(Default)]
struct Shaking {
    all: usize,
    /// Those that have their address for sure.
    from: BTreeMap<IpAddr, usize>,
    turned_away: u64,
}

/// What is done with one who comes.
pub(crate) enum Knock {
    /// It may shake hands.
    Begin(Handshake),
    /// It has to show first that it has its address.
    Prove,
    /// Not now.
    TurnAway(NetError),
}

/// A handshake under way, until it is dropped.
pub(crate) struct Handshake(Arc<Door>, Option<IpAddr>);

/// A connection of a member, until it is dropped.
pub(crate) struct Inside(Arc<Door>, CertHash, Option<Arc<Share>>);

/// What one certificate has in flight, over all its connections.
#[derive(Debug)]
pub(crate) struct Share {
    name: String,
    calls: AtomicUsize,
    streams: AtomicUsize,
    /// Of [`PEER_BYTES_MAX`], in units of [`UNIT`].
    bytes: Arc<Semaphore>,
    held_back: AtomicU64,
}

/// What a share's bytes are counted in: a semaphore counts to 2^32 at once.
const UNIT: usize = 1024;

/// A call of a client, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Begun(Option<(Arc<Share>, bool)>);

impl Share {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            calls: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            bytes: Arc::new(Semaphore::new(PEER_BYTES_MAX / UNIT)),
            held_back: AtomicU64::new(0),
        }
    }

    /// A call begins; with a stream of its own, or a streamed request.
    pub(crate) fn begin(self: &Arc<Self>, streams: bool) -> Result<Begun, NetError> {
        if self.calls.fetch_add(1, Ordering::Relaxed) >= PEER_CALLS_MAX {
            self.calls.fetch_sub(1, Ordering::Relaxed);
            return Err(limit("calls of one certificate are in flight here", PEER_CALLS_MAX));
        }
        let begun = Begun(Some((self.clone(), streams)));
        if streams && self.streams.fetch_add(1, Ordering::Relaxed) >= PEER_STREAMS_MAX {
            return Err(limit("streams of one certificate are open here", PEER_STREAMS_MAX));
        }
        Ok(begun)
    }

    /// Room for a long request. Waits while there is none: who sends too many holds itself back.
    pub(crate) async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(UNIT) as u32;
        if let Ok(room) = self.bytes.clone().try_acquire_many_owned(units) {
            return Some(room);
        }
        let held_back = self.held_back.fetch_add(1, Ordering::Relaxed) + 1;
        if held_back.is_power_of_two() {
            let limit = PEER_BYTES_MAX;
            tracing::info!(peer = %self.name, held_back, limit, "a client's long requests are held back: others of it take all bytes that one certificate may have in flight");
        }
        // It is never closed.
        self.bytes.clone().acquire_many_owned(units).await.ok()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some((share, streams)) = self.0.take() {
            share.calls.fetch_sub(1, Ordering::Relaxed);
            share.streams.fetch_sub(usize::from(streams), Ordering::Relaxed);
        }
    }
}

impl Inside {
    /// What the peer has in flight, when it is a client: servers trust servers, and forward for all clients.
    pub(crate) fn share(&self) -> Option<Arc<Share>> {
        self.2.clone()
    }
}

fn limit(what: &str, limit: usize) -> NetError {
    NetError::Limit { what: what.into(), limit: limit as u64 }
}

impl Door {
    /// Somebody comes. `proven`: that it has its address is sure, as with TCP.
    pub(crate) fn knock(self: &Arc<Self>, from: SocketAddr, proven: bool) -> Knock {
        let mut shaking = self.shaking.lock();
        let s = &mut *shaking;
        if s.all >= HANDSHAKES_MAX {
            return Knock::TurnAway(limit("handshakes are under way", HANDSHAKES_MAX));
        }
        if !proven && s.all >= UNPROVEN_HANDSHAKES_MAX {
            return Knock::Prove;
        }
        let address = proven.then(|| from.ip().to_canonical());
        if let Some(address) = address {
            let count = s.from.entry(address).or_default();
            if *count >= ADDRESS_HANDSHAKES_MAX {
                return Knock::TurnAway(limit(
                    "handshakes are under way from its address",
                    ADDRESS_HANDSHAKES_MAX,
                ));
            }
            *count += 1;
        }
        s.all += 1;
        Knock::Begin(Handshake(self.clone(), address))
    }

    /// Logs that somebody was turned away: the first time, and each time their number has doubled.
    pub(crate) fn turned_away(&self, from: SocketAddr, why: &NetError) {
        let mut shaking = self.shaking.lock();
        shaking.turned_away += 1;
        let so_far = shaking.turned_away;
        drop(shaking);
        if so_far.is_power_of_two() {
            tracing::info!(%from, error = %why, so_far, "a connection was turned away");
        }
    }

    /// A member that has proven itself comes in, unless it is in too often.
    pub(crate) fn enter(self: &Arc<Self>, peer: &PeerIdentity) -> Result<Inside, NetError> {
        let mut inside = self.inside.lock();
        let new = || (0, Arc::new(Share::new(&peer.name)));
        let (count, share) = inside.entry(peer.cert_hash).or_insert_with(new);
        if *count >= PEER_CONNECTIONS_MAX {
            return Err(limit("connections of one certificate are open here", PEER_CONNECTIONS_MAX));
        }
        *count += 1;
        let share = matches!(peer.role, Role::Client | Role::Admin).then(|| share.clone());
        Ok(Inside(self.clone(), peer.cert_hash, share))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut shaking = self.0.shaking.lock();
        shaking.all -= 1;
        if let Some(address) = self.1 {
            less(&mut shaking.from, address);
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut inside = self.0.inside.lock();
        if let Some((count, _)) = inside.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                inside.remove(&self.1);
            }
        }
    }
}

/// Counts one down; what is at nothing is not kept.
fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use mooseng_core::ids::ClusterId;

    fn begun(k: Knock) -> Handshake {
        match k {
            Knock::Begin(h) => h,
            Knock::Prove => panic!("it is to prove its address"),
            Knock::TurnAway(e) => panic!("{e}"),
        }
    }

    fn at(n: u8, port: u16) -> SocketAddr {
        ([10, 0, 0, n], port).into()
    }

    #[test]
    fn one_address_has_its_share_and_all_together_theirs() {
        let door = Arc::new(Door::default());
        let mut held: Vec<_> =
            (0..ADDRESS_HANDSHAKES_MAX).map(|n| begun(door.knock(at(1, n as u16), true))).collect();
        let over = door.knock(at(1, 9), true);
        assert!(
            matches!(over, Knock::TurnAway(NetError::Limit { limit, .. }) if limit == ADDRESS_HANDSHAKES_MAX as u64)
        );
        // The same address as an IPv6 socket tells it.
        let mapped = SocketAddr::new(std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into(), 1);
        assert!(matches!(door.knock(mapped, true), Knock::TurnAway(_)));
        let mut n = 0;
        while held.len() < HANDSHAKES_MAX {
            held.push(begun(door.knock(at(2 + n, 1), true)));
            n = (n + 1) % 200;
        }
        let over = door.knock(at(250, 1), true);
        assert!(
            matches!(over, Knock::TurnAway(NetError::Limit { limit, .. }) if limit == HANDSHAKES_MAX as u64)
        );
        held.pop();
        held.push(begun(door.knock(at(250, 1), true)));
        held.clear();
        assert!(door.shaking.lock().from.is_empty() && door.shaking.lock().all == 0);
    }

    #[test]
    fn an_address_that_may_be_forged_takes_no_share_of_its_owner() {
        let door = Arc::new(Door::default());
        let _held: Vec<_> =
            (0..UNPROVEN_HANDSHAKES_MAX).map(|_| begun(door.knock(at(1, 1), false))).collect();
        assert!(matches!(door.knock(at(1, 1), false), Knock::Prove));
        let _all: Vec<_> = (0..ADDRESS_HANDSHAKES_MAX).map(|_| begun(door.knock(at(1, 1), true))).collect();
    }

    #[test]
    fn a_certificate_has_its_share_of_connections() {
        let door = Arc::new(Door::default());
        let peer = |n| PeerIdentity {
            cluster: ClusterId(uuid::Uuid::nil()),
            role: Role::Client,
            node: 0,
            name: "c".into(),
            cert_hash: CertHash([n; 32]),
        };
        let mut held: Vec<_> = (0..PEER_CONNECTIONS_MAX).map(|_| door.enter(&peer(1)).unwrap()).collect();
        let e = door.enter(&peer(1)).err().unwrap();
        assert!(matches!(e, NetError::Limit { limit, .. } if limit == PEER_CONNECTIONS_MAX as u64), "{e}");
        door.enter(&peer(2)).unwrap();
        held.pop();
        held.push(door.enter(&peer(1)).unwrap());
        held.clear();
        assert!(door.inside.lock().is_empty());
    }

    #[test]
    fn a_client_has_its_share_of_calls_and_streams() {
        let share = Arc::new(Share::new("c"));
        let streams: Vec<_> = (0..PEER_STREAMS_MAX).map(|_| share.begin(true).unwrap()).collect();
        let over = share.begin(true).unwrap_err();
        assert!(matches!(over, NetError::Limit { limit, .. } if limit == PEER_STREAMS_MAX as u64), "{over}");
        let calls: Vec<_> = (PEER_STREAMS_MAX..PEER_CALLS_MAX).map(|_| share.begin(false).unwrap()).collect();
        for streams in [false, true] {
            let over = share.begin(streams).unwrap_err();
            assert!(
                matches!(over, NetError::Limit { limit, .. } if limit == PEER_CALLS_MAX as u64),
                "{over}"
            );
        }
        drop((streams, calls));
        drop(share.begin(true).unwrap());
        assert_eq!((share.calls.load(Ordering::Relaxed), share.streams.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn long_requests_of_a_client_wait_for_each_other() {
        let share = Arc::new(Share::new("c"));
        let longest = PEER_BYTES_MAX / 4;
        let mut held: Vec<_> = (0..4).map(|_| share.room(longest).now_or_never().unwrap()).collect();
        assert!(share.room(UNIT).now_or_never().is_none(), "there is no room");
        held.pop();
        assert!(share.room(longest).now_or_never().is_some());
    }

    #[test]
    fn servers_are_not_counted_as_one_client() {
        let door = Arc::new(Door::default());
        let peer = |role| PeerIdentity {
            cluster: ClusterId(uuid::Uuid::nil()),
            role,
            node: 1,
            name: "n".into(),
            cert_hash: CertHash([role as u8; 32]),
        };
        let shared = |role| door.enter(&peer(role)).unwrap().share().is_some();
        assert_eq!([Role::Client, Role::Admin].map(shared), [true; 2]);
        assert_eq!([Role::Master, Role::Chunkserver].map(shared), [false; 2]);
    }
}
