//! Snapshot files: whole or refused.

use super::disk::CrashDisk;
use crate::raft::segment::LogPos;
use crate::raft::snapshot::{BUILDING, CURRENT, FileWriter, SnapshotFile};
use crate::raft::types::{Mark, log_id};
use mooseng_core::seam::Disk;
use mooseng_host::SeededRng;

fn mark() -> Mark {
    Mark { applied: Some(log_id(LogPos { term: 2, index: 9 })), ..Mark::default() }
}

fn write(disk: &CrashDisk) -> std::io::Result<SnapshotFile> {
    let mut writer = FileWriter::begin(disk, BUILDING)?;
    for piece in [&b"one"[..], &b""[..], &[7; 2000][..]] {
        writer.piece(piece)?;
    }
    writer.finish(&mark())?.publish(disk)
}

#[test]
fn a_snapshot_comes_back_as_it_was() {
    let disk = CrashDisk::default();
    assert!(SnapshotFile::open(&disk).unwrap().is_none());
    write(&disk).unwrap();
    let found = SnapshotFile::open(&disk).unwrap().unwrap();
    assert_eq!((found.mark.clone(), found.pieces), (mark(), 2));
    let mut reader = found.reader().unwrap();
    assert_eq!(reader.next_piece().unwrap().unwrap(), &b"one"[..]);
    assert_eq!(reader.next_piece().unwrap().unwrap().len(), 2000);
    assert!(reader.next_piece().unwrap().is_none());
    assert!(reader.next_piece().unwrap().is_none());
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused() {
    let disk = CrashDisk::default();
    write(&disk).unwrap();
    let bytes = disk.bytes(CURRENT);
    for bit in 0..bytes.len() * 8 {
        let bad = CrashDisk::default();
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        bad.put(CURRENT, &changed);
        assert!(SnapshotFile::open(&bad).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        let bad = CrashDisk::default();
        bad.put(CURRENT, &bytes[..len]);
        assert!(SnapshotFile::open(&bad).is_err(), "length {len}");
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new_one() {
    let whole = CrashDisk::default();
    write(&whole).unwrap();
    for fuse in 0..20 {
        let disk = CrashDisk::default();
        disk.fail_after(fuse);
        let done = write(&disk).is_ok();
        let after = disk.after_crash(&SeededRng::new(fuse));
        let found = SnapshotFile::open(&after).unwrap();
        assert!(found.is_some() || !done, "fuse {fuse}");
        // What is left of it does not stand in the way of the next.
        write(&after).unwrap();
        assert_eq!(SnapshotFile::open(&after).unwrap().unwrap().mark, mark());
        assert!(after.open(BUILDING).is_err());
    }
}
