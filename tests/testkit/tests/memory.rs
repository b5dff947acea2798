//! The memory transport keeps the promises.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use mooseng_core::{
    ids::ClusterId,
    net::{CertHash, PeerIdentity, Role, Transport},
};
use mooseng_net::memory::MemoryNetwork;
use mooseng_testkit::Network;
use std::sync::Arc;

struct Memory(MemoryNetwork);

impl Network for Memory {
    fn transport(&self, cluster: u128, role: Role, name: &str) -> Arc<dyn Transport> {
        let mut hash = CertHash::default();
        hash.0[..name.len()].copy_from_slice(name.as_bytes());
        let cluster = ClusterId(uuid::Uuid::from_u128(cluster));
        self.0.transport(PeerIdentity { cluster, role, node: 0, name: name.into(), cert_hash: hash })
    }
    fn address(&self) -> String {
        "somewhere".into()
    }
}

mooseng_testkit::transport_suite!(Memory(MemoryNetwork::new()));
