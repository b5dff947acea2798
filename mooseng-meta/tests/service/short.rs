//! A set with fewer members than an fsync wants: who writes is told whether another copy is coming.

use crate::world::*;
use mooseng_core::{ids::ServerId, meta::*};
use mooseng_meta::service::ServiceTimings;

#[tokio::test(start_paused = true)]
async fn a_writer_hears_whether_another_copy_is_coming() {
    let mut w = World::of(2, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.file(s, "f").await;
    assert_eq!(place.copies, Copies::Enough);
    let (_, one) = w.one_copy(s, "g").await;
    assert_eq!(one.copies, Copies::Enough, "it wants no more");
    let lost = place.chain[1].server;
    w.fake(lost).0.lock().deaf_to.extend(["stat", "set-version", "pull", "pull-ahead"]);
    w.report(s, inode, place.chunk, lost).await.unwrap();
    let alone = w.allocate(s, inode).await.unwrap();
    assert_eq!((alone.chain.len(), alone.copies), (1, Copies::Alone), "nobody could take another");
    w.add_server(3).await;
    let new = w.fake(ServerId(3));
    new.0.lock().held.extend(["pull", "pull-ahead"]);
    until("a copy is being made", async || new.0.lock().waiting > 0).await;
    assert_eq!(w.allocate(s, inode).await.unwrap().copies, Copies::Joining);
    new.free();
    until("there are enough", async || w.allocate(s, inode).await.is_ok_and(|p| p.copies == Copies::Enough))
        .await;
    assert_eq!(w.allocate(s, inode).await.unwrap().chain.len(), 2);
}
