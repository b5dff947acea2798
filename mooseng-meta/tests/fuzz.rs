//! The decoders of what is on a master's disk, and of what other masters send, against mutated and random
//! input: a value or an error, never a panic, never more memory than a small multiple of the input, never without
//! an end. Where there are checksums, half of the inputs have them made right again, so that what is behind them is
//! reached. Seeded: a failure names its input.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../../mooseng-core/tests/watched/mod.rs"]
mod watched;

use bytes::Bytes;
use mooseng_core::{
    attr::{FileKind, Timestamp},
    capability::PublicKey,
    checksum::crc32c,
    ids::*,
    join::{Invite, Promise},
    limits::PIECE_BYTES_MAX,
    meta::{DirCookie, StorageClass, Totals},
    net::{Body, CertHash, Message, Role},
    seam::{Disk, Job, Lane},
    wire,
};
use mooseng_host::{MemDisk, SeededRng};
use mooseng_meta::{
    raft::decoders::{self, *},
    store::*,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{cell::Cell, sync::Arc};
use watched::{watched, with_a_change};

/// Memory for each byte of an input: a value of which many fit into few bytes takes so much, e.g. an entry of an
/// append, whose place is four bytes, in a list that was made for as many as there are bytes left.
const GROWTH: usize = 128;
/// What an error's words and the like take, and the pages of a disk in memory.
const ROOM: usize = 16 << 10;

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Changes a few bytes of `b` between `from` and its end.
fn mutate(seed: &mut u64, b: &mut Vec<u8>, from: usize) {
    for _ in 0..1 + next(seed) % 4 {
        let r = next(seed);
        let span = b.len().saturating_sub(from);
        let at = from.min(b.len()) + if span == 0 { 0 } else { (r >> 16) as usize % span };
        match r % 8 {
            0 | 1 if at < b.len() => b[at] ^= 1 << ((r >> 48) % 8),
            2 | 3 if at < b.len() => b[at] = (r >> 48) as u8,
            4 => b.insert(at, (r >> 48) as u8),
            5 if at < b.len() => drop(b.remove(at)),
            6 if r & 0x700 == 0 => b.truncate(at),
            _ => drop(b.splice(at..at, [0xff; 9])),
        }
    }
}

fn rounds() -> u64 {
    std::env::var("MOOSENG_FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(1_000_000)
}

/// Runs a decoder on inputs made from `valid` and, now and then, of noise. `seal` makes checksums right.
fn fuzz(name: &str, rounds: u64, valid: &[Vec<u8>], seal: impl Fn(&mut Vec<u8>), run: impl Fn(&[u8])) {
    fuzz_with(ROOM, name, rounds, valid, seal, run);
}

/// The same where other things than the input take `room` bytes.
fn fuzz_with(
    room: usize,
    name: &str,
    rounds: u64,
    valid: &[Vec<u8>],
    seal: impl Fn(&mut Vec<u8>),
    run: impl Fn(&[u8]),
) {
    let (mut seed, mut input) = (name.len() as u64, Vec::new());
    let longest = valid.iter().map(Vec::len).max().unwrap();
    for round in 0..rounds {
        input.clear();
        if round % 16 == 0 {
            let len = next(&mut seed) as usize % (longest + 40);
            input.extend((0..len.div_ceil(8)).flat_map(|_| next(&mut seed).to_le_bytes()));
            input.truncate(len);
        } else {
            input.extend_from_slice(&valid[next(&mut seed) as usize % valid.len()]);
            mutate(&mut seed, &mut input, 0);
        }
        if round % 2 == 1 {
            seal(&mut input);
        }
        watched(name, &input, room + GROWTH * input.len(), &run);
    }
}

fn unsealed(_: &mut Vec<u8>) {}

/// Puts the CRC32C of `covers` to `at`, where there is so much.
fn seal_at(b: &mut [u8], at: usize, covers: std::ops::Range<usize>) {
    if let Some(covered) = b.get(covers)
        && b.len() >= at + 4
    {
        let crc = crc32c(covered);
        b[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

const SEGMENT: u64 = 7;

fn log_header() -> Header {
    let torn = Some(TornTail { until: Some(9), term: 2 });
    let state = CarriedState { purged: Some(LogPos { term: 1, index: 3 }), torn };
    Header { id: SEGMENT, first_batch: 4, bytes: 1024, state }
}

fn record(kind: Kind, index: u64, data: &[u8]) -> Record {
    Record { kind, pos: LogPos { term: 2, index }, data: Bytes::copy_from_slice(data) }
}

/// A segment with five records of three batches.
fn segment() -> Vec<u8> {
    let mut b = log_header().encode().to_vec();
    let torn = postcard::to_stdvec(&None::<TornTail>).unwrap();
    for (batch, last, r) in [
        (4, false, record(Kind::Command, 4, b"some command")),
        (4, true, record(Kind::Blank, 5, b"")),
        (5, true, record(Kind::Torn, 0, &torn)),
        (6, false, record(Kind::Truncate, 5, b"")),
        (6, true, record(Kind::Purge, 4, b"")),
    ] {
        encode_record(&mut b, SEGMENT, batch, last, &r);
    }
    b.resize(1024, 0);
    b
}

/// Makes the checksums of a segment's header and records right, as far as they can be found.
fn seal_segment(b: &mut [u8]) {
    seal_at(b, HEADER_BYTES - 4, 0..HEADER_BYTES - 4);
    let mut at = HEADER_BYTES;
    while let Some(len) =
        b.get(at + 40..at + 44).and_then(|l| l.first_chunk()).map(|l| u32::from_le_bytes(*l))
    {
        let end = at + 48 + len as usize;
        if len == 0 && b[at..at + 8] == [0; 8] || end > b.len() {
            return;
        }
        seal_at(b, at + 4, at + 8..end);
        at = end.next_multiple_of(8);
    }
}

#[test]
fn no_log_breaks_its_recovery() {
    let header = log_header().encode().to_vec();
    fuzz(
        "log header",
        rounds(),
        &[header],
        |b| seal_at(b, HEADER_BYTES - 4, 0..HEADER_BYTES - 4),
        |b| {
            if let Some(h) = Header::decode(b) {
                assert_eq!(Header::decode(&h.encode()), Some(h));
            }
        },
    );
    let whole = segment();
    fuzz(
        "log record",
        rounds(),
        &[whole[HEADER_BYTES..HEADER_BYTES + 64].to_vec()],
        |b| {
            let end = b.len().min(60);
            seal_at(b, 4, 8..end);
        },
        |b| {
            if let Some(found) = record_at(b, 0, SEGMENT) {
                assert!(found.end() <= b.len());
            }
        },
    );
    let scanned = scan(&whole, &log_header());
    assert_eq!(scanned.records.len(), 5, "what is mutated is whole: {:?}", scanned.end);
    fuzz(
        "log segment",
        rounds(),
        &[whole],
        |b| seal_segment(b),
        |b| {
            let mut recovery = Recovery::default();
            if recovery.segment(SEGMENT, b).is_ok()
                && let Ok(r) = recovery.finish()
            {
                assert!(r.places.len() <= b.len() / 48, "bounded by the input");
            }
        },
    );
}

#[test]
fn no_vote_breaks_its_reader() {
    let vote = encode_vote(7, b"some vote bytes");
    let mut file = vec![0; FILE_BYTES as usize];
    for at in [0, SLOT_BYTES as usize] {
        file[at..at + vote.len()].copy_from_slice(&vote);
    }
    assert!(matches!(judge_vote(&file), Votes::Newest { sequence: 7, .. }));
    // The short one is a file cut within its first slot.
    let seal = |b: &mut Vec<u8>| {
        let end = b.len().min(35);
        seal_at(b, 4, 8..end);
    };
    fuzz("vote", rounds(), &[vote, file[..4200].to_vec(), file], seal, |b| {
        if let Votes::Newest { vote, .. } = judge_vote(b) {
            assert!(vote.len() <= b.len());
        }
    });
}

/// A lane that runs a job at once.
#[derive(Debug)]
struct Inline;

impl Lane for Inline {
    fn run(&self, job: Job) {
        job();
    }
}

#[test]
fn no_starts_break_their_reader() {
    let disk = MemDisk::new("fuzz");
    let file = disk.create("raft/starts").unwrap();
    let put = |b: &[u8]| {
        file.set_len(0).unwrap();
        file.write_at(0, b).unwrap();
    };
    let (lane, rng): (Arc<dyn Lane>, _) = (Arc::new(Inline), Arc::new(SeededRng::new(1)));
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let open = || decoders::starts(disk.clone(), lane.clone(), rng.clone()).unwrap();
    // Its own: a number, tags. Of two others: a number and a tag each.
    let book = ((300u64, vec![7u64, u64::MAX, 1]), vec![(1u64, (5u64, 9u64)), (3, (1, u64::MAX))]);
    let slot = encode_vote(7, &postcard::to_stdvec(&book).unwrap());
    let mut whole = vec![0; FILE_BYTES as usize];
    for at in [0, SLOT_BYTES as usize] {
        whole[at..at + slot.len()].copy_from_slice(&slot);
    }
    put(&whole);
    assert!(open(), "what is mutated is whole");
    let seal = |b: &mut Vec<u8>| {
        let end = b.get(16..20).map_or(0, |l| 20 + u32::from_le_bytes(l.try_into().unwrap()) as usize);
        seal_at(b, 4, 8..end);
    };
    let known = Cell::new(0);
    fuzz("starts", rounds(), &[slot, whole], seal, |b| {
        put(b);
        known.set(known.get() + u64::from(open()));
    });
    assert!(known.get() > rounds() / 10, "the loop is not in vain: {} were starts", known.get());
}

#[test]
fn no_head_of_raft_breaks_its_reader() {
    for (name, good, is_one) in decoders::heads() {
        assert!(is_one(&good), "what is mutated is whole: {name}");
        let read = Cell::new(0);
        fuzz(name, rounds(), &[good], unsealed, |b| read.set(read.get() + u64::from(is_one(b))));
        assert!(read.get() > rounds() / 100, "the loop is not in vain: {} were {name}", read.get());
    }
}

/// A snapshot file with pieces of these lengths.
fn snapshot(pieces: &[usize]) -> Vec<u8> {
    let mut b = b"MNGSNAP1".to_vec();
    for (n, len) in pieces.iter().enumerate() {
        let piece: Vec<u8> = (0..*len).map(|i| (i * 7 + n) as u8).collect();
        let crc = crc32c(&piece) ^ crc32c(&(n as u64).to_le_bytes());
        b.extend_from_slice(&(*len as u32).to_le_bytes());
        b.extend_from_slice(&crc.to_le_bytes());
        b.extend_from_slice(&piece);
    }
    let (mark, end) = (a_mark().unwrap(), b.len());
    b.extend_from_slice(&[0; 8]);
    b.extend_from_slice(&(mark.len() as u32).to_le_bytes());
    b.extend_from_slice(&mark);
    b.extend_from_slice(&(pieces.len() as u64).to_le_bytes());
    let crc = crc32c(&b[end + 8..]);
    b[end + 4..end + 8].copy_from_slice(&crc.to_le_bytes());
    b
}

/// Makes the checksums of a snapshot's pieces and end right, as far as they can be found.
fn seal_snapshot(b: &mut [u8]) {
    let (mut at, mut n) = (8, 0u64);
    while let Some(len) =
        b.get(at..at + 4).and_then(|l| l.first_chunk()).map(|l| u32::from_le_bytes(*l) as usize)
    {
        if len == 0 {
            let end = b.len();
            return seal_at(b, at + 4, at + 8..end);
        }
        let Some(piece) = b.get(at + 8..at + 8 + len) else { return };
        let crc = crc32c(piece) ^ crc32c(&n.to_le_bytes());
        b[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        (at, n) = (at + 8 + len, n + 1);
    }
}

#[test]
fn no_snapshot_breaks_its_reader() {
    let disk = MemDisk::new("fuzz");
    let file = disk.create("raft/snapshot").unwrap();
    let put = |b: &[u8]| {
        file.set_len(0).unwrap();
        file.write_at(0, b).unwrap();
    };
    let valid = [snapshot(&[40, 1, 200]), snapshot(&[])];
    for (b, pieces) in valid.iter().zip([3, 0]) {
        put(b);
        assert_eq!(open_snapshot(&disk).unwrap(), Some(pieces), "what is mutated is whole");
    }
    // Memory for a piece, and for the end, is taken before the file turns out to be too short: their limits bound it.
    fuzz_with(
        PIECE_BYTES_MAX + ROOM,
        "snapshot",
        rounds(),
        &valid,
        |b| seal_snapshot(b),
        |b| {
            put(b);
            if let Ok(Some(pieces)) = open_snapshot(&disk) {
                assert!(pieces <= b.len() as u64 / 9);
            }
        },
    );
}

/// Pieces of a snapshot as the store takes them: each a transaction of redb, hence fewer.
#[test]
fn no_piece_of_a_snapshot_breaks_the_store() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("fuzz"));
    let store = RedbStore::open(disk, 1 << 20).unwrap();
    let mut rows = vec![0; 4];
    for (key, value) in [(&b"\x01key"[..], &b"value"[..]), (b"\x02k", b"")] {
        for part in [key, value] {
            rows.extend_from_slice(&(part.len() as u32).to_le_bytes());
            rows.extend_from_slice(part);
        }
    }
    let mut last = rows.clone();
    last.extend_from_slice(&u32::MAX.to_le_bytes());
    last.extend_from_slice(&2u64.to_le_bytes());
    let seal = |b: &mut Vec<u8>| {
        let end = b.len();
        seal_at(b, 0, 4..end);
    };
    // A new one now and then: the last piece ends one, and what one took is not to grow.
    let writer = std::cell::RefCell::new((0, store.receive().unwrap()));
    // With what redb keeps of the pages it changes.
    fuzz_with(4 << 20, "store's piece", rounds() / 100, &[rows, last], seal, |b| {
        let mut w = writer.borrow_mut();
        w.0 += 1;
        let ended = w.1.piece(b).is_ok_and(|()| b.ends_with(&2u64.to_le_bytes()));
        if ended || w.0 % 256 == 0 {
            drop(std::mem::replace(&mut w.1, store.receive().unwrap()));
        }
    });
}

/// One record's decoder, on mutations of a valid one. What it gives is said in the same words again.
fn fuzz_rec<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(table: Table, rec: &T) {
    let name = format!("record of {table:?}");
    fuzz(&name, rounds(), &[encode_rec(rec)], unsealed, |b| {
        if let Ok(rec) = decode_rec::<T>(table, b) {
            assert_eq!(decode_rec::<T>(table, &encode_rec(&rec)).unwrap(), rec);
        }
    });
}

#[test]
fn no_record_breaks_the_store() {
    let (now, members) = (Timestamp(1_700_000_000_000), vec![ServerId(1), ServerId(300)]);
    let (session, version) = (SessionId(9), ChunkVersion(3));
    let inode = InodeRec {
        kind: FileKind::File,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        nlink: 1,
        size: 12,
        rdev: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        change: 7,
        parent: InodeId::ROOT,
        class: StorageClass { copies: 2 },
        truncates: TruncateCounter(1),
        chunks: 0,
        next_cookie: DirCookie(4),
        inline: Some(Bytes::from_static(b"some content")),
    };
    fuzz_rec(Table::Inode, &inode);
    fuzz_rec(Table::Entry, &EntryRec { inode: InodeId(5), kind: FileKind::Dir, cookie: DirCookie(3) });
    let (survivors, joining, cut_to) = (members.clone(), vec![ServerId(4)], Some(4096));
    let chunk = ChunkRec {
        version,
        members: members.clone(),
        wanted: 2,
        inode: InodeId(5),
        index: ChunkIndex(0),
        committed: true,
        since: ChunkVersion(1),
        pending: Some(PendingBump { version, survivors, settles: true, joining, cut_to }),
        cut_to,
        mover: Some((session, now)),
    };
    fuzz_rec(Table::Chunk, &chunk);
    fuzz_rec(Table::Deleting, &DeletingRec { version, holders: members });
    let (client, host, text) = ("client".into(), "host".into(), "0.1.0".into());
    let (epoch, cert) = (SessionEpoch(2), CertHash([3; 32]));
    fuzz_rec(Table::Session, &SessionRec { epoch, cert, client, host, version: text, since: now, nonce: 77 });
    fuzz_rec(
        Table::Slot,
        &SlotRec { seq: SlotSeq(4), request: 99, whole: true, reply: Bytes::from_static(b"reply") },
    );
    fuzz_rec(Table::Orphan, &OrphanRec { holders: vec![session, SessionId(1)] });
    fuzz_rec(Table::Server, &ServerRec { addr: "host:9422".into(), incarnation: Incarnation(5) });
    let invite = Invite { role: Role::Client, node: 0, name: "laptop".into() };
    let promise = Promise { invite, expires: now, validity_secs: 86_400 };
    fuzz_rec(Table::Token, &TokenRec { promise, used: Some([4; 32]) });
    let key = PublicKey { id: mooseng_core::capability::KeyId(1), bytes: [5; 32] };
    fuzz_rec(Table::Key, &KeyRec { key, master: MasterId(1), since: now, unused: Some(now) });
    fuzz_rec(Table::Totals, &Totals { inodes: 9, dirs: 2, bytes: 1 << 40 });
}

#[test]
fn no_identity_of_a_directory_breaks_its_reader() {
    let cluster: ClusterId = "00000000-0000-7000-8000-000000000009".parse().unwrap();
    // The bytes of a master's, which are those of its two fields.
    let identity = wire::encode(&(cluster, MasterId(3))).to_vec();
    fuzz("identity", rounds(), &[identity], unsealed, |b| drop(wire::decode::<(ClusterId, MasterId)>(b)));
}

#[test]
fn no_append_breaks_a_follower() {
    // Vote, previous, commit, two entries of 3 and 0 bytes.
    let head = postcard::to_stdvec(&(
        (2u64, 1u64, true),
        Some(LogPos { term: 1, index: 4 }),
        None::<LogPos>,
        vec![(2u8, LogPos { term: 2, index: 5 }, 3u32), (1u8, LogPos { term: 2, index: 6 }, 0u32)],
    ))
    .unwrap();
    fuzz("append", rounds(), &[head, vec![0; 12]], unsealed, |b| {
        for body in [Body::Empty, Body::Whole(Bytes::from_static(b"abc"))] {
            if let Ok(entries) = append(Message { head: Bytes::copy_from_slice(b), body }) {
                assert!(entries <= b.len());
            }
        }
    });
}

/// The state as redb has it. Each opening looks at all pages, hence fewer.
#[test]
fn no_damaged_state_breaks_its_opening() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("fuzz"));
    let rows = |store: &RedbStore| -> std::io::Result<u64> {
        let (view, mut rows) = (store.view()?, 0);
        for table in TABLES {
            view.scan(table, &[], &[], &mut |_, _| {
                rows += 1;
                true
            })?;
        }
        Ok(rows)
    };
    let store = RedbStore::open(disk.clone(), 1 << 20).unwrap();
    let put =
        |tx: &mut dyn Tx| (0..500u64).try_for_each(|n| tx.put(Table::Inode, &n.to_be_bytes(), &[7; 90]));
    store.write(put).unwrap();
    store.flush().unwrap();
    drop(store);
    let file = disk.open("state.redb").unwrap();
    let mut valid = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut valid).unwrap();
    let (mut seed, mut found) = (1, [0, 0]);
    for round in 0..(rounds() / 500).max(600) {
        let (at, input) = with_a_change(&valid, round, next(&mut seed));
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new("fuzz"));
        disk.create("state.redb").unwrap().write_at(0, &input).unwrap();
        watched(&format!("a state with a change at {at}"), &[], 64 << 20, |_| {
            let read = RedbStore::open(disk, 1 << 20).and_then(|store| rows(&store));
            assert!(read.as_ref().map_or(true, |n| *n == 500 || *n == 0), "{read:?} rows");
            found[usize::from(read.is_ok())] += 1;
        });
    }
    assert!(found.iter().all(|n| *n > 0), "the loop is not in vain: {found:?}");
}
