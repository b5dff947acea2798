//! What no record names is kept for its time, and goes in bulk only with an operator's word.

use crate::world::*;
use mooseng_core::{chunk::Control, ids::*, meta::*};
use mooseng_meta::service::ServiceTimings;
use std::time::Duration;

const QUARANTINE: Duration = Duration::from_secs(600);

fn timings() -> ServiceTimings {
    ServiceTimings { quarantine: QUARANTINE, session_lifetime: Duration::from_secs(7200), ..quick() }
}

async fn report(w: &World, server: u64, ids: impl IntoIterator<Item = u64>) {
    let chunk = |id| ChunkRef { id: ChunkId(id), version: ChunkVersion(1) };
    report_at(w, server, ids.into_iter().map(chunk)).await;
}

/// A server has these copies, and tells of them.
pub async fn report_at(w: &World, server: u64, chunks: impl IntoIterator<Item = ChunkRef>) {
    let each = chunks.into_iter().map(|chunk| ChunkReport { chunk, length: 1, state: ReplicaState::Good });
    let chunks: Vec<_> = each.collect();
    for c in &chunks {
        let has = Has { version: c.chunk.version.get(), state: ReplicaState::Good, length: 1 };
        w.servers[&server].0.lock().has.insert(c.chunk.id, has);
    }
    let (server, incarnation) = (ServerId(server), Incarnation(1));
    let r = Report { server, incarnation, after: None, chunks, last: true };
    w.service().report(&cx(), r).await.unwrap();
}

async fn care(w: &World, server: u64) -> ServerCare {
    let care = w.service().get_care(&cx(), GetCare {}).await.unwrap();
    care.servers.into_iter().find(|c| c.server == ServerId(server)).unwrap()
}

/// The next id that a chunk gets, with those below it used up.
async fn next_id(w: &World, s: SessionStamp) -> u64 {
    let grant = GrantIds { kind: IdKind::Chunk, count: 1000 };
    let range = w.service().grant_ids(&under(s), grant).await.unwrap();
    range.first + 1000
}

/// Lets rounds of deletions go by.
async fn rounds(w: &World) {
    tokio::time::sleep(w.timings.tick * 5).await;
}

#[test]
fn the_quarantine_is_a_day() {
    assert!(ServiceTimings::default().quarantine >= Duration::from_secs(24 * 3600));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_chunk_is_kept_for_its_time_and_then_removed_by_a_command() {
    let w = World::of(1, timings()).await;
    let (ended, lives) = (w.session("a").await, w.session("b").await);
    let unknown = next_id(&w, ended).await - 1;
    let pending = next_id(&w, lives).await - 1;
    w.service().close_session(&under(ended), CloseSession {}).await.unwrap();
    let (_, place) = w.one_copy(lives, "f").await;
    let named = place.chunk.id.get();
    report(&w, 1, [unknown, pending, named]).await;
    assert_eq!(care(&w, 1).await.unknown, 1, "one is named, one may yet be");
    tokio::time::sleep(QUARANTINE - Duration::from_secs(5)).await;
    assert_eq!((care(&w, 1).await.due, w.servers[&1].count("delete")), (0, 0), "it is too early");
    until("it is gone", async || w.servers[&1].count("delete") > 0).await;
    rounds(&w).await;
    let term = w.register(1, 1).await.term;
    let chunk = ChunkRef { id: ChunkId(unknown), version: ChunkVersion(1) };
    let heard = w.servers[&1].0.lock().heard.clone();
    let deleted: Vec<_> = heard.into_iter().filter(|op| matches!(op, Control::Delete { .. })).collect();
    assert_eq!(deleted, [Control::Delete { chunk, term }]);
    assert_eq!((care(&w, 1).await.unknown, care(&w, 1).await.removed), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn many_wait_for_an_operator_and_go_with_his_word() {
    let w = World::of(1, timings()).await;
    let s = w.session("a").await;
    let next = next_id(&w, s).await;
    w.service().close_session(&under(s), CloseSession {}).await.unwrap();
    report(&w, 1, next - 17..next).await;
    tokio::time::sleep(QUARANTINE).await;
    rounds(&w).await;
    let c = care(&w, 1).await;
    assert_eq!((c.due, c.held, w.servers[&1].count("delete")), (17, true, 0));
    let allowed = w.service().allow_removals(&cx(), AllowRemovals { server: ServerId(1) }).await.unwrap();
    assert_eq!(allowed, 17);
    until("all are gone", async || w.servers[&1].count("delete") == 17).await;
    until("that is known", async || care(&w, 1).await.unknown == 0).await;
    assert!(!care(&w, 1).await.held);
    assert!(w.service().allow_removals(&cx(), AllowRemovals { server: ServerId(9) }).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_the_masters_cannot_know_is_kept_whatever_is_said() {
    let w = World::of(1, timings()).await;
    // A restored master: the chunkserver has what was made since.
    report(&w, 1, 500..510).await;
    w.service().allow_removals(&cx(), AllowRemovals { server: ServerId(1) }).await.unwrap();
    tokio::time::sleep(QUARANTINE * 2).await;
    rounds(&w).await;
    let c = care(&w, 1).await;
    assert_eq!((c.ahead, c.unknown, w.servers[&1].count("delete")), (10, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_copy_too_many_of_a_removed_file_is_not_forgotten() {
    let w = World::of(3, timings()).await;
    let s = w.session("a").await;
    let (inode, place) = w.file(s, "f").await;
    let spare = (1..=3).find(|id| place.chain.iter().all(|r| r.server != ServerId(*id))).unwrap();
    // The set is not whole, so that the copy too many is kept.
    w.fake(place.chain[1].server).0.lock().deaf_to.extend(["stat", "set-version", "pull", "delete"]);
    report(&w, spare, [place.chunk.id.get()]).await;
    assert_eq!((care(&w, spare).await.surplus, care(&w, spare).await.unknown), (1, 0));
    w.unlink(s, "f").await.unwrap();
    w.service().release(&under(s), Release { inode }).await.unwrap();
    until("it is unknown", async || care(&w, spare).await.unknown == 1).await;
    assert_eq!(w.servers[&spare].count("delete"), 0);
    tokio::time::sleep(QUARANTINE).await;
    until("it is removed", async || w.servers[&spare].count("delete") == 1).await;
}

/// Files with one copy on the first two servers, whose sets went on to the next version; the chunks as they are now.
async fn bumped(w: &World, s: SessionStamp, files: usize) -> Vec<ChunkRef> {
    let mut all = Vec::new();
    for n in 0..files {
        let (inode, place) = w.one_copy(s, &format!("f{n}")).await;
        w.report(s, inode, place.chunk, place.chain[0].server).await.unwrap();
        all.push(w.opened(s, inode, place.chunk.version).await.chunk);
    }
    for server in w.servers.keys() {
        let has = w.servers[server].0.lock().has.clone();
        let chunk = |(id, has): (ChunkId, Has)| ChunkRef { id, version: ChunkVersion(has.version) };
        report_at(w, *server, has.into_iter().map(chunk)).await;
    }
    all
}

/// As after an outage that was long enough for copies elsewhere.
#[tokio::test(start_paused = true)]
async fn what_bumps_have_left_out_goes_without_an_operator() {
    let mut w = World::of(2, timings()).await;
    let s = w.session("a").await;
    let now = bumped(&w, s, 40).await;
    w.add_server(3).await;
    let older = |c: &ChunkRef| ChunkRef { id: c.id, version: ChunkVersion(1) };
    report_at(&w, 3, now.iter().map(older)).await;
    assert!(!care(&w, 3).await.held);
    until("they are gone", async || care(&w, 3).await.surplus == 0).await;
    assert_eq!((w.servers[&3].count("delete"), care(&w, 3).await.removed), (40, 0));
    let heard = w.servers[&3].0.lock().heard.clone();
    let newer = |op: &Control| matches!(op, Control::Delete { chunk, .. } if chunk.version > ChunkVersion(1));
    assert!(!heard.iter().any(newer), "no more than what was told is removed");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_older_any_more_is_not_removed_as_one() {
    let mut w = World::of(2, timings()).await;
    let s = w.session("a").await;
    let now = bumped(&w, s, 17).await;
    w.add_server(3).await;
    let older = |c: &ChunkRef| ChunkRef { id: c.id, version: ChunkVersion(1) };
    w.servers[&3].0.lock().refuses.insert("stat");
    w.servers[&3].0.lock().refuses.insert("delete");
    report_at(&w, 3, now.iter().map(older)).await;
    for has in w.servers[&3].0.lock().has.values_mut() {
        has.version = 2;
    }
    w.servers[&3].0.lock().refuses.clear();
    rounds(&w).await;
    let c = care(&w, 3).await;
    assert_eq!((c.surplus, c.held), (17, true), "{c:?}");
}

/// A restored master has older versions than the copies: nothing goes, also of those that seem to be older.
#[tokio::test(start_paused = true)]
async fn what_a_restored_master_takes_for_surplus_waits_for_an_operator() {
    let mut w = World::of(2, timings()).await;
    let s = w.session("a").await;
    let now = bumped(&w, s, 40).await;
    w.add_server(3).await;
    w.add_server(4).await;
    let at = |version| move |c: &ChunkRef| ChunkRef { id: c.id, version: ChunkVersion(version) };
    report_at(&w, 3, now.iter().take(17).map(at(9))).await;
    report_at(&w, 4, now.iter().map(at(1))).await;
    rounds(&w).await;
    for server in [3, 4] {
        assert_eq!((care(&w, server).await.held, w.servers[&server].count("delete")), (true, 0));
    }
    let allowed = w.service().allow_removals(&cx(), AllowRemovals { server: ServerId(4) }).await.unwrap();
    assert_eq!(allowed, 40);
    until("they are gone", async || care(&w, 4).await.surplus == 0).await;
}

/// Before all have told what they have, nobody knows that these masters are not a backup.
#[tokio::test(start_paused = true)]
async fn what_seems_older_waits_for_what_the_others_have() {
    let mut w = World::of(2, timings()).await;
    let s = w.session("a").await;
    let now = bumped(&w, s, 17).await;
    w.add_server(3).await;
    w.add_server(4).await;
    let older = |c: &ChunkRef| ChunkRef { id: c.id, version: ChunkVersion(1) };
    report_at(&w, 3, now.iter().map(older)).await;
    rounds(&w).await;
    assert_eq!((care(&w, 3).await.held, w.servers[&3].count("delete")), (true, 0));
    report_at(&w, 4, []).await;
    until("they are gone", async || care(&w, 3).await.surplus == 0).await;
}

#[tokio::test(start_paused = true)]
async fn copies_of_the_open_version_count_for_the_guard() {
    let mut w = World::of(2, timings()).await;
    let s = w.session("a").await;
    let now = bumped(&w, s, 17).await;
    w.add_server(3).await;
    report_at(&w, 3, now).await;
    rounds(&w).await;
    assert_eq!((care(&w, 3).await.held, w.servers[&3].count("delete")), (true, 0));
}
