//! What lets a node that was started again tell who still talks to its earlier process that it knows nothing of
//! that: a stateless reset (RFC 9000, 10.3). Without it they take the silence for a slow network until the idle
//! timeout: a master that had been killed, and was elected soon after, kept its clients waiting for five seconds.

use crate::identity::Identity;
use aws_lc_rs::hmac;
use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use std::sync::Arc;

/// What the keys of a node's listening endpoints are made of, the same at each start.
#[derive(Clone, Copy)]
pub(super) struct Resets([u8; 32]);

impl Resets {
    pub(super) fn of(me: &Identity) -> Self {
        Self(me.derived("stateless resets of QUIC"))
    }

    /// Each port has keys of its own: with those of another, that one would give away the tokens of this one's
    /// connections to whoever asks (RFC 9000, 21.11).
    pub(super) fn config(self, port: u16) -> EndpointConfig {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let key = |purpose: &[u8]| hmac::sign(&secret, &[purpose, &port.to_be_bytes()].concat());
        let tokens = hmac::Key::new(hmac::HMAC_SHA256, key(b"token").as_ref());
        // An endpoint takes only connection ids for its own that were made with its key.
        let ids = key(b"id").as_ref().iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte));
        let mut config = EndpointConfig::new(Arc::new(tokens));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
        config
    }
}
