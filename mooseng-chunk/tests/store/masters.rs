//! Which master a chunkserver speaks to.

use crate::common::{disk::CrashDisk, *};
use mooseng_chunk::{Chunkserver, Timings};
use mooseng_core::{meta::MetaRequest, net::Role, rpc::MetaHandler};
use std::sync::{Arc, atomic::Ordering};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_heartbeat_tells_the_time_of_day() {
    let world = World::new().await;
    let options = world.options(1, vec![CrashDisk::new().mount()]);
    let clock = options.seams.clock.clone();
    let _server = Chunkserver::start(options).await.unwrap();
    let told = || {
        let heard = world.leader.heard.lock();
        heard.iter().rev().find_map(|r| if let MetaRequest::Heartbeat(h) = r { Some(h.clock) } else { None })
    };
    until("a heartbeat has come", || told().is_some()).await;
    let late = clock.wall().0 - told().unwrap().0;
    assert!((0..1_000_000_000).contains(&late), "{late} ns");
}

#[tokio::test(start_paused = true)]
async fn a_server_does_not_wait_for_a_killed_leader_when_another_leads() {
    let world = World::new().await;
    let next = Leader::with(None);
    let master = world.net.transport(identity(Role::Master, 2));
    let _listening = master.listen("next", Arc::new(MetaHandler::new(next.clone()))).await.unwrap();
    let mut options = world.options(1, vec![CrashDisk::new().mount()]);
    options.masters = vec!["leader".into(), "next".into()];
    let server = Chunkserver::start(options).await.unwrap();
    until("it is ready", || server.is_ready()).await;
    let beats = || world.leader.heard.lock().len();
    let before = beats();
    until("a heartbeat has come", || beats() > before).await;
    // While the one that leads is only slow and nobody else leads, it is waited for.
    let orders = world.leader.orders.lock().clone();
    world.leader.silent.store(true, Ordering::Relaxed);
    *next.orders.lock() = orders;
    let begin = Instant::now();
    let registers = |r: &MetaRequest| matches!(r, MetaRequest::Register(_));
    until("it is registered with the next", || next.heard.lock().iter().any(registers)).await;
    // In virtual time: the next heartbeat, and less than the patience with its answer.
    assert!(begin.elapsed() < 2 * Timings::default().heartbeat, "{:?}", begin.elapsed());
    until("it is ready again", || server.is_ready()).await;
}
