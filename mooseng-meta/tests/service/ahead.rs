//! New members are copied to before the bump, and nobody waits for that.

use crate::world::*;
use mooseng_core::{
    capability::{Claims, Rights},
    chunk::Control,
    ids::*,
    meta::*,
    wire,
};
use std::time::Duration;

/// Servers that a place does not name.
fn spares(w: &World, place: &ChunkPlace) -> Vec<ServerId> {
    let all = w.servers.keys().map(|s| ServerId(*s));
    all.filter(|s| place.chain.iter().all(|r| r.server != *s)).collect()
}

fn hold(w: &World, servers: &[ServerId]) {
    for server in servers {
        w.fake(*server).0.lock().held.insert("pull-ahead");
    }
}

/// The server that was asked for a copy and is held.
async fn asked(w: &World, among: &[ServerId]) -> ServerId {
    until_some("somebody is asked for a copy", async || {
        among.iter().copied().find(|s| w.fake(*s).0.lock().waiting > 0)
    })
    .await
}

async fn drain(w: &World, server: ServerId) {
    w.service().drain(&cx(), Drain { server, on: true }).await.unwrap();
}

fn dies(w: &World, server: ServerId) {
    w.fake(server).0.lock().deaf_to.extend(["stat", "set-version", "pull", "pull-ahead", "delete"]);
}

fn members(place: &ChunkPlace) -> Vec<ServerId> {
    let mut all: Vec<_> = place.chain.iter().map(|r| r.server).collect();
    all.sort();
    all
}

/// It is there, and may be written and read.
async fn serves(w: &World, s: SessionStamp, inode: InodeId, chunk: ChunkRef) {
    let get = GetLayout { inode, from: ChunkIndex(0), count: 1 };
    let read = w.service().get_layout(&under(s), get).await.unwrap();
    let write = Allocate { inode, truncates: TruncateCounter(0), from: ChunkIndex(0), count: 1 };
    let write = w.service().allocate(&w.fresh(s), write).await.unwrap();
    assert_eq!((read.chunks[0].chunk, write.chunks[0].chunk), (chunk, chunk));
    let claims: Claims = wire::decode(&write.capability.unwrap().claims).unwrap();
    assert!(claims.chunks[0].1.has(Rights::WRITE));
    w.commit(s, inode, chunk).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_chunk_is_read_and_written_while_a_repair_copies_it() {
    let w = World::of(3, quick()).await;
    let s = w.session("s").await;
    let (inode, place) = w.file(s, "f").await;
    let spare = spares(&w, &place)[0];
    hold(&w, &[spare]);
    drain(&w, place.chain[0].server).await;
    asked(&w, &[spare]).await;
    for _ in 0..3 {
        serves(&w, s, inode, place.chunk).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(place.chain.iter().all(|r| w.fake(r.server).count("set-version") == 0), "no bump has begun");
    w.fake(spare).free();
    let now = w.opened(s, inode, place.chunk.version).await;
    assert!(members(&now).contains(&spare));
    // The bump's own copy is of what changed since; that it lets the drained server go comes after, as another.
    let heard = w.fake(spare).0.lock().heard.clone();
    let pulls: Vec<_> = heard
        .iter()
        .filter_map(|op| if let Control::Pull { ahead, .. } = op { Some(*ahead) } else { None })
        .collect();
    assert!(pulls.starts_with(&[true, false]) && !pulls[1..].contains(&true), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_bump_waits_for_no_copy_ahead() {
    let w = World::of(5, quick()).await;
    let s = w.session("s").await;
    let (inode, place) = w.copies(s, "f", 3).await;
    let spares = spares(&w, &place);
    hold(&w, &spares);
    drain(&w, place.chain[0].server).await;
    let first = asked(&w, &spares).await;
    // A writer meets a member that has gone.
    let gone = place.chain[2].server;
    dies(&w, gone);
    w.report(s, inode, place.chunk, gone).await.unwrap();
    let now = w.opened(s, inode, place.chunk.version).await;
    let left: Vec<_> = members(&place).into_iter().filter(|m| *m != gone).collect();
    assert_eq!(members(&now), left, "two disks are enough for an fsync");
    serves(&w, s, inode, now.chunk).await;
    // The rest comes afterwards, again ahead of its bump.
    asked(&w, &spares).await;
    serves(&w, s, inode, now.chunk).await;
    spares.iter().for_each(|s| w.fake(*s).free());
    until("all copies are there", async || {
        let now = w.opened(s, inode, now.chunk.version).await;
        members(&now).len() == 3 && !members(&now).contains(&place.chain[0].server)
    })
    .await;
    let pulled: usize = spares.iter().map(|s| w.fake(*s).count("pull-ahead")).sum();
    assert!(pulled >= 2 && spares.contains(&first));
}

#[tokio::test(start_paused = true)]
async fn the_last_disk_gets_another_before_it_is_written() {
    let w = World::of(3, quick()).await;
    let s = w.session("s").await;
    let (inode, place) = w.file(s, "f").await;
    let (stays, gone) = (place.chain[0].server, place.chain[1].server);
    dies(&w, gone);
    w.report(s, inode, place.chunk, gone).await.unwrap();
    let now = w.opened(s, inode, place.chunk.version).await;
    let spare = spares(&w, &place)[0];
    let mut two = vec![stays, spare];
    two.sort();
    assert_eq!((now.chunk.version, members(&now)), (place.chunk.version.next(), two));
    assert_eq!((w.fake(spare).count("pull-ahead"), w.fake(spare).count("pull")), (0, 1));
}

/// A bump that left a server out may have come so far there that it has the open version, though not all of it.
#[tokio::test(start_paused = true)]
async fn who_was_left_out_at_the_open_version_may_join() {
    let w = World::of(3, quick()).await;
    let s = w.session("s").await;
    let (inode, place) = w.file(s, "f").await;
    let spare = spares(&w, &place)[0];
    let half = Has { version: place.chunk.version.0, state: ReplicaState::Suspect, length: 1 };
    w.fake(spare).0.lock().has.insert(place.chunk.id, half);
    drain(&w, place.chain[0].server).await;
    let now = w.opened(s, inode, place.chunk.version).await;
    assert!(members(&now).contains(&spare), "there is nobody else");
    assert_eq!(
        (w.fake(spare).count("delete"), w.fake(spare).count("pull-ahead")),
        (0, 1),
        "it need not begin anew"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_copy_ahead_left_behind_is_removed_and_never_a_member() {
    let w = World::of(4, quick()).await;
    let s = w.session("s").await;
    let (inode, place) = w.file(s, "f").await;
    let spares = spares(&w, &place);
    hold(&w, &spares);
    let leaves = place.chain[0].server;
    drain(&w, leaves).await;
    let first = asked(&w, &spares).await;
    // It got somewhere, and then it is not heard any more.
    let half = Has { version: 0, state: ReplicaState::Suspect, length: 1 };
    w.fake(first).0.lock().has.insert(place.chunk.id, half);
    w.fake(first).0.lock().refuses.insert("pull-ahead");
    spares.iter().for_each(|s| w.fake(*s).free());
    let now = w.opened(s, inode, place.chunk.version).await;
    assert!(!members(&now).contains(&first));
    until("what is left of it is removed", async || {
        w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
        w.fake(first).count("delete") > 0
    })
    .await;
    let heard = w.fake(first).0.lock().heard.clone();
    let taken = |op: &Control| matches!(op, Control::SetVersion { .. } | Control::Pull { ahead: false, .. });
    assert!(!heard.iter().any(taken), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_not_awaited_from_a_server_that_stops_in_the_middle() {
    let second = Duration::from_secs(1);
    let w = World::of(4, mooseng_meta::service::ServiceTimings { server_dead: 5 * second, ..quick() }).await;
    let s = w.session("s").await;
    let (inode, place) = w.file(s, "f").await;
    let spares = spares(&w, &place);
    hold(&w, &spares);
    drain(&w, place.chain[0].server).await;
    let stopped = asked(&w, &spares).await;
    let other = *spares.iter().find(|s| **s != stopped).unwrap();
    w.fake(other).free();
    let begin = tokio::time::Instant::now();
    let beats = async {
        loop {
            for id in w.servers.keys().filter(|id| ServerId(**id) != stopped) {
                w.beat(*id).await;
            }
            tokio::time::sleep(second).await;
        }
    };
    let now = tokio::select! {
        now = w.opened(s, inode, place.chunk.version) => now,
        () = beats => unreachable!(),
    };
    assert!(members(&now).contains(&other));
    assert!(begin.elapsed() < w.timings.pull / 2, "it took {:?}", begin.elapsed());
}
