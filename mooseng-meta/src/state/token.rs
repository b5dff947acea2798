//! Join tokens: each is good for one signing request, however often that one is repeated.

use crate::store::*;
use mooseng_core::{
    attr::Timestamp,
    join::{Invite, JoinError, Promise, TokenId},
    limits::TOKENS_MAX,
};
use std::io;

/// What a token's making carries, as its log entry has it.
pub(super) struct Made<'a> {
    pub token: TokenId,
    pub invite: &'a Invite,
    pub lifetime_secs: u64,
    pub validity_secs: u64,
    pub replace: bool,
}

/// So many seconds later.
pub(super) fn after(now: Timestamp, secs: u64) -> Timestamp {
    Timestamp(now.0.saturating_add_unsigned(secs.saturating_mul(1_000_000_000)))
}

/// What the table holds besides one token.
#[derive(Default)]
struct Others {
    expired: Vec<TokenId>,
    clashing: Vec<(TokenId, bool)>,
    living: usize,
}

fn others(tx: &dyn Tx, now: Timestamp, made: &Made<'_>) -> io::Result<Others> {
    let mut found = Others::default();
    scan_recs(tx, Table::Token, &[], &[], |k, rec: TokenRec| {
        let Ok(id) = k.try_into().map(TokenId) else { return true };
        if rec.promise.expires <= now {
            found.expired.push(id);
            return true;
        }
        found.living += 1;
        if rec.promise.invite.clashes(made.invite) {
            found.clashing.push((id, rec.used.is_some()));
        }
        true
    })?;
    Ok(found)
}

/// Makes a token. Those that have expired are removed with each new one: no token, no rows.
pub(super) fn make(
    tx: &mut dyn Tx,
    now: Timestamp,
    made: &Made<'_>,
) -> io::Result<Result<Promise, JoinError>> {
    let found = others(tx, now, made)?;
    for id in &found.expired {
        tx.delete(Table::Token, &id.0)?;
    }
    if let Some(rec) = load::<TokenRec>(tx, Table::Token, &made.token.0)? {
        let same = rec.promise.invite == *made.invite && rec.used.is_none();
        return Ok(if same {
            Ok(rec.promise)
        } else {
            Err(JoinError::Clash(format!("token {} is there already", made.token)))
        });
    }
    if let Some((_, used)) = found.clashing.first()
        && !made.replace
    {
        let what = if *used { "joined by a token lately" } else { "has a token that is open" };
        let cause = format!("a {} of this name or number {what}", made.invite.role);
        return Ok(Err(JoinError::Clash(cause)));
    }
    if found.living - found.clashing.len() >= TOKENS_MAX {
        return Ok(Err(JoinError::TooMany { limit: TOKENS_MAX as u64 }));
    }
    for (id, _) in &found.clashing {
        tx.delete(Table::Token, &id.0)?;
    }
    let promise = Promise {
        invite: made.invite.clone(),
        expires: after(now, made.lifetime_secs),
        validity_secs: made.validity_secs,
    };
    save(tx, Table::Token, &made.token.0, &TokenRec { promise: promise.clone(), used: None })?;
    Ok(Ok(promise))
}

/// Whether a token is good for a signing request at a time.
pub fn check_token(
    view: &(impl View + ?Sized),
    now: Timestamp,
    token: TokenId,
    csr: [u8; 32],
) -> io::Result<Result<TokenRec, JoinError>> {
    let Some(rec) = load::<TokenRec>(view, Table::Token, &token.0)? else {
        return Ok(Err(JoinError::Unknown(token)));
    };
    Ok(match rec.used {
        Some(by) if by != csr => Err(JoinError::Used(token)),
        _ if rec.promise.expires <= now => Err(JoinError::Expired(token)),
        _ => Ok(rec),
    })
}

/// Uses a token. The same request again gets the same answer; another one never does.
pub(super) fn spend(
    tx: &mut dyn Tx,
    now: Timestamp,
    token: TokenId,
    csr: [u8; 32],
) -> io::Result<Result<Promise, JoinError>> {
    let mut rec = match check_token(tx, now, token, csr)? {
        Ok(rec) => rec,
        Err(e) => return Ok(Err(e)),
    };
    rec.used = Some(csr);
    save(tx, Table::Token, &token.0, &rec)?;
    Ok(Ok(rec.promise))
}
