//! Snapshot files: whole or refused.

use super::disk::CrashDisk;
use crate::raft::segment::LogPos;
use crate::raft::snapshot::{CURRENT, FileWriter, Place, SnapshotFile};
use crate::raft::types::{Mark, log_id};
use mooseng_core::seam::{Disk, Job, Lane};
use mooseng_host::SeededRng;
use std::sync::Arc;

fn mark() -> Mark {
    Mark { applied: Some(log_id(LogPos { term: 2, index: 9 })), ..Mark::default() }
}

/// Runs a job at once.
#[derive(Debug)]
struct Inline;

impl Lane for Inline {
    fn run(&self, job: Job) {
        job();
    }
}

fn place(disk: &CrashDisk) -> Arc<Place> {
    Place::new(Arc::new(disk.clone()), Arc::new(Inline))
}

fn write(disk: &CrashDisk) -> std::io::Result<SnapshotFile> {
    let mut writer = FileWriter::begin(&place(disk))?;
    for piece in [&b"one"[..], &b""[..], &[7; 2000][..]] {
        writer.piece(piece)?;
    }
    writer.finish(&mark())?.publish()
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
        place(&after).clean().unwrap();
        write(&after).unwrap();
        assert_eq!(SnapshotFile::open(&after).unwrap().unwrap().mark, mark());
        assert_eq!(after.list("raft").unwrap(), ["snapshot"], "nothing else is left");
    }
}

#[test]
fn a_snapshot_that_is_given_up_takes_its_file_along() {
    let disk = CrashDisk::default();
    let mut writer = FileWriter::begin(&place(&disk)).unwrap();
    writer.piece(b"some").unwrap();
    drop(writer);
    drop(FileWriter::begin(&place(&disk)).unwrap().finish(&mark()).unwrap());
    assert!(disk.list("raft").unwrap().is_empty());
}
