//! A copy that was left out has what all members lack.

use crate::{quarantine::report_at, world::*};
use mooseng_core::{chunk::Control, ids::*, meta::*};

/// A file whose members are both damaged, as they say, and the server that has no copy.
async fn damaged(w: &World, s: SessionStamp) -> (InodeId, ChunkPlace, ServerId) {
    let (inode, place) = w.file(s, "f").await;
    for r in &place.chain {
        w.fake(r.server).0.lock().has.get_mut(&place.chunk.id).unwrap().state = ReplicaState::Damaged;
        tell(w, r.server, place.chunk).await;
    }
    tokio::time::sleep(w.timings.tick * 5).await;
    let pulls = place.chain.iter().map(|r| w.fake(r.server).count("set-version")).sum::<usize>();
    assert_eq!(pulls, 0, "nobody has what they lack");
    let spare = (1..=3).map(ServerId).find(|s| place.chain.iter().all(|r| r.server != *s)).unwrap();
    (inode, place, spare)
}

async fn tell(w: &World, server: ServerId, chunk: ChunkRef) {
    let (incarnation, clock, disks) = (Incarnation(1), w.clock.wall(), vec![]);
    let beat = Heartbeat { server, incarnation, clock, disks, damaged: vec![chunk], broken: vec![] };
    w.service().heartbeat(&cx(), beat).await.unwrap();
}

fn state(w: &World, server: ServerId, id: ChunkId) -> ReplicaState {
    w.fake(server).0.lock().has[&id].state
}

#[tokio::test(start_paused = true)]
async fn damaged_members_are_mended_from_a_copy_that_comes_back() {
    let w = World::of(3, quick()).await;
    let s = w.session("s").await;
    let (inode, place, spare) = damaged(&w, s).await;
    let id = place.chunk.id;
    report_at(&w, spare.get(), [ChunkRef { id, version: ChunkVersion(0) }]).await;
    until("both are good", async || {
        w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
        place.chain.iter().all(|r| state(&w, r.server, id) == ReplicaState::Good)
    })
    .await;
    let now = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(now.chain.len(), 2);
    let pulls: Vec<_> = place.chain.iter().flat_map(|r| w.fake(r.server).0.lock().heard.clone()).collect();
    let from_spare = |op: &Control| match op {
        Control::Pull { from, .. } => from.iter().any(|r| r.server == spare),
        _ => false,
    };
    assert!(pulls.iter().any(from_spare), "{pulls:?}");
    until("it is not needed any more", async || w.fake(spare).count("delete") > 0).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_help_is_tried_once_and_kept() {
    let w = World::of(3, quick()).await;
    let s = w.session("s").await;
    let (inode, place, spare) = damaged(&w, s).await;
    place.chain.iter().for_each(|r| w.fake(r.server).0.lock().nowhere = true);
    let older = ChunkRef { id: place.chunk.id, version: ChunkVersion(0) };
    let tried = || place.chain.iter().map(|r| w.fake(r.server).count("pull")).sum::<usize>();
    for _ in 0..5 {
        report_at(&w, spare.get(), [older]).await;
        let now = w.opened(s, inode, ChunkVersion(0)).await;
        for r in &now.chain {
            tell(&w, r.server, now.chunk).await;
        }
        w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
        tokio::time::sleep(w.timings.tick * 10).await;
    }
    assert_eq!((tried(), w.fake(spare).count("delete")), (1, 0));
    let now = w.opened(s, inode, ChunkVersion(0)).await;
    assert_eq!((now.chunk.version, now.chain.len()), (place.chunk.version.next(), 2));
}

#[tokio::test(start_paused = true)]
async fn the_only_member_is_let_go_once_another_has_what_it_lacked() {
    let w = World::of(3, quick()).await;
    let s = w.session("s").await;
    let (inode, place) = w.one_copy(s, "f").await;
    let (only, id) = (place.chain[0].server, place.chunk.id);
    let spare = (1..=3).map(ServerId).find(|s| *s != only).unwrap();
    w.fake(only).0.lock().has.get_mut(&id).unwrap().state = ReplicaState::Damaged;
    report_at(&w, spare.get(), [ChunkRef { id, version: ChunkVersion(0) }]).await;
    tell(&w, only, place.chunk).await;
    until("one that is whole is the only member", async || {
        w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
        let now = w.opened(s, inode, place.chunk.version).await;
        now.chain.len() == 1 && now.chain[0].server != only
    })
    .await;
}
