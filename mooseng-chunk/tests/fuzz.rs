//! The decoders of what is on a chunkserver's disks against mutated and random input: a value or none, never
//! a panic, never more memory than a small multiple of the input, never without an end. In half of the inputs the
//! checksum is made right again, so that what is behind it is reached. Seeded: a failure names its input.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../mooseng-core/tests/watched/mod.rs"]
mod watched;

use mooseng_chunk::{
    decoders,
    format::{ENTRIES, Entry, Header, PAGE, decode_page, encode_page},
};
use mooseng_core::{
    checksum::crc32c,
    ids::{ChunkId, ChunkVersion, ServerId, SessionId, WriteNumber},
    limits::COPIES_MAX,
    seam::Disk,
};
use mooseng_host::MemDisk;
use std::sync::Arc;
use watched::{watched, with_a_change};

const ID: ChunkId = ChunkId(0x1122);
const NUMBER: usize = 3;

/// A decoder: its name, a valid page, where its checksum is and what that covers, and what to do.
struct Target {
    name: &'static str,
    valid: Vec<u8>,
    crc_at: usize,
    covers_from: usize,
    run: fn(&[u8]),
}

fn targets() -> [Target; 3] {
    let header = Header {
        counter: 3,
        id: ID,
        version: ChunkVersion(2),
        length: 5000,
        synced: 4096,
        log_seq: 9,
        members: vec![ServerId(1), ServerId(7)],
        stamps: std::array::from_fn(|i| i as u64),
        written: std::array::from_fn(|i| i as u64 * 3),
        writers: vec![(SessionId(5), WriteNumber(9)), (SessionId(6), WriteNumber(1))],
    };
    let entry = |i: usize| (!i.is_multiple_of(3)).then_some(Entry { now: i as u32, before: !(i as u32) });
    let entries: Vec<_> = (0..ENTRIES).map(entry).collect();
    let (head, page) = (header.encode(), encode_page(ID, NUMBER, 3, &entries));
    [
        Target { name: "chunk header", valid: head.clone(), crc_at: 12, covers_from: 16, run: a_header },
        Target { name: "header slots", valid: head, crc_at: 12, covers_from: 16, run: two_slots },
        Target { name: "table page", valid: page, crc_at: 0, covers_from: 4, run: a_page },
    ]
}

fn a_header(b: &[u8]) {
    if let Some(h) = Header::decode(b) {
        assert!(h.members.len() <= usize::from(COPIES_MAX) * 2, "bounded");
        // What is understood is said again in the same words, but for bytes without a meaning.
        assert_eq!(Header::decode(&h.encode()), Some(h));
    }
}

fn two_slots(b: &[u8]) {
    let valid = &targets_valid();
    for (first, second) in [(b, &valid[..]), (&valid[..], b), (b, b)] {
        if let Some((_, write_next)) = Header::newest(first, second) {
            assert!(write_next == 0 || write_next == PAGE as u64);
        }
    }
}

fn targets_valid() -> Vec<u8> {
    thread_local!(static VALID: Vec<u8> = targets()[0].valid.clone());
    VALID.with(Clone::clone)
}

fn a_page(b: &[u8]) {
    if let Some((_, entries)) = decode_page(ID, NUMBER, b) {
        assert!(entries.len() <= ENTRIES, "bounded");
    }
    assert!(decode_page(ChunkId(1), NUMBER, b).is_none() || b[8..16] == 1u64.to_le_bytes());
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Changes a few bytes, half of them in the fields at `fields` and behind.
fn mutate_at(seed: &mut u64, b: &mut Vec<u8>, fields: usize) {
    for _ in 0..1 + next(seed) % 4 {
        let r = next(seed);
        let (from, span) = match r & 0x100 {
            0 if fields < b.len() => (fields, 96.min(b.len() - fields)),
            _ => (0, b.len()),
        };
        let at = if span == 0 { 0 } else { from + (r >> 16) as usize % span };
        match r % 8 {
            0 | 1 if !b.is_empty() => b[at] ^= 1 << ((r >> 48) % 8),
            2 | 3 if !b.is_empty() => b[at] = (r >> 48) as u8,
            4 if b.len() >= at + 8 => b[at..at + 8].fill(0xff),
            5 if b.len() >= at + 8 => b[at..at + 8].copy_from_slice(&next(seed).to_le_bytes()),
            6 if r & 0xf00 == 0 => b.truncate(at),
            _ if r & 0xf00 == 0x100 => b.insert(at, (r >> 48) as u8),
            _ => {}
        }
    }
}

fn mutate(seed: &mut u64, b: &mut Vec<u8>) {
    mutate_at(seed, b, 0);
}

fn rounds() -> u64 {
    std::env::var("MOOSENG_FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(1_000_000)
}

#[test]
fn no_page_breaks_a_decoder() {
    for Target { name, valid, crc_at, covers_from, run } in targets() {
        let (mut seed, mut input) = (1, Vec::with_capacity(2 * PAGE));
        for round in 0..rounds() {
            input.clear();
            if round % 16 == 0 {
                let len = [PAGE, PAGE, 16, (next(&mut seed) % 5000) as usize][round as usize / 16 % 4];
                input.extend((0..len.div_ceil(8)).flat_map(|_| next(&mut seed).to_le_bytes()));
                input.truncate(len);
            } else {
                input.extend_from_slice(&valid);
                mutate(&mut seed, &mut input);
            }
            if round % 2 == 1 && input.len() > covers_from {
                let crc = crc32c(&input[covers_from..]);
                input[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            }
            watched(name, &input, 8 * PAGE, run);
        }
    }
}

/// The loops are not in vain: what they mutate is understood, and so is some of what comes out.
#[test]
fn what_is_mutated_is_valid_and_stays_so_now_and_then() {
    let [header, _, page] = targets();
    assert!(Header::decode(&header.valid).is_some() && decode_page(ID, NUMBER, &page.valid).is_some());
    let (mut seed, mut understood) = (1, [0, 0]);
    for _ in 0..2000 {
        for (n, t) in [&header, &page].into_iter().enumerate() {
            let mut b = t.valid.clone();
            mutate(&mut seed, &mut b);
            let crc = crc32c(&b[t.covers_from.min(b.len())..]);
            if b.len() > t.covers_from {
                b[t.crc_at..t.crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            }
            let good =
                if n == 0 { Header::decode(&b).is_some() } else { decode_page(ID, NUMBER, &b).is_some() };
            understood[n] += u32::from(good);
        }
    }
    assert!(understood.iter().all(|n| (200..1900).contains(n)), "{understood:?}");
}

/// A segment of the redo log as `docs/format.md` draws it: records of so many images each.
fn segment(images: &[usize]) -> Vec<u8> {
    let mut b = vec![0; RECORDS_AT];
    for at in [0, PAGE] {
        b[at..at + 8].copy_from_slice(b"MNGREDO2");
        for field in [8, 24] {
            b[at + field..at + field + 8].copy_from_slice(&FILLING.to_le_bytes());
        }
    }
    for (n, images) in images.iter().enumerate() {
        let at = b.len();
        let durable = at as u64;
        b.extend(0x4f44_4552u32.to_le_bytes());
        b.extend([0; 4]);
        let (seq, chunk, length, after) = (n as u64 + 1, ID.get(), 4096 * *images as u64, n as u64);
        for field in [FILLING, durable, seq, chunk, length, *images as u64, 1, after] {
            b.extend(field.to_le_bytes());
        }
        b.extend([7, n as u64 + 1].into_iter().flat_map(u64::to_le_bytes));
        (0..*images as u32).for_each(|i| b.extend([i.to_le_bytes(), (!i).to_le_bytes()].concat()));
        b.extend((0..*images * PAGE).map(|i| (i * 7 + n) as u8));
        b.resize(at + (b.len() - at).next_multiple_of(512), 0);
    }
    seal_segment(&mut b);
    b
}

const FILLING: u64 = 5;
const RECORDS_AT: usize = 2 * PAGE;

/// Makes the checksums of a segment's headers and records right, as far as they can be found.
fn seal_segment(b: &mut [u8]) {
    for at in [0, PAGE] {
        if let Some(header) = b.get_mut(at..at + 512) {
            let crc = crc32c(&header[..508]);
            header[508..].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let mut at = RECORDS_AT;
    let field = |b: &[u8], at: usize| b.get(at..at + 8).map(|f| u64::from_le_bytes(f.try_into().unwrap()));
    while let (Some(images), Some(writers)) = (field(b, at + 48), field(b, at + 56)) {
        let len =
            72u64.saturating_add(writers.saturating_mul(16)).saturating_add(images.saturating_mul(4104));
        let Some(record) = b.get_mut(at..).and_then(|b| b.get_mut(..usize::try_from(len).ok()?)) else {
            return;
        };
        let crc = crc32c(&record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        at += record.len().next_multiple_of(512);
    }
}

#[test]
fn no_redo_log_breaks_its_reader() {
    let rng = mooseng_host::sim_seams(1).rng;
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("fuzz"));
    let file = disk.create("redo.0").unwrap();
    let put = |b: &[u8]| {
        file.set_len(0).unwrap();
        file.write_at(0, b).unwrap();
    };
    let valid = segment(&[1, 2]);
    put(&valid);
    assert_eq!(decoders::redo(&disk, &rng).unwrap(), (vec![1, 2], false), "what is mutated is whole");
    let second = RECORDS_AT + 4608;
    let (mut seed, mut input, mut found) = (1, Vec::with_capacity(2 * valid.len()), [0u64; 4]);
    for round in 0..rounds() {
        input.clear();
        if round % 16 == 0 {
            let len = next(&mut seed) as usize % (3 * PAGE);
            input.extend((0..len.div_ceil(8)).flat_map(|_| next(&mut seed).to_le_bytes()));
            input.truncate(len);
        } else {
            input.extend_from_slice(&valid);
            let fields = [0, RECORDS_AT, second][round as usize % 3];
            mutate_at(&mut seed, &mut input, fields);
        }
        if round % 2 == 1 {
            seal_segment(&mut input);
        }
        put(&input);
        watched("redo log", &input, 2 * input.len() + PAGE, |b| {
            let (images, damaged) = decoders::redo(&disk, &rng).unwrap();
            assert!(
                images.iter().all(|n| *n > 0) && images.iter().sum::<usize>() * PAGE <= b.len(),
                "bounded"
            );
            found[if damaged { 3 } else { images.len() }] += 1;
        });
    }
    assert!(found.iter().all(|n| *n >= rounds() / 100), "the loop is not in vain: {found:?}");
}

/// What names the owner of a storage directory: its fields, and a checksum that its reader looks at.
#[test]
fn no_identity_of_a_disk_breaks_its_reader() {
    use mooseng_core::{
        ids::{ClusterId, DiskId},
        wire,
    };
    let cluster: ClusterId = "00000000-0000-7000-8000-000000000009".parse().unwrap();
    let valid = wire::encode(&(cluster, ServerId(3), DiskId(300)));
    let (mut seed, mut input) = (1, Vec::new());
    for _ in 0..rounds() {
        input.clear();
        input.extend_from_slice(&valid);
        mutate(&mut seed, &mut input);
        watched("identity", &input, 1024, |b| drop(wire::decode::<(ClusterId, ServerId, DiskId)>(b)));
    }
}

/// The notes as redb has them. Each opening looks at all pages, hence fewer.
#[test]
fn no_damaged_notes_break_their_reader() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("fuzz"));
    decoders::note(&disk, 0..500).unwrap();
    let file = disk.open("dirty.redb").unwrap();
    let mut valid = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut valid).unwrap();
    assert_eq!(decoders::notes(&disk).unwrap(), Some(500), "what is mutated is whole");
    let (mut seed, mut found) = (1, [0, 0]);
    for round in 0..(rounds() / 500).max(600) {
        let (at, input) = with_a_change(&valid, round, next(&mut seed));
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("fuzz"));
        disk.create("dirty.redb").unwrap().write_at(0, &input).unwrap();
        watched(&format!("notes with a change at {at}"), &[], 64 << 20, |_| {
            let known = decoders::notes(&disk).unwrap();
            assert!(known.is_none_or(|n| n == 500 || n == 0), "{known:?} notes");
            found[usize::from(known.is_some())] += 1;
        });
    }
    assert!(found.iter().all(|n| *n > 0), "the loop is not in vain: {found:?}");
}
