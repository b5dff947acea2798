//! Public halves of the masters' signing keys. Only a leader signs, so one key is in use; the others are
//! kept until all that they signed has expired. Pure.

use super::token::after;
use crate::store::*;
use mooseng_core::{attr::Timestamp, capability::PublicKey, ids::MasterId, limits::KEYS_MAX};
use std::io;

fn all(tx: &dyn Tx) -> io::Result<Vec<KeyRec>> {
    let mut all = Vec::new();
    scan_recs(tx, Table::Key, &[], &[], |_, rec: KeyRec| {
        all.push(rec);
        true
    })?;
    Ok(all)
}

/// Adds a leader's key, or takes one that is there into use again. There are [`KEYS_MAX`] at most: past it
/// the one that has been out of use for longest goes, and who holds what it signed has to ask anew.
pub(super) fn add(tx: &mut dyn Tx, now: Timestamp, public: &PublicKey, master: MasterId) -> io::Result<bool> {
    let k = key(public.id.0);
    let there: Option<KeyRec> = load(tx, Table::Key, &k)?;
    let since = there.map_or(now, |rec| rec.since);
    save(tx, Table::Key, &k, &KeyRec { key: public.clone(), master, since, unused: None })?;
    let mut others = all(tx)?;
    others.retain(|rec| rec.key.id != public.id);
    for rec in others.iter_mut().filter(|rec| rec.unused.is_none()) {
        rec.unused = Some(now);
        save(tx, Table::Key, &key(rec.key.id.0), rec)?;
    }
    others.sort_by_key(|rec| (rec.unused, rec.key.id));
    let surplus = (others.len() + 1).saturating_sub(KEYS_MAX);
    others.iter().take(surplus).try_for_each(|rec| tx.delete(Table::Key, &key(rec.key.id.0)))?;
    Ok(true)
}

/// Removes the keys that have been out of use for so long.
pub(super) fn remove(tx: &mut dyn Tx, now: Timestamp, unused_secs: u64) -> io::Result<bool> {
    let is_over = |rec: &KeyRec| rec.unused.is_some_and(|at| after(at, unused_secs) <= now);
    let over: Vec<_> = all(tx)?.into_iter().filter(is_over).collect();
    over.iter().try_for_each(|rec| tx.delete(Table::Key, &key(rec.key.id.0)))?;
    Ok(!over.is_empty())
}
