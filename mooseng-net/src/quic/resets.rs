//! What lets a node that was restarted tell who still talks to its earlier process that it knows nothing of it: a
//! stateless reset (RFC 9000, 10.3). Without it they would take the silence for a slow network until the idle
//! timeout, which took clients and chunkservers that had known a restarted master before five seconds of the
//! six that its next term took to serve them.

use crate::identity::Identity;
use aws_lc_rs::hmac;
use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use std::sync::Arc;

/// Keys of a listening node's endpoint that are the same at each start.
#[derive(Clone, Copy)]
pub(super) struct Resets {
    tokens: [u8; 32],
    /// An endpoint takes only connection ids for its own that were made with its key.
    ids: u64,
}

impl Resets {
    pub(super) fn of(me: &Identity) -> Self {
        let ids = me.derived("connection ids of QUIC");
        let ids = ids.iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte));
        Self { tokens: me.derived("stateless resets of QUIC"), ids }
    }

    pub(super) fn config(self) -> EndpointConfig {
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &self.tokens)));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(self.ids)));
        config
    }
}
