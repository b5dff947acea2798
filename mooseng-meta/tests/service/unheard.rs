//! What a new leader tells of those who have not spoken to it.

use crate::world::*;
use mooseng_core::{error::MetaError, ids::*, meta::*};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_server_that_died_before_the_election_is_told_and_silent_in_time() {
    let timings = mooseng_meta::service::ServiceTimings { server_dead: Duration::from_secs(10), ..quick() };
    let mut w = World::of(2, timings).await;
    w.master.take().unwrap().stop().await;
    w.start_master().await;
    w.register(1, 1).await;
    let second = async || {
        let status = w.service().get_status(&cx(), GetStatus {}).await.unwrap();
        assert_eq!(status.servers.len(), 2);
        let s = status.servers[1].clone();
        assert_eq!((s.id, s.addr.as_str(), s.disks.len()), (ServerId(2), "cs-2", 0));
        (s.alive, s.silent)
    };
    assert_eq!(second().await, (false, false), "it had no chance to speak yet");
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(second().await, (false, true));
    w.register(2, 1).await;
    let status = w.service().get_status(&cx(), GetStatus {}).await.unwrap();
    assert!(status.servers[1].alive && !status.servers[1].silent);
}

/// They come to a new leader within some seconds: until then too few are no lack of space.
#[tokio::test(start_paused = true)]
async fn a_new_leader_says_that_there_is_no_space_when_its_servers_have_had_time_to_come() {
    let timings = mooseng_meta::service::ServiceTimings { server_dead: Duration::from_secs(60), ..quick() };
    let mut w = World::of(2, timings).await;
    let s = w.session("s").await;
    let inode = w.create(s, "f").await.attr.inode;
    w.master.take().unwrap().stop().await;
    w.start_master().await;
    w.register(1, 1).await;
    let e = w.allocate(s, inode).await.unwrap_err();
    assert!(matches!(e, MetaError::Busy(_)), "{e}");
    w.register(2, 1).await;
    w.allocate(s, inode).await.unwrap();

    w.master.take().unwrap().stop().await;
    w.start_master().await;
    w.register(1, 1).await;
    let other = w.create(s, "g").await.attr.inode;
    assert!(matches!(w.allocate(s, other).await, Err(MetaError::Busy(_))));
    tokio::time::sleep(Duration::from_secs(11)).await;
    let e = w.allocate(s, other).await.unwrap_err();
    assert!(matches!(e, MetaError::NoServers { wanted: 2, found: 1 }), "{e}");
}
