//! What callers of the SDK hear.

use mooseng_core::{
    error::{ChunkError, Errno, MetaError, Outcome},
    ids::{ChunkId, InodeId},
};
use std::{io, sync::Arc};

/// Kinds of errors, for programs that decide by them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// ENOENT, ESTALE.
    NotFound,
    /// EEXIST.
    AlreadyExists,
    /// EACCES, EPERM.
    PermissionDenied,
    /// Any other answer of the filesystem.
    Refused,
    /// Bad arguments.
    InvalidInput,
    /// No master or chunkserver answered in time.
    Unreachable,
    /// Nothing was heard in time.
    TimedOut,
    /// Written data was lost, or no replica has good data.
    DataLoss,
    /// The disks are full.
    NoSpace,
    /// The client was shut down.
    Closed,
    /// Anything else.
    Other,
}

/// An error of the SDK: what failed, what was tried, what to do next.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The masters refused, or could not be asked.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The masters could not be asked until the deadline.
    #[error("no answer from the masters ({tried}) within {millis} ms; the last one said: {last}")]
    Masters {
        /// Addresses.
        tried: String,
        /// How long.
        millis: u64,
        /// The last error.
        last: MetaError,
    },
    /// No replica of a chunk could be read or written.
    #[error(
        "chunk {chunk}: tried {tried}; the last error was: {last}; the cluster's status (Client::status) tells which parts are missing"
    )]
    Chunk {
        /// Which chunk.
        chunk: ChunkId,
        /// Which servers, with what they said.
        tried: String,
        /// The last error.
        last: ChunkError,
    },
    /// The session ended while a change was under way: nobody can tell whether it was carried out.
    #[error(
        "the session ended while {request} was under way, and it may or may not have been carried out: look before repeating it ({last})"
    )]
    Unknown {
        /// Which request.
        request: String,
        /// What was heard last.
        last: MetaError,
    },
    /// Too much written data waits for the chunkservers.
    #[error(
        "{bytes} written bytes wait for the chunkservers, and none were taken for {waited:?}; the cluster's status (Client::status) tells which parts are missing"
    )]
    Backlog {
        /// How much.
        bytes: u64,
        /// For how long nothing moved.
        waited: std::time::Duration,
    },
    /// Bad arguments.
    #[error("{0}")]
    Invalid(String),
    /// An earlier write to the file failed; it is told once to each handle.
    #[error("an earlier write to this file failed: {0}")]
    Earlier(Arc<Error>),
    /// The session was given up by the masters, and another client changed the file before this one was
    /// heard again: what was written and not synced is lost, so as not to undo that.
    #[error(
        "this client was not heard for longer than its session lives, and inode {inode} was changed by others since: what was written to it and not synced is lost; write it again"
    )]
    Overtaken {
        /// Which file.
        inode: InodeId,
    },
    /// The task that wrote a chunk of the file panicked.
    #[error(
        "the task that writes a chunk of this file died of a bug of this program (the log has its panic): what was written and not synced is lost; write it again, and report the panic"
    )]
    Died,
    /// The client was shut down.
    #[error("the client was shut down")]
    Closed,
}

/// Result of the SDK.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What a system call would answer.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Meta(e) => e.errno(),
            Self::Masters { last, .. } => match last {
                MetaError::NoServers { .. } => Errno::ENOSPC,
                MetaError::Posix(e) => *e,
                _ => Errno::ETIMEDOUT,
            },
            Self::Chunk { last: ChunkError::NoSpace(_), .. } => Errno::ENOSPC,
            Self::Backlog { .. } => Errno::ETIMEDOUT,
            Self::Earlier(e) if e.errno() == Errno::ENOSPC => Errno::ENOSPC,
            Self::Chunk { .. }
            | Self::Unknown { .. }
            | Self::Earlier(_)
            | Self::Overtaken { .. }
            | Self::Died
            | Self::Closed => Errno::EIO,
            Self::Invalid(_) => Errno::EINVAL,
        }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Masters { .. } if self.errno() == Errno::ETIMEDOUT => return ErrorKind::Unreachable,
            Self::Died | Self::Overtaken { .. } => return ErrorKind::DataLoss,
            Self::Chunk { .. } | Self::Earlier(_) if self.errno() == Errno::EIO => {
                return ErrorKind::DataLoss;
            }
            Self::Closed => return ErrorKind::Closed,
            _ => {}
        }
        match self.errno() {
            Errno::ENOENT | Errno::ESTALE => ErrorKind::NotFound,
            Errno::EEXIST => ErrorKind::AlreadyExists,
            Errno::EACCES | Errno::EPERM => ErrorKind::PermissionDenied,
            Errno::EINVAL => ErrorKind::InvalidInput,
            Errno::ETIMEDOUT => ErrorKind::TimedOut,
            Errno::ENOSPC => ErrorKind::NoSpace,
            Errno::EIO => ErrorKind::Other,
            _ => ErrorKind::Refused,
        }
    }

    /// Whether trying again later can help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Meta(e) => e.is_retryable(),
            Self::Masters { .. } | Self::Backlog { .. } => true,
            Self::Chunk { last, .. } => last.is_retryable(),
            Self::Unknown { .. }
            | Self::Invalid(_)
            | Self::Earlier(_)
            | Self::Overtaken { .. }
            | Self::Died
            | Self::Closed => false,
        }
    }

    /// Whether the operation may have taken effect.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Meta(e) => e.outcome(),
            Self::Masters { .. }
            | Self::Unknown { .. }
            | Self::Chunk { .. }
            | Self::Earlier(_)
            | Self::Overtaken { .. }
            | Self::Died => Outcome::Unknown,
            Self::Backlog { .. } | Self::Invalid(_) | Self::Closed => Outcome::NotApplied,
        }
    }
}

impl From<Errno> for Error {
    fn from(e: Errno) -> Self {
        Self::Meta(MetaError::Posix(e))
    }
}

impl Error {
    /// The number behind an [`io::Error`], also when it came from this SDK: such an error keeps the
    /// SDK's error whole, text included, so that `raw_os_error()` has no place for the number.
    ///
    /// ```
    /// use mooseng_client::Error;
    /// use mooseng_core::error::Errno;
    /// let e = std::io::Error::from(Error::from(Errno::ENOTEMPTY));
    /// assert_eq!(e.kind(), std::io::ErrorKind::DirectoryNotEmpty);
    /// assert_eq!(e.to_string(), "directory not empty");
    /// assert_eq!(Error::errno_of(&e), Some(39));
    /// ```
    pub fn errno_of(e: &io::Error) -> Option<i32> {
        let ours = e.get_ref().and_then(|inner| inner.downcast_ref::<Self>());
        ours.map(|e| e.errno().raw()).or_else(|| e.raw_os_error())
    }
}

impl From<Error> for io::Error {
    /// Keeps the text, and the kind that belongs to the number; [`Error::errno_of`] tells the number.
    fn from(e: Error) -> Self {
        io::Error::new(io::Error::from_raw_os_error(e.errno().raw()).kind(), e)
    }
}
