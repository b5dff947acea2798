//! Random sequences over the content of files, their chunks and the sessions that use them, beside the model
//! in `content_model`: inline data, allocations by several sessions, commits by writers whose picture is
//! out of date, cuts, open files that lose their name, sessions that are fenced and end, bumps, batches with
//! predecessors, and repeats of what was answered. After each step all tables are compared.
//!
//! An action is numbers that are read against the model at its moment, so that each part of a sequence is a
//! sequence: a failing one shrinks without preconditions of its own.

use crate::{
    content_model::{Contents, No, Told},
    sound,
    world::{OTHER, SESSION, World},
};
use bytes::Bytes;
use mooseng_core::{
    attr::Access, context::Credentials, error::MetaError, ids::*, limits::CHUNK_BYTES, meta::*, name::Name,
    net::CertHash, wire,
};
use mooseng_meta::store::*;
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use std::collections::BTreeMap;

const CASES: u32 = 300;
const STEPS: usize = 120;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verb {
    Create,
    Unlink,
    Open,
    Release,
    WriteInline,
    Allocate,
    Commit,
    Truncate,
    Batch,
    /// The last request once more, under its number.
    Repeat,
    /// A session's epoch goes up.
    Fence,
    /// A session hears of its epoch.
    Learn,
    /// A session ends, another begins.
    End,
    /// A chunk gets its next version.
    Bump,
    /// Chunkservers have deleted what is to be deleted.
    Deleted,
    /// Time passes.
    Wait,
}

use Verb::*;

const WEIGHTS: [(u32, Verb); 16] = [
    (6, Create),
    (4, Unlink),
    (4, Open),
    (3, Release),
    (10, WriteInline),
    (14, Allocate),
    (16, Commit),
    (10, Truncate),
    (8, Batch),
    (5, Repeat),
    (1, Fence),
    (2, Learn),
    (1, End),
    (4, Bump),
    (2, Deleted),
    (2, Wait),
];

#[derive(Clone, Debug)]
struct Action {
    verb: Verb,
    session: u8,
    file: u8,
    n: u16,
    /// For the elements of a batch.
    more: Vec<(Verb, u8, u16)>,
}

fn verb() -> impl Strategy<Value = Verb> {
    proptest::strategy::Union::new_weighted(WEIGHTS.map(|(weight, verb)| (weight, Just(verb))).to_vec())
}

fn action() -> impl Strategy<Value = Action> {
    let in_batch = proptest::sample::select(&[Create, Unlink, WriteInline, Allocate, Commit, Truncate][..]);
    let more = prop::collection::vec((in_batch, any::<u8>(), any::<u16>()), 0..5);
    (verb(), any::<u8>(), any::<u8>(), any::<u16>(), more).prop_map(|(verb, session, file, n, more)| Action {
        verb,
        session,
        file,
        n,
        more,
    })
}

/// Sizes on both sides of what makes a difference.
const SIZES: [u64; 12] = [
    0,
    1,
    100,
    8191,
    8192,
    8193,
    12_000,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 1,
    2 * CHUNK_BYTES + 5,
    (1 << 62) + 1,
];

/// A request on what is there now; none where there is nothing to ask for.
fn request(m: &Contents, verb: Verb, file: u8, n: u16) -> Option<MetaRequest> {
    let (parent, name) = (InodeId::ROOT, Name::new([b'a' + file % 3]).unwrap());
    let ids: Vec<_> = m.files.keys().copied().collect();
    // Now and then one that is gone, or never was.
    let id =
        if ids.is_empty() || n % 32 == 31 { 1 + u64::from(n % 12) } else { ids[file as usize % ids.len()] };
    let (inode, f) = (InodeId(id), m.files.get(&id).cloned().unwrap_or_default());
    // Now and then by somebody who does not know of a cut.
    let truncates = TruncateCounter(if n % 16 == 7 { f.cuts.wrapping_sub(1) & 7 } else { f.cuts });
    let size = SIZES[n as usize / 16 % SIZES.len()];
    let index = u64::from(n / 64 % 3);
    Some(match verb {
        Create => {
            let (exclusive, truncate) = (n.is_multiple_of(4), n.is_multiple_of(3));
            let open = Access::READ.and(Access::WRITE);
            create(parent, name, exclusive, truncate, open).into()
        }
        Unlink => mooseng_core::meta::Unlink { parent, name }.into(),
        WriteInline => {
            let at = u64::from(n) % 8100;
            let part = |at, len| (Offset(at), Bytes::from(vec![1 + (n % 250) as u8; len]));
            let parts = vec![part(at / 2, 9), part(at / 2 + 10, 1 + n as usize % 4000)];
            mooseng_core::meta::WriteInline { inode, truncates, parts }.into()
        }
        Allocate => {
            let (from, count) = (ChunkIndex(index), 1 + u32::from(n / 256) % 3);
            mooseng_core::meta::Allocate { inode, truncates, from, count }.into()
        }
        Commit => {
            let named = f.chunks.iter().filter(|(i, _)| **i >= index || n.is_multiple_of(2)).map(|(i, c)| {
                // Now and then of a version that is older, or not yet.
                let version = match n % 24 {
                    5 => c.version + 1,
                    6 => c.version.saturating_sub(1).max(1),
                    _ => c.version,
                };
                let id = ChunkId(if n % 24 == 9 { c.id + 1 } else { c.id });
                (ChunkIndex(*i), ChunkRef { id, version: ChunkVersion(version) })
            });
            let chunks = named.collect();
            CommitWrite { inode, truncates, size, chunks, drop_inline: !n.is_multiple_of(3) }.into()
        }
        Truncate => mooseng_core::meta::Truncate { inode, size }.into(),
        _ => return None,
    })
}

fn create(
    parent: InodeId,
    name: Name,
    exclusive: bool,
    truncate: bool,
    open: Access,
) -> mooseng_core::meta::Create {
    mooseng_core::meta::Create { parent, name, mode: 0o644, exclusive, open, truncate, id: None }
}

/// The answer in the model's words.
fn told(answer: Result<MetaReply, MetaError>) -> Result<Told, No> {
    let file = |a: &mooseng_core::attr::Attr| Ok(Told::File(a.inode.get(), a.size, a.nlink));
    match answer {
        Ok(MetaReply::Create(c)) => file(&c.attr),
        Ok(MetaReply::WriteInline(a) | MetaReply::CommitWrite(a) | MetaReply::Truncate(a)) => file(&a),
        Ok(MetaReply::Allocate(l)) => file(&l.attr),
        Ok(MetaReply::Unlink(r)) => Ok(Told::File(r.inode.get(), 0, r.links_left)),
        Ok(MetaReply::Batch(all)) => {
            Ok(Told::All(all.iter().map(|a| told(wire::decode(a).unwrap())).collect()))
        }
        Ok(other) => panic!("{other:?}"),
        Err(MetaError::Posix(e)) => Err(No::Posix(e)),
        Err(MetaError::LayoutStale) => Err(No::Stale),
        Err(MetaError::Busy(_)) => Err(No::Busy),
        Err(MetaError::Invalid(_)) => Err(No::Invalid),
        Err(MetaError::SessionEnded) => Err(No::Ended),
        Err(MetaError::Fenced { .. }) => Err(No::Fenced),
        Err(MetaError::SlotMisuse) => Err(No::Misused),
        Err(other) => panic!("{other}"),
    }
}

/// Both, and what was asked last.
struct Pair {
    w: World,
    m: Contents,
    seq: u64,
    nonce: u64,
    last: Option<(SessionStamp, u64, MetaRequest, Result<MetaReply, MetaError>)>,
    /// How often each went well and was refused.
    counts: BTreeMap<Verb, (u32, u32)>,
}

impl Pair {
    fn new() -> Self {
        let m = Contents::new(&[SESSION, OTHER]);
        Self { w: World::new(), m, seq: 0, nonce: 10, last: None, counts: BTreeMap::new() }
    }

    fn put(&mut self, session: SessionStamp, seq: u64, request: MetaRequest) -> Result<MetaReply, MetaError> {
        let holders = |id: u64| {
            let all = self.w.opened.range((InodeId(id), SessionId(0))..=(InodeId(id), SessionId(u64::MAX)));
            (InodeId(id), all.map(|(_, s)| *s).collect())
        };
        let chains = vec![vec![ServerId(1), ServerId(2)]; 16];
        let decisions = Decisions { chains, holders: (1..self.m.next_inode + 8).map(holders).collect() };
        let slot = SlotStamp { slot: SlotId(0), seq: SlotSeq(seq) };
        let creds = Credentials::root();
        match self.w.put(Command::Fs { session, slot, creds, decisions, request }) {
            Applied::Fs(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    /// One step in both.
    fn step(&mut self, a: &Action) -> Result<(), TestCaseError> {
        let at = a.session as usize % self.m.sessions.len();
        let s = self.m.sessions[at].clone();
        let stamp = SessionStamp { id: SessionId(s.id), epoch: SessionEpoch(s.known) };
        match a.verb {
            Batch => {
                let element = |(verb, file, n): &(Verb, u8, u16)| request(&self.m, *verb, *file, *n);
                let ops: Vec<_> = a.more.iter().filter_map(element).map(|op| wire::encode(&op)).collect();
                // After the one before, after one that was not, or after none.
                let after = match a.n % 4 {
                    0 => s.last.map(|(seq, _)| SlotSeq(seq)),
                    1 if a.n % 8 == 1 => Some(SlotSeq(self.seq + 5)),
                    _ => None,
                };
                self.ask(at, stamp, a.verb, mooseng_core::meta::Batch { after, ops }.into())
            }
            Repeat => self.repeat(),
            verb => match request(&self.m, verb, a.file, a.n) {
                Some(req) => self.ask(at, stamp, verb, req),
                None => {
                    self.other(a, at, stamp);
                    Ok(())
                }
            },
        }
    }

    fn ask(
        &mut self,
        at: usize,
        stamp: SessionStamp,
        verb: Verb,
        req: MetaRequest,
    ) -> Result<(), TestCaseError> {
        self.seq += 1;
        let seq = self.seq;
        let got = self.put(stamp, seq, req.clone());
        let expected = self.m.mutate(at, seq, self.w.now, &req);
        let count = self.counts.entry(verb).or_default();
        if expected.is_ok() {
            count.0 += 1
        } else {
            count.1 += 1
        }
        prop_assert_eq!(told(got.clone()), expected, "{:?}", req);
        self.last = Some((stamp, seq, req, got));
        Ok(())
    }

    /// What was answered for good is answered the same again, and nothing is done twice. Another request
    /// under the same number is none.
    fn repeat(&mut self) -> Result<(), TestCaseError> {
        let Some((stamp, seq, req, answer)) = self.last.clone() else { return Ok(()) };
        let session = self.m.sessions.iter().find(|s| s.id == stamp.id.get());
        let kept = session.is_some_and(|s| s.epoch == Some(s.known) && s.known == stamp.epoch.get())
            && session.and_then(|s| s.last).is_some_and(|(last, _)| last == seq);
        if !kept {
            return Ok(());
        }
        *self.counts.entry(Repeat).or_insert((0, 1)) = (self.counts.get(&Repeat).map_or(0, |c| c.0) + 1, 1);
        prop_assert_eq!(self.put(stamp, seq, req), answer, "a repeat");
        let another = mooseng_core::meta::Truncate { inode: InodeId(77), size: 77 };
        prop_assert_eq!(told(self.put(stamp, seq, another.into())), Err(No::Misused));
        let older = mooseng_core::meta::Truncate { inode: InodeId(2), size: 0 };
        prop_assert_eq!(told(self.put(stamp, seq - 1, older.into())), Err(No::Misused));
        Ok(())
    }

    /// What is no mutation of a session's.
    fn other(&mut self, a: &Action, at: usize, stamp: SessionStamp) {
        let ids: Vec<_> = self.m.files.keys().copied().collect();
        let file = (!ids.is_empty()).then(|| ids[a.file as usize % ids.len()]);
        let alive = self.m.sessions[at].epoch.is_some();
        match (a.verb, file) {
            // A name that is gone is opened by nobody any more.
            (Open, Some(id)) if alive && self.m.files[&id].links > 0 => {
                self.w.opened.insert((InodeId(id), stamp.id));
                self.m.open.insert((id, stamp.id.get()));
            }
            (Release, _) => {
                let open: Vec<_> = self.m.open.iter().copied().collect();
                if !open.is_empty() {
                    let (id, session) = open[a.n as usize % open.len()];
                    self.w.release(InodeId(id), SessionId(session));
                    self.m.release(id, session);
                }
            }
            (Fence, _) if alive => self.fence(at),
            (Learn, _) => self.m.sessions[at].known = self.m.sessions[at].epoch.unwrap_or(99),
            (End, _) if alive => self.end(at),
            (Bump, Some(id)) => self.bump(id, a.n),
            (Deleted, _) => {
                let server = 1 + u64::from(a.n % 2);
                let done = self.m.deleting.keys().map(|id| (ChunkId(*id), ServerId(server))).collect();
                self.w.put(Command::DeleteDone { done });
                for (_, left) in self.m.deleting.values_mut() {
                    left.remove(&server);
                }
                self.m.deleting.retain(|_, (_, left)| !left.is_empty());
            }
            (Wait, _) => self.w.now += i64::from(a.n % 8),
            _ => return,
        }
        self.counts.entry(a.verb).or_insert((0, 1)).0 += 1;
    }

    fn fence(&mut self, at: usize) {
        let s = &mut self.m.sessions[at];
        let Some(epoch) = s.epoch else { return };
        let session = SessionStamp { id: SessionId(s.id), epoch: SessionEpoch(epoch) };
        s.epoch = Some(epoch + 1);
        assert_eq!(self.w.put(Command::Fence { session }), Applied::Done(true));
        // A fence is of one epoch: once more it is none.
        assert_eq!(self.w.put(Command::Fence { session }), Applied::Done(false));
    }

    fn end(&mut self, at: usize) {
        self.fence(at);
        let s = &self.m.sessions[at];
        let id = SessionId(s.id);
        let session = SessionStamp { id, epoch: SessionEpoch(s.epoch.unwrap()) };
        let end = Command::SessionEnd { session, unfenced: vec![] };
        assert_eq!(self.w.put(end.clone()), Applied::Done(true));
        assert_eq!(self.w.put(end), Applied::Done(false));
        self.w.opened.retain(|(_, s)| *s != id);
        self.m.end(at);
        // Three at most that live or have lived lately: the oldest that has ended is not heard of again.
        self.nonce += 1;
        let (client, host, version) = ("c".into(), "h".into(), "v".into());
        let open = Command::SessionOpen { cert: CertHash([1; 32]), client, host, version, nonce: self.nonce };
        let Applied::Session(new) = self.w.put(open) else { panic!("a session opens") };
        let new = Contents::new(&[new]).sessions.remove(0);
        if let Some(old) =
            self.m.sessions.iter().position(|s| s.epoch.is_none()).filter(|_| self.m.sessions.len() > 3)
        {
            self.m.sessions.remove(old);
        }
        self.m.sessions.push(new);
    }

    fn bump(&mut self, id: u64, n: u16) {
        let Some(f) = self.m.files.get_mut(&id) else { return };
        let len = f.chunks.len();
        let Some(c) = f.chunks.values_mut().nth(n as usize % len.max(1)) else { return };
        let of = |version| ChunkRef { id: ChunkId(c.id), version: ChunkVersion(version) };
        let members = vec![ServerId(1), ServerId(2)];
        let (from, survivors, cut_to) = (of(c.version), members.clone(), c.cut_to);
        let (settles, joining) = (false, vec![]);
        let start = Command::BumpStart { from, replaces: None, survivors, settles, joining, cut_to };
        assert_eq!(self.w.put(start), Applied::Done(true));
        let open = Command::BumpOpen { chunk: of(c.version + 1), members };
        assert_eq!(self.w.put(open), Applied::Done(true));
        (c.version, c.cut_to) = (c.version + 1, None);
    }

    /// All tables about files, chunks and holders are as the model says.
    fn compare(&self) -> Result<(), TestCaseError> {
        sound::check(&self.w.store);
        let mut chunks = BTreeMap::new();
        for (id, f) in &self.m.files {
            let Some(rec) = self.w.rec(InodeId(*id)) else {
                return Err(TestCaseError::fail(format!("inode {id} is there")));
            };
            prop_assert_eq!(
                (rec.size, rec.nlink, rec.truncates.get()),
                (f.size, f.links, f.cuts),
                "inode {}",
                id
            );
            prop_assert!(rec.inline.as_deref() == f.inline.as_deref(), "inline data of inode {}", id);
            let holders: Option<OrphanRec> = load(&self.w.store, Table::Orphan, &key(*id)).unwrap();
            let holders = holders.map_or_else(Vec::new, |o| o.holders);
            prop_assert!(
                holders.iter().map(|s| s.get()).eq(f.holders.iter().copied()),
                "holders of inode {}",
                id
            );
            chunks.extend(f.chunks.iter().map(|(index, c)| (c.id, (*id, *index, c))));
        }
        for id in (2..self.m.next_inode).filter(|id| !self.m.files.contains_key(id)) {
            prop_assert!(self.w.rec(InodeId(id)).is_none(), "inode {} is gone", id);
        }
        let mut seen = 0;
        scan_recs(&self.w.store, Table::Chunk, &[], &[], |k, rec: ChunkRec| {
            let expected = chunks.get(&number(k)).map(|(inode, index, c)| ChunkRec {
                version: ChunkVersion(c.version),
                inode: InodeId(*inode),
                index: ChunkIndex(*index),
                committed: c.committed,
                since: ChunkVersion(c.since),
                cut_to: c.cut_to,
                mover: c.mover.map(|(s, since)| (SessionId(s), mooseng_core::attr::Timestamp::new(since, 0))),
                ..rec.clone()
            });
            seen += 1;
            assert_eq!(Some(&rec), expected.as_ref(), "chunk {}", number(k));
            true
        })
        .unwrap();
        prop_assert_eq!(seen, chunks.len());
        let mut deleting = BTreeMap::new();
        scan_recs(&self.w.store, Table::Deleting, &[], &[], |k, rec: DeletingRec| {
            deleting.insert(number(k), (rec.version.get(), rec.holders.iter().map(|s| s.get()).collect()));
            true
        })
        .unwrap();
        prop_assert_eq!(&deleting, &self.m.deleting);
        Ok(())
    }
}

fn run(actions: &[Action]) -> Result<Pair, TestCaseError> {
    let mut pair = Pair::new();
    for action in actions {
        let all = pair.step(action).and_then(|()| pair.compare());
        if let Err(e) = all {
            return Err(TestCaseError::fail(format!("{e}\nlast: {:?}", pair.last)));
        }
    }
    Ok(pair)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn contents_chunks_and_sessions_do_what_the_model_does(actions in prop::collection::vec(action(), 1..STEPS)) {
        run(&actions)?;
    }
}

/// The sequences are not in vain: everything is done now and then, and refused now and then.
#[test]
fn everything_happens_to_contents() {
    let mut runner = TestRunner::deterministic();
    let mut done: BTreeMap<Verb, (u32, u32)> = BTreeMap::new();
    for _ in 0..60 {
        let actions = prop::collection::vec(action(), STEPS).new_tree(&mut runner).unwrap().current();
        for (verb, (ok, no)) in run(&actions).unwrap().counts {
            let sum = done.entry(verb).or_default();
            *sum = (sum.0 + ok, sum.1 + no);
        }
    }
    let rare: Vec<_> = done.iter().filter(|(_, (ok, no))| *ok < 10 || *no < 1).collect();
    assert!(rare.is_empty() && done.len() == WEIGHTS.len(), "{done:?}");
}
