//! A member whose disk is full gives its place to another server.

use crate::world::*;
use mooseng_core::{ids::*, meta::*};
use mooseng_meta::service::ServiceTimings;

fn members(place: &ChunkPlace) -> Vec<ServerId> {
    place.chain.iter().map(|r| r.server).collect()
}

#[tokio::test(start_paused = true)]
async fn a_full_member_leaves_the_set_with_one_report() {
    // The head takes nothing that a writer sends; what is behind it may lack what the head has written.
    for (at, lacks) in [(0, false), (1, false), (1, true)] {
        let w = World::of(3, ServiceTimings::default()).await;
        let s = w.session("c").await;
        let (inode, place) = w.file(s, "f").await;
        let (full, other) = (place.chain[at].server, place.chain[1 - at].server);
        if lacks {
            w.fake(full).0.lock().refuses.insert("pull");
        }
        w.report_full(s, inode, place.chunk, full).await.unwrap();
        let now = w.opened(s, inode, place.chunk.version).await;
        let new = [1, 2, 3].map(ServerId).into_iter().find(|s| *s != full && *s != other).unwrap();
        assert_eq!(members(&now), [other, new], "{full} was full");
        assert!(w.fake(new).count("pull") > 0, "it has a copy");
        assert_eq!(w.fake(other).count("pull"), 0, "nothing is taken from the one that is full");
        w.commit(s, inode, now.chunk).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_member_stays_where_nobody_can_take_its_place() {
    for at in [0, 1] {
        let w = World::of(2, ServiceTimings::default()).await;
        let s = w.session("c").await;
        let (inode, place) = w.file(s, "f").await;
        let full = place.chain[at].server;
        w.report_full(s, inode, place.chunk, full).await.unwrap();
        let now = w.opened(s, inode, place.chunk.version).await;
        assert_eq!(members(&now), [full, place.chain[1 - at].server], "both are kept, and it refuses first");
        w.report_full(s, inode, now.chunk, full).await.unwrap();
        let again = w.opened(s, inode, place.chunk.version).await;
        assert_eq!(again.chunk, now.chunk, "another version would change nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_takes_the_place_of_a_full_one() {
    let mut w = World::of(1, ServiceTimings::default()).await;
    let s = w.session("c").await;
    let (inode, place) = w.one_copy(s, "f").await;
    w.report_full(s, inode, place.chunk, ServerId(1)).await.unwrap();
    let same = w.opened(s, inode, place.chunk.version).await;
    assert_eq!(members(&same), [ServerId(1)]);
    w.add_server(2).await;
    w.report_full(s, inode, same.chunk, ServerId(1)).await.unwrap();
    let now = w.opened(s, inode, same.chunk.version).await;
    assert_eq!(members(&now), [ServerId(2)]);
    // What was full is not asked to take it back.
    let first = &w.servers[&1];
    assert_eq!(first.count("pull") + first.count("pull-ahead"), 0);
}
