//! Raft's messages on the wire: small heads in postcard, commands in the body as they are.

use super::log::LogEntry;
use super::segment::{Kind, LogPos};
use super::types::{Entry, Types, Vote, entry_of, log_id, log_pos, record_of};
use bytes::{Bytes, BytesMut};
use mooseng_core::error::NetError;
use mooseng_core::net::{Body, Message, Method};
use openraft::raft::AppendEntriesRequest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Entries to a follower. Raft's methods are 0x0100 to 0x01ff.
pub const APPEND: Method = Method(0x0101);
/// Asks for a vote.
pub const VOTE: Method = Method(0x0102);
/// Asks whether a vote would be given.
pub const PRE_VOTE: Method = Method(0x0103);
/// A whole snapshot, as a stream of pieces.
pub const SNAPSHOT: Method = Method(0x0104);
/// Asks the receiver to take over.
pub const TRANSFER: Method = Method(0x0105);
/// Asks where the receiver's log ends, and for its term.
pub const LAST: Method = Method(0x0106);
/// Asks how many bytes the receiver's disk has, and how many of them are free.
pub const ROOM: Method = Method(0x0107);

#[derive(Serialize, Deserialize)]
struct AppendHead {
    vote: Vote,
    previous: Option<LogPos>,
    commit: Option<LogPos>,
    /// Up to where the leader's own log is on its disk: others alone may have made a quorum.
    durable: Option<LogPos>,
    /// Of each entry: kind (as in the log), place, bytes of the body.
    entries: Vec<(u8, LogPos, u32)>,
}

fn malformed(what: impl std::fmt::Display) -> NetError {
    NetError::Malformed { what: format!("Raft message: {what}") }
}

/// A head's bytes.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Bytes, NetError> {
    postcard::to_allocvec(value).map(Bytes::from).map_err(malformed)
}

/// A head from its bytes.
pub(super) fn decode<T: DeserializeOwned>(head: &[u8]) -> Result<T, NetError> {
    postcard::from_bytes(head).map_err(malformed)
}

/// The message of an append by a leader whose log is on its disk up to `durable`.
pub(super) fn encode_append(
    request: AppendEntriesRequest<Types>,
    durable: Option<LogPos>,
) -> Result<Message, NetError> {
    let mut entries = Vec::with_capacity(request.entries.len());
    let mut datas = Vec::with_capacity(request.entries.len());
    for entry in request.entries {
        let record = record_of(entry).map_err(malformed)?;
        entries.push((record.kind as u8, record.pos, record.data.len() as u32));
        datas.push(record.data);
    }
    let head = AppendHead {
        vote: request.vote,
        previous: request.prev_log_id.as_ref().map(log_pos),
        commit: request.leader_commit.as_ref().map(log_pos),
        durable,
        entries,
    };
    let body = match datas.len() {
        0 => Body::Empty,
        1 => Body::Whole(datas.swap_remove(0)),
        _ => {
            let mut whole = BytesMut::with_capacity(datas.iter().map(Bytes::len).sum());
            datas.iter().for_each(|d| whole.extend_from_slice(d));
            Body::Whole(whole.freeze())
        }
    };
    Ok(Message { head: encode(&head)?, body })
}

/// The append that a message holds, and what the leader has of it on its disk; commands share the body's bytes.
pub(super) fn decode_append(
    message: Message,
) -> Result<(AppendEntriesRequest<Types>, Option<LogPos>), NetError> {
    let head: AppendHead = decode(&message.head)?;
    let mut body = match message.body {
        Body::Empty => Bytes::new(),
        Body::Whole(bytes) => bytes,
        Body::Stream(_) => return Err(malformed("a stream where one body belongs")),
    };
    let mut entries: Vec<Entry> = Vec::with_capacity(head.entries.len());
    for (kind, pos, len) in head.entries {
        let kind = Kind::of(kind).filter(|k| k.is_entry()).ok_or_else(|| malformed("an unknown kind"))?;
        if len as usize > body.len() {
            return Err(malformed("the body is too short"));
        }
        let data = body.split_to(len as usize);
        entries.push(entry_of(LogEntry { pos, kind, data }).map_err(malformed)?);
    }
    if !body.is_empty() {
        return Err(malformed("the body is too long"));
    }
    let request = AppendEntriesRequest {
        vote: head.vote,
        prev_log_id: head.previous.map(log_id),
        leader_commit: head.commit.map(log_id),
        entries,
    };
    Ok((request, head.durable))
}
