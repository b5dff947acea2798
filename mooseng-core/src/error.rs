//! One error enum per boundary. Each answers `errno()`, `is_retryable()` and `outcome()`. Pure.

use crate::{
    ids::{ChunkId, ChunkVersion, MasterId, ServerId, Term},
    join::JoinError,
    name::NameError,
};
use serde::{Deserialize, Serialize};

mod errno;
pub use errno::Errno;

/// Whether a failed operation took effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It did not and will not.
    NotApplied,
    /// It did.
    Applied,
    /// Nobody can tell yet: only a retry as the same mutation is allowed.
    Unknown,
}

/// Errors of a transport: connections, frames, deadlines.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NetError {
    /// No connection could be made.
    #[error("cannot connect to {to}: {cause}")]
    Connect {
        /// Address asked for.
        to: String,
        /// Why.
        cause: String,
    },
    /// The peer is not who it must be, or refused us.
    #[error("{peer} was refused: {cause}")]
    Identity {
        /// Whom.
        peer: String,
        /// Why, and what to do.
        cause: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {at}: {cause}")]
    Listen {
        /// Address asked for.
        at: String,
        /// Why, and what to do.
        cause: String,
    },
    /// The connection ended while the call was under way.
    #[error("the connection to {peer} closed: {cause}")]
    Closed {
        /// Who was at the other end.
        peer: String,
        /// Why.
        cause: String,
        /// Whether the request had left.
        sent: bool,
    },
    /// Nothing came within the time allowed.
    #[error("no answer from {peer} within {millis} ms")]
    Deadline {
        /// Who did not answer.
        peer: String,
        /// How long was waited.
        millis: u64,
    },
    /// The handler did not take the call.
    #[error("the call was refused: {cause}")]
    Refused {
        /// Why.
        cause: String,
    },
    /// Bytes on the wire that are not of the protocol.
    #[error("malformed frame: {what}")]
    Malformed {
        /// What was wrong.
        what: String,
    },
    /// A length over its limit.
    #[error("{what} of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Of what.
        what: String,
        /// How long.
        bytes: u64,
        /// How long at most.
        limit: u64,
    },
    /// A method that the peer does not answer.
    #[error("method {0} is not served here")]
    UnknownMethod(u16),
    /// A protocol version that is not spoken here.
    #[error(
        "protocol version {got} is not spoken here (versions {min} to {max} are): upgrade the older side"
    )]
    Version {
        /// What the peer speaks.
        got: u8,
        /// Oldest spoken here.
        min: u8,
        /// Newest spoken here.
        max: u8,
    },
    /// The stream was dropped by the other side.
    #[error("the stream was cancelled")]
    Cancelled,
    /// The caller has as much as one may have at once; less may be had later.
    #[error("{limit} {what}: there may be no more at once; end some of them, or wait until some have ended")]
    Limit {
        /// Of what.
        what: String,
        /// How many there may be.
        limit: u64,
    },
}

impl NetError {
    /// Whether the handler may have run.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Connect { .. }
            | Self::Identity { .. }
            | Self::Listen { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::UnknownMethod(_)
            | Self::Version { .. }
            | Self::Limit { .. }
            | Self::Closed { sent: false, .. } => Outcome::NotApplied,
            Self::Closed { .. } | Self::Deadline { .. } | Self::Malformed { .. } | Self::Cancelled => {
                Outcome::Unknown
            }
        }
    }
    /// Whether the same call can succeed later or elsewhere.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Closed { .. }
            | Self::Deadline { .. }
            | Self::Cancelled
            | Self::Limit { .. } => true,
            Self::Identity { .. }
            | Self::Listen { .. }
            | Self::Refused { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::UnknownMethod(_)
            | Self::Version { .. } => false,
        }
    }
    /// What a system call would answer.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Connect { .. } | Self::Closed { .. } | Self::Listen { .. } => Errno::EIO,
            Self::Deadline { .. } => Errno::ETIMEDOUT,
            Self::Identity { .. } | Self::Refused { .. } => Errno::EACCES,
            Self::Malformed { .. } | Self::UnknownMethod(_) | Self::Version { .. } => Errno::EPROTO,
            Self::TooLarge { .. } => Errno::E2BIG,
            Self::Cancelled => Errno::EINTR,
            Self::Limit { .. } => Errno::EAGAIN,
        }
    }
}

/// Errors of the masters.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MetaError {
    /// A POSIX answer of the namespace: the operation was judged and refused, nothing changed.
    #[error("{0}")]
    Posix(Errno),
    /// A name that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A request that makes no sense; the text says what to change.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// This master does not lead.
    #[error("master is not the leader{}", hint_text(leader))]
    NotLeader {
        /// Who does, as far as it knows: id and client address.
        leader: Option<(MasterId, String)>,
    },
    /// No leader, or the leader has no quorum.
    #[error("no quorum of masters: {0}")]
    NoQuorum(String),
    /// The session is not known: expired, closed, or never opened. What was under way is unknown.
    #[error("the session has ended; open a new one")]
    SessionEnded,
    /// The session was fenced: it was silent while somebody needed what it held.
    #[error("the session was fenced at epoch {epoch}")]
    Fenced {
        /// The epoch in force.
        epoch: u64,
    },
    /// The slot's sequence was used by another request, or is older than the slot's.
    #[error("slot sequence misused")]
    SlotMisuse,
    /// The chunk is between two versions; try again shortly.
    #[error("chunk {0} is changing its replica set; try again")]
    ChunkBusy(ChunkId),
    /// The chunk named is not the file's any more: read the layout again.
    #[error("the layout is out of date; read it again")]
    LayoutStale,
    /// Too few chunkservers qualify for what the storage class wants.
    #[error("no space: {wanted} chunkservers with room are needed, {found} found")]
    NoServers {
        /// Copies wanted at least.
        wanted: u32,
        /// Servers that qualify.
        found: u32,
    },
    /// The peer's role does not allow this request.
    #[error("{request} is not allowed to a {role}")]
    Role {
        /// Which request.
        request: String,
        /// As what the peer came.
        role: String,
    },
    /// A reply of another kind than was asked for.
    #[error("asked {asked}, got a reply to {got}")]
    WrongReply {
        /// What was asked.
        asked: String,
        /// What came.
        got: String,
    },
    /// Busy or over a limit; try again.
    #[error("busy: {0}")]
    Busy(String),
    /// No answer in time.
    #[error("no answer in time: {0}")]
    Deadline(String),
    /// Under the service, the network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The master failed inside; it says what and stops.
    #[error("the master failed: {0}")]
    Internal(String),
    /// There is no join token, or none was made.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The caller has as much as one may have; nothing was changed.
    #[error("{limit} {what} are the limit: {cure}")]
    Limit {
        /// Of what.
        what: String,
        /// How many there may be.
        limit: u64,
        /// What to do.
        cure: String,
    },
}

fn hint_text(leader: &Option<(MasterId, String)>) -> String {
    leader.as_ref().map_or_else(String::new, |(id, at)| format!("; {id} at {at} is"))
}

impl MetaError {
    /// Whether the operation took effect.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Posix(_)
            | Self::Name(_)
            | Self::Invalid(_)
            | Self::NotLeader { .. }
            | Self::Fenced { .. }
            | Self::SlotMisuse
            | Self::ChunkBusy(_)
            | Self::LayoutStale
            | Self::NoServers { .. }
            | Self::Role { .. }
            | Self::Limit { .. }
            | Self::Busy(_) => Outcome::NotApplied,
            Self::Net(e) => e.outcome(),
            Self::Join(e) => e.outcome(),
            Self::NoQuorum(_)
            | Self::SessionEnded
            | Self::WrongReply { .. }
            | Self::Deadline(_)
            | Self::Internal(_) => Outcome::Unknown,
        }
    }
    /// Whether the same request, with the same slot stamp, can succeed later or at another master.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NotLeader { .. }
            | Self::NoQuorum(_)
            | Self::ChunkBusy(_)
            | Self::Busy(_)
            | Self::Deadline(_)
            | Self::NoServers { .. } => true,
            Self::Net(e) => e.is_retryable(),
            Self::Join(e) => e.is_retryable(),
            Self::Posix(_)
            | Self::Name(_)
            | Self::Invalid(_)
            | Self::SessionEnded
            | Self::Fenced { .. }
            | Self::SlotMisuse
            | Self::LayoutStale
            | Self::Role { .. }
            | Self::WrongReply { .. }
            | Self::Limit { .. }
            | Self::Internal(_) => false,
        }
    }
    /// A short name for counting: what the namespace answered as its errno's name, what is the masters' own
    /// matter by a word. One of a few dozen.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "NOT_LEADER",
            Self::NoQuorum(_) => "NO_QUORUM",
            Self::SessionEnded => "SESSION_ENDED",
            Self::Fenced { .. } => "FENCED",
            Self::LayoutStale => "LAYOUT_STALE",
            Self::ChunkBusy(_) => "CHUNK_BUSY",
            Self::Busy(_) => "BUSY",
            Self::Internal(_) => "INTERNAL",
            other => other.errno().name(),
        }
    }
    /// What a system call would answer.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Posix(e) => *e,
            Self::Name(NameError::TooLong) => Errno::ENAMETOOLONG,
            Self::Name(_) | Self::Invalid(_) => Errno::EINVAL,
            Self::NoServers { .. } => Errno::ENOSPC,
            Self::Role { .. } => Errno::EPERM,
            Self::Deadline(_) | Self::NoQuorum(_) => Errno::ETIMEDOUT,
            Self::Busy(_) | Self::ChunkBusy(_) => Errno::EAGAIN,
            Self::Net(e) => e.errno(),
            Self::Join(e) => e.errno(),
            Self::NotLeader { .. }
            | Self::SessionEnded
            | Self::Fenced { .. }
            | Self::SlotMisuse
            | Self::LayoutStale
            | Self::Internal(_) => Errno::EIO,
            Self::WrongReply { .. } => Errno::EPROTO,
            Self::Limit { .. } => Errno::EMFILE,
        }
    }
}

/// Errors of chunkservers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ChunkError {
    /// No such chunk here.
    #[error("chunk {0} is not here")]
    NotFound(ChunkId),
    /// The caller knows an older version than the server: read the layout again.
    #[error("chunk {chunk} has version {here}, {asked} was asked for")]
    Stale {
        /// Which chunk.
        chunk: ChunkId,
        /// Version here.
        here: ChunkVersion,
        /// Version asked for.
        asked: ChunkVersion,
    },
    /// The caller knows a newer version than the server: it may catch up, or is a surplus copy.
    #[error("chunk {chunk} has version {here} here, {asked} is not here yet")]
    TooNew {
        /// Which chunk.
        chunk: ChunkId,
        /// Version here.
        here: ChunkVersion,
        /// Version asked for.
        asked: ChunkVersion,
    },
    /// Was dirty at an unclean stop and is not settled with the other replicas.
    #[error("chunk {0} waits to be compared with its other replicas")]
    Suspect(ChunkId),
    /// Blocks that do not match their checksums; nothing of them was served.
    #[error("chunk {chunk}: {blocks} blocks from block {first} are damaged here")]
    Damaged {
        /// Which chunk.
        chunk: ChunkId,
        /// First damaged block.
        first: u64,
        /// How many.
        blocks: u64,
    },
    /// A frame whose data does not match its checksums, or that breaks a bound.
    #[error("bad frame for chunk {chunk}: {what}")]
    BadFrame {
        /// Which chunk.
        chunk: ChunkId,
        /// What was wrong.
        what: String,
    },
    /// A write number with a gap before it.
    #[error("chunk {chunk}: write {got} came, {expected} was expected")]
    OutOfOrder {
        /// Which chunk.
        chunk: ChunkId,
        /// Expected next.
        expected: u64,
        /// Came.
        got: u64,
    },
    /// Writes were acknowledged by a start of the server that has ended, and are not on disk.
    #[error("{server} restarted before the writes to chunk {chunk} were on disk")]
    Lost {
        /// Which chunk.
        chunk: ChunkId,
        /// Where.
        server: ServerId,
    },
    /// The next server of the chain did not answer, or refused.
    #[error("{server} behind this one in the chain failed: {cause}")]
    Chain {
        /// Which server.
        server: ServerId,
        /// How.
        cause: String,
    },
    /// The capability does not allow this.
    #[error("the capability does not allow this: {0}")]
    Forbidden(String),
    /// The session's epoch was fenced.
    #[error("the session was fenced")]
    Fenced,
    /// A command of an older term than was seen.
    #[error("command of {got}, {seen} was seen: its master does not lead any more")]
    OldTerm {
        /// The command's.
        got: Term,
        /// Highest seen.
        seen: Term,
    },
    /// No disk has room. The servers before this one in the chain may have applied it.
    #[error("no space on the disks of {0}")]
    NoSpace(ServerId),
    /// A disk failed.
    #[error("disk of {server} failed: {cause}")]
    Disk {
        /// Which server.
        server: ServerId,
        /// How.
        cause: String,
    },
    /// Starting, stopping or over a limit; try again.
    #[error("busy: {0}")]
    Busy(String),
    /// A request that makes no sense.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// Under the service, the network.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl ChunkError {
    /// Whether the operation took effect.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Net(e) => e.outcome(),
            Self::Chain { .. } | Self::NoSpace(_) | Self::Disk { .. } | Self::Lost { .. } => Outcome::Unknown,
            Self::NotFound(_)
            | Self::Stale { .. }
            | Self::TooNew { .. }
            | Self::Suspect(_)
            | Self::Damaged { .. }
            | Self::BadFrame { .. }
            | Self::OutOfOrder { .. }
            | Self::Forbidden(_)
            | Self::Fenced
            | Self::OldTerm { .. }
            | Self::Busy(_)
            | Self::Invalid(_) => Outcome::NotApplied,
        }
    }
    /// Whether it can succeed at another replica, with a fresh layout, or later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Net(e) => e.is_retryable(),
            Self::NotFound(_)
            | Self::Stale { .. }
            | Self::TooNew { .. }
            | Self::Suspect(_)
            | Self::Damaged { .. }
            | Self::BadFrame { .. }
            | Self::OutOfOrder { .. }
            | Self::Chain { .. }
            | Self::NoSpace(_)
            | Self::Disk { .. }
            | Self::Busy(_) => true,
            Self::Lost { .. }
            | Self::Forbidden(_)
            | Self::Fenced
            | Self::OldTerm { .. }
            | Self::Invalid(_) => false,
        }
    }
    /// What a system call would answer.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::NoSpace(_) => Errno::ENOSPC,
            Self::Forbidden(_) => Errno::EACCES,
            Self::Invalid(_) => Errno::EINVAL,
            Self::Busy(_) => Errno::EAGAIN,
            Self::Net(e) => e.errno(),
            Self::NotFound(_)
            | Self::Stale { .. }
            | Self::TooNew { .. }
            | Self::Suspect(_)
            | Self::Damaged { .. }
            | Self::BadFrame { .. }
            | Self::OutOfOrder { .. }
            | Self::Lost { .. }
            | Self::Chain { .. }
            | Self::Fenced
            | Self::OldTerm { .. }
            | Self::Disk { .. } => Errno::EIO,
        }
    }
}
