//! Apply is a function of state and entry: one log gives the same tables however it is cut into
//! batches, and recursive totals are what a recount finds.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use mooseng_core::{
    attr::{FileKind, SetAttr, Timestamp},
    context::Credentials,
    ids::*,
    meta::*,
    name::Name,
    net::CertHash,
    seam::Rng,
    wire,
};
use mooseng_host::{MemDisk, SeededRng};
use mooseng_meta::{
    namespace::TotalsDelta,
    state::{apply, fold_totals},
    store::*,
};
use std::{collections::BTreeMap, sync::Arc};

const SESSION: SessionStamp = SessionStamp { id: SessionId(1), epoch: SessionEpoch(1) };

fn name(n: u64) -> Name {
    Name::new(format!("n{n}")).unwrap()
}

/// Any operation on few names in the directories and files that are there, so that they meet.
fn request(rng: &SeededRng, store: &MemoryStore) -> MetaRequest {
    let r = rng.next_u64();
    let (mut dirs, mut files) = (Vec::new(), Vec::new());
    scan_recs(store, Table::Inode, &[], &[], |k, rec: InodeRec| {
        if rec.kind == FileKind::Dir { &mut dirs } else { &mut files }.push(InodeId(number(k)));
        true
    })
    .unwrap();
    let dir = |r: u64| dirs[r as usize % dirs.len()];
    let (parent, new_parent) = (dir(r >> 8), dir(r >> 16));
    let (a, b) = (name((r >> 24) % 3), name((r >> 32) % 3));
    let inode = files.get((r >> 40) as usize % files.len().max(1)).copied().unwrap_or(InodeId::ROOT);
    match r % 10 {
        0 | 1 => MkDir { parent, name: a, mode: 0o755, id: None }.into(),
        2 | 3 => MkNod { parent, name: a, mode: 0o644, kind: FileKind::File, rdev: 0, id: None }.into(),
        4 => Link { inode, parent, name: a }.into(),
        5 => Unlink { parent, name: a }.into(),
        6 => RmDir { parent, name: a }.into(),
        7 => {
            let mode =
                [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][(r >> 50) as usize % 3];
            Rename { parent, name: a, new_parent, new_name: b, mode }.into()
        }
        8 => SetAttrs { inode, set: SetAttr { size: Some((r >> 44) % 10_000), ..SetAttr::default() } }.into(),
        _ => {
            let ops = [
                MetaRequest::from(MkDir { parent, name: a.clone(), mode: 0o755, id: None }),
                MetaRequest::from(RmDir { parent, name: a }),
            ];
            Batch { after: None, ops: ops.iter().map(wire::encode).collect() }.into()
        }
    }
}

fn log(seed: u64, entries: u64) -> Vec<LogEntry> {
    let rng = SeededRng::new(seed);
    let entry =
        |n: u64, command| LogEntry { format: ENTRY_FORMAT, time: Timestamp::new(n as i64, 0), command };
    let open = Command::SessionOpen {
        cert: CertHash([1; 32]),
        client: "c".into(),
        host: "h".into(),
        version: "v".into(),
        nonce: 1,
    };
    let init = Command::Init {
        cluster: "018f0000-0000-7000-8000-000000000001".parse().unwrap(),
        class: StorageClass::default(),
    };
    let mut log = vec![entry(0, init), entry(1, open)];
    let mut store = MemoryStore::default();
    run(&mut store, &log);
    for n in 0..entries {
        // Nobody holds anything: whatever is removed goes at once.
        let holders = (1..4000).map(|i| (InodeId(i), vec![])).collect();
        let command = Command::Fs {
            session: SESSION,
            slot: SlotStamp { slot: SlotId(0), seq: SlotSeq(1 + n) },
            creds: Credentials::root(),
            decisions: Decisions { chains: vec![], holders },
            request: request(&rng, &store),
        };
        log.push(entry(2 + n, command));
        run(&mut store, &log[log.len() - 1..]);
    }
    log
}

fn run(tx: &mut dyn Tx, entries: &[LogEntry]) -> Vec<Applied> {
    let mut totals = TotalsDelta::default();
    let applied = entries.iter().map(|e| apply(tx, e, &mut totals).unwrap()).collect();
    fold_totals(tx, totals).unwrap();
    applied
}

fn rows(view: &impl View) -> BTreeMap<(Table, Vec<u8>), Vec<u8>> {
    let mut rows = BTreeMap::new();
    for table in TABLES {
        view.scan(table, &[], &[], &mut |k, v| {
            rows.insert((table, k.to_vec()), v.to_vec());
            true
        })
        .unwrap();
    }
    rows
}

/// Totals below each directory, counted by walking up from every inode.
fn recount(store: &MemoryStore) -> BTreeMap<InodeId, Totals> {
    let mut inodes = BTreeMap::new();
    scan_recs(store, Table::Inode, &[], &[], |k, rec: InodeRec| {
        inodes.insert(InodeId(number(k)), rec);
        true
    })
    .unwrap();
    let mut totals: BTreeMap<InodeId, Totals> = BTreeMap::new();
    for (id, rec) in inodes.iter().filter(|(id, _)| **id != InodeId::ROOT) {
        let mut at = rec.parent;
        loop {
            let t = totals.entry(at).or_default();
            t.inodes += 1;
            t.dirs += u64::from(rec.kind == FileKind::Dir);
            t.bytes += rec.counted_bytes();
            if at == InodeId::ROOT {
                break;
            }
            at = inodes.get(&at).unwrap_or_else(|| panic!("{id} counts in {at}, which is gone")).parent;
        }
    }
    totals
}

#[test]
fn one_log_gives_the_same_tables_however_it_is_batched() {
    for seed in 0..40 {
        let log = log(seed, 400);
        let (mut singly, mut whole, mut cut) = <(MemoryStore, MemoryStore, MemoryStore)>::default();
        let mut replies = Vec::new();
        for entry in &log {
            replies.extend(run(&mut singly, std::slice::from_ref(entry)));
            for (id, counted) in recount(&singly) {
                let stored: Option<Totals> = load(&singly, Table::Totals, &key(id.get())).unwrap();
                assert_eq!(
                    stored.unwrap_or_default(),
                    counted,
                    "seed {seed}: totals of {id} after {entry:?}"
                );
            }
        }
        assert!(run(&mut whole, &log) == replies, "seed {seed}");
        let done = replies.iter().filter(|r| matches!(r, Applied::Fs(Ok(_)))).count();
        assert!(done > replies.len() / 4, "seed {seed}: only {done} operations were carried out");
        log.chunks(7).for_each(|batch| drop(run(&mut cut, batch)));
        assert!(rows(&singly) == rows(&whole), "seed {seed}: one batch differs from many");
        assert!(rows(&singly) == rows(&cut), "seed {seed}: batches of 7 differ");
    }
}

#[test]
fn redb_holds_what_memory_holds() {
    let log = log(7, 400);
    let store = RedbStore::open(Arc::new(MemDisk::new("m")), 1 << 20).unwrap();
    let mut memory = MemoryStore::default();
    for batch in log.chunks(11) {
        store
            .write(|tx| {
                run(tx, batch);
                Ok(())
            })
            .unwrap();
        run(&mut memory, batch);
    }
    assert!(rows(&store.view().unwrap()) == rows(&memory));
}

/// A file whose first link is gone counts where another one is.
#[test]
fn a_hard_links_bytes_stay_in_the_totals() {
    let root = InodeId::ROOT;
    let (a, b, f) = (InodeId(2), InodeId(3), InodeId(4));
    let size = |n| SetAttr { size: Some(n), ..SetAttr::default() };
    let requests: Vec<MetaRequest> = vec![
        MkDir { parent: root, name: name(1), mode: 0o755, id: None }.into(),
        MkDir { parent: root, name: name(2), mode: 0o755, id: None }.into(),
        MkNod { parent: a, name: name(1), mode: 0o644, kind: FileKind::File, rdev: 0, id: None }.into(),
        Link { inode: f, parent: b, name: name(1) }.into(),
        SetAttrs { inode: f, set: size(100) }.into(),
        Unlink { parent: a, name: name(1) }.into(),
        RmDir { parent: root, name: name(1) }.into(),
        SetAttrs { inode: f, set: size(300) }.into(),
    ];
    let mut log = log(0, 0);
    for (n, request) in requests.into_iter().enumerate() {
        let command = Command::Fs {
            session: SESSION,
            slot: SlotStamp { slot: SlotId(0), seq: SlotSeq(1 + n as u64) },
            creds: Credentials::root(),
            decisions: Decisions { chains: vec![], holders: vec![(a, vec![]), (f, vec![])] },
            request,
        };
        log.push(LogEntry { format: ENTRY_FORMAT, time: Timestamp::new(10 + n as i64, 0), command });
    }
    let mut store = MemoryStore::default();
    for applied in run(&mut store, &log).into_iter().skip(2) {
        assert!(matches!(applied, Applied::Fs(Ok(_))), "{applied:?}");
    }
    let totals: Totals = load(&store, Table::Totals, &key(root.get())).unwrap().unwrap();
    assert_eq!((totals.inodes, totals.bytes), (2, 300));
    assert_eq!(recount(&store).get(&b).map(|t| t.bytes), Some(300));
}
