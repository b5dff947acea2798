//! What can go wrong at the edge of `raft/`, without a word of openraft.

use super::types::Types;
use mooseng_core::error::{MetaError, NetError, Outcome};
use mooseng_core::ids::MasterId;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use std::fmt;

/// Why a Raft node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its log.
    #[error(transparent)]
    Log(#[from] super::log::OpenError),
    /// Its state machine or snapshot.
    #[error("the state cannot be opened: {0}")]
    State(#[from] std::io::Error),
    /// Times that contradict each other.
    #[error("the Raft timings cannot work: {0}")]
    Timings(String),
    /// Its address.
    #[error(transparent)]
    Listen(#[from] NetError),
    /// Raft itself, on what it found on disk.
    #[error("Raft cannot start on what is on disk: {0}")]
    Raft(String),
}

/// Why a proposal, a read barrier or a change of members failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RaftFailure {
    /// This master does not lead; nothing was logged.
    #[error("this master does not lead{}", Hint(leader))]
    NotLeader {
        /// Who does, with the address for clients, as far as known.
        leader: Option<(MasterId, String)>,
    },
    /// The entry may or may not come into effect: only a retry that is recognised as one is safe.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// A quorum did not answer; nothing was changed.
    #[error("no quorum of masters answered: {0}")]
    NoQuorum(String),
    /// Larger than a log entry may be.
    #[error("a command of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// How large.
        bytes: usize,
        /// How large at most.
        limit: usize,
    },
    /// The change of members was refused; nothing was changed.
    #[error("the masters cannot be changed so: {0}")]
    Members(String),
    /// The node stopped, by itself or because its disk failed. What was under way is unknown.
    #[error("this Raft node has stopped: {0}")]
    Stopped(String),
}

struct Hint<'a>(&'a Option<(MasterId, String)>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((id, at)) => write!(f, "; {id} at {at} does"),
            None => Ok(()),
        }
    }
}

impl RaftFailure {
    /// Whether it may have taken effect.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::NotLeader { .. } | Self::NoQuorum(_) | Self::TooLarge { .. } | Self::Members(_) => {
                Outcome::NotApplied
            }
            Self::Unknown(_) | Self::Stopped(_) => Outcome::Unknown,
        }
    }

    pub(super) fn forward(to: ForwardToLeader<Types>) -> Self {
        let leader = to.leader_id.zip(to.leader_node).map(|(id, node)| (MasterId(id), node.client_addr));
        Self::NotLeader { leader }
    }

    pub(super) fn of_write(e: RaftError<Types, ClientWriteError<Types>>) -> Self {
        match e {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => Self::forward(to),
            RaftError::APIError(e @ ClientWriteError::LogEntryDiscarded(_)) => Self::Unknown(e.to_string()),
            RaftError::APIError(
                e @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
            ) => Self::Members(e.to_string()),
            RaftError::Fatal(e) => Self::Stopped(e.to_string()),
        }
    }

    pub(super) fn of_read(e: RaftError<Types, LinearizableReadError<Types>>) -> Self {
        match e {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => Self::forward(to),
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(e)) => Self::NoQuorum(e.to_string()),
            RaftError::Fatal(e) => Self::Stopped(e.to_string()),
        }
    }
}

impl From<RaftFailure> for MetaError {
    fn from(e: RaftFailure) -> Self {
        match e {
            RaftFailure::NotLeader { leader } => Self::NotLeader { leader },
            // Another master may answer what one that ends cannot.
            RaftFailure::NoQuorum(_) | RaftFailure::Unknown(_) | RaftFailure::Stopped(_) => {
                Self::NoQuorum(e.to_string())
            }
            RaftFailure::TooLarge { .. } | RaftFailure::Members(_) => Self::Invalid(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_master_that_ends_cannot_answer_is_asked_of_another() {
        let e = MetaError::from(RaftFailure::Stopped("its disk failed".into()));
        assert!(e.is_retryable() && e.outcome() == Outcome::Unknown, "{e}");
    }
}
