//! A log of every kind of command. What a command is about is drawn from the state that there is, and
//! sometimes from beside it, so that commands meet and each table fills and empties.

use crate::batches::{SESSION, name, run};
use bytes::Bytes;
use mooseng_core::{
    attr::{Access, FileKind, SetAttr, Timestamp},
    capability::{KeyId, PublicKey},
    context::Credentials,
    ids::*,
    join::{Invite, TokenId},
    limits::CHUNK_BYTES,
    meta::*,
    net::{CertHash, Role},
    seam::Rng,
    wire,
};
use mooseng_host::SeededRng;
use mooseng_meta::store::*;

/// Kinds of commands.
pub const COMMANDS: usize = 19;

/// Which kind a command is of. A new one is added here and to [`Drawing::other`].
pub fn kind(command: &Command) -> usize {
    match command {
        Command::Fs { .. } => 0,
        Command::SessionOpen { .. } => 1,
        Command::SessionEnd { .. } => 2,
        Command::Fence { .. } => 3,
        Command::ReleaseOrphan { .. } => 4,
        Command::GrantIds { .. } => 5,
        Command::ServerSeen { .. } => 6,
        Command::BumpStart { .. } => 7,
        Command::BumpOpen { .. } => 8,
        Command::DeleteDone { .. } => 9,
        Command::AddKey { .. } => 10,
        Command::Init { .. } => 11,
        Command::Lead { .. } => 12,
        Command::TokenMade { .. } => 13,
        Command::TokenUsed { .. } => 14,
        Command::FenceDone { .. } => 15,
        Command::Drain { .. } => 16,
        Command::DrainDisk { .. } => 17,
        Command::RemoveKeys { .. } => 18,
    }
}

/// Draws from a state.
struct Drawing<'a> {
    rng: &'a SeededRng,
    store: &'a MemoryStore,
}

impl Drawing<'_> {
    fn below(&self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    fn one<T: Clone>(&self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| of[self.below(of.len() as u64) as usize].clone())
    }

    fn server(&self) -> ServerId {
        ServerId(1 + self.below(5))
    }

    /// One to three different servers.
    fn servers(&self) -> Vec<ServerId> {
        let first = self.below(5);
        (0..=self.below(3)).map(|i| ServerId(1 + (first + i) % 5)).collect()
    }

    fn recs<T: serde::de::DeserializeOwned>(&self, table: Table) -> Vec<(u64, T)> {
        let mut all = Vec::new();
        scan_recs(self.store, table, &[], &[], |k, rec| {
            all.push((number(k), rec));
            true
        })
        .unwrap();
        all
    }

    /// A session that may end: not the one that asks for most.
    fn session(&self) -> SessionStamp {
        let mut all = self.recs::<SessionRec>(Table::Session);
        all.retain(|(id, _)| *id != SESSION.id.get());
        let other = SessionStamp { id: SessionId(2 + self.below(8)), epoch: SessionEpoch(1) };
        self.one(&all).map_or(other, |(id, rec)| SessionStamp { id: SessionId(id), epoch: rec.epoch })
    }

    /// Any operation on few names in the directories and files that are there, so that they meet.
    fn request(&self) -> MetaRequest {
        let (mut dirs, mut files) = (Vec::new(), Vec::new());
        for (id, rec) in self.recs::<InodeRec>(Table::Inode) {
            if rec.kind == FileKind::Dir { &mut dirs } else { &mut files }.push(InodeId(id));
        }
        let dir = || self.one(&dirs).unwrap();
        let (parent, new_parent) = (dir(), dir());
        let (a, b) = (name(self.below(3)), name(self.below(3)));
        let inode = self.one(&files).unwrap_or(InodeId::ROOT);
        match self.below(16) {
            0 | 1 => MkDir { parent, name: a, mode: 0o755, id: None }.into(),
            2 | 3 => MkNod { parent, name: a, mode: 0o644, kind: FileKind::File, rdev: 0, id: None }.into(),
            4 => Link { inode, parent, name: a }.into(),
            5 => Unlink { parent, name: a }.into(),
            6 => RmDir { parent, name: a }.into(),
            7 => {
                let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let mode = self.one(&modes).unwrap();
                Rename { parent, name: a, new_parent, new_name: b, mode }.into()
            }
            8 => {
                let size = Some(self.below(10_000));
                SetAttrs { inode, set: SetAttr { size, ..SetAttr::default() } }.into()
            }
            9 => {
                let open = Access::READ;
                Create { parent, name: a, mode: 0o644, exclusive: false, open, truncate: true, id: None }
                    .into()
            }
            10 => match self.below(3) {
                0 => SymLink { parent, name: a, target: Bytes::from_static(b"to"), id: None }.into(),
                1 => SetClass { inode, class: StorageClass { copies: 1 + self.below(3) as u8 } }.into(),
                _ => {
                    let (name, value) = (Bytes::from_static(b"user.a"), Bytes::from_static(b"v"));
                    SetXattr { inode, name, value, mode: XattrMode::Set }.into()
                }
            },
            11..=14 => self.content(inode),
            _ => {
                let ops = [
                    MetaRequest::from(MkDir { parent, name: a.clone(), mode: 0o755, id: None }),
                    MetaRequest::from(RmDir { parent, name: a }),
                ];
                Batch { after: None, ops: ops.iter().map(wire::encode).collect() }.into()
            }
        }
    }

    fn content(&self, inode: InodeId) -> MetaRequest {
        let rec: Option<InodeRec> = load(self.store, Table::Inode, &key(inode.get())).unwrap();
        let (truncates, size) = rec.map_or((TruncateCounter(0), 0), |r| (r.truncates, r.size));
        let mut chunks = self.recs::<ChunkRec>(Table::Chunk);
        chunks.retain(|(_, c)| c.inode == inode);
        match self.below(8) {
            0 => {
                let parts = vec![(Offset(self.below(100)), Bytes::from_static(b"inline"))];
                WriteInline { inode, truncates, parts }.into()
            }
            1 => Truncate { inode, size: self.below(size + 2) }.into(),
            2 | 3 => match self.one(&chunks) {
                Some((id, c)) => {
                    let size = (c.index.get() + 1) * CHUNK_BYTES - self.below(CHUNK_BYTES);
                    let named = ChunkRef { id: ChunkId(id), version: c.version };
                    let (chunks, drop_inline) = (vec![(c.index, named)], self.below(2) == 0);
                    CommitWrite { inode, truncates, size, chunks, drop_inline }.into()
                }
                None => Truncate { inode, size: self.below(4 * CHUNK_BYTES) }.into(),
            },
            _ => {
                let (from, count) = (ChunkIndex(self.below(4)), 1 + self.below(2) as u32);
                Allocate { inode, truncates, from, count }.into()
            }
        }
    }

    /// A mutation. Of what it removes nobody, or somebody, has it open.
    fn mutation(&self, n: u64) -> Command {
        let held = if self.below(3) == 0 { vec![self.session().id, SESSION.id] } else { vec![] };
        let holders = (1..4000).map(|i| (InodeId(i), held.clone())).collect();
        let chains = (0..4).map(|_| self.servers()).collect();
        Command::Fs {
            session: SESSION,
            slot: SlotStamp { slot: SlotId(0), seq: SlotSeq(1 + n) },
            creds: Credentials::root(),
            decisions: Decisions { chains, holders },
            request: self.request(),
        }
    }

    fn bump(&self) -> Command {
        let Some((id, rec)) = self.one(&self.recs::<ChunkRec>(Table::Chunk)) else {
            return Command::Lead { master: MasterId(1) };
        };
        let id = ChunkId(id);
        if let Some(pending) = rec.pending.as_ref().filter(|_| self.below(3) > 0) {
            let mut members = pending.survivors.clone();
            members.extend(pending.joining.iter().filter(|s| !pending.survivors.contains(s)));
            members.truncate(1 + self.below(3) as usize);
            return Command::BumpOpen { chunk: ChunkRef { id, version: pending.version }, members };
        }
        let mut survivors = rec.members.clone();
        survivors.truncate(1 + self.below(3) as usize);
        Command::BumpStart {
            from: ChunkRef { id, version: rec.version },
            replaces: rec.pending.as_ref().map(|b| b.version),
            settles: survivors.len() == 1 && self.below(2) == 0,
            survivors,
            joining: self.servers(),
            cut_to: rec.cut_to,
        }
    }

    fn token(&self) -> Command {
        let n = self.below(6);
        let token = TokenId([n as u8; 32]);
        if self.below(2) == 0 {
            return Command::TokenUsed { token, csr: [self.below(2) as u8; 32] };
        }
        let invite = Invite { role: Role::Chunkserver, node: 1 + n % 4, name: format!("c{n}") };
        let (lifetime_secs, validity_secs) = (20 + self.below(60), 5);
        Command::TokenMade { token, invite, lifetime_secs, validity_secs, replace: self.below(2) == 0 }
    }

    /// What ends sessions, and what follows.
    fn session_end(&self) -> Command {
        let session = self.session();
        match self.below(4) {
            0 => Command::Fence { session },
            1 => Command::SessionEnd { session, unfenced: self.servers() },
            2 => {
                let mut owed = Vec::new();
                self.store
                    .scan(Table::Unfenced, &[], &[], &mut |k, _| {
                        owed.push((SessionId(second(k)), ServerId(number(k))));
                        true
                    })
                    .unwrap();
                Command::FenceDone { done: self.one(&owed).into_iter().collect() }
            }
            _ => {
                let orphans = self.recs::<OrphanRec>(Table::Orphan);
                let inode = InodeId(self.one(&orphans).map_or(1, |(id, _)| id));
                let holders = self.one(&orphans).map_or(vec![], |(_, o)| o.holders);
                Command::ReleaseOrphan { inode, session: self.one(&holders).unwrap_or(session.id) }
            }
        }
    }

    /// Anything but a mutation.
    fn other(&self, n: u64) -> Command {
        let (server, on) = (self.server(), self.below(3) > 0);
        match self.below(16) {
            0..=3 => self.bump(),
            4..=6 => self.session_end(),
            7 => opening(1 + self.below(12)),
            8 => {
                let (kind, count) =
                    (if on { IdKind::Chunk } else { IdKind::Inode }, 1 + self.below(9) as u32);
                let session = if on { self.session() } else { SESSION };
                Command::GrantIds { session, kind, count }
            }
            9 => {
                let done = self.one(&self.recs::<DeletingRec>(Table::Deleting));
                let of = |(id, rec): (u64, DeletingRec)| rec.holders.first().map(|s| (ChunkId(id), *s));
                Command::DeleteDone { done: done.and_then(of).into_iter().collect() }
            }
            10 => Command::ServerSeen { server, addr: format!("a{n}"), incarnation: Incarnation(n) },
            11 => Command::Drain { server, on },
            12 => Command::DrainDisk { server, disk: DiskId(self.below(2)), on },
            13 if on => {
                let key = PublicKey { id: KeyId(self.below(40)), bytes: [n as u8; 32] };
                Command::AddKey { key, master: MasterId(1 + n % 3) }
            }
            13 => Command::RemoveKeys { unused_secs: self.below(100) },
            14 => self.token(),
            _ if on => init(),
            _ => Command::Lead { master: MasterId(1 + n % 3) },
        }
    }
}

fn opening(nonce: u64) -> Command {
    let (client, host, version) = ("c".into(), "h".into(), "v".into());
    Command::SessionOpen { cert: CertHash([1; 32]), client, host, version, nonce }
}

fn init() -> Command {
    let cluster = "018f0000-0000-7000-8000-000000000001".parse().unwrap();
    Command::Init { cluster, class: StorageClass::default() }
}

pub fn log(seed: u64, entries: u64) -> Vec<LogEntry> {
    let rng = SeededRng::new(seed);
    let entry =
        |n: u64, command| LogEntry { format: ENTRY_FORMAT, time: Timestamp::new(n as i64, 0), command };
    let mut log = vec![entry(0, init()), entry(1, opening(1))];
    let mut store = MemoryStore::default();
    run(&mut store, &log);
    for n in 0..entries {
        let drawing = Drawing { rng: &rng, store: &store };
        let command = if drawing.below(5) < 3 { drawing.mutation(n) } else { drawing.other(n) };
        log.push(entry(2 + n, command));
        run(&mut store, &log[log.len() - 1..]);
    }
    log
}
