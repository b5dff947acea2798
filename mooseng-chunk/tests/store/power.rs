//! Power fails and tears what was not synced, sector by sector: what was synced is there, whole.

use crate::common::{disk::CrashDisk, *};
use mooseng_chunk::Chunkserver;
use mooseng_core::{chunk::*, error::ChunkError, ids::*, limits::FRAME_BYTES_MAX};
use std::collections::BTreeMap;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

type Block = Vec<u8>;

/// One chunk, and each block's possible contents: what the last sync promised, then all that was written,
/// with its number,
/// since.
#[derive(Default)]
struct Model {
    now: Vec<u8>,
    possible: BTreeMap<usize, Vec<(u64, Block)>>,
    synced: BTreeMap<usize, Block>,
    version: u64,
    number: u64,
}

impl Model {
    fn block(&self, block: usize) -> Block {
        let mut b = self.now.get(block * BLOCK..).unwrap_or_default().to_vec();
        b.resize(BLOCK, 0);
        b
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        self.now.resize(self.now.len().max(at + data.len()), 0);
        self.now[at..at + data.len()].copy_from_slice(data);
        for block in at / BLOCK..(at + data.len()).div_ceil(BLOCK) {
            let content = self.block(block);
            self.possible.entry(block).or_default().push((self.number, content));
        }
    }

    fn sync(&mut self) {
        for block in std::mem::take(&mut self.possible).into_keys() {
            self.synced.insert(block, self.block(block));
        }
    }

    fn cut(&mut self, to: usize) {
        self.now.truncate(to);
        self.sync();
        self.synced.retain(|b, _| *b < to.div_ceil(BLOCK));
        if let Some(last) = to.checked_sub(1).map(|t| t / BLOCK).filter(|b| self.synced.contains_key(b)) {
            self.synced.insert(last, self.block(last));
        }
    }
}

async fn after_the_failure(world: &World, server: &Chunkserver, model: &mut Model, note: &str) {
    let it = chunk(1, model.version);
    let Ok(stat) = world.stat(1, 1).await else {
        assert!(model.synced.is_empty(), "{note}: the chunk is gone");
        *model = Model { version: model.version, number: model.number, ..Model::default() };
        return;
    };
    assert_eq!(stat.report.chunk, it, "{note}");
    world.control(1, settle(it, &[1])).await.unwrap();
    assert_eq!(server.status().suspect, 0);
    let mut length = world.stat(1, 1).await.unwrap().report.length as usize;
    assert!(
        length >= model.synced.keys().max().map_or(0, |b| b * BLOCK + 1),
        "{note}: it is {length} bytes long"
    );
    let numbers = world.control(1, Control::Numbers { chunk: it, head: None }).await.unwrap();
    let ControlReply::Numbers(numbers) = numbers else { panic!("{note}: {numbers:?}") };
    let known = numbers.first().map_or(0, |(_, n)| n.get());
    let mut now = Vec::new();
    for block in 0..length.div_ceil(BLOCK) {
        let got = world.read(it, 1, (block * BLOCK) as u64, BLOCK as u64).await;
        let synced = model.synced.get(&block);
        // What is not written again, because the replica knows its number, is there.
        let written = model.possible.get(&block).map_or(&[][..], Vec::as_slice);
        let claimed = written.iter().rposition(|(n, _)| *n <= known);
        let mut content = match got {
            Ok(content) => content,
            // What was never synced may be damaged.
            Err(ChunkError::Damaged { .. }) if synced.is_none() && claimed.is_none() => {
                let anew = pattern(9, BLOCK);
                model.number += 1;
                let frames = vec![frame(1, model.number, (block * BLOCK) as u64, anew.clone())];
                world.write(it, &[1], frames).await.unwrap();
                length = length.max((block + 1) * BLOCK);
                anew
            }
            Err(e) => panic!("{note}: block {block}: {e}"),
        };
        content.resize(BLOCK, 0);
        let written = written.iter().map(|(_, b)| b);
        if let Some(first) = claimed {
            let since = written.clone().skip(first).any(|b| *b == content);
            assert!(since, "{note}: block {block} has not what the numbers up to {known} say");
        }
        if let Some(synced) = synced {
            let known = std::iter::once(synced).chain(written).any(|b| *b == content);
            assert!(known, "{note}: block {block} is nothing that it ever was");
        }
        now.extend(content);
    }
    now.truncate(length);
    world.sync(it, &[1], vec![]).await.unwrap();
    model.now = now;
    model.possible.clear();
    // Of a hole nothing was promised: what is written there is new.
    let blocks = (0..model.now.len().div_ceil(BLOCK)).map(|b| (b, model.block(b)));
    model.synced = blocks.filter(|(_, content)| content.iter().any(|b| *b != 0)).collect();
}

async fn run(seed: u64) {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let mut server = world.start(1, &disk).await;
    let mut dice = Dice(seed);
    let mut model = Model { version: 1, ..Model::default() };
    for step in 0..40 {
        let note = format!("seed {seed}, step {step}");
        let it = chunk(1, model.version);
        match dice.roll(20) {
            0..11 => {
                // Around a border of table pages, and of blocks.
                let at = [0, 490 * BLOCK][dice.roll(2) as usize] + dice.roll(12 * BLOCK as u64) as usize;
                let at = if dice.roll(3) == 0 { at / BLOCK * BLOCK } else { at };
                let len = match dice.roll(3) {
                    0 => 1 + dice.roll(200) as usize,
                    1 => BLOCK * (1 + dice.roll(4) as usize),
                    _ => 1 + dice.roll(20_000) as usize,
                };
                model.number += 1;
                let data = pattern(seed + model.number, len);
                model.write(at, &data);
                let frames = vec![frame(1, model.number, at as u64, data)];
                world.write(it, &[1], frames).await.unwrap_or_else(|e| panic!("{note}: {e}"));
            }
            11..15 if !model.now.is_empty() => {
                world.sync(it, &[1], vec![]).await.unwrap_or_else(|e| panic!("{note}: {e}"));
                model.sync();
            }
            15 if !model.now.is_empty() => {
                let to = dice.roll(model.now.len() as u64 + 1);
                model.version += 1;
                let (members, cut_to, to_version) =
                    (vec![ServerId(1)], Some(to), ChunkVersion(model.version));
                let op = Control::SetVersion {
                    chunk: ChunkId(1),
                    to: to_version,
                    members,
                    cut_to,
                    create: false,
                    settle: false,
                    term: Term(1),
                };
                world.control(1, op).await.unwrap_or_else(|e| panic!("{note}: {e}"));
                model.cut(to as usize);
            }
            16 => {
                drop(server);
                disk.kill();
                server = world.start(1, &disk).await;
                after_the_failure(&world, &server, &mut model, &note).await;
            }
            17.. => {
                drop(server);
                disk.power_tears(seed * 1000 + step + 7);
                server = world.start(1, &disk).await;
                after_the_failure(&world, &server, &mut model, &note).await;
            }
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_synced_is_there_whole_after_any_power_failure() {
    for seed in 0..seeds() {
        run(seed).await;
    }
}

/// More with `MOOSENG_SEEDS`.
fn seeds() -> u64 {
    std::env::var("MOOSENG_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60)
}

/// More overwrites than the log has room for: full segments are emptied beside the writes, and the
/// next start finds everything.
#[tokio::test(start_paused = true)]
async fn the_log_is_emptied_while_it_is_filled() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    let mut number = 0;
    let mut last = BTreeMap::new();
    for round in 0..8 {
        for id in 1..=3 {
            number += 1;
            let data = pattern(round * 10 + id, FRAME_BYTES_MAX);
            world.write(chunk(id, 1), &[1], vec![frame(id, round + 1, 0, data.clone())]).await.unwrap();
            // The last write of chunk 3 is not synced; that of chunk 1 is by the flush of chunk 2.
            if round < 7 || id == 2 {
                world.sync(chunk(id, 1), &[1], vec![]).await.unwrap();
            }
            if round < 7 || id < 3 {
                last.insert(id, data);
            }
        }
    }
    assert_eq!(number, 24);
    assert!(disk.len_of("redo.0") <= 2 << 20 && disk.len_of("redo.1") <= 2 << 20);
    drop(server);
    disk.power_fails();
    let _server = world.start(1, &disk).await;
    for (id, data) in last {
        let _ = world.control(1, settle(chunk(id, 1), &[1])).await;
        assert!(world.read(chunk(id, 1), 1, 0, 2 << 20).await.unwrap() == data, "chunk {id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_log_makes_chunks_suspect_and_a_failed_one_takes_no_more() {
    let world = World::new().await;
    let disk = CrashDisk::new();
    let server = world.start(1, &disk).await;
    for n in 1..=3 {
        world.write(chunk(1, 1), &[1], vec![frame(1, n, 0, pattern(n, BLOCK))]).await.unwrap();
        world.sync(chunk(1, 1), &[1], vec![]).await.unwrap();
    }
    // Let the note that the chunk is dirty go.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    drop(server);
    disk.power_fails();
    let rotten = disk.copy();
    rotten.rot("redo.0", 2 * BLOCK + 300, 1);
    let server = world.start(1, &rotten).await;
    assert_eq!(server.status().suspect, 1, "what the log said first is not known");
    drop(server);
    let server = world.start(1, &disk).await;
    assert_eq!(server.status().suspect, 0);
    assert_eq!(world.read(chunk(1, 1), 1, 0, BLOCK as u64).await.unwrap(), pattern(3, BLOCK));
    world.write(chunk(1, 1), &[1], vec![frame(1, 4, 0, pattern(4, BLOCK))]).await.unwrap();
    disk.fail_syncs(true);
    assert!(matches!(world.sync(chunk(1, 1), &[1], vec![]).await, Err(ChunkError::Disk { .. })));
    disk.fail_syncs(false);
    assert_eq!(server.status().damaged, 1);
    world.write(chunk(2, 1), &[1], vec![frame(2, 1, 0, pattern(1, BLOCK))]).await.unwrap();
    world.sync(chunk(2, 1), &[1], vec![]).await.unwrap();
    let e = world.write(chunk(2, 1), &[1], vec![frame(2, 2, 0, pattern(2, BLOCK))]).await.unwrap_err();
    assert!(e.to_string().contains("redo log failed"), "{e}");
}
