//! Neither deletions nor repairs wait for a server that is dead or fails.

use crate::world::*;
use mooseng_core::{ids::*, meta::*};
use mooseng_meta::service::ServiceTimings;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn deletions_for_the_living_do_not_queue_behind_the_dead() {
    let timings = ServiceTimings { server_dead: Duration::from_secs(5), ..quick() };
    let w = World::of(2, timings).await;
    let s = w.session("s").await;
    // More rows than one round ever takes, for a server that is dead by then.
    let many = 600;
    let mut files = Vec::new();
    for n in 0..many {
        files.push(w.one_copy(s, &format!("f{n}")).await);
        if n % 50 == 0 {
            w.register(1, 1).await;
            w.register(2, 1).await;
        }
    }
    tokio::time::advance(Duration::from_secs(6)).await;
    w.register(2, 1).await;
    w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
    for (n, (inode, _)) in files.iter().enumerate() {
        w.unlink(s, &format!("f{n}")).await.unwrap();
        w.service().release(&under(s), Release { inode: *inode }).await.unwrap();
    }
    let on = |id: u64| files.iter().filter(|(_, p)| p.chain[0].server == ServerId(id)).count();
    assert!(on(1) > 100 && on(2) > 100, "placement spreads");
    let living = on(2);
    until("the living server has deleted all of its own", async || {
        w.register(2, 1).await;
        w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
        w.servers[&2].count("delete") >= living
    })
    .await;
    assert_eq!(w.servers[&1].count("delete"), 0, "a dead server is not asked");
}

#[tokio::test(start_paused = true)]
async fn a_joiner_that_fails_is_not_asked_again_at_once() {
    let w = World::of(3, quick()).await;
    let s = w.session("s").await;
    let (inode, place) = w.file(s, "f").await;
    let spare = (1..=3).map(ServerId).find(|id| place.chain.iter().all(|r| r.server != *id)).unwrap();
    w.fake(spare).0.lock().refuses.insert("pull");
    // One member is gone for good and is reported: only the failing server can join.
    let lost = place.chain[1].server;
    w.fake(lost).0.lock().deaf_to.extend(["stat", "set-version", "pull"]);
    w.report(s, inode, place.chunk, lost).await.unwrap();
    let begin = tokio::time::Instant::now();
    until("half a minute has gone by", async || begin.elapsed() > Duration::from_secs(25)).await;
    let asked = w.fake(spare).count("pull");
    // Twice in each try: for a copy ahead, and for what is left of it in the bump.
    assert!((1..=6).contains(&asked), "it was asked {asked} times");
    w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
    w.fake(spare).0.lock().refuses.clear();
    until("it has the copy", async || {
        w.service().keep_alive(&under(s), KeepAlive {}).await.unwrap();
        let op = GetLayout { inode, from: ChunkIndex(0), count: 1 };
        let layout = w.service().get_layout(&under(s), op).await;
        layout.is_ok_and(|l| l.chunks[0].chain.iter().any(|r| r.server == spare))
    })
    .await;
}
