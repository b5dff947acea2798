//! What is written comes back: any range, any order, over restarts.

use crate::common::{disk::CrashDisk, *};
use mooseng_core::{ids::Offset, limits::*, net::Role};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, len: usize },
    Sync,
    Restart,
    Read { at: u64, len: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    // Positions gather around the borders of blocks and of table pages (496 blocks).
    let at = prop_oneof![
        0u64..40_000,
        (0u64..4, 0u64..5000).prop_map(|(p, o)| (p * 496 * BLOCK as u64 + o).saturating_sub(2500)),
        (0u64..600).prop_map(|b| b * BLOCK as u64),
    ];
    let len = prop_oneof![1usize..100, 4000usize..4200, 1usize..30_000, Just(2 * BLOCK)];
    prop_oneof![
        6 => (at.clone(), len).prop_map(|(at, len)| Step::Write { at, len }),
        1 => Just(Step::Sync),
        1 => Just(Step::Restart),
        3 => (at, 1u64..50_000).prop_map(|(at, len)| Step::Read { at, len }),
    ]
}

async fn agrees(world: &World, model: &[u8], at: u64, len: u64) {
    let at = at / BLOCK as u64 * BLOCK as u64;
    let end = ((at + len).next_multiple_of(BLOCK as u64) as usize).min(model.len());
    let want = model.get(at as usize..end).unwrap_or_default();
    let got = world.read(chunk(5, 1), 1, at, len).await.unwrap();
    assert!(got == want, "{} bytes at {at}, {} wanted", got.len(), want.len());
}

async fn run(steps: Vec<Step>) {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let mut server = world.start(1, &disk).await;
    let (mut model, mut number) = (Vec::new(), 0);
    for step in steps {
        match step {
            Step::Write { at, len } => {
                number += 1;
                let data = pattern(number, len);
                let end = at as usize + len;
                model.resize(end.max(model.len()), 0);
                model[at as usize..end].copy_from_slice(&data);
                world.write(chunk(5, 1), &[1], vec![frame(5, number, at, data)]).await.unwrap();
            }
            Step::Sync if !model.is_empty() => {
                world.sync(chunk(5, 1), &[1], vec![]).await.unwrap();
            }
            Step::Restart => {
                server.shutdown().await;
                server = world.start(1, &disk).await;
            }
            Step::Read { at, len } if !model.is_empty() => agrees(&world, &model, at, len).await,
            Step::Sync | Step::Read { .. } => {}
        }
    }
    if !model.is_empty() {
        agrees(&world, &model, 0, CHUNK_BYTES).await;
        assert_eq!(world.stat(1, 5).await.unwrap().report.length, model.len() as u64);
    }
    drop(server);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]
    #[test]
    fn random_writes_come_back(steps in proptest::collection::vec(step(), 1..40)) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        rt.block_on(run(steps));
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_aligned_frame_is_one_write_of_data_and_one_of_checksums() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let _server = world.start(1, &disk).await;
    let data = pattern(1, FRAME_BYTES_MAX);
    world.write(chunk(1, 1), &[1], vec![frame(1, 1, 0, data.clone())]).await.unwrap();
    let before = disk.writes();
    world.write(chunk(1, 1), &[1], vec![frame(1, 2, 0, data.clone())]).await.unwrap();
    assert_eq!(disk.writes() - before, 2);
    assert_eq!(world.read(chunk(1, 1), 1, 0, CHUNK_BYTES).await.unwrap(), data);
}

#[tokio::test(start_paused = true)]
async fn the_last_byte_of_a_chunk_is_written_and_the_one_after_it_is_not() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let _server = world.start(1, &disk).await;
    let frames = vec![frame(1, 1, CHUNK_BYTES - 1, vec![9])];
    world.write(chunk(1, 1), &[1], frames).await.unwrap();
    let tail = world.read(chunk(1, 1), 1, CHUNK_BYTES - BLOCK as u64, BLOCK as u64).await.unwrap();
    assert_eq!((tail.len(), tail[BLOCK - 1], tail[0]), (BLOCK, 9, 0));
    for (at, len) in [(CHUNK_BYTES, 1), (CHUNK_BYTES - 1, 2), (u64::MAX - 1, 8), (0, FRAME_BYTES_MAX + 1)] {
        let mut past = frame(1, 2, 0, vec![1; len]);
        past.head.at = Offset(at);
        let past = world.write(chunk(1, 1), &[1], vec![past]).await;
        assert!(past.is_err(), "{len} bytes at {at}");
    }
    // A frame of exactly the limit passes.
    world.write(chunk(1, 1), &[1], vec![frame(1, 2, 0, vec![1; FRAME_BYTES_MAX])]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_in_pages_in_order() {
    use mooseng_core::chunk::ChunkStore as _;
    let world = World::new().await;
    let disk = CrashDisk::new();
    let _server = world.start(1, &disk).await;
    for id in [300, 2, 1] {
        world.write(chunk(id, 1), &[1], vec![frame(id, 1, 0, vec![1])]).await.unwrap();
    }
    let master = world.remote(Role::Master, 1).await;
    let page = master.list(&cx(), None, 2).await.unwrap();
    assert_eq!(page.chunks.iter().map(|c| c.chunk.id.get()).collect::<Vec<_>>(), [1, 2]);
    assert!(!page.last);
    let page = master.list(&cx(), Some(page.chunks[1].chunk.id), 2).await.unwrap();
    assert_eq!(page.chunks.iter().map(|c| c.chunk.id.get()).collect::<Vec<_>>(), [300]);
    assert!(page.last);
}
