//! Capabilities: a signed right of one client to touch named chunks at named versions.
//!
//! A master signs one with each layout reply (Ed25519, RFC 8032); chunkservers hold public keys
//! only. It is bound to the client's certificate and to its session's epoch. Its expiry is hygiene;
//! the fence is what takes rights away (PROTOCOL §1). Signing is deterministic; keys come in as
//! seeds, so nothing here draws randomness.

use crate::{
    attr::Timestamp,
    error::ChunkError,
    ids::{ChunkRef, Incarnation, ServerId, SessionStamp},
    limits::CAPABILITY_CHUNKS_MAX,
    net::CertHash,
    planted::{self, Bug},
    wire,
};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Number of a signing key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct KeyId(pub u64);

/// A key's public half, as the masters publish it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PublicKey {
    /// Its number.
    pub id: KeyId,
    /// 32 bytes of Ed25519.
    pub bytes: [u8; 32],
}

/// Rights to chunks, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rights(pub u8);

impl Rights {
    /// Read.
    pub const READ: Self = Self(1);
    /// Write and sync.
    pub const WRITE: Self = Self(2);
    /// Make the chunk's file where it is not there yet.
    pub const CREATE: Self = Self(4);
    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Whether all of `other` is in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a capability says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Which key signed.
    pub key: KeyId,
    /// Whose certificate must present it.
    pub cert: CertHash,
    /// Under which session and epoch.
    pub session: SessionStamp,
    /// To which chunks, at which versions.
    pub chunks: Vec<(ChunkRef, Rights)>,
    /// Which starts of servers may make those with [`Rights::CREATE`].
    pub makers: Vec<(ServerId, Incarnation)>,
    /// Not after this, by the chunkserver's wall clock, generously.
    pub expires: Timestamp,
}

/// Signed claims.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Capability {
    /// Encoded [`Claims`].
    pub claims: Bytes,
    /// 64 bytes.
    pub signature: Bytes,
}

/// A master's signing key.
pub struct SigningKey {
    id: KeyId,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.id)
    }
}

impl SigningKey {
    /// From 32 bytes of randomness.
    ///
    /// # Panics
    /// Never: every 32-byte seed is a key.
    pub fn from_seed(id: KeyId, seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("a seed of 32 bytes is a key");
        Self { id, pair }
    }
    /// Its number.
    pub const fn id(&self) -> KeyId {
        self.id
    }
    /// The half to publish.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey { id: self.id, bytes }
    }
    /// Signs claims; their key id is set to this key's.
    pub fn sign(&self, mut claims: Claims) -> Capability {
        debug_assert!(claims.chunks.len() <= CAPABILITY_CHUNKS_MAX);
        claims.key = self.id;
        let claims = wire::encode(&claims);
        let signature = Bytes::copy_from_slice(self.pair.sign(&claims).as_ref());
        Capability { claims, signature }
    }
}

/// Public keys by number.
#[derive(Clone, Debug, Default)]
pub struct KeyRing(BTreeMap<KeyId, PublicKey>);

impl KeyRing {
    /// From a list.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self(keys.into_iter().map(|k| (k.id, k)).collect())
    }
    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Checks signature, bounds, certificate and expiry, and returns the claims.
    pub fn verify(&self, cap: &Capability, cert: CertHash, now: Timestamp) -> Result<Claims, ChunkError> {
        let no = |why: &str| ChunkError::Forbidden(why.into());
        let claims: Claims = wire::decode(&cap.claims)?;
        let key = self.0.get(&claims.key).ok_or_else(|| no("its key is not known here (yet)"))?;
        UnparsedPublicKey::new(&ED25519, key.bytes)
            .verify(&cap.claims, &cap.signature)
            .map_err(|_| no("its signature does not match"))?;
        if claims.chunks.len() > CAPABILITY_CHUNKS_MAX {
            return Err(no("it names too many chunks"));
        }
        if claims.cert != cert && !planted::is(Bug::CapabilityUnbound) {
            return Err(no("it was given to another client"));
        }
        if claims.expires < now {
            return Err(no("it has expired"));
        }
        Ok(claims)
    }
}

impl Claims {
    /// Whether `rights` to `chunk` are in it.
    pub fn allows(&self, chunk: ChunkRef, rights: Rights) -> Result<(), ChunkError> {
        match self.chunks.iter().find(|(c, _)| c.id == chunk.id) {
            Some((c, r)) if c.version == chunk.version && r.has(rights) => Ok(()),
            Some((c, _)) if c.version != chunk.version => Err(ChunkError::Forbidden(format!(
                "{} is named at {}, not {}",
                c.id, c.version, chunk.version
            ))),
            Some(_) => Err(ChunkError::Forbidden(format!("{} without this right", chunk.id))),
            None => Err(ChunkError::Forbidden(format!("{} is not named in it", chunk.id))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::*;

    fn chunk(id: u64, v: u64) -> ChunkRef {
        ChunkRef { id: ChunkId(id), version: ChunkVersion(v) }
    }
    fn claims() -> Claims {
        Claims {
            key: KeyId(0),
            cert: CertHash([7; 32]),
            session: SessionStamp { id: SessionId(1), epoch: SessionEpoch(1) },
            chunks: vec![(chunk(1, 2), Rights::READ)],
            makers: vec![],
            expires: Timestamp::new(100, 0),
        }
    }

    #[test]
    fn what_is_signed_is_what_is_allowed() {
        let key = SigningKey::from_seed(KeyId(3), &[1; 32]);
        let ring = KeyRing::new([key.public()]);
        let cap = key.sign(claims());
        let now = Timestamp::new(50, 0);
        let got = ring.verify(&cap, CertHash([7; 32]), now).unwrap();
        assert!(got.allows(chunk(1, 2), Rights::READ).is_ok());
        assert!(got.allows(chunk(1, 2), Rights::WRITE).is_err(), "another mode");
        assert!(got.allows(chunk(1, 1), Rights::READ).is_err(), "another version");
        assert!(got.allows(chunk(2, 2), Rights::READ).is_err(), "another chunk");
        assert!(ring.verify(&cap, CertHash([8; 32]), now).is_err(), "another client");
        assert!(ring.verify(&cap, CertHash([7; 32]), Timestamp::new(101, 0)).is_err(), "expired");
        let other = SigningKey::from_seed(KeyId(3), &[2; 32]).sign(claims());
        assert!(ring.verify(&other, CertHash([7; 32]), now).is_err(), "another key");
        for i in 0..cap.claims.len() * 8 {
            let mut bytes = cap.claims.to_vec();
            bytes[i / 8] ^= 1 << (i % 8);
            let altered = Capability { claims: bytes.into(), signature: cap.signature.clone() };
            assert!(ring.verify(&altered, CertHash([7; 32]), now).is_err(), "bit {i}");
        }
    }
}
