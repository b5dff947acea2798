//! Bumps that cannot go on as they began.

use crate::world::*;
use mooseng_core::{
    attr::SetAttr, chunk::Control, context::CallContext, error::MetaError, ids::*, meta::*, net::Role,
    rpc::RemoteMeta,
};
use mooseng_meta::service::ServiceTimings;

fn suspect(w: &World, server: ServerId, chunk: ChunkId) {
    w.fake(server).0.lock().has.get_mut(&chunk).unwrap().state = ReplicaState::Suspect;
}

/// A bump without `lost` that no survivor has taken yet.
async fn stuck(w: &World, session: SessionStamp) -> (InodeId, ChunkPlace, ServerId, ServerId) {
    let (inode, place) = w.file(session, "f").await;
    let (first, lost) = (place.chain[0].server, place.chain[1].server);
    w.fake(lost).0.lock().deaf_to.insert("stat");
    w.fake(first).0.lock().refuses.insert("set-version");
    let reported = w.report(session, inode, place.chunk, lost).await;
    assert!(matches!(reported, Err(MetaError::ChunkBusy(_))), "{reported:?}");
    assert!(w.fake(first).count("set-version") > 0, "the bump has begun");
    (inode, place, first, lost)
}

#[tokio::test(start_paused = true)]
async fn a_bump_whose_survivors_all_became_suspect_is_done_with_a_winner() {
    let w = World::of(3, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place, first, _) = stuck(&w, s).await;
    suspect(&w, first, place.chunk.id);
    w.fake(first).0.lock().refuses.clear();
    // The one left out is never heard again: nobody waits for it for ever.
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain[0].server, first);
    assert!(now.chunk.version > place.chunk.version.next(), "the bump that was given up never opens");
    let settles = |op: &Control| matches!(op, Control::SetVersion { settle: true, .. });
    assert_eq!(w.fake(first).0.lock().heard.iter().filter(|op| settles(op)).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bump_whose_survivor_is_gone_goes_on_with_the_member_it_left_out() {
    let w = World::of(3, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place, first, lost) = stuck(&w, s).await;
    // Half of the step was done when it went: its replica has the version that was begun.
    w.fake(first).0.lock().has.get_mut(&place.chunk.id).unwrap().version += 1;
    w.fake(first).0.lock().deaf_to.extend(["stat", "set-version", "pull"]);
    w.fake(lost).0.lock().deaf_to.clear();
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain[0].server, lost, "it has all that was acknowledged");
    assert!(now.chain.iter().all(|r| r.server != first));
    assert!(now.chunk.version > place.chunk.version.next(), "the one that is gone cannot pass for a member");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_a_writer_does_not_hear_is_asked_and_not_waited_for_long() {
    let w = World::of(3, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    // A report alone leaves nobody out.
    w.report(s, inode, place.chunk, place.chain[1].server).await.unwrap();
    let same = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(same.chain, place.chain);
    w.fake(place.chain[1].server).0.lock().deaf_to.insert("stat");
    let begin = tokio::time::Instant::now();
    w.report(s, inode, same.chunk, place.chain[1].server).await.unwrap();
    // In virtual time; nobody but the writer had a reason to doubt it.
    assert!(begin.elapsed() < ServiceTimings::default().control / 2, "{:?}", begin.elapsed());
    let now = w.opened(s, inode, same.chunk.version).await;
    assert!(now.chain.iter().all(|r| r.server != place.chain[1].server), "{now:?}");
    // Nor does a new file go there while there are others.
    for file in ["g", "h", "i", "j"] {
        let (_, place) = w.file(s, file).await;
        assert!(place.chain.iter().all(|r| r.server != same.chain[1].server), "{place:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_first_write_finds_no_place_at_the_old_version() {
    let w = World::of(3, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let inode = w.create(s, "f").await.attr.inode;
    let place = w.allocate(s, inode).await.unwrap();
    // Nothing was written when the client says that a place failed it.
    w.report(s, inode, place.chunk, place.chain[1].server).await.unwrap();
    let now = w.opened(s, inode, place.chunk.version).await;
    for r in &now.chain {
        let has = w.fake(r.server).0.lock().has.get(&place.chunk.id).copied();
        assert_eq!(has.map(|h| h.version), Some(now.chunk.version.get()), "an empty replica refuses it");
    }
    w.commit(s, inode, now.chunk).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cut_to_the_size_that_is_drops_what_a_dead_writer_left() {
    let w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let inode = w.create(s, "f").await.attr.inode;
    let place = w.allocate(s, inode).await.unwrap();
    w.written(&place, ReplicaState::Good);
    // Its writer dies before it tells a size; another makes the file anew.
    let set = SetAttr { size: Some(0), ..SetAttr::default() };
    w.service().set_attrs(&w.fresh(s), SetAttrs { inode, set }).await.unwrap();
    let late = w.commit(s, inode, place.chunk).await;
    assert!(matches!(late, Err(MetaError::LayoutStale)), "{late:?}");
    let op = Allocate { inode, truncates: TruncateCounter(1), from: ChunkIndex(0), count: 1 };
    let now = w.service().allocate(&w.fresh(s), op).await.unwrap();
    assert_ne!(now.chunks[0].chunk.id, place.chunk.id);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_a_set_was_made_anew_is_not_committed() {
    let timings = ServiceTimings { server_dead: secs(2), repair_after: secs(2), ..ServiceTimings::default() };
    let mut w = World::of(2, timings).await;
    let s = w.session("c").await;
    let inode = w.create(s, "f").await.attr.inode;
    let place = w.allocate(s, inode).await.unwrap();
    w.written(&place, ReplicaState::Good);
    for r in &place.chain {
        w.fake(r.server).0.lock().deaf_to.extend(["stat", "set-version", "pull"]);
    }
    tokio::time::advance(secs(5)).await;
    w.add_server(3).await;
    w.add_server(4).await;
    let reported = w.report(s, inode, place.chunk, place.chain[0].server).await;
    assert!(reported.is_ok(), "{reported:?}");
    let now = w.opened(s, inode, place.chunk.version).await;
    let late = w.commit(s, inode, place.chunk).await;
    assert!(matches!(late, Err(MetaError::LayoutStale)), "those bytes are nowhere now: {late:?}");
    w.commit(s, inode, now.chunk).await.unwrap();
    let late = w.commit(s, inode, place.chunk).await;
    assert!(matches!(late, Err(MetaError::LayoutStale)), "nor are they when another wrote since: {late:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_commit_of_a_chunk_waits_for_a_bump_under_way() {
    let w = World::of(3, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let inode = w.create(s, "f").await.attr.inode;
    let place = w.allocate(s, inode).await.unwrap();
    w.written(&place, ReplicaState::Good);
    let (first, lost) = (place.chain[0].server, place.chain[1].server);
    w.fake(lost).0.lock().deaf_to.insert("stat");
    w.fake(first).0.lock().refuses.insert("set-version");
    assert!(w.report(s, inode, place.chunk, lost).await.is_err(), "the bump is stuck");
    let early = w.commit(s, inode, place.chunk).await;
    assert!(matches!(early, Err(MetaError::LayoutStale)), "nobody knows yet what will be there: {early:?}");
    w.fake(first).0.lock().refuses.clear();
    let now = w.opened(s, inode, place.chunk.version).await;
    w.commit(s, inode, now.chunk).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_head_whose_chain_broke_gets_a_new_version_though_its_writer_is_gone() {
    let w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let head = place.chain[0].server;
    let tell = async |chunk| {
        let (incarnation, clock) = (Incarnation(1), w.clock.wall());
        let (disks, damaged, broken) = (vec![], vec![], vec![chunk]);
        let beat = Heartbeat { server: head, incarnation, clock, disks, damaged, broken };
        let cx = CallContext::internal(secs(5));
        of_server(&w, head).await.heartbeat(&cx, beat).await.unwrap();
    };
    tell(place.chunk).await;
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain.len(), 2, "nobody is left out: all are made equal");
    assert!(now.chain[1..].iter().all(|r| w.fake(r.server).count("pull") > 0));
    // Told late, of a version that is over.
    tell(place.chunk).await;
    tokio::time::sleep(secs(5)).await;
    assert_eq!(w.opened(s, inode, place.chunk.version).await.chunk, now.chunk);
}

async fn of_server(w: &World, server: ServerId) -> RemoteMeta {
    let transport = w.net.transport(identity(Role::Chunkserver, server.get()));
    RemoteMeta::new(transport.connect("master").await.unwrap())
}

fn secs(n: u64) -> std::time::Duration {
    std::time::Duration::from_secs(n)
}

/// It has what the others lack, and would be left behind.
#[tokio::test(start_paused = true)]
async fn a_member_that_did_not_take_a_version_is_waited_for_when_all_that_did_are_damaged() {
    let w = World::of(3, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let (bad, good, id) = (place.chain[0].server, place.chain[1].server, place.chunk.id);
    // Nobody knows of the damage before the version is taken.
    w.fake(bad).0.lock().held.insert("set-version");
    w.fake(good).0.lock().deaf_to.insert("set-version");
    let comes = async {
        until("it is told", async || w.fake(bad).0.lock().waiting > 0).await;
        w.fake(bad).0.lock().has.get_mut(&id).unwrap().state = ReplicaState::Damaged;
        w.fake(bad).free();
    };
    let (reported, ()) = tokio::join!(w.report(s, inode, place.chunk, bad), comes);
    assert!(matches!(reported, Err(MetaError::ChunkBusy(_))), "{reported:?}");
    w.fake(good).0.lock().deaf_to.clear();
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain[0].server, good);
    let filled =
        |op: &Control| matches!(op, Control::Pull { from, ahead: false, .. } if from[0].server == good);
    assert!(w.fake(bad).0.lock().heard.iter().any(filled), "it is mended");
}

/// The first may have ended when the others were to be made equal to it: a version that names only it would leave
/// behind all that lives.
#[tokio::test(start_paused = true)]
async fn the_set_is_not_left_to_a_member_that_no_other_can_be_copied_from() {
    for (servers, all) in [(3, false), (2, true), (3, true)] {
        let w = World::of(servers, ServiceTimings::default()).await;
        let s = w.session("c").await;
        let (inode, place) = w.file(s, "f").await;
        let (first, second) = (place.chain[0].server, place.chain[1].server);
        w.fake(second).0.lock().refuses.insert("pull");
        if all {
            w.fake(first).0.lock().refuses.insert("pull");
        }
        w.report(s, inode, place.chunk, second).await.unwrap();
        let now = w.opened(s, inode, place.chunk.version).await;
        let members: Vec<_> = now.chain.iter().map(|r| r.server).collect();
        match (servers, all) {
            (_, false) => assert_eq!(members, [second, first]),
            // When no two can be made equal and there is no third, one has to do.
            (2, true) => assert_eq!(members.len(), 1, "{members:?}"),
            (_, true) => {
                let third = members.iter().any(|s| ![first, second].contains(s));
                assert!(members.len() == 2 && third, "{members:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_does_not_leave_the_set_to_one() {
    let w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let second = place.chain[1].server;
    w.fake(second).0.lock().refuses_once.insert("set-version");
    w.report(s, inode, place.chunk, second).await.unwrap();
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_only_a_dead_member_has_does_not_open() {
    let w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let (first, second) = (place.chain[0].server, place.chain[1].server);
    w.fake(first).0.lock().held.insert("set-version");
    w.fake(second).0.lock().refuses.insert("set-version");
    let dies = async {
        until("it is told", async || w.fake(first).0.lock().waiting > 0).await;
        w.fake(first).0.lock().deaf_to.insert("stat");
        w.fake(first).free();
    };
    let (reported, ()) = tokio::join!(w.report(s, inode, place.chunk, second), dies);
    assert!(matches!(reported, Err(MetaError::ChunkBusy(_))), "{reported:?}");
    w.fake(second).0.lock().refuses.clear();
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain[0].server, second, "who lives has all that was acknowledged");
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_cannot_be_settled_is_not_the_only_truth() {
    let w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let (first, second) = (place.chain[0].server, place.chain[1].server);
    for server in [first, second] {
        suspect(&w, server, place.chunk.id);
    }
    w.fake(first).0.lock().refuses.insert("set-version");
    let reported = w.report(s, inode, place.chunk, second).await;
    assert!(matches!(reported, Err(MetaError::ChunkBusy(_))), "{reported:?}");
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain[0].server, second);
}

/// A client that does not reach the head of a chain, which everybody else does.
#[tokio::test(start_paused = true)]
async fn a_head_that_a_writer_does_not_reach_goes_to_the_end_of_the_chain() {
    let w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let (first, second) = (place.chain[0].server, place.chain[1].server);
    w.report(s, inode, place.chunk, first).await.unwrap();
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain.iter().map(|r| r.server).collect::<Vec<_>>(), [second, first]);
}

/// The connection broke on which the second was to be made equal to the first: an fsync of a set of one would stand
/// for two disks.
#[tokio::test(start_paused = true)]
async fn a_copy_that_fails_once_does_not_leave_the_set_to_one() {
    let w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let second = place.chain[1].server;
    w.fake(second).0.lock().refuses_once.insert("pull");
    w.report(s, inode, place.chunk, second).await.unwrap();
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain.len(), 2, "it is asked again before the version opens");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_leaves_nobody_out() {
    let w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let (first, second) = (place.chain[0].server, place.chain[1].server);
    suspect(&w, second, place.chunk.id);
    w.fake(first).0.lock().deaf_once.insert("stat");
    w.report(s, inode, place.chunk, second).await.unwrap();
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain.iter().map(|r| r.server).collect::<Vec<_>>(), [first, second]);
}

/// The other one was silent when the members were asked, and may have been so for a moment only.
#[tokio::test(start_paused = true)]
async fn the_only_survivor_that_dies_meanwhile_does_not_leave_a_silent_one_behind() {
    let w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let (first, second) = (place.chain[0].server, place.chain[1].server);
    w.fake(second).0.lock().deaf_to.insert("stat");
    w.fake(first).0.lock().held.insert("set-version");
    let dies = async {
        until("it is told", async || w.fake(first).0.lock().waiting > 0).await;
        w.fake(first).0.lock().deaf_to.insert("stat");
        w.fake(first).free();
    };
    let (reported, ()) = tokio::join!(w.report(s, inode, place.chunk, second), dies);
    assert!(matches!(reported, Err(MetaError::ChunkBusy(_))), "{reported:?}");
    w.fake(second).0.lock().deaf_to.clear();
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain[0].server, second, "who lives has all that was acknowledged");
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_a_server_came_back_is_not_held_against_it() {
    let w = World::of(3, quick()).await;
    let s = w.session("s").await;
    let back = ServerId(1);
    let (mut of_it, mut of_others) = (None, None);
    for n in 0..100 {
        let (inode, place) = w.file(s, &format!("f{n}")).await;
        let is_its = place.chain.iter().any(|r| r.server == back);
        *(if is_its { &mut of_it } else { &mut of_others }) = Some((inode, place));
        if of_it.is_some() && of_others.is_some() {
            break;
        }
    }
    let ((its, its_place), (other, place)) = (of_it.unwrap(), of_others.unwrap());
    w.fake(back).0.lock().held.insert("stat");
    let comes_back = async {
        until("it is asked", async || w.fake(back).0.lock().waiting > 0).await;
        // What was asked of the start before is never answered.
        w.fake(back).0.lock().held.clear();
        w.register(back.get(), 2).await;
    };
    let (reported, ()) = tokio::join!(w.report(s, its, its_place.chunk, back), comes_back);
    reported.unwrap();
    let dead = place.chain[0].server;
    w.fake(dead).0.lock().deaf_to.extend(["stat", "set-version", "pull", "pull-ahead"]);
    let begin = tokio::time::Instant::now();
    w.report(s, other, place.chunk, dead).await.unwrap();
    let now = w.opened(s, other, place.chunk.version).await;
    assert!(now.chain.iter().any(|r| r.server == back), "it may take a copy at once: {now:?}");
    assert!(begin.elapsed() < secs(2), "it took {:?}", begin.elapsed());
}
