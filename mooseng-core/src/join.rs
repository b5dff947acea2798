//! Joining a cluster by a one-time token: the token's text, the request that it signs, the answer,
//! and who signs certificates. Pure.
//!
//! ```text
//!   admin ── CreateToken (public key, role, node, name) ──▶ masters        text ──▶ new machine
//!   new machine ── JoinRequest (CSR, signed with the token's key) ──▶ master ── Joined ──▶
//! ```
//!
//! The secret is the seed of an Ed25519 key. It is in the token's text and nowhere else: masters
//! keep the public key, and what crosses the network is public. So a join needs no TLS; the
//! answer is judged by the authority's hash in the token.
//!
//! A token's text is `mooseng-join-1.` and base64 (URL alphabet, no padding) of
//!
//! ```text
//!  +------------------------------------------------------------------+---------------------+
//!  | postcard: cluster, SHA-256 of the CA, seed, invite, masters      | SHA-256 of it, 4 B  |
//!  +------------------------------------------------------------------+---------------------+
//! ```

use crate::{
    attr::Timestamp,
    error::{Errno, Outcome},
    ids::{ClusterId, MasterId},
    limits::{JOIN_BYTES_MAX, MASTERS_MAX, NODE_NAME_BYTES_MAX, TOKEN_TEXT_BYTES_MAX},
    net::Role,
    wire,
};
use aws_lc_rs::{
    digest,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a token's text begins with.
const PREFIX: &str = "mooseng-join-1.";
/// Bytes of the check at a token's end: enough for slips of copying. Forgery fails elsewhere.
const CHECK_BYTES: usize = 4;
/// What a token's key signs begins with this, so that its signatures say nothing else.
const DOMAIN: &[u8] = b"mooseng join 1\0";
/// Format of join requests written now; their first byte.
pub const JOIN_FORMAT: u8 = 1;

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// A token as the masters know it: the public half of its key (Ed25519).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub [u8; 32]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A token's secret: the seed of its key. Never shown but as part of the text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSeed(pub [u8; 32]);

impl fmt::Debug for TokenSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSeed(…)")
    }
}

impl TokenSeed {
    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0).expect("a seed of 32 bytes is a key")
    }
    /// The half to publish.
    pub fn id(&self) -> TokenId {
        let mut id = [0; 32];
        id.copy_from_slice(self.pair().public_key().as_ref());
        TokenId(id)
    }
}

/// SHA-256 of an authority's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct CaHash(pub [u8; 32]);

/// Whether a node may be called so: the name is part of its certificate's URI.
pub fn check_node_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > NODE_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(format!("a node's name has 1 to {NODE_NAME_BYTES_MAX} bytes of A-Z a-z 0-9 . _ -"));
    }
    Ok(())
}

/// Whom a certificate is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Invite {
    /// As what.
    pub role: Role,
    /// The node's number within its role, from 1; 0 for clients and admins.
    pub node: u64,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, node, name } = self;
        if *node == 0 { write!(f, "{role} {name}") } else { write!(f, "{role} {name}, number {node}") }
    }
}

impl Invite {
    /// Whether there can be such a node. The error says what to change.
    pub fn check(&self) -> Result<(), String> {
        check_node_name(&self.name)?;
        let numbered = matches!(self.role, Role::Master | Role::Chunkserver);
        match (numbered, self.node) {
            (true, 0) => Err(format!("a {} has a number from 1 that no other has: --node N", self.role)),
            (false, 1..) => Err(format!("a {} has no number: leave --node out", self.role)),
            _ => Ok(()),
        }
    }
    /// Whether both cannot be in one cluster.
    pub fn clashes(&self, other: &Self) -> bool {
        let same_number = self.node != 0 && self.node == other.node;
        self.role == other.role && (same_number || self.name == other.name)
    }
}

/// What a token is good for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Promise {
    /// Whom the certificate is for.
    pub invite: Invite,
    /// When the token ends, by the leader's time.
    pub expires: Timestamp,
    /// Seconds that the certificate will be valid.
    pub validity_secs: u64,
}

/// A token, as its text carries it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinToken {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// The authority that must have signed.
    pub ca: CaHash,
    /// The secret.
    pub seed: TokenSeed,
    /// What the certificate must say.
    pub invite: Invite,
    /// Client addresses of the masters.
    pub masters: Vec<String>,
}

impl JoinToken {
    /// The one line that carries it. It holds the secret.
    pub fn to_text(&self) -> String {
        let mut bytes = wire::encode(self).to_vec();
        let check = sha256(&bytes);
        bytes.extend_from_slice(&check[..CHECK_BYTES]);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads what [`JoinToken::to_text`] wrote; white space around it does not matter.
    pub fn parse(text: &str) -> Result<Self, JoinError> {
        let bad = |why: &str| JoinError::Text(why.into());
        let text = text.trim();
        if text.len() > TOKEN_TEXT_BYTES_MAX {
            return Err(JoinError::Text(format!("it is longer than {TOKEN_TEXT_BYTES_MAX} bytes")));
        }
        let body = text.strip_prefix(PREFIX).ok_or_else(|| bad("it does not begin as one"))?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| bad("it was altered or cut"))?;
        let (bytes, check) =
            bytes.split_last_chunk::<CHECK_BYTES>().ok_or_else(|| bad("it was altered or cut"))?;
        if sha256(bytes)[..CHECK_BYTES] != check[..] {
            return Err(bad("it was altered or cut"));
        }
        let token: Self = wire::decode(bytes).map_err(|_| bad("another version made it"))?;
        token.invite.check().map_err(JoinError::Text)?;
        if token.masters.len() > MASTERS_MAX {
            return Err(bad("it names too many masters"));
        }
        Ok(token)
    }
}

fn signed_bytes(cluster: ClusterId, token: TokenId, csr: &[u8]) -> Vec<u8> {
    [DOMAIN, cluster.0.as_bytes(), &token.0, csr].concat()
}

/// What a new machine posts to `/join` of a master.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// [`JOIN_FORMAT`] of the writer.
    pub format: u8,
    /// The cluster that the token is of.
    pub cluster: ClusterId,
    /// Under which token.
    pub token: TokenId,
    /// Certificate signing request (PKCS #10, DER): it proves that its sender has the new key.
    pub csr: Bytes,
    /// By the token's key, 64 bytes.
    pub signature: Bytes,
}

impl JoinRequest {
    /// A request under a token.
    pub fn new(token: &JoinToken, csr: Bytes) -> Self {
        let (cluster, id) = (token.cluster, token.seed.id());
        let signature = token.seed.pair().sign(&signed_bytes(cluster, id, &csr));
        let signature = Bytes::copy_from_slice(signature.as_ref());
        Self { format: JOIN_FORMAT, cluster, token: id, csr, signature }
    }

    /// Reads a request, whatever came.
    pub fn decode(bytes: &[u8]) -> Result<Self, JoinError> {
        if bytes.len() > JOIN_BYTES_MAX {
            return Err(JoinError::TooLarge { limit: JOIN_BYTES_MAX as u64 });
        }
        match bytes.first() {
            Some(&JOIN_FORMAT) => wire::decode(bytes).map_err(|e| JoinError::Malformed(e.to_string())),
            Some(other) => Err(JoinError::Malformed(format!("format {other} is not known here"))),
            None => Err(JoinError::Malformed("it is empty".into())),
        }
    }

    /// Whether the token's key signed it.
    pub fn verify(&self) -> Result<(), JoinError> {
        UnparsedPublicKey::new(&ED25519, self.token.0)
            .verify(&signed_bytes(self.cluster, self.token, &self.csr), &self.signature)
            .map_err(|_| JoinError::Signature(self.token))
    }
}

/// What a master answers to a join.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joined {
    /// The new certificate, DER.
    pub cert: Bytes,
    /// The authority's, DER.
    pub ca: Bytes,
}

/// Who can sign certificates: the cluster's authority, where a master holds its key.
pub trait Authority: Send + Sync + fmt::Debug + 'static {
    /// Whether a signing request can be signed: asked before the token is used up.
    fn check(&self, csr: &[u8]) -> Result<(), JoinError>;
    /// Signs. Of the request only the key counts; what the certificate says is the promise's.
    fn sign(&self, csr: &[u8], promise: &Promise) -> Result<Joined, JoinError>;
}

/// Why there is no token, or no certificate. Nothing was changed, except where
/// [`JoinError::outcome`] says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum JoinError {
    /// A text that is no token.
    #[error("this is no join token: {0}; give the whole line that `mooseng cluster token` printed")]
    Text(String),
    /// Bytes that are no join request.
    #[error("the join request cannot be read: {0}; use one version of mooseng on both sides")]
    Malformed(String),
    /// More bytes than a join request has.
    #[error("a join request has at most {limit} bytes")]
    TooLarge {
        /// How many at most.
        limit: u64,
    },
    /// A token of another cluster.
    #[error(
        "the token is of cluster {token}, this master is of {here}: check --master-addrs, or have a \
         token made by an admin of {here}"
    )]
    Foreign {
        /// The token's.
        token: ClusterId,
        /// The master's.
        here: ClusterId,
    },
    /// A token that the masters do not have.
    #[error(
        "token {0} is not known here: it was altered, replaced, or ended long ago; have another one \
         made with `mooseng cluster token`"
    )]
    Unknown(TokenId),
    /// A token whose time is over.
    #[error("token {0} has expired; have another one made with `mooseng cluster token` (--lifetime)")]
    Expired(TokenId),
    /// A token that another key joined with.
    #[error(
        "token {0} was used already, and is good once; have another one made with `mooseng cluster \
         token --replace`, and if nobody you know used it, find out who did"
    )]
    Used(TokenId),
    /// A request that the token's key did not sign.
    #[error("the request is not signed by the key of token {0}: the token was altered; use the original")]
    Signature(TokenId),
    /// A signing request that makes no sense.
    #[error("the certificate signing request is wrong: {0}; use the same version's `mooseng cluster join`")]
    Csr(String),
    /// A name, number or time that cannot be.
    #[error("such a token cannot be made: {0}")]
    Invalid(String),
    /// Another node, or an open token, has the name or number.
    #[error("{0}; choose another --name or --node, or take its place with --replace")]
    Clash(String),
    /// As many tokens as there may be.
    #[error("{limit} tokens have not expired yet, and there may be no more; wait, or shorten --lifetime")]
    TooMany {
        /// How many there may be.
        limit: u64,
    },
    /// A master that cannot sign.
    #[error(
        "this master holds no CA key: master {0} has no ca/ca.key in its identity directory; copy the \
         directory `ca` that `mooseng cluster init` made into every master's identity directory and \
         restart them, or use `mooseng cluster issue` where the key is"
    )]
    NoAuthority(MasterId),
    /// A master that does not lead.
    #[error("this master does not lead{}; ask the one that does", leader.as_ref().map_or_else(String::new, |a| format!(", the one at {a} does")))]
    NotLeader {
        /// Client address of who does, when it is known.
        leader: Option<String>,
    },
    /// Busy, starting, or without a quorum; try again.
    #[error("no join now: {0}; try again")]
    Busy(String),
    /// The master failed inside.
    #[error("the master failed: {0}; its log tells more")]
    Internal(String),
}

impl JoinError {
    /// Whether the same request can succeed later or at another master.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::NotLeader { .. } | Self::Busy(_))
    }
    /// Whether the token may have been used up by the request.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Busy(_) | Self::Internal(_) => Outcome::Unknown,
            _ => Outcome::NotApplied,
        }
    }
    /// What a system call would answer.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Text(_) | Self::Malformed(_) | Self::Csr(_) | Self::Invalid(_) => Errno::EINVAL,
            Self::TooLarge { .. } => Errno::E2BIG,
            Self::Foreign { .. }
            | Self::Unknown(_)
            | Self::Expired(_)
            | Self::Used(_)
            | Self::Signature(_) => Errno::EACCES,
            Self::Clash(_) => Errno::EEXIST,
            Self::TooMany { .. } | Self::NotLeader { .. } | Self::Busy(_) => Errno::EAGAIN,
            Self::NoAuthority(_) => Errno::EOPNOTSUPP,
            Self::Internal(_) => Errno::EIO,
        }
    }
}

#[cfg(test)]
mod tests;
