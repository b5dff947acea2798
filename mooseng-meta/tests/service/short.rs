//! A set with fewer members than an fsync wants: who writes is told whether another copy is coming.

use crate::world::*;
use mooseng_core::meta::*;
use mooseng_meta::service::ServiceTimings;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_writer_hears_whether_another_copy_is_coming() {
    let timings = ServiceTimings { pull: Duration::from_secs(5), ..ServiceTimings::default() };
    let mut w = World::of(2, timings).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    assert_eq!(place.copies, Copies::Enough);
    let (_, one) = w.one_copy(s, "g").await;
    assert_eq!(one.copies, Copies::Enough, "it wants no more");
    let lost = place.chain[1].server;
    w.fake(lost).0.lock().deaf_to.extend(["stat", "set-version", "pull", "pull-ahead"]);
    w.report(s, inode, place.chunk, lost).await.unwrap();
    until("one is left", async || w.allocate(s, inode).await.is_ok_and(|p| p.chain.len() == 1)).await;
    let first = w.allocate(s, inode).await.unwrap();
    assert_eq!(first.copies, Copies::Joining, "one failure proves nothing");
    until("the other is given up", async || w.allocate(s, inode).await.unwrap().copies == Copies::Alone)
        .await;
    w.add_server(3).await;
    until("there are enough", async || w.allocate(s, inode).await.is_ok_and(|p| p.copies == Copies::Enough))
        .await;
    assert_eq!(w.allocate(s, inode).await.unwrap().chain.len(), 2);
}

/// A set of one is not for good while those who were there under the leader before may still come.
#[tokio::test(start_paused = true)]
async fn a_new_leader_calls_nobody_alone_before_the_others_had_time_to_come() {
    let mut w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    let (left, lost) = (place.chain[0].server, place.chain[1].server);
    w.fake(lost).0.lock().deaf_to.extend(["stat", "set-version", "pull", "pull-ahead"]);
    w.report(s, inode, place.chunk, lost).await.unwrap();
    until("one is left", async || w.allocate(s, inode).await.is_ok_and(|p| p.chain.len() == 1)).await;
    w.master.take().unwrap().stop().await;
    w.start_master().await;
    w.register(left.get(), 1).await;
    assert_eq!(w.allocate(s, inode).await.unwrap().copies, Copies::Joining, "the other may be on its way");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(w.allocate(s, inode).await.unwrap().copies, Copies::Alone, "it did not come");
}
