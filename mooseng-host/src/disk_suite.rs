//! The conformance suite of [`Disk`]: every implementation must pass it, the simulator's too.

use mooseng_core::seam::{Disk, DiskFile};
use std::{io::ErrorKind, sync::Arc};

/// Runs the suite on an empty disk; leaves files behind.
///
/// # Panics
/// When the disk breaks a promise; the text names it.
pub fn disk_suite(disk: &dyn Disk) {
    names(disk);
    directories(disk);
    contents(disk);
    lengths_and_holes(disk);
    handles_outlive_names(disk);
    let (total, free) = disk.space().expect("space is known");
    assert!(free <= total && total > 0);
    assert!(!disk.describe().is_empty());
}

fn names(disk: &dyn Disk) {
    let kind = |r: std::io::Result<Arc<dyn DiskFile>>| r.err().map(|e| e.kind());
    assert_eq!(kind(disk.open("none")), Some(ErrorKind::NotFound));
    disk.create("one").expect("a new file is created");
    assert_eq!(kind(disk.create("one")), Some(ErrorKind::AlreadyExists));
    disk.open("one").expect("a created file opens");
    for bad in ["", "/etc/passwd", "../up", "a/../../b", "a//b", "."] {
        assert_eq!(kind(disk.create(bad)), Some(ErrorKind::InvalidInput), "create {bad}");
        assert_eq!(kind(disk.open(bad)), Some(ErrorKind::InvalidInput), "open {bad}");
        assert!(disk.remove(bad).is_err(), "remove {bad}");
        assert!(disk.rename("one", bad).is_err() && disk.rename(bad, "one").is_err(), "rename {bad}");
    }
    assert!(disk.list("../up").is_err() && disk.list_dirs("..").is_err() && disk.sync_dir("..").is_err());
    disk.create("two").expect("created").write_at(0, b"two").expect("written");
    disk.rename("two", "one").expect("a rename replaces");
    assert_eq!(disk.open("one").and_then(|f| f.len()).expect("opens"), 3);
    assert_eq!(kind(disk.open("two")), Some(ErrorKind::NotFound));
    assert_eq!(disk.rename("two", "x").map_err(|e| e.kind()), Err(ErrorKind::NotFound));
    disk.remove("one").expect("removed");
    assert_eq!(disk.remove("one").map_err(|e| e.kind()), Err(ErrorKind::NotFound));
}

fn directories(disk: &dyn Disk) {
    let sorted = |mut v: Vec<String>| {
        v.sort();
        v
    };
    assert!(disk.list("none").expect("a missing directory is empty").is_empty());
    assert!(disk.list_dirs("none").expect("a missing directory is empty").is_empty());
    disk.create("d/e/f").expect("created with its directories");
    disk.create("d/g").expect("created");
    disk.create("top").expect("created");
    assert_eq!(sorted(disk.list("d").expect("lists")), ["g"]);
    assert_eq!(sorted(disk.list_dirs("d").expect("lists")), ["e"]);
    assert_eq!(sorted(disk.list("d/e").expect("lists")), ["f"]);
    assert!(disk.list("").expect("lists").contains(&"top".to_owned()));
    assert!(disk.list_dirs("").expect("lists").contains(&"d".to_owned()));
    disk.rename("top", "new/dir/top").expect("a rename makes directories");
    assert_eq!(disk.list("new/dir").expect("lists"), ["top"]);
    for dir in ["", "d", "d/e", "new/dir"] {
        disk.sync_dir(dir).expect("a directory syncs");
    }
}

fn contents(disk: &dyn Disk) {
    let file = disk.create("contents").expect("created");
    assert!(file.is_empty().expect("length"));
    file.write_at(10, b"hello").expect("written");
    assert_eq!(file.len().expect("length"), 15);
    let mut buf = [9; 15];
    file.read_at(0, &mut buf).expect("read");
    assert_eq!(&buf, b"\0\0\0\0\0\0\0\0\0\0hello");
    file.write_at(4090, &[7; 20]).expect("written across a page");
    file.write_at(4095, &[8; 2]).expect("overwritten across a page");
    let mut buf = [0; 20];
    file.read_at(4090, &mut buf).expect("read");
    assert_eq!(buf, [7, 7, 7, 7, 7, 8, 8, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
    let past = file.read_at(4091, &mut buf).expect_err("one byte past the end");
    assert_eq!(past.kind(), ErrorKind::UnexpectedEof);
    file.read_at(1 << 40, &mut []).expect("no bytes can be read anywhere");
    file.sync().expect("synced");
    let again = disk.open("contents").expect("opens");
    again.write_at(0, b"!").expect("written");
    file.read_at(0, &mut buf[..1]).expect("read");
    assert_eq!(buf[0], b'!', "handles share the file");
}

fn lengths_and_holes(disk: &dyn Disk) {
    let zero = |file: &Arc<dyn DiskFile>, at: u64, len: usize| {
        let mut buf = vec![1; len];
        file.read_at(at, &mut buf).expect("read");
        buf.iter().all(|b| *b == 0)
    };
    let file = disk.create("holes").expect("created");
    file.write_at(0, &[5; 10_000]).expect("written");
    file.set_len(5000).expect("cut");
    file.set_len(10_000).expect("grown");
    assert!(zero(&file, 5000, 5000), "what was cut off does not come back");
    assert!(!zero(&file, 4999, 1));
    file.punch(1000, 3500).expect("punched");
    assert!(zero(&file, 1000, 3500) && !zero(&file, 999, 1) && !zero(&file, 4500, 1));
    file.punch(8000, 100_000).expect("punched past the end");
    file.punch(3, 0).expect("nothing is punched");
    assert_eq!(file.len().expect("length"), 10_000, "punching keeps the length");
    file.allocate(20_000).expect("allocated");
    assert_eq!(file.len().expect("length"), 20_000);
    assert!(zero(&file, 10_000, 10_000) && !zero(&file, 999, 1), "contents stay, the rest is zero");
    file.allocate(100).expect("allocating less changes nothing");
    assert_eq!(file.len().expect("length"), 20_000);
    file.set_len(0).expect("cut");
    assert!(file.is_empty().expect("length"));
    file.write_at(1 << 40, b"x").expect("a far write is sparse");
    assert!(zero(&file, 1 << 39, 4096));
}

fn handles_outlive_names(disk: &dyn Disk) {
    let file = disk.create("gone").expect("created");
    file.write_at(0, b"still here").expect("written");
    disk.remove("gone").expect("removed");
    let mut buf = [0; 10];
    file.read_at(0, &mut buf).expect("read");
    assert_eq!(&buf, b"still here");
    disk.create("gone").expect("the name is free");
}
