//! A session's end takes its rights away at the chunkservers before they are given to others.

use crate::world::*;
use mooseng_core::{chunk::Control, error::MetaError, ids::*, meta::*};
use mooseng_meta::service::ServiceTimings;
use std::time::Duration;

fn next(s: SessionStamp) -> SessionStamp {
    SessionStamp { id: s.id, epoch: s.epoch.next() }
}

fn was_fenced(w: &World, server: u64, session: SessionStamp) -> bool {
    let heard = &w.servers[&server].0.lock().heard;
    heard.iter().any(|op| matches!(op, Control::Fence { session: s, .. } if *s == session))
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_is_fenced_everywhere() {
    let w = World::of(3, quick()).await;
    let (closes, silent) = (w.session("a").await, w.session("b").await);
    w.service().close_session(&under(closes), CloseSession {}).await.unwrap();
    assert!((1..=3).all(|s| was_fenced(&w, s, next(closes))), "before the close is answered");
    let late = w.service().keep_alive(&under(closes), KeepAlive {}).await;
    assert!(matches!(late, Err(MetaError::SessionEnded)), "{late:?}");
    let orders = w.register(1, 1).await;
    assert_eq!(orders.sessions, [silent]);
    assert_eq!(orders.next_session, silent.id.next());
    until("the silent session is ended", async || {
        let other = w.session("c").await;
        let ids = w.service().list_sessions(&under(other), ListSessions {}).await.unwrap();
        ids.iter().all(|s| s.stamp.id != silent.id)
    })
    .await;
    assert!((1..=3).all(|s| was_fenced(&w, s, next(silent))));
}

#[tokio::test(start_paused = true)]
async fn what_an_unfenced_server_heads_is_not_given_to_others() {
    let w = World::of(2, ServiceTimings { bump_wait: Duration::from_secs(1), ..quick() }).await;
    let (zombie, other) = (w.session("zombie").await, w.session("other").await);
    let (inode, place) = w.file(zombie, "f").await;
    // The head is cut off from the master; the zombie may still reach it.
    let head = place.chain[0].server;
    w.fake(head).0.lock().deaf_to.extend(["fence", "stat", "set-version", "pull"]);
    w.service().close_session(&under(zombie), CloseSession {}).await.unwrap();
    let now = w.opened(other, inode, place.chunk.version).await;
    assert!(now.chain.iter().all(|r| r.server != head), "a version without it was opened");
}

#[tokio::test(start_paused = true)]
async fn a_single_copy_is_given_to_others_when_its_server_has_the_fence() {
    let w = World::of(1, ServiceTimings { bump_wait: Duration::from_secs(1), ..quick() }).await;
    let (zombie, other) = (w.session("zombie").await, w.session("other").await);
    let (inode, place) = w.one_copy(zombie, "f").await;
    let head = place.chain[0].server;
    w.fake(head).0.lock().deaf_to.extend(["fence", "stat", "set-version", "pull"]);
    w.service().close_session(&under(zombie), CloseSession {}).await.unwrap();
    let op = GetLayout { inode, from: ChunkIndex(0), count: 1 };
    let refused = w.service().get_layout(&under(other), op.clone()).await;
    assert!(matches!(refused, Err(MetaError::ChunkBusy(_))), "{refused:?}");
    w.fake(head).0.lock().deaf_to.clear();
    until("the chunk is given", async || w.service().get_layout(&under(other), op.clone()).await.is_ok())
        .await;
    assert!(was_fenced(&w, head.get(), next(zombie)));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_knows_who_owes_a_fence() {
    let mut w = World::of(2, ServiceTimings { bump_wait: Duration::from_secs(1), ..quick() }).await;
    let zombie = w.session("zombie").await;
    let (_, place) = w.file(zombie, "f").await;
    let head = place.chain[0].server;
    w.fake(head).0.lock().deaf_to.insert("fence");
    w.service().close_session(&under(zombie), CloseSession {}).await.unwrap();
    w.fake(head).0.lock().heard.clear();
    w.restart_master().await;
    w.fake(head).0.lock().deaf_to.clear();
    until("it has heard of the fence", async || was_fenced(&w, head.get(), next(zombie))).await;
}

/// In real time: virtual time would stand still for ever while something is tried again at once.
#[tokio::test]
async fn what_waits_for_a_fence_is_looked_after_with_pauses() {
    let w = World::of(1, ServiceTimings { bump_wait: Duration::from_millis(500), ..quick() }).await;
    let (zombie, other) = (w.session("zombie").await, w.session("other").await);
    let (inode, place) = w.one_copy(zombie, "f").await;
    let head = place.chain[0].server;
    w.fake(head).0.lock().refuses.extend(["fence", "stat", "set-version", "pull"]);
    w.service().close_session(&under(zombie), CloseSession {}).await.unwrap();
    let before = w.fake(head).count("stat");
    let op = GetLayout { inode, from: ChunkIndex(0), count: 1 };
    let refused = w.service().get_layout(&under(other), op).await;
    assert!(matches!(refused, Err(MetaError::ChunkBusy(_))), "{refused:?}");
    let looks = w.fake(head).count("stat") - before;
    assert!((1..60).contains(&looks), "it was looked at {looks} times");
}
