//! Recovery as a function of bytes: every truncation, every flipped bit.

use crate::raft::recover::{Recovered, Recovery, Tail};
use crate::raft::segment::{
    CarriedState, HEADER_BYTES, Header, Kind, LogPos, Record, TornTail, encode_record, record_at, record_len,
};
use bytes::Bytes;

const SEGMENT_BYTES: usize = 2048;

fn entry(index: u64, data: &'static str) -> Record {
    Record { kind: Kind::Command, pos: LogPos { term: 1, index }, data: Bytes::from_static(data.as_bytes()) }
}

fn other(kind: Kind, term: u64, index: u64) -> Record {
    Record { kind, pos: LogPos { term, index }, data: Bytes::new() }
}

/// A segment with the batches given, and where each batch ends.
fn segment(id: u64, first_batch: u64, batches: &[&[Record]]) -> (Vec<u8>, Vec<usize>) {
    let header = Header { id, first_batch, bytes: SEGMENT_BYTES as u64, state: CarriedState::default() };
    let mut bytes = header.encode().to_vec();
    let mut ends = vec![bytes.len()];
    for (i, batch) in batches.iter().enumerate() {
        for (j, record) in batch.iter().enumerate() {
            encode_record(&mut bytes, id, first_batch + i as u64, j + 1 == batch.len(), record);
        }
        ends.push(bytes.len());
    }
    bytes.resize(SEGMENT_BYTES, 0);
    (bytes, ends)
}

fn recover(segments: &[(u64, &[u8])]) -> Result<Recovered, String> {
    let mut recovery = Recovery::default();
    for (id, bytes) in segments {
        recovery.segment(*id, bytes).map_err(|e| e.to_string())?;
    }
    recovery.finish().map_err(|e| e.to_string())
}

fn indexes(r: &Recovered) -> std::ops::Range<u64> {
    r.first..r.first + r.places.len() as u64
}

fn sample() -> Vec<Vec<Record>> {
    vec![
        vec![entry(0, "zero"), entry(1, "one")],
        vec![entry(2, "a longer one, over more than one word")],
        vec![entry(3, ""), entry(4, "four"), entry(5, "five")],
    ]
}

fn sample_segment() -> (Vec<u8>, Vec<usize>) {
    let batches = sample();
    let slices: Vec<&[Record]> = batches.iter().map(Vec::as_slice).collect();
    segment(1, 1, &slices)
}

#[test]
fn every_truncation_keeps_whole_batches_and_is_noticed() {
    let (bytes, ends) = sample_segment();
    let entries = [0, 2, 3, 6];
    for len in 0..bytes.len() {
        let outcome = recover(&[(1, &bytes[..len])]);
        if len < HEADER_BYTES {
            assert!(outcome.unwrap_err().contains("header"), "at {len}");
            continue;
        }
        let whole = ends.iter().filter(|end| **end <= len).count() - 1;
        let r = outcome.unwrap();
        assert_eq!(indexes(&r), 0..entries[whole], "at {len}");
        assert!(matches!(r.tail, Tail::Cut { segment: 1, .. }), "a shorter file is noticed, at {len}");
    }
    let r = recover(&[(1, &bytes)]).unwrap();
    assert_eq!(indexes(&r), 0..6);
    assert_eq!(r.next_batch, 4);
    assert_eq!(r.tail, Tail::GoOn { segment: 1, at: ends[3] as u64, bytes: SEGMENT_BYTES as u64 });
}

#[test]
fn every_tail_of_zeros_is_a_torn_batch() {
    // As after a crash within a preallocated file: what did not arrive is zeros.
    let (bytes, ends) = sample_segment();
    for at in ends[2]..ends[3] {
        let mut torn = bytes.clone();
        torn[at..].fill(0);
        if torn == bytes {
            continue; // Only padding was left out, which is zeros anyway.
        }
        let r = recover(&[(1, &torn)]).unwrap();
        assert_eq!(indexes(&r), 0..3, "at {at}");
        let nothing_came = bytes[ends[2]..at].iter().all(|b| *b == 0);
        assert_eq!(matches!(r.tail, Tail::GoOn { .. }), nothing_came, "at {at}");
    }
}

#[test]
fn every_flipped_bit_is_refused_or_cut_and_never_read() {
    let (bytes, ends) = sample_segment();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let outcome = recover(&[(1, &bad)]);
        let at = bit / 8;
        if at < ends[2] {
            // Header, or a batch with a later one behind it.
            let error = outcome.unwrap_err();
            assert!(error.contains("damaged") && error.contains("add it again"), "bit {bit}: {error}");
        } else {
            let r = outcome.unwrap();
            let kept = if at < ends[3] { 0..3 } else { 0..6 };
            assert_eq!(indexes(&r), kept, "bit {bit}");
            assert!(matches!(r.tail, Tail::Cut { .. }), "bit {bit}");
        }
    }
}

#[test]
fn a_bad_batch_at_the_end_of_an_older_segment_is_damage() {
    let (first, ends) = sample_segment();
    let (second, _) = segment(2, 4, &[&[entry(6, "six")]]);
    let good = recover(&[(1, &first), (2, &second)]).unwrap();
    assert_eq!(indexes(&good), 0..7);
    for bit in ends[2] * 8..ends[3] * 8 {
        let mut bad = first.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = recover(&[(1, &bad), (2, &second)]).unwrap_err();
        assert!(error.contains("batch 3"), "bit {bit}: {error}");
    }
}

#[test]
fn missing_and_misplaced_segments_are_damage() {
    let (first, _) = sample_segment();
    let (third, _) = segment(3, 4, &[&[entry(6, "six")]]);
    assert!(recover(&[(1, &first), (3, &third)]).unwrap_err().contains("missing"));
    assert!(recover(&[(2, &first)]).unwrap_err().contains("header is that of"));
    let (gap, _) = segment(2, 4, &[&[entry(7, "seven")]]);
    assert!(recover(&[(1, &first), (2, &gap)]).unwrap_err().contains("follows where 6 should"));
}

#[test]
fn a_segment_after_a_cut_goes_on_with_the_batch_that_was_cut() {
    let (mut first, ends) = sample_segment();
    first[ends[2] + 50] ^= 1;
    let (second, _) = segment(2, 3, &[&[entry(3, "another three")]]);
    let r = recover(&[(1, &first), (2, &second)]).unwrap();
    assert_eq!(indexes(&r), 0..4);
    assert_eq!(r.places[3].segment, 2);
}

#[test]
fn truncation_and_purge_are_replayed() {
    let cut = [
        &[entry(0, "0"), entry(1, "1"), entry(2, "2")][..],
        &[other(Kind::Truncate, 0, 1)][..],
        &[entry(1, "new 1"), entry(2, "new 2")][..],
        &[other(Kind::Purge, 1, 1)][..],
    ];
    let (bytes, _) = segment(1, 1, &cut);
    let r = recover(&[(1, &bytes)]).unwrap();
    assert_eq!(indexes(&r), 2..3);
    assert_eq!(r.state.purged, Some(LogPos { term: 1, index: 1 }));
    assert_eq!(r.places[0].len, 5);
    // Purged past the end, as by an installed snapshot.
    let past = [&[entry(0, "0")][..], &[other(Kind::Purge, 3, 100)][..], &[entry(101, "101")][..]];
    let (bytes, _) = segment(1, 1, &past);
    let r = recover(&[(1, &bytes)]).unwrap();
    assert_eq!(indexes(&r), 101..102);
    // What should follow the purge is not there.
    let hole = [&[other(Kind::Purge, 3, 100)][..], &[entry(102, "102")][..]];
    let (bytes, _) = segment(1, 1, &hole);
    assert!(recover(&[(1, &bytes)]).unwrap_err().contains("entries 101 to 101 are missing"));
}

#[test]
fn the_last_index_of_a_torn_batch_is_known_when_its_end_arrived() {
    let (mut bytes, ends) = sample_segment();
    bytes[ends[2] + 8] ^= 1;
    let r = recover(&[(1, &bytes)]).unwrap();
    assert_eq!(r.tail, Tail::Cut { segment: 1, until: Some(5) });
    bytes[ends[3] - 5] ^= 1;
    let r = recover(&[(1, &bytes)]).unwrap();
    assert_eq!(r.tail, Tail::Cut { segment: 1, until: None });
}

#[test]
fn what_makes_up_for_a_torn_tail() {
    let known = TornTail { until: Some(5), term: 3 };
    let unknown = TornTail { until: None, term: 3 };
    let cases = [
        (known, 3, 4, false),
        (known, 3, 5, true),
        (known, 2, 9, false),
        (known, 4, 1, true),
        (unknown, 3, 1000, false),
        (unknown, 4, 0, true),
    ];
    for (torn, term, index, healed) in cases {
        assert_eq!(torn.healed_by(LogPos { term, index }), healed, "{torn:?} {term} {index}");
    }
}

#[test]
fn the_format_is_pinned() {
    let header = Header {
        id: 2,
        first_batch: 7,
        bytes: 4096,
        state: CarriedState {
            purged: Some(LogPos { term: 1, index: 300 }),
            torn: Some(TornTail { until: None, term: 4 }),
        },
    };
    let bytes = header.encode();
    assert_eq!(Header::decode(&bytes), Some(header));
    assert_eq!(&bytes[..16], b"MNGRLOG1\x01\0\0\0\0\0\0\0");
    assert_eq!(&bytes[40..52], &[7, 0, 0, 0, 1, 1, 0xac, 2, 1, 0, 4, 0]);
    let mut record = Vec::new();
    encode_record(&mut record, 2, 7, true, &entry(9, "abc"));
    assert_eq!(record.len(), record_len(3));
    assert_eq!(&record[..4], &(0x4c47_4e4d_u32 ^ 2).to_le_bytes());
    assert_eq!(&record[8..], b"\x02\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x03\0\0\0\x02\x01\0\0abc\0\0\0\0\0");
    assert!(record_at(&record, 0, 2).is_some());
    assert!(record_at(&record, 0, 3).is_none(), "a record of another segment is not taken");
}
