//! Sessions and slots: who may ask, and whether it was asked before (NFSv4.1's sessions, RFC 8881).

use crate::store::*;
use bytes::Bytes;
use mooseng_core::{
    checksum::crc32c,
    error::MetaError,
    ids::{SessionStamp, SlotStamp},
    limits::{SAVED_REPLY_BYTES_MAX, SLOTS_MAX},
    meta::{Batch, MetaReply, MetaRequest},
    wire,
};
use std::io;

/// What a slot says of a request.
#[derive(Debug)]
pub enum SlotCheck {
    /// It is new.
    New,
    /// It was answered: this is the answer.
    Answered(Box<Result<MetaReply, MetaError>>),
    /// The slot was used by another request, or by a later one.
    Misused,
}

/// Whether a session exists and its epoch is in force.
pub fn check_session(
    view: &(impl View + ?Sized),
    stamp: SessionStamp,
) -> io::Result<Result<SessionRec, MetaError>> {
    let rec: Option<SessionRec> = load(view, Table::Session, &key(stamp.id.get()))?;
    Ok(match rec {
        None => Err(MetaError::SessionEnded),
        Some(rec) if rec.epoch != stamp.epoch => Err(MetaError::Fenced { epoch: rec.epoch.get() }),
        Some(rec) => Ok(rec),
    })
}

/// Whether all of a mutation was carried out: a batch stops at its first failure.
fn was_whole(answer: &Result<MetaReply, MetaError>) -> bool {
    match answer {
        Ok(MetaReply::Batch(answers)) => answers
            .last()
            .is_none_or(|last| matches!(wire::decode::<Result<MetaReply, MetaError>>(last), Ok(Ok(_)))),
        answer => answer.is_ok(),
    }
}

/// Whether the batch that a batch is to come after was carried out whole, as the last of its slot.
pub(super) fn follows(
    view: &(impl View + ?Sized),
    session: SessionStamp,
    slot: SlotStamp,
    req: &MetaRequest,
) -> io::Result<bool> {
    let MetaRequest::Batch(Batch { after: Some(after), .. }) = req else { return Ok(true) };
    let last: Option<SlotRec> = load(view, Table::Slot, &slot_key(session.id, slot.slot))?;
    Ok(last.is_some_and(|rec| rec.seq == *after && rec.whole))
}

fn fingerprint(req: &MetaRequest) -> u32 {
    crc32c(&wire::encode(req))
}

/// Looks a mutation up in its slot.
pub fn check_slot(
    view: &(impl View + ?Sized),
    session: SessionStamp,
    slot: SlotStamp,
    req: &MetaRequest,
) -> io::Result<SlotCheck> {
    if slot.slot.get() >= SLOTS_MAX {
        return Ok(SlotCheck::Misused);
    }
    let rec: Option<SlotRec> = load(view, Table::Slot, &slot_key(session.id, slot.slot))?;
    Ok(match rec {
        Some(rec) if slot.seq < rec.seq => SlotCheck::Misused,
        Some(rec) if slot.seq == rec.seq && rec.request != fingerprint(req) => SlotCheck::Misused,
        Some(rec) if slot.seq == rec.seq => {
            let answer = wire::decode::<Result<MetaReply, MetaError>>(&rec.reply);
            SlotCheck::Answered(Box::new(answer.map_err(|e| io::Error::other(e.to_string()))?))
        }
        _ => SlotCheck::New,
    })
}

/// Saves a mutation's answer in its slot. An answer over the limit is saved as its outcome only.
pub(super) fn save_reply(
    tx: &mut dyn Tx,
    session: SessionStamp,
    slot: SlotStamp,
    req: &MetaRequest,
    answer: &Result<MetaReply, MetaError>,
) -> io::Result<()> {
    let mut reply: Bytes = wire::encode(answer);
    if reply.len() > SAVED_REPLY_BYTES_MAX {
        let said = if answer.is_ok() { "applied" } else { "refused" };
        reply = wire::encode(&Err::<MetaReply, _>(MetaError::Internal(format!(
            "{said}, its answer was too long to keep"
        ))));
    }
    let rec = SlotRec { seq: slot.seq, request: fingerprint(req), whole: was_whole(answer), reply };
    save(tx, Table::Slot, &slot_key(session.id, slot.slot), &rec)
}
