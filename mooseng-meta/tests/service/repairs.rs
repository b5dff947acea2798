//! What lacks copies is copied at a pace, and told with how long that takes.

use crate::world::*;
use mooseng_core::{ids::*, meta::*};
use mooseng_meta::service::ServiceTimings;
use std::time::Duration;

/// One byte a second, four where one copy is left; each file here has one byte.
fn slow() -> ServiceTimings {
    let (server_dead, repair_after) = (Duration::from_secs(2), Duration::from_secs(8));
    ServiceTimings { server_dead, repair_after, repair_bytes_per_s: 1, ..quick() }
}

async fn repairs(w: &World) -> Repairs {
    w.service().get_care(&cx(), GetCare {}).await.unwrap().repairs
}

/// The servers from the second on live.
async fn others_live(w: &World) {
    for id in w.servers.keys().filter(|id| **id > 1) {
        w.beat(*id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_dead_server_are_made_at_a_pace_and_told() {
    let w = World::of(3, slow()).await;
    let s = w.session("s").await;
    let mut lost = 0;
    for n in 0..60 {
        let (_, place) = w.file(s, &format!("f{n}")).await;
        lost += u64::from(place.chain.iter().any(|r| r.server == ServerId(1)));
    }
    assert!(lost > 20, "{lost}");
    w.fake(ServerId(1)).0.lock().deaf_to.extend(["stat", "set-version", "pull"]);
    assert_eq!(repairs(&w).await, Repairs { until_safe_secs: Some(0), ..Repairs::default() });
    let look = async || {
        others_live(&w).await;
        repairs(&w).await
    };
    let r = until_some("it is missed", async || Some(look().await).filter(|r| r.chunks > 0)).await;
    assert_eq!((r.chunks, r.bytes, r.stuck, r.done, r.until_safe_secs), (lost, lost, 0, 0, None));
    assert!((6..=8).contains(&r.waits_secs), "{r:?}");
    let r = until_some("the copying begins", async || Some(look().await).filter(|r| r.done > 0)).await;
    let begun = tokio::time::Instant::now();
    assert!(r.waits_secs == 0 && r.chunks < lost, "{r:?}");
    let told = async || Some(look().await).filter(|r| r.until_safe_secs.is_some());
    let r = until_some("it is told how long it takes", told).await;
    assert!(r.chunks > 0 && r.bytes_per_s > 0, "{r:?}");
    until("all have their copies", async || look().await.chunks == 0).await;
    let (took, least) = (begun.elapsed(), Duration::from_secs(lost / 4 - 4));
    assert!((least..least * 2).contains(&took), "{lost} bytes in {took:?}");
    let r = look().await;
    assert_eq!((r.done, r.until_safe_secs, r.running), (lost, Some(0), 0), "{r:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_copied_is_told_to_be_stuck() {
    let w = World::of(2, slow()).await;
    let s = w.session("s").await;
    w.file(s, "f").await;
    w.one_copy(s, "g").await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    others_live(&w).await;
    let r = repairs(&w).await;
    assert_eq!((r.chunks, r.stuck, r.until_safe_secs), (1, 1, None), "{r:?}");
}
