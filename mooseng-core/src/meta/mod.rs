//! The metadata service: one narrow waist, `call(request) -> reply`, and a stream of events.
//!
//! Requests, replies, enum variants and the typed extension methods come from the one table in
//! `ops`; the structs they carry are in `types`, and in `care` and `watch` those that operators look at. A new operation is one row there and one file
//! in `mooseng-meta`.

mod care;
mod entry;
mod ops;
mod types;
mod watch;

pub use care::*;
pub use entry::*;
pub use ops::*;
pub use types::*;
pub use watch::*;

use crate::{
    context::CallContext,
    error::MetaError,
    ids::{EventSeq, SessionEpoch},
};
use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

/// Something a session must hear of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SessionEvent {
    /// The session was fenced; its epoch is now this.
    Fenced(SessionEpoch),
    /// The stream begins at a (new) leader: re-assert what is open.
    Reassert,
}

/// Events of one session, in order.
pub type Events = BoxStream<'static, Result<(EventSeq, SessionEvent), MetaError>>;

/// The masters, local or remote.
#[async_trait]
pub trait MetadataService: Send + Sync + 'static {
    /// Carries out one request.
    ///
    /// Promise: a mutation that answers `Ok` is on a quorum's disks; a read is linearizable.
    /// Ordering: none between calls in flight; the elements of a batch run in order.
    /// Idempotency: a mutation repeated with the same slot stamp gets the first answer.
    /// Cancellation: dropping the future leaves a mutation's outcome unknown.
    /// Errors: [`MetaError::outcome`] tells whether it may have been applied.
    async fn call(&self, cx: &CallContext, req: MetaRequest) -> Result<MetaReply, MetaError>;

    /// Events of the session in `cx`, after the one named.
    ///
    /// Promise: no event is left out while the same master leads; a new leader begins with
    /// [`SessionEvent::Reassert`]. Dropping the stream ends it.
    async fn events(&self, cx: &CallContext, after: EventSeq) -> Result<Events, MetaError>;
}

/// Asks one typed operation.
pub async fn ask<S: MetadataService + ?Sized, O: MetaOp>(
    service: &S,
    cx: &CallContext,
    op: O,
) -> Result<O::Reply, MetaError> {
    O::from_reply(service.call(cx, op.into()).await?)
        .map_err(|r| MetaError::WrongReply { asked: O::NAME.into(), got: r.name().into() })
}

/// One operation: a request struct with its name, its kind and its reply.
pub trait MetaOp: Into<MetaRequest> + Send {
    /// The operation's name.
    const NAME: &'static str;
    /// Which group it belongs to and whether it changes state.
    const KIND: OpKind;
    /// What a success answers.
    type Reply: Send;
    #[allow(
        clippy::result_large_err,
        reason = "the wrong reply goes back whole, once, to be named in an error"
    )]
    /// The typed reply, or the reply back when it is another operation's.
    fn from_reply(reply: MetaReply) -> Result<Self::Reply, MetaReply>;
    /// The typed reply as the common one.
    fn into_reply(reply: Self::Reply) -> MetaReply;
}

/// Group and effect of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpKind {
    /// Reads the namespace.
    FsRead,
    /// Changes the namespace: goes through the log under a session and a slot.
    FsWrite,
    /// About the session itself; the service decides what is logged.
    Session,
    /// From a chunkserver.
    Server,
    /// Looks at the cluster; any client may.
    Look,
    /// Changes the cluster: administrators only.
    Admin,
}
