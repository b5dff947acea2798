//! A disk with errors is set aside: nothing new goes there, what is there is told, and gets another disk. The
//! same with one that the masters want emptied.

use crate::common::{disk::CrashDisk, *};
use mooseng_chunk::Chunkserver;
use mooseng_core::{chunk::Control, error::ChunkError, ids::*, meta::*};

async fn start(world: &World, disks: [&CrashDisk; 2]) -> Chunkserver {
    let o = world.options(1, disks.map(CrashDisk::mount).into());
    let server = Chunkserver::start(o).await.unwrap();
    until("it is ready", || server.is_ready()).await;
    server
}

/// Chunks of a state, as the last whole report told.
fn told(world: &World, state: ReplicaState) -> Vec<ChunkId> {
    let heard = world.leader.heard.lock();
    let reports = heard.iter().filter_map(|r| if let MetaRequest::Report(r) = r { Some(r) } else { None });
    let last = reports.filter(|r| r.server == ServerId(1)).last().unwrap();
    last.chunks.iter().filter(|c| c.state == state).map(|c| c.chunk.id).collect()
}

/// Errors of the first disk of server 1, as its last heartbeat told.
fn errors_told(world: &World) -> u64 {
    let heard = world.leader.heard.lock();
    let last = heard.iter().rev().find_map(|r| match r {
        MetaRequest::Heartbeat(h) if h.server == ServerId(1) => Some(h.disks[0].errors),
        _ => None,
    });
    last.unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn its_chunks_are_told_and_filled_again_on_another_disk() {
    let (world, a, b) = (World::new().await, CrashDisk::new(), CrashDisk::new());
    let server = start(&world, [&a, &b]).await;
    let _other = world.start(2, &CrashDisk::new()).await;
    for id in 1..=6 {
        let (chain, data) = ([1, 2], pattern(id, 20_000));
        world.write(chunk(id, 1), &chain, vec![frame(id, 1, 0, data)]).await.unwrap();
        world.sync(chunk(id, 1), &chain, vec![]).await.unwrap();
    }
    let on_a: Vec<_> = (1..=6).filter(|id| a.has(&path(*id))).collect();
    assert!((1..6).contains(&on_a.len()), "both disks are used: {on_a:?}");
    let read = on_a[0];
    let fails = async || {
        let e = world.read(chunk(read, 1), 1, 0, 20_000).await.unwrap_err();
        assert!(matches!(e, ChunkError::Disk { .. }), "{e}");
    };
    a.fail_reads(true);
    fails().await;
    a.fail_reads(false);
    let seen = server.status().disks[0].clone();
    assert!((1..3).contains(&seen.errors) && seen.error.is_none(), "one is counted and no more: {seen:?}");
    until("the masters hear of it", || errors_told(&world) == seen.errors).await;
    a.fail_reads(true);
    for _ in 0..3 {
        fails().await;
    }
    assert_eq!(server.status().disks.iter().filter(|d| d.error.is_some()).count(), 1);
    assert!(server.status().disks[0].errors > seen.errors && server.status().disks[1].errors == 0);
    assert_eq!(world.stat(1, read).await.unwrap().report.state, ReplicaState::Damaged, "it was not read");
    let ids = || on_a.iter().map(|id| ChunkId(*id)).collect::<Vec<_>>();
    until("the masters are told", || told(&world, ReplicaState::Leaving) == ids()).await;

    // Nothing new goes there, and what was there is filled from the other server, on the other disk.
    for id in 7..=10 {
        world.write(chunk(id, 1), &[1, 2], vec![frame(id, 1, 0, pattern(id, 100))]).await.unwrap();
        assert!(b.has(&path(id)) && !a.has(&path(id)));
    }
    for id in &on_a {
        let (to, members) = (ChunkVersion(2), vec![ServerId(2), ServerId(1)]);
        let chunk_id = ChunkId(*id);
        let set = Control::SetVersion {
            chunk: chunk_id,
            to,
            members,
            cut_to: None,
            create: false,
            settle: false,
            term: Term(1),
        };
        let same = world.pull(1, chunk(*id, 1), &[2]).await;
        assert!(matches!(same, Err(ChunkError::Disk { .. })), "two copies of one version: {same:?}");
        world.control(2, set).await.unwrap();
        world.pull(1, chunk(*id, 2), &[2]).await.unwrap();
        assert!(b.has(&path(*id)));
        assert_eq!(world.stat(1, *id).await.unwrap().report.state, ReplicaState::Good);
        assert_eq!(world.read(chunk(*id, 2), 1, 0, 20_000).await.unwrap(), pattern(*id, 20_000));
    }
    // Somebody mends the disk: the newer copies are served, in whatever order the disks are named.
    server.shutdown().await;
    a.fail_reads(false);
    for disks in [[&a, &b], [&b, &a]] {
        let server = start(&world, disks).await;
        for id in &on_a {
            assert_eq!(world.stat(1, *id).await.unwrap().report.chunk, chunk(*id, 2));
        }
        server.shutdown().await;
    }
}

fn set_version(it: ChunkRef, members: &[u64]) -> Control {
    let members = members.iter().map(|s| ServerId(*s)).collect();
    let (chunk, to, term) = (it.id, it.version, Term(1));
    Control::SetVersion { chunk, to, members, cut_to: None, create: false, settle: false, term }
}

fn order_drains(world: &World, disks: &[DiskId]) {
    world.leader.orders.lock().as_mut().unwrap().drains = disks.to_vec();
}

/// Two disks with chunks 1 to 6, of which some, that are returned, are on the first, which drains.
async fn draining(world: &World, a: &CrashDisk, b: &CrashDisk) -> (Chunkserver, Chunkserver, Vec<u64>) {
    let server = start(world, [a, b]).await;
    let other = world.start(2, &CrashDisk::new()).await;
    for id in 1..=6 {
        let data = pattern(id, 20_000);
        world.write(chunk(id, 1), &[1, 2], vec![frame(id, 1, 0, data)]).await.unwrap();
        world.sync(chunk(id, 1), &[1, 2], vec![]).await.unwrap();
    }
    let on_a: Vec<_> = (1..=6).filter(|id| a.has(&path(*id))).collect();
    assert_eq!(on_a.len(), 3, "disks that are equally free get as many");
    order_drains(world, &[server.status().disks[0].disk]);
    let ids: Vec<_> = on_a.iter().map(|id| ChunkId(*id)).collect();
    until("the masters are told", || told(world, ReplicaState::Leaving) == ids).await;
    (server, other, on_a)
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_drains_is_served_until_another_has_its_chunks() {
    let (world, a, b) = (World::new().await, CrashDisk::new(), CrashDisk::new());
    let (server, other, on_a) = draining(&world, &a, &b).await;
    let drained = |s: &Chunkserver| {
        let d = s.status().disks[0].clone();
        (d.drains, d.chunks, d.free_bytes)
    };
    assert_eq!(drained(&server), (true, 3, 0));
    for id in 7..=8 {
        world.write(chunk(id, 1), &[1, 2], vec![frame(id, 1, 0, pattern(id, 100))]).await.unwrap();
        assert!(b.has(&path(id)) && !a.has(&path(id)), "nothing new goes there");
    }
    // What is there is written, read, and made equal with others as ever.
    let id = on_a[0];
    world.write(chunk(id, 1), &[1, 2], vec![frame(id, 2, 20_000, pattern(id, 100))]).await.unwrap();
    let two = world.bump(chunk(id, 1), &[2, 1]).await;
    assert!(a.has(&path(id)) && !b.has(&path(id)));
    assert_eq!(world.stat(1, id).await.unwrap().report.state, ReplicaState::Leaving);
    // A copy that cannot be made leaves it as it is; one that can takes its place.
    let three = ChunkRef { version: two.version.next(), ..two };
    world.pull(1, three, &[2]).await.unwrap_err();
    assert_eq!(world.stat(1, id).await.unwrap().report.chunk, two);
    assert_eq!(world.read(two, 1, 0, 20_000).await.unwrap()[..20_000], pattern(id, 20_000));
    world.control(2, set_version(three, &[2, 1])).await.unwrap();
    world.pull(1, three, &[2]).await.unwrap();
    assert!(!a.has(&path(id)) && b.has(&path(id)));
    assert_eq!(world.stat(1, id).await.unwrap().report.state, ReplicaState::Good);
    assert_eq!(drained(&server), (true, 2, 0));
    for id in &on_a[1..] {
        world.control(1, Control::Delete { chunk: chunk(*id, 1), term: Term(1) }).await.unwrap();
    }
    assert_eq!(drained(&server), (true, 0, 0));
    // The order comes again at each start, and is taken back.
    server.shutdown().await;
    let server = start(&world, [&a, &b]).await;
    assert_eq!(drained(&server), (true, 0, 0));
    assert_eq!(world.read(three, 1, 0, 20_000).await.unwrap()[..20_000], pattern(id, 20_000));
    order_drains(&world, &[]);
    until("it is used again", || !drained(&server).0).await;
    for id in 9..=10 {
        world.write(chunk(id, 1), &[1, 2], vec![frame(id, 1, 0, pattern(id, 100))]).await.unwrap();
    }
    assert!((9..=10).any(|id| a.has(&path(id))));
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_cut_off_by_a_crash_harms_nothing_on_a_disk_that_drains() {
    let (world, a, b) = (World::new().await, CrashDisk::new(), CrashDisk::new());
    let (server, other, on_a) = draining(&world, &a, &b).await;
    // Notes of what was synced stay a while: a crash would make suspects of these.
    server.shutdown().await;
    let server = start(&world, [&a, &b]).await;
    let id = on_a[0];
    let two = chunk(id, 2);
    world.control(2, set_version(two, &[2, 1])).await.unwrap();
    // The other disk dies after each of its changes in turn: before the first it has no room to be chosen.
    let mut server = Some(server);
    let mut cut = 1;
    loop {
        b.dies_after(cut);
        let done = world.pull(1, two, &[2]).await;
        // It may die with the last change.
        if done.is_ok() && !b.is_dead() {
            break;
        }
        cut += 1;
        drop(server.take());
        a.kill();
        b.power_fails();
        server = Some(start(&world, [&a, &b]).await);
        let there = world.stat(1, id).await.unwrap().report;
        assert!(there.chunk == chunk(id, 1) || there.chunk == two, "{there:?} after {cut}");
        if there.chunk == chunk(id, 1) {
            assert_eq!(world.read(chunk(id, 1), 1, 0, 20_000).await.unwrap(), pattern(id, 20_000));
        }
    }
    assert!(cut > 3, "it died {cut} times");
    assert_eq!(world.read(two, 1, 0, 20_000).await.unwrap(), pattern(id, 20_000));
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn without_room_on_another_disk_a_copy_is_mended_where_it_is() {
    let (world, a) = (World::new().await, CrashDisk::new());
    let server = Chunkserver::start(world.options(1, vec![a.mount()])).await.unwrap();
    until("it is ready", || server.is_ready()).await;
    let _other = world.start(2, &CrashDisk::new()).await;
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, pattern(1, 20_000))]).await.unwrap();
    world.sync(chunk(1, 1), &[1, 2], vec![]).await.unwrap();
    order_drains(&world, &[server.status().disks[0].disk]);
    until("the order came", || server.status().disks[0].drains).await;
    world.control(2, set_version(chunk(1, 2), &[2, 1])).await.unwrap();
    world.pull(1, chunk(1, 2), &[2]).await.unwrap();
    assert_eq!(world.stat(1, 1).await.unwrap().report.state, ReplicaState::Leaving);
    let new = world.write(chunk(2, 1), &[1, 2], vec![frame(2, 1, 0, pattern(2, 100))]).await;
    assert!(matches!(new, Err(ChunkError::NoSpace(_))), "{new:?}");
}

#[tokio::test(start_paused = true)]
async fn directories_of_one_filesystem_get_as_many_chunks() {
    let (world, a, b) = (World::new().await, CrashDisk::new(), CrashDisk::new());
    a.shares_space();
    b.shares_space();
    let server = start(&world, [&a, &b]).await;
    for id in 1..=20 {
        world.write(chunk(id, 1), &[1], vec![frame(id, 1, 0, pattern(id, 100))]).await.unwrap();
    }
    let chunks: Vec<_> = server.status().disks.iter().map(|d| d.chunks).collect();
    assert_eq!(chunks, [10, 10]);
}
