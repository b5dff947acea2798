//! Apply is a function of state and entry: one log gives the same tables however it is cut into
//! batches, and recursive totals are what a recount finds.

use crate::generated::{COMMANDS, kind, log};
use mooseng_core::{
    attr::{Access, FileKind, SetAttr, Timestamp},
    context::Credentials,
    error::{Errno, MetaError},
    ids::*,
    limits::{LINKS_MAX, SAVED_REPLY_BYTES_MAX},
    meta::*,
    name::Name,
    wire,
};
use mooseng_host::MemDisk;
use mooseng_meta::{
    namespace::{Fail, TotalsDelta, read},
    state::{apply, fold_totals},
    store::*,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub const SESSION: SessionStamp = SessionStamp { id: SessionId(1), epoch: SessionEpoch(1) };

pub fn name(n: u64) -> Name {
    Name::new(format!("n{n}")).unwrap()
}

pub fn run(tx: &mut dyn Tx, entries: &[LogEntry]) -> Vec<Applied> {
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
    // What has no link counts nowhere.
    scan_recs(store, Table::Inode, &[], &[], |k, rec: InodeRec| {
        if rec.nlink > 0 {
            inodes.insert(InodeId(number(k)), rec);
        }
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
    let (mut kinds, mut filled, mut emptied) = <(BTreeSet<_>, BTreeSet<_>, BTreeSet<_>)>::default();
    for seed in 0..40 {
        let log = log(seed, 500);
        let mut sizes = BTreeMap::new();
        let (mut singly, mut whole, mut cut) = <(MemoryStore, MemoryStore, MemoryStore)>::default();
        let mut replies = Vec::new();
        for entry in &log {
            let applied = run(&mut singly, std::slice::from_ref(entry));
            if applied.iter().all(did_something) {
                kinds.insert(kind(&entry.command));
            }
            replies.extend(applied);
            for table in TABLES {
                let size = count(&singly, table);
                let before = sizes.insert(table, size).unwrap_or_default();
                filled.extend((size > before).then_some(table));
                emptied.extend((size < before).then_some(table));
            }
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
        assert!(done > replies.len() / 5, "seed {seed}: only {done} operations were carried out");
        log.chunks(7).for_each(|batch| drop(run(&mut cut, batch)));
        assert!(rows(&singly) == rows(&whole), "seed {seed}: one batch differs from many");
        assert!(rows(&singly) == rows(&cut), "seed {seed}: batches of 7 differ");
    }
    assert!(kinds.into_iter().eq(0..COMMANDS), "each command has changed something");
    let all: BTreeSet<_> = TABLES.into_iter().collect();
    assert_eq!(all.difference(&filled).collect::<Vec<_>>(), [] as [&Table; 0], "each table got rows");
    let kept = [Table::Meta, Table::Server, Table::Slot];
    let stayed: Vec<_> = all.difference(&emptied).filter(|t| !kept.contains(t)).collect();
    assert_eq!(stayed, [] as [&Table; 0], "each table but these lost some");
}

fn count(view: &impl View, table: Table) -> usize {
    let mut n = 0;
    view.scan(table, &[], &[], &mut |_, _| {
        n += 1;
        true
    })
    .unwrap();
    n
}

fn did_something(applied: &Applied) -> bool {
    match applied {
        Applied::Done(done) => *done,
        Applied::Fs(answer) => answer.is_ok(),
        Applied::Ids(ids) => ids.is_ok(),
        Applied::Token(promise) => promise.is_ok(),
        Applied::Session(_) => true,
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

/// A store with a session, to which requests are put one by one.
struct Bench(MemoryStore, u64);

impl Bench {
    fn new() -> Self {
        let mut store = MemoryStore::default();
        run(&mut store, &log(0, 0));
        Self(store, 0)
    }
    fn seq(&self) -> SlotSeq {
        SlotSeq(self.1)
    }
    fn put(&mut self, command: Command) -> Applied {
        self.1 += 1;
        let time = Timestamp::new(100 + self.1 as i64, 0);
        run(&mut self.0, &[LogEntry { format: ENTRY_FORMAT, time, command }]).remove(0)
    }
    fn ask(&mut self, creds: &Credentials, request: impl Into<MetaRequest>) -> Result<MetaReply, MetaError> {
        let slot = SlotStamp { slot: SlotId(0), seq: SlotSeq(self.1 + 1) };
        let holders = (1..100).map(|i| (InodeId(i), vec![])).collect();
        let decisions = Decisions { chains: vec![], holders };
        let (session, creds, request) = (SESSION, creds.clone(), request.into());
        match self.put(Command::Fs { session, slot, creds, decisions, request }) {
            Applied::Fs(answer) => answer,
            other => panic!("{other:?}"),
        }
    }
    fn root(&mut self, request: impl Into<MetaRequest>) -> MetaReply {
        self.ask(&Credentials::root(), request).unwrap()
    }
    fn file(&mut self, parent: InodeId, n: u64, mode: u32) -> InodeId {
        self.node(parent, n, mode, FileKind::File)
    }
    fn node(&mut self, parent: InodeId, n: u64, mode: u32, kind: FileKind) -> InodeId {
        let id = match kind {
            FileKind::Dir => self.root(MkDir { parent, name: name(n), mode, id: None }),
            _ => self.root(MkNod { parent, name: name(n), mode, kind, rdev: 0, id: None }),
        };
        match id {
            MetaReply::MkDir(a) | MetaReply::MkNod(a) => a.inode,
            other => panic!("{other:?}"),
        }
    }
    fn mode(&self, inode: InodeId) -> u32 {
        load::<InodeRec>(&self.0, Table::Inode, &key(inode.get())).unwrap().unwrap().mode
    }
}

fn posix(e: Errno) -> Result<MetaReply, MetaError> {
    Err(MetaError::Posix(e))
}

#[test]
fn a_granted_id_is_used_once() {
    let mut b = Bench::new();
    let Applied::Ids(Ok(range)) =
        b.put(Command::GrantIds { session: SESSION, kind: IdKind::Inode, count: 10 })
    else {
        panic!("ids are granted");
    };
    let parent = InodeId::ROOT;
    let make = |id: u64| MkDir { parent, name: name(id), mode: 0o755, id: Some(InodeId(id)) };
    for id in [range.first + 4, range.first, range.first + 9] {
        b.root(make(id));
        b.root(RmDir { parent, name: name(id) });
        let again = b.ask(&Credentials::root(), make(id));
        assert!(matches!(again, Err(MetaError::Invalid(_))), "id {id}: {again:?}");
    }
    for id in [range.first + 1, range.first + 3, range.first + 5, range.first + 8] {
        b.root(make(id));
    }
    let past = b.ask(&Credentials::root(), make(range.first + 10));
    assert!(matches!(past, Err(MetaError::Invalid(_))));
}

#[test]
fn a_batch_comes_after_the_one_it_names_or_not_at_all() {
    let mut b = Bench::new();
    let batch = |after, ops: &[MetaRequest]| Batch { after, ops: ops.iter().map(wire::encode).collect() };
    let dir = |n| MetaRequest::from(MkDir { parent: InodeId::ROOT, name: name(n), mode: 0o755, id: None });
    b.root(batch(None, &[dir(1)]));
    let first = b.seq();
    b.root(batch(Some(first), &[dir(2)]));
    let stale = b.ask(&Credentials::root(), batch(Some(first), &[dir(3)]));
    assert!(matches!(stale, Err(MetaError::Invalid(_))), "another came in between: {stale:?}");
    // One that stopped in the middle is not what the next one was made for.
    b.root(batch(None, &[dir(4), dir(1)]));
    let half = b.seq();
    let next = b.ask(&Credentials::root(), batch(Some(half), &[dir(5)]));
    assert!(matches!(next, Err(MetaError::Invalid(_))), "{next:?}");
}

#[test]
fn saved_replies_are_bounded() {
    let mut b = Bench::new();
    let inode = b.file(InodeId::ROOT, 1, 0o644);
    let data = bytes::Bytes::from(vec![7; 8192]);
    b.root(WriteInline { inode, truncates: TruncateCounter(0), parts: vec![(Offset(0), data)] });
    let open = Access::READ;
    let (parent, name) = (InodeId::ROOT, name(1));
    b.root(Create { parent, name, mode: 0o644, exclusive: false, open, truncate: false, id: None });
    let saved: SlotRec = load(&b.0, Table::Slot, &slot_key(SESSION.id, SlotId(0))).unwrap().unwrap();
    assert!(saved.reply.len() < SAVED_REPLY_BYTES_MAX, "{} bytes", saved.reply.len());
    assert!(matches!(wire::decode::<Result<MetaReply, MetaError>>(&saved.reply), Ok(Ok(_))));
}

#[test]
fn an_exchange_keeps_to_the_limit_of_links() {
    let mut b = Bench::new();
    let full = b.node(InodeId::ROOT, 1, 0o755, FileKind::Dir);
    let dir = b.node(InodeId::ROOT, 2, 0o755, FileKind::Dir);
    b.file(full, 3, 0o644);
    let mut rec: InodeRec = load(&b.0, Table::Inode, &key(full.get())).unwrap().unwrap();
    rec.nlink = LINKS_MAX;
    save(&mut b.0, Table::Inode, &key(full.get()), &rec).unwrap();
    let _ = dir;
    let (parent, new_parent) = (InodeId::ROOT, full);
    let swap = Rename { parent, name: name(2), new_parent, new_name: name(3), mode: RenameMode::Exchange };
    assert_eq!(b.ask(&Credentials::root(), swap), posix(Errno::EMLINK));
}

#[test]
fn the_set_group_id_bit_goes_where_the_group_is_not_the_callers() {
    let mut b = Bench::new();
    let owner = |uid, gid| SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
    let mode = |m| SetAttr { mode: Some(m), ..SetAttr::default() };
    for kind in [FileKind::File, FileKind::Dir] {
        let inode = b.node(InodeId::ROOT, kind as u64, 0o755, kind);
        b.root(SetAttrs { inode, set: owner(5, 9) });
        b.ask(&Credentials::user(5, 5), SetAttrs { inode, set: mode(0o2755) }).unwrap();
        assert_eq!(b.mode(inode), 0o755, "{kind:?}");
        b.ask(&Credentials::user(5, 9), SetAttrs { inode, set: mode(0o2755) }).unwrap();
        assert_eq!(b.mode(inode), 0o2755, "{kind:?}");
    }
    let dir = b.node(InodeId::ROOT, 9, 0o777, FileKind::Dir);
    b.root(SetAttrs { inode: dir, set: owner(0, 9) });
    b.root(SetAttrs { inode: dir, set: mode(0o2777) });
    let stranger = Credentials::user(6, 6);
    for (n, mode, made) in [(1, 0o2755, 0o755), (2, 0o2745, 0o2745)] {
        let op = MkNod { parent: dir, name: name(n), mode, kind: FileKind::File, rdev: 0, id: None };
        let Ok(MetaReply::MkNod(attr)) = b.ask(&stranger, op) else { panic!("it is made") };
        assert_eq!((attr.mode, attr.gid), (made, 9), "only what the group may execute is at stake");
    }
}

#[test]
fn extended_attributes_are_where_they_may_be() {
    let mut b = Bench::new();
    let (owner, other) = (Credentials::user(5, 5), Credentials::user(6, 6));
    let set = |inode, n: &'static str| {
        let (name, value) = (bytes::Bytes::from_static(n.as_bytes()), bytes::Bytes::from_static(b"v"));
        SetXattr { inode, name, value, mode: XattrMode::Set }
    };
    let get = |b: &Bench, creds: &Credentials, inode, n: &'static str| {
        read(&b.0, creds, &GetXattr { inode, name: bytes::Bytes::from_static(n.as_bytes()) }.into())
    };
    let sticky = b.node(InodeId::ROOT, 1, 0o777, FileKind::Dir);
    let attrs = SetAttr { mode: Some(0o1777), uid: Some(5), ..SetAttr::default() };
    b.root(SetAttrs { inode: sticky, set: attrs });
    assert_eq!(b.ask(&other, set(sticky, "user.a")), posix(Errno::EPERM));
    b.ask(&owner, set(sticky, "user.a")).unwrap();
    let pipe = b.node(InodeId::ROOT, 2, 0o666, FileKind::Fifo);
    assert_eq!(b.ask(&owner, set(pipe, "user.a")), posix(Errno::EPERM));
    assert!(matches!(get(&b, &owner, pipe, "user.a"), Err(Fail::Meta(MetaError::Posix(Errno::ENODATA)))));
    b.root(set(sticky, "trusted.t"));
    assert_eq!(b.ask(&owner, set(sticky, "trusted.t")), posix(Errno::EPERM));
    assert!(matches!(
        get(&b, &owner, sticky, "trusted.t"),
        Err(Fail::Meta(MetaError::Posix(Errno::ENODATA)))
    ));
    let names = |creds: &Credentials| match read(&b.0, creds, &ListXattrs { inode: sticky }.into()) {
        Ok(MetaReply::ListXattrs(names)) => names.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((names(&owner), names(&Credentials::root())), (1, 2));
}
