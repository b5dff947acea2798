//! Signing keys' public halves: one is in use, the others go when what they signed has expired.

use crate::world::World;
use mooseng_core::{
    attr::Timestamp,
    capability::{KeyId, PublicKey},
    ids::*,
    limits::KEYS_MAX,
    meta::*,
};
use mooseng_meta::store::*;

fn add(w: &mut World, id: u64, master: u64) {
    let key = PublicKey { id: KeyId(id), bytes: [id as u8; 32] };
    assert_eq!(w.put(Command::AddKey { key, master: MasterId(master) }), Applied::Done(true));
}

/// Keys and since when they are out of use.
fn keys(w: &World) -> Vec<(u64, Option<i64>)> {
    let mut all = Vec::new();
    scan_recs(&w.store, Table::Key, &[], &[], |k, rec: KeyRec| {
        assert_eq!(number(k), rec.key.id.0);
        all.push((rec.key.id.0, rec.unused.map(Timestamp::secs)));
        true
    })
    .unwrap();
    all
}

#[test]
fn the_leaders_key_is_the_one_in_use_and_no_other() {
    let mut w = World::new();
    add(&mut w, 1, 1);
    add(&mut w, 2, 1);
    let second = w.now;
    assert_eq!(keys(&w), [(1, Some(second)), (2, None)], "a new key of the same master");
    add(&mut w, 3, 2);
    let third = w.now;
    assert_eq!(keys(&w), [(1, Some(second)), (2, Some(third)), (3, None)], "another master leads");
    add(&mut w, 3, 2);
    assert_eq!(keys(&w), [(1, Some(second)), (2, Some(third)), (3, None)], "the same again");
    add(&mut w, 2, 1);
    assert_eq!(keys(&w), [(1, Some(second)), (2, None), (3, Some(w.now))], "the one before leads again");
}

#[test]
fn a_key_is_removed_when_it_was_out_of_use_for_long_enough() {
    let mut w = World::new();
    add(&mut w, 1, 1);
    add(&mut w, 2, 1);
    let since = w.now;
    add(&mut w, 3, 2);
    w.now = since + 98;
    assert_eq!(w.put(Command::RemoveKeys { unused_secs: 100 }), Applied::Done(false), "a second is left");
    assert_eq!(keys(&w).len(), 3);
    assert_eq!(w.put(Command::RemoveKeys { unused_secs: 100 }), Applied::Done(true));
    assert_eq!(keys(&w), [(2, Some(since + 1)), (3, None)]);
    w.now += 1_000_000;
    assert_eq!(w.put(Command::RemoveKeys { unused_secs: 100 }), Applied::Done(true));
    assert_eq!(
        w.put(Command::RemoveKeys { unused_secs: 0 }),
        Applied::Done(false),
        "nothing is left to remove"
    );
    assert_eq!(keys(&w), [(3, None)], "the one in use stays, however old it is");
    let for_ever = w.put(Command::RemoveKeys { unused_secs: u64::MAX });
    assert_eq!(for_ever, Applied::Done(false));
}

/// Who owes a fence owes it until it has acknowledged it.
#[test]
fn fences_do_not_go_with_keys() {
    let mut w = World::new();
    add(&mut w, 1, 1);
    let session = SessionStamp { id: SessionId(2), epoch: SessionEpoch(1) };
    w.put(Command::Fence { session });
    let fenced = SessionStamp { epoch: session.epoch.next(), ..session };
    w.put(Command::SessionEnd { session: fenced, unfenced: vec![ServerId(7)] });
    add(&mut w, 2, 1);
    w.now += 1_000_000;
    w.put(Command::RemoveKeys { unused_secs: 1 });
    assert_eq!(keys(&w), [(2, None)]);
    let owed: Option<SessionEpoch> = load(&w.store, Table::Unfenced, &key2(7, 2)).unwrap();
    assert_eq!(owed, Some(fenced.epoch));
    w.put(Command::FenceDone { done: vec![(session.id, ServerId(7))] });
    assert_eq!(load::<SessionEpoch>(&w.store, Table::Unfenced, &key2(7, 2)).unwrap(), None);
}

/// A master that starts over and over leaves a bounded number; the one out of use for longest goes first.
#[test]
fn there_are_so_many_keys_and_no_more() {
    let mut w = World::new();
    let last = KEYS_MAX as u64;
    (1..=last).for_each(|id| add(&mut w, last - id, 1));
    assert_eq!(keys(&w).len(), KEYS_MAX);
    add(&mut w, last, 1);
    let ids: Vec<_> = keys(&w).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), KEYS_MAX);
    assert!(!ids.contains(&(last - 1)) && ids.contains(&(last - 2)) && ids.contains(&last));
    add(&mut w, last, 1);
    assert_eq!(keys(&w).len(), KEYS_MAX, "one that is there takes no other's place");
}
