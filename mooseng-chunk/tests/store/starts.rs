//! What was meant for one start of a server does nothing at the next (PROTOCOL §4, incarnations).

use crate::common::{disk::CrashDisk, *};
use futures::StreamExt as _;
use mooseng_core::{chunk::*, error::ChunkError, ids::*, net::Role};

/// Frames as the chain's head sends them on to server 2.
async fn sent_on(world: &World, from: (ServerId, Incarnation), frames: Vec<Frame>) -> Result<(), ChunkError> {
    let req = WriteRequest { head: Some(from), capability: None, ..world.write_request(chunk(1, 1), &[2]) };
    let head = world.remote(Role::Chunkserver, 2).await;
    let frames = futures::stream::iter(frames.into_iter().map(Ok)).boxed();
    let mut acks = head.write(&cx(), req, frames).await?;
    while let Some(ack) = acks.next().await {
        ack?;
    }
    Ok(())
}

fn is_refused(got: Result<(), ChunkError>) {
    assert!(matches!(&got, Err(ChunkError::Busy(why)) if why.contains("another start")), "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn the_right_to_make_a_chunk_ends_with_the_start_that_it_names() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let old = world.start(1, &disk).await;
    let before = world.write_request(chunk(1, 1), &[1]);
    let first = || vec![frame(1, 1, 0, pattern(1, 100))];
    drop(old);
    disk.power_fails();
    let _new = world.start(1, &disk).await;
    let e = world.write_as(before, first()).await.unwrap_err();
    assert!(matches!(e, ChunkError::NotFound(_)), "{e}");
    assert!(!disk.has(&path(1)));
    world.write(chunk(1, 1), &[1], first()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_start_of_the_head_sent_on_is_not_taken_after_a_later_ones() {
    let world = World::new().await;
    let _second = world.start(2, &CrashDisk::new()).await;
    let (old, new) = ((ServerId(1), Incarnation(70)), (ServerId(1), Incarnation(60)));
    // The later start made the chunk: it asked nobody for numbers.
    sent_on(&world, new, vec![frame(1, 1, 0, pattern(1, 100))]).await.unwrap();
    is_refused(sent_on(&world, old, vec![frame(1, 2, 0, pattern(2, 100))]).await);
    assert_eq!(world.read(chunk(1, 1), 2, 0, 100).await.unwrap(), pattern(1, 100));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_asks_for_numbers_ends_what_its_earlier_start_sent() {
    let world = World::new().await;
    let _second = world.start(2, &CrashDisk::new()).await;
    let (old, new) = ((ServerId(1), Incarnation(70)), (ServerId(1), Incarnation(60)));
    sent_on(&world, old, vec![frame(1, 1, 0, pattern(1, 100))]).await.unwrap();
    let asks = |head| world.control(2, Control::Numbers { chunk: chunk(1, 1), head: Some(head) });
    let told = ControlReply::Numbers(vec![(SESSION.id, WriteNumber(1))]);
    assert_eq!(asks(new).await.unwrap(), told);
    is_refused(sent_on(&world, old, vec![frame(1, 2, 0, pattern(2, 100))]).await);
    sent_on(&world, new, vec![frame(1, 2, 0, pattern(3, 100))]).await.unwrap();
    // Its question that was under way as well, does not make it the newer one.
    is_refused(asks(old).await.map(drop));
    sent_on(&world, new, vec![frame(1, 3, 0, pattern(4, 100))]).await.unwrap();
    // The next version knows nothing of this one's.
    assert_eq!(asks(new).await.unwrap(), ControlReply::Numbers(vec![(SESSION.id, WriteNumber(3))]));
    let c = world.bump(chunk(1, 1), &[2]).await;
    let again = WriteRequest { head: Some(old), capability: None, ..world.write_request(c, &[2]) };
    let head = world.remote(Role::Chunkserver, 2).await;
    let frames = futures::stream::iter([Ok(frame(1, 4, 0, pattern(5, 100)))]).boxed();
    let mut acks = head.write(&cx(), again, frames).await.unwrap();
    acks.next().await.unwrap().unwrap();
}
