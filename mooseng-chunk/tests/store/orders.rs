//! Whose orders count: those of the newest term that was heard, and none before the masters were.

use crate::common::{disk::CrashDisk, *};
use futures::StreamExt as _;
use mooseng_core::{chunk::*, error::ChunkError, ids::*, net::Role};

fn set_version(to: ChunkRef, term: Term) -> Control {
    let (members, cut_to) = (vec![ServerId(1)], None);
    let (chunk, to, create, settle) = (to.id, to.version, false, false);
    Control::SetVersion { chunk, to, members, cut_to, create, settle, term }
}

#[tokio::test(start_paused = true)]
async fn commands_of_an_older_term_are_refused_also_after_a_restart() {
    let world = World::new().await;
    let mut s = servers(&world, 2).await;
    let data = pattern(1, 5000);
    world.write(chunk(1, 1), &[1, 2], vec![frame(1, 1, 0, data.clone())]).await.unwrap();
    world.write(chunk(2, 1), &[2], vec![frame(2, 1, 0, pattern(2, 5000))]).await.unwrap();
    for (id, servers) in [(1, &[1, 2][..]), (2, &[2])] {
        world.sync(chunk(id, 1), servers, vec![]).await.unwrap();
    }
    world.control(1, set_version(chunk(1, 2), Term(2))).await.unwrap();
    // What the older leader wants a copy of; that server has not heard of the newer one.
    world.control(2, set_version(chunk(1, 3), Term(1))).await.unwrap();
    let (disk, old) = s.remove(&1).unwrap();
    old.shutdown().await;
    // The orders that come are the older leader's, too, and are not obeyed.
    let _again = world.start(1, &disk).await;
    let before = world.stat(1, 1).await.unwrap();
    assert_eq!(before.report.chunk, chunk(1, 2));
    let (from, member_of, term) = (chain(&[2]), Some(ChunkVersion(2)), Term(1));
    let ended = SessionStamp { epoch: SESSION.epoch.next(), ..SESSION };
    let old_ones = [
        set_version(chunk(1, 3), term),
        Control::Pull { chunk: chunk(1, 3), from: from.clone(), ahead: false, member_of, term },
        Control::Pull { chunk: chunk(2, 1), from, ahead: true, member_of: None, term },
        Control::Delete { chunk: chunk(1, 9), term },
        Control::Fence { session: ended, term },
    ];
    for op in old_ones {
        let got = world.control(1, op.clone()).await;
        assert_eq!(got, Err(ChunkError::OldTerm { got: Term(1), seen: Term(2) }), "{op:?}");
        assert_eq!(world.stat(1, 1).await.unwrap(), before, "after {op:?}");
    }
    // With the newer leader's come the keys, when somebody needs them.
    world.leader.orders.lock().as_mut().unwrap().term = Term(2);
    assert_eq!(world.read(chunk(1, 2), 1, 0, 5000).await.unwrap(), data);
    let none = world.stat(1, 2).await;
    assert!(matches!(none, Err(ChunkError::NotFound(_))), "{none:?}");
    // The session was not fenced.
    world.write(chunk(1, 2), &[1], vec![frame(1, 2, 0, pattern(3, 100))]).await.unwrap();
    world.control(1, set_version(chunk(1, 3), Term(2))).await.unwrap();
}

/// Writes a frame past what a client needs: as a master does, or as the head `from` sends it on.
async fn write_past(
    world: &World,
    from: Option<(ServerId, Incarnation)>,
    number: u64,
) -> Result<(), ChunkError> {
    let (role, req) = match from {
        None => (Role::Master, world.write_request(chunk(1, 1), &[1])),
        Some(_) => (Role::Chunkserver, world.write_request(chunk(1, 1), &[1])),
    };
    let req = WriteRequest { head: from, makers: vec![], capability: None, ..req };
    let frames = futures::stream::iter([Ok(frame(1, number, 0, pattern(number, 100)))]).boxed();
    let mut acks = world.remote(role, 1).await.write(&cx(), req, frames).await?;
    acks.next().await.unwrap().map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_server_that_starts_takes_no_writes_before_the_masters_orders() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let first = world.start(1, &disk).await;
    let old = pattern(1, 100);
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, old.clone())]).await.unwrap();
    first.shutdown().await;
    let orders = world.leader.orders.lock().take();
    let again = world.try_start(1, &disk).await.unwrap();
    let head = Some((ServerId(2), Incarnation(7)));
    for from in [None, head] {
        let got = write_past(&world, from, 2).await;
        assert!(matches!(&got, Err(ChunkError::Busy(why)) if why.contains("fences")), "{from:?}: {got:?}");
    }
    // A client's fails before that: its capability's key comes with the orders, too.
    let got = world.write(chunk(1, 1), &[1], vec![frame(1, 2, 0, pattern(2, 100))]).await;
    assert!(matches!(&got, Err(ChunkError::Forbidden(why)) if why.contains("not known here")), "{got:?}");
    assert!(!again.is_ready());
    *world.leader.orders.lock() = orders;
    until("it is ready", || again.is_ready()).await;
    assert_eq!(world.read(chunk(1, 1), 1, 0, 100).await.unwrap(), old, "nothing was changed");
    write_past(&world, None, 2).await.unwrap();
    write_past(&world, head, 3).await.unwrap();
    world.write(chunk(1, 1), &[1], vec![frame(1, 4, 0, pattern(4, 100))]).await.unwrap();
    assert_eq!(world.read(chunk(1, 1), 1, 0, 100).await.unwrap(), pattern(4, 100));
}
