//! Clocks of chunkservers that are not the leader's.

use crate::world::*;
use mooseng_core::{
    health::{HealthCode, problems},
    meta::*,
};

/// What is told of clocks.
async fn told(w: &World) -> Vec<String> {
    let status = w.service().get_status(&cx(), GetStatus {}).await.unwrap();
    let care = w.service().get_care(&cx(), GetCare {}).await.unwrap();
    let all = problems(&status, &care).into_iter();
    all.filter(|p| p.code == HealthCode::ClockSkew).map(|p| p.cause).collect()
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_is_told_until_it_was_set_right() {
    let w = World::of(2, quick()).await;
    w.beat(1).await;
    w.beat_at(2, 999).await;
    assert_eq!(told(&w).await, [""; 0]);
    w.beat_at(2, 5000).await;
    assert_eq!(told(&w).await, ["the clock of chunkserver 2 (cs-2) is 5.0 s ahead of the leading master's"]);
    let status = w.service().get_status(&cx(), GetStatus {}).await.unwrap();
    assert_eq!(status.servers.iter().map(|s| s.clock_ms).collect::<Vec<_>>(), [0, 5000]);
    until("it is right again", async || {
        w.beat(2).await;
        told(&w).await.is_empty()
    })
    .await;
    w.beat_at(2, 5000).await;
    assert_eq!(told(&w).await.len(), 1);
    w.register(2, 1).await;
    assert_eq!(told(&w).await, [""; 0], "who comes anew has told nothing yet");
}

#[tokio::test(start_paused = true)]
async fn one_late_heartbeat_is_no_clock_that_is_behind() {
    let w = World::of(1, quick()).await;
    w.beat(1).await;
    w.beat_at(1, -3000).await;
    assert_eq!(told(&w).await, [""; 0]);
    until("all of them are", async || {
        w.beat_at(1, -3000).await;
        !told(&w).await.is_empty()
    })
    .await;
    assert_eq!(told(&w).await, ["the clock of chunkserver 1 (cs-1) is 3.0 s behind the leading master's"]);
    until("the clock is right again", async || {
        w.beat(1).await;
        told(&w).await.is_empty()
    })
    .await;
}
