//! A filesystem on the in-memory store, and the users who ask.

use crate::sound;
use mooseng_core::{
    attr::{Attr, Timestamp},
    context::Credentials,
    error::MetaError,
    ids::*,
    meta::*,
    name::Name,
    net::CertHash,
};
use mooseng_meta::{
    namespace::{Fail, TotalsDelta, read},
    state::{apply, fold_totals},
    store::*,
};
use std::collections::{BTreeMap, BTreeSet};

/// Two sessions: the second one is there to be in the way.
pub const SESSION: SessionStamp = SessionStamp { id: SessionId(1), epoch: SessionEpoch(1) };
pub const OTHER: SessionStamp = SessionStamp { id: SessionId(2), epoch: SessionEpoch(1) };

/// Who asks: the superuser; Ann, with a group of her own and group 50; Bob, with his own; Cid, who
/// is in Ann's group and in 50 by supplementary groups only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum User {
    Root,
    Ann,
    Bob,
    Cid,
}

impl User {
    pub const ALL: [Self; 4] = [Self::Root, Self::Ann, Self::Bob, Self::Cid];

    pub fn creds(self) -> Credentials {
        let (id, groups) = match self {
            Self::Root => (0, vec![]),
            Self::Ann => (1, vec![50]),
            Self::Bob => (2, vec![]),
            Self::Cid => (3, vec![1, 50]),
        };
        Credentials { uid: id, gid: id, groups }
    }
}

/// Rows of all tables.
pub type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// The filesystem.
#[derive(Clone)]
pub struct World {
    pub store: MemoryStore,
    seq: u64,
    /// Master time in seconds.
    pub now: i64,
    /// Who has which inode open, as the leader knows.
    pub opened: BTreeSet<(InodeId, SessionId)>,
    /// Whether the tables are to agree after each step.
    pub checked: bool,
    /// Chains that the leader decides.
    pub chains: usize,
}

impl World {
    pub fn new() -> Self {
        let store = MemoryStore::default();
        let mut w = Self { store, seq: 0, now: 100, opened: BTreeSet::new(), checked: true, chains: 16 };
        let cluster = "018f0000-0000-7000-8000-000000000001".parse().unwrap();
        w.put(Command::Init { cluster, class: StorageClass::default() });
        for nonce in 1..=2 {
            let (client, host, version) = ("c".into(), "h".into(), "v".into());
            w.put(Command::SessionOpen { cert: CertHash([1; 32]), client, host, version, nonce });
        }
        w
    }

    pub fn put(&mut self, command: Command) -> Applied {
        self.now += 1;
        let entry = LogEntry { format: ENTRY_FORMAT, time: Timestamp::new(self.now, 0), command };
        let mut totals = TotalsDelta::default();
        let applied = apply(&mut self.store, &entry, &mut totals).unwrap();
        fold_totals(&mut self.store, totals).unwrap();
        applied
    }

    /// A request by a user.
    pub fn ask(&mut self, who: User, req: impl Into<MetaRequest>) -> Result<MetaReply, MetaError> {
        self.ask_under(SESSION, who, req)
    }

    /// A request under a session. What is refused has changed nothing.
    pub fn ask_under(
        &mut self,
        session: SessionStamp,
        who: User,
        req: impl Into<MetaRequest>,
    ) -> Result<MetaReply, MetaError> {
        let request = req.into();
        if request.kind() == OpKind::FsRead {
            return self.look(who, request);
        }
        self.seq += 1;
        let before = self.rows();
        let slot = SlotStamp { slot: SlotId(0), seq: SlotSeq(self.seq) };
        let decisions = self.decisions();
        let creds = who.creds();
        let text = format!("{request:?}");
        let Applied::Fs(answer) = self.put(Command::Fs { session, slot, creds, decisions, request }) else {
            panic!("{text} is a mutation")
        };
        if answer.is_err() {
            assert!(self.rows() == before, "{text} was refused and changed something");
        }
        if self.checked {
            sound::check(&self.store);
        }
        answer
    }

    fn decisions(&self) -> Decisions {
        let of = |i| {
            let all = (InodeId(i), SessionId(0))..=(InodeId(i), SessionId(u64::MAX));
            (InodeId(i), self.opened.range(all).map(|(_, s)| *s).collect())
        };
        let chains = vec![vec![ServerId(1), ServerId(2)]; self.chains];
        Decisions { chains, holders: (1..1000).map(of).collect() }
    }

    /// A read by a user.
    pub fn look(&self, who: User, req: impl Into<MetaRequest>) -> Result<MetaReply, MetaError> {
        read(&self.store, &who.creds(), &req.into()).map_err(|e| match e {
            Fail::Meta(e) => e,
            Fail::Io(e) => panic!("{e}"),
        })
    }

    /// All that is not about the mechanism of asking.
    fn rows(&self) -> Rows {
        let mut rows = BTreeMap::new();
        for table in TABLES.into_iter().filter(|t| *t != Table::Slot) {
            self.store
                .scan(table, &[], &[], &mut |k, v| {
                    if (table, k) != (Table::Meta, &b"clock"[..]) {
                        rows.insert((table, k.to_vec()), v.to_vec());
                    }
                    true
                })
                .unwrap();
        }
        rows
    }

    /// The last holder lets an inode go.
    pub fn release(&mut self, inode: InodeId, session: SessionId) {
        self.opened.remove(&(inode, session));
        self.put(Command::ReleaseOrphan { inode, session });
        sound::check(&self.store);
    }

    pub fn rec(&self, inode: InodeId) -> Option<InodeRec> {
        load(&self.store, Table::Inode, &key(inode.get())).unwrap()
    }

    /// Sets what takes too many operations to reach.
    pub fn set_rec(&mut self, inode: InodeId, change: impl FnOnce(&mut InodeRec)) {
        let mut rec = self.rec(inode).unwrap();
        change(&mut rec);
        save(&mut self.store, Table::Inode, &key(inode.get()), &rec).unwrap();
    }

    /// The inode of a path, walked as the superuser.
    pub fn at(&self, path: &str) -> Option<InodeId> {
        path.split('/').filter(|p| !p.is_empty()).try_fold(InodeId::ROOT, |parent, part| {
            let name = Name::new(part).ok()?;
            match self.look(User::Root, Lookup { parent, name }) {
                Ok(MetaReply::Lookup(attr)) => Some(attr.inode),
                _ => None,
            }
        })
    }

    pub fn attr(&self, path: &str) -> Attr {
        let inode = self.at(path).unwrap_or_else(|| panic!("{path} is there"));
        self.rec(inode).unwrap().attr(inode)
    }

    /// Names of a directory in the order of their cookies, read in pages of two.
    pub fn names(&self, inode: InodeId) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), DirCookie(0));
        loop {
            let op = ReadDir { inode, after, max_entries: 2, with_attrs: false };
            let Ok(MetaReply::ReadDir(page)) = self.look(User::Root, op) else { panic!("{inode} is read") };
            assert!(page.entries.iter().map(|e| e.cookie).is_sorted());
            after = page.entries.last().map_or(after, |e| e.cookie);
            names.extend(page.entries.iter().map(|e| e.name.to_string()));
            if page.eof {
                return names;
            }
        }
    }

    pub fn totals(&self, inode: InodeId) -> Totals {
        match self.look(User::Root, GetTotals { inode }) {
            Ok(MetaReply::GetTotals(t)) => t,
            other => panic!("{other:?}"),
        }
    }
}
