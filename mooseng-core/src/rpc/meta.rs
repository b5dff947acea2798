//! The metadata service over a connection.

use super::{Refusals, method};
use crate::{
    context::CallContext,
    error::{MetaError, NetError},
    ids::EventSeq,
    limits::TEXT_BYTES_MAX,
    meta::{Events, MetaReply, MetaRequest, MetadataService, OP_NAMES, OpKind, SessionEvent},
    net::{Body, Connection, Handler, Message, Method, PeerIdentity, Piece, Role},
    wire::{decode, encode},
};
use async_trait::async_trait;
use futures::StreamExt as _;
use std::sync::Arc;

/// A remote master.
#[derive(Clone)]
pub struct RemoteMeta(Arc<dyn Connection>);

impl RemoteMeta {
    /// Over a connection to a master.
    pub fn new(connection: Arc<dyn Connection>) -> Self {
        Self(connection)
    }
    /// The connection.
    pub fn connection(&self) -> &Arc<dyn Connection> {
        &self.0
    }
}

#[async_trait]
impl MetadataService for RemoteMeta {
    async fn call(&self, cx: &CallContext, req: MetaRequest) -> Result<MetaReply, MetaError> {
        let reply = self.0.call(cx, method::META_CALL, Message::of_head(encode(&req))).await?;
        decode::<Result<MetaReply, MetaError>>(&reply.head)?
    }

    async fn events(&self, cx: &CallContext, after: EventSeq) -> Result<Events, MetaError> {
        let reply = self.0.call(cx, method::META_EVENTS, Message::of_head(encode(&after))).await?;
        decode::<Result<(), MetaError>>(&reply.head)??;
        let Body::Stream(pieces) = reply.body else {
            return Err(NetError::Malformed { what: "events without a stream".into() }.into());
        };
        Ok(pieces.map(|piece| decode::<Result<(EventSeq, SessionEvent), MetaError>>(&piece?.head)?).boxed())
    }
}

/// Place in [`OP_NAMES`] of the operation that a call's encoded head asks for, from its first bytes: for those who
/// count calls that somebody else decodes. `None` when it names none; the rest of the head is not looked at.
pub fn op_of_call(head: &[u8]) -> Option<usize> {
    let (variant, _) = postcard::take_from_bytes::<u32>(head).ok()?;
    usize::try_from(variant).ok().filter(|at| *at < OP_NAMES.len())
}

/// How a call was answered, from its reply's encoded head: `ok`, or [`MetaError::code`]. Only errors are decoded.
pub fn code_of_reply(head: &[u8]) -> &'static str {
    if head.first() == Some(&0) {
        return "ok";
    }
    match decode::<Result<(), MetaError>>(head) {
        Ok(Err(e)) => e.code(),
        _ => "malformed",
    }
}

/// Answers calls with a metadata service; checks that the peer's role allows each request.
pub struct MetaHandler(Arc<dyn MetadataService>, Refusals);

impl MetaHandler {
    /// Around a service.
    pub fn new(service: Arc<dyn MetadataService>) -> Self {
        Self(service, Refusals::default())
    }
}

/// Whether an error says that the caller asked for what it may not have, or for nonsense.
fn is_refusal(e: &MetaError) -> bool {
    matches!(
        e,
        MetaError::Role { .. }
            | MetaError::Fenced { .. }
            | MetaError::Invalid(_)
            | MetaError::SlotMisuse
            | MetaError::Limit { .. }
    )
}

/// Bytes of the longest free text of a client's request: the masters keep or log it.
fn longest_text(req: &MetaRequest) -> usize {
    match req {
        MetaRequest::OpenSession(r) => r.client.len().max(r.host.len()).max(r.version.len()),
        MetaRequest::ReportReplica(r) => r.problem.len(),
        _ => 0,
    }
}

fn allowed(role: Role, kind: OpKind) -> bool {
    match kind {
        OpKind::FsRead | OpKind::FsWrite | OpKind::Session => matches!(role, Role::Client | Role::Admin),
        OpKind::Server => role == Role::Chunkserver,
        OpKind::Look => true,
        OpKind::Admin => role == Role::Admin,
    }
}

#[async_trait]
impl Handler for MetaHandler {
    async fn handle(
        &self,
        peer: &PeerIdentity,
        mut cx: CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        cx.peer = Some(Arc::new(peer.clone()));
        match method {
            method::META_CALL => {
                let req: MetaRequest = decode(&msg.head)?;
                let name = req.name();
                let reply = if !allowed(peer.role, req.kind()) {
                    Err(MetaError::Role { request: name.into(), role: peer.role.as_str().into() })
                } else if longest_text(&req) > TEXT_BYTES_MAX {
                    Err(MetaError::Invalid(format!("a text has at most {TEXT_BYTES_MAX} bytes")))
                } else {
                    self.0.call(&cx, req).await
                };
                if let Err(e) = &reply
                    && is_refusal(e)
                {
                    self.1.note(peer, format_args!("{name}: {e}"));
                }
                Ok(Message::of_head(encode(&reply)))
            }
            method::META_EVENTS => {
                let after: EventSeq = decode(&msg.head)?;
                if !allowed(peer.role, OpKind::Session) {
                    super::need_role("events", peer.role, &[Role::Client, Role::Admin])?;
                }
                match self.0.events(&cx, after).await {
                    Ok(events) => {
                        let pieces = events
                            .map(|event| Ok(Piece { head: encode(&event), data: Default::default() }))
                            .boxed();
                        let head = encode(&Ok::<(), MetaError>(()));
                        Ok(Message { head, body: Body::Stream(pieces) })
                    }
                    Err(e) => Ok(Message::of_head(encode(&Err::<(), _>(e)))),
                }
            }
            other => Err(NetError::UnknownMethod(other.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Errno,
        ids::InodeId,
        meta::{DrainDisk, GetStatus, Lookup, MetaOp as _},
        name::Name,
    };

    #[test]
    fn calls_are_counted_without_being_decoded() {
        let lookup = Lookup { parent: InodeId(1), name: Name::new("x").unwrap() };
        let drain = DrainDisk { server: Default::default(), disk: Default::default(), on: true };
        for (request, name) in [
            (MetaRequest::from(lookup), Lookup::NAME),
            (GetStatus {}.into(), GetStatus::NAME),
            (drain.into(), DrainDisk::NAME),
        ] {
            let at = op_of_call(&encode(&request)).unwrap();
            assert_eq!((OP_NAMES[at], request.name()), (name, name));
        }
        let past = u32::try_from(OP_NAMES.len()).unwrap();
        for bad in [encode(&past), encode(&u32::MAX), Default::default()] {
            assert_eq!(op_of_call(&bad), None);
        }
    }

    #[test]
    fn answers_are_counted_by_a_bounded_word() {
        let no = |e: MetaError| encode(&Err::<MetaReply, _>(e));
        for (head, code) in [
            (encode(&Ok::<_, MetaError>(MetaReply::Reassert(()))), "ok"),
            (no(MetaError::Posix(Errno::ENOENT)), "ENOENT"),
            (no(MetaError::NotLeader { leader: None }), "NOT_LEADER"),
            (no(MetaError::Invalid("x".into())), "EINVAL"),
            (encode(&7u32), "malformed"),
            (Default::default(), "malformed"),
        ] {
            assert_eq!(code_of_reply(&head), code);
        }
    }
}
