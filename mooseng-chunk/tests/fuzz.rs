//! The decoders of what is on a chunkserver's disks against mutated and random input: a value or none, never
//! a panic. In half of the inputs the checksum is made right again, so that what is behind it is reached.
//! Their inputs have a fixed length and what they give is bounded by it, so memory is too. Seeded: a failure
//! names its input.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use mooseng_chunk::format::{ENTRIES, Entry, Header, PAGE, decode_page, encode_page};
use mooseng_core::{
    checksum::crc32c,
    ids::{ChunkId, ChunkVersion, ServerId, SessionId, WriteNumber},
    limits::COPIES_MAX,
};

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

fn mutate(seed: &mut u64, b: &mut Vec<u8>) {
    for _ in 0..1 + next(seed) % 4 {
        let r = next(seed);
        // Mostly in the fields at the beginning.
        let span = if r & 0x100 == 0 { 96.min(b.len()) } else { b.len() };
        let at = if span == 0 { 0 } else { (r >> 16) as usize % span };
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
            if std::panic::catch_unwind(|| run(&input)).is_err() {
                panic!("{name} panicked on {input:02x?}");
            }
            assert!(input.capacity() <= 4 * PAGE);
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
