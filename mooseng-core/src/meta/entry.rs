//! What a log entry of the namespace carries: the request, plus all that the leader decided for
//! it, so that applying it is a function of state and entry (PROTOCOL §3). Pure.

use super::{ops::MetaRequest, types::StorageClass};
use crate::{
    attr::Timestamp,
    capability::PublicKey,
    context::Credentials,
    ids::*,
    join::{Invite, JoinError, Promise, TokenId},
    net::CertHash,
};
use serde::{Deserialize, Serialize};

/// Format of log entries written now.
pub const ENTRY_FORMAT: u8 = 1;

/// One log entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogEntry {
    /// [`ENTRY_FORMAT`] of the writer.
    pub format: u8,
    /// The leader's wall clock; apply clamps it so that it never goes back.
    pub time: Timestamp,
    /// What is to be done.
    pub command: Command,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// A mutation of the namespace by a session.
    Fs {
        /// Under which session and epoch.
        session: SessionStamp,
        /// As which mutation.
        slot: SlotStamp,
        /// Who asks.
        creds: Credentials,
        /// What the leader decided.
        decisions: Decisions,
        /// The request.
        request: MetaRequest,
    },
    /// A session begins. Its id is the entry's decision.
    SessionOpen {
        /// The client's certificate.
        cert: CertHash,
        /// Name, host, version for people.
        client: String,
        /// Its host.
        host: String,
        /// Its version.
        version: String,
        /// Random: the same opening repeated opens one session.
        nonce: u64,
    },
    /// A session ends, by itself or by silence, after its epoch was fenced.
    SessionEnd {
        /// Which, at which epoch: a later epoch makes it void.
        session: SessionStamp,
        /// Chunkservers that have not acknowledged the fence: what they head is not given to others
        /// before they have.
        unfenced: Vec<ServerId>,
    },
    /// A session is fenced: its epoch becomes one more than this.
    Fence {
        /// Which, from which epoch.
        session: SessionStamp,
    },
    /// An unlinked inode was released by a session (or never held by it).
    ReleaseOrphan {
        /// Which inode.
        inode: InodeId,
        /// By whom.
        session: SessionId,
    },
    /// Ids for a session.
    GrantIds {
        /// To whom.
        session: SessionStamp,
        /// Kind of ids and how many.
        kind: super::types::IdKind,
        /// How many.
        count: u32,
    },
    /// A chunkserver's address and incarnation.
    ServerSeen {
        /// Which.
        server: ServerId,
        /// Where.
        addr: String,
        /// Which start.
        incarnation: Incarnation,
    },
    /// A bump begins: a version that was never used, with these members.
    BumpStart {
        /// Which chunk, at the version that is open now.
        from: ChunkRef,
        /// The version being made by the bump that this one takes the place of: nobody of its
        /// survivors is able to go on. `None` when there is none.
        replaces: Option<ChunkVersion>,
        /// Members that go on, in chain order.
        survivors: Vec<ServerId>,
        /// The survivor, one, is a suspect: every other member was lost, or is a suspect behind it in the
        /// chain.
        settles: bool,
        /// Members that are filled by it.
        joining: Vec<ServerId>,
        /// Cut the chunk to this many bytes.
        cut_to: Option<u64>,
    },
    /// A bump's version opens with the members that made it.
    BumpOpen {
        /// Which chunk, at the version that was being made.
        chunk: ChunkRef,
        /// Members in chain order, not empty.
        members: Vec<ServerId>,
    },
    /// Holders confirmed that a deleted chunk is gone there.
    DeleteDone {
        /// Which chunk, where.
        done: Vec<(ChunkId, ServerId)>,
    },
    /// A leader's public key. From now on nobody signs with another one.
    AddKey {
        /// The key.
        key: PublicKey,
        /// Whose.
        master: MasterId,
    },
    /// The cluster's identity and defaults, once.
    Init {
        /// Which cluster.
        cluster: ClusterId,
        /// Class of the root directory.
        class: StorageClass,
    },
    /// The first entry of a leader in its term.
    Lead {
        /// Who leads.
        master: MasterId,
    },
    /// A join token is made.
    TokenMade {
        /// Its public key.
        token: TokenId,
        /// Whom it is for.
        invite: Invite,
        /// How long it lives from this entry's time on.
        lifetime_secs: u64,
        /// How long the certificate will be valid.
        validity_secs: u64,
        /// Removes the tokens that it clashes with.
        replace: bool,
    },
    /// A join token is used, once: by this signing request and no other.
    TokenUsed {
        /// Which.
        token: TokenId,
        /// SHA-256 of the signing request.
        csr: [u8; 32],
    },
    /// Chunkservers acknowledged fences of ended sessions.
    FenceDone {
        /// Which session's, where.
        done: Vec<(SessionId, ServerId)>,
    },
    /// A chunkserver is to be emptied, or not any more.
    Drain {
        /// Which.
        server: ServerId,
        /// Whether it is.
        on: bool,
    },
    /// A disk of a chunkserver is to be emptied, or not any more.
    DrainDisk {
        /// Whose.
        server: ServerId,
        /// Which.
        disk: DiskId,
        /// Whether it is.
        on: bool,
    },
    /// Public keys that nobody has signed with for so long are removed: what they signed has expired.
    RemoveKeys {
        /// For how long.
        unused_secs: u64,
    },
}

/// What the leader decided for a mutation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Decisions {
    /// Chains for chunks that the request makes, in order. Apply takes as many as it needs.
    pub chains: Vec<Vec<ServerId>>,
    /// Inodes that the request may remove, each with the sessions that have it open. Apply refuses
    /// to remove one that is not named.
    pub holders: Vec<(InodeId, Vec<SessionId>)>,
}

/// What applying an entry answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Applied {
    /// Of a mutation.
    Fs(Result<super::ops::MetaReply, crate::error::MetaError>),
    /// Of [`Command::SessionOpen`].
    Session(SessionStamp),
    /// Of [`Command::GrantIds`].
    Ids(Result<super::types::IdRange, crate::error::MetaError>),
    /// Whether the command found what it was about and changed it.
    Done(bool),
    /// Of [`Command::TokenMade`] and [`Command::TokenUsed`].
    Token(Result<Promise, JoinError>),
}
