//! Files, their content and chunks, and the sessions that use them, in plain maps: written from what the
//! operations promise (`mooseng_core::meta`), not from the implementation.

use mooseng_core::{
    error::Errno::*,
    ids::*,
    limits::{CHUNK_BYTES, FILE_BYTES_MAX, INLINE_BYTES_MAX, INLINE_MOVE_SECS},
    meta::*,
    wire,
};
use std::collections::{BTreeMap, BTreeSet};

/// Why something is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum No {
    Posix(mooseng_core::error::Errno),
    Stale,
    Busy,
    Invalid,
    Ended,
    Fenced,
    Misused,
}

/// What is told of a success.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// Inode, size, links.
    File(u64, u64, u32),
    /// Of a batch: each answer up to the first failure.
    All(Vec<Result<Told, No>>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub id: u64,
    pub version: u64,
    pub committed: bool,
    /// The version at the first commit.
    pub since: u64,
    pub cut_to: Option<u64>,
    /// Which session moves the inline data here, since when.
    pub mover: Option<(u64, i64)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct File {
    pub links: u32,
    pub size: u64,
    pub inline: Option<Vec<u8>>,
    pub cuts: u64,
    pub chunks: BTreeMap<u64, Chunk>,
    /// Sessions that keep it though it has no name.
    pub holders: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub id: u64,
    /// In force; none when it has ended.
    pub epoch: Option<u64>,
    /// What the client believes.
    pub known: u64,
    /// The last mutation that was kept: its number, and whether all of it was carried out.
    pub last: Option<(u64, bool)>,
}

#[derive(Clone, Debug)]
pub struct Contents {
    pub files: BTreeMap<u64, File>,
    pub names: BTreeMap<String, u64>,
    pub sessions: Vec<Session>,
    /// Who has which file open.
    pub open: BTreeSet<(u64, u64)>,
    /// Chunks that wait to be deleted: version, and servers that have not confirmed.
    pub deleting: BTreeMap<u64, (u64, BTreeSet<u64>)>,
    pub next_inode: u64,
    pub next_chunk: u64,
}

type Res<T> = Result<T, No>;

impl Contents {
    pub fn new(sessions: &[SessionStamp]) -> Self {
        let session = |s: &SessionStamp| Session { id: s.id.get(), epoch: Some(1), known: 1, last: None };
        Self {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            sessions: sessions.iter().map(session).collect(),
            open: BTreeSet::new(),
            deleting: BTreeMap::new(),
            next_inode: 2,
            next_chunk: 1,
        }
    }

    fn file(&mut self, id: InodeId) -> Res<&mut File> {
        match id {
            InodeId::ROOT => Err(No::Posix(EISDIR)),
            id => self.files.get_mut(&id.get()).ok_or(No::Posix(ESTALE)),
        }
    }

    fn told(&mut self, id: InodeId) -> Res<Told> {
        let f = self.file(id)?;
        Ok(Told::File(id.get(), f.size, f.links))
    }

    /// A mutation of a session: `seq` is new, `now` is the master's time in seconds.
    pub fn mutate(&mut self, at: usize, seq: u64, now: i64, req: &MetaRequest) -> Res<Told> {
        let s = &self.sessions[at];
        let (session, last) = (s.id, s.last);
        match s.epoch {
            None => return Err(No::Ended),
            Some(epoch) if epoch != s.known => return Err(No::Fenced),
            Some(_) => {}
        }
        if let MetaRequest::Batch(Batch { after: Some(after), .. }) = req
            && last != Some((after.get(), true))
        {
            return Err(No::Invalid);
        }
        let answer = self.carry_out(session, now, req);
        if answer != Err(No::Busy) {
            let whole = match &answer {
                Ok(Told::All(answers)) => answers.last().is_none_or(Result::is_ok),
                answer => answer.is_ok(),
            };
            self.sessions[at].last = Some((seq, whole));
        }
        answer
    }

    fn carry_out(&mut self, session: u64, now: i64, req: &MetaRequest) -> Res<Told> {
        match req {
            MetaRequest::Create(r) => self.create(r),
            MetaRequest::Unlink(r) => self.unlink(&r.name.to_string()),
            MetaRequest::WriteInline(r) => self.write_inline(r),
            MetaRequest::Allocate(r) => self.allocate(session, now, r),
            MetaRequest::CommitWrite(r) => self.commit(session, r),
            MetaRequest::Truncate(r) => {
                self.file(r.inode)?;
                if r.size > FILE_BYTES_MAX {
                    return Err(No::Posix(EFBIG));
                }
                self.resize(r.inode, r.size)?;
                self.told(r.inode)
            }
            MetaRequest::Batch(r) => {
                let ops: Vec<MetaRequest> = r.ops.iter().map(|b| wire::decode(b).unwrap()).collect();
                if ops.iter().any(|op| op.kind() != OpKind::FsWrite || matches!(op, MetaRequest::Batch(_))) {
                    return Err(No::Invalid);
                }
                let mut answers = Vec::new();
                for op in &ops {
                    answers.push(self.carry_out(session, now, op));
                    if answers.last().is_some_and(Result::is_err) {
                        break;
                    }
                }
                Ok(Told::All(answers))
            }
            other => panic!("{other:?} is not in the model"),
        }
    }

    fn create(&mut self, r: &Create) -> Res<Told> {
        let name = r.name.to_string();
        if let Some(id) = self.names.get(&name).copied().map(InodeId) {
            if r.exclusive {
                return Err(No::Posix(EEXIST));
            }
            if r.truncate {
                self.resize(id, 0)?;
            }
            return self.told(id);
        }
        let id = self.next_inode;
        self.next_inode += 1;
        self.files.insert(id, File { links: 1, ..File::default() });
        self.names.insert(name, id);
        self.told(InodeId(id))
    }

    fn unlink(&mut self, name: &str) -> Res<Told> {
        let id = self.names.remove(name).ok_or(No::Posix(ENOENT))?;
        let holders = self.open.iter().filter(|(inode, _)| *inode == id).map(|(_, s)| *s).collect();
        let f = self.file(InodeId(id))?;
        (f.links, f.holders) = (0, holders);
        self.sweep(id);
        // An unlink tells no size.
        Ok(Told::File(id, 0, 0))
    }

    fn write_inline(&mut self, r: &WriteInline) -> Res<Told> {
        let f = self.file(r.inode)?;
        let ends = r.parts.iter().map(|(at, data)| at.get() + data.len() as u64);
        let size = ends.max().unwrap_or(0).max(f.size);
        if r.truncates.get() != f.cuts || !f.chunks.is_empty() || size > INLINE_BYTES_MAX as u64 {
            return Err(No::Stale);
        }
        let content = f.inline.get_or_insert_default();
        content.resize(size as usize, 0);
        for (at, data) in &r.parts {
            content[at.get() as usize..][..data.len()].copy_from_slice(data);
        }
        f.size = size;
        self.told(r.inode)
    }

    fn allocate(&mut self, session: u64, now: i64, r: &Allocate) -> Res<Told> {
        let next = self.next_chunk;
        let f = self.file(r.inode)?;
        if r.truncates.get() != f.cuts {
            return Err(No::Stale);
        }
        let mut gone = None;
        if f.inline.is_some()
            && r.from.get() == 0
            && let Some((_, since)) = f.chunks.get(&0).and_then(|c| c.mover).filter(|(s, _)| *s != session)
        {
            if now - since < INLINE_MOVE_SECS as i64 {
                return Err(No::Busy);
            }
            // The first one took too long: its chunk goes, another is made.
            gone = f.chunks.remove(&0);
        }
        let mut made = 0;
        for index in r.from.get()..r.from.get() + u64::from(r.count) {
            if f.chunks.contains_key(&index) {
                continue;
            }
            let mover = (f.inline.is_some() && index == 0).then_some((session, now));
            let chunk =
                Chunk { id: next + made, version: 1, committed: false, since: 1, cut_to: None, mover };
            f.chunks.insert(index, chunk);
            made += 1;
        }
        self.next_chunk += made;
        self.delete(gone);
        self.told(r.inode)
    }

    fn commit(&mut self, session: u64, r: &CommitWrite) -> Res<Told> {
        let f = self.file(r.inode)?;
        if r.truncates.get() != f.cuts {
            return Err(No::Stale);
        }
        if r.size > FILE_BYTES_MAX {
            return Err(No::Posix(EFBIG));
        }
        let mut moved = false;
        for (index, named) in &r.chunks {
            let c = f.chunks.get(&index.get()).ok_or(No::Stale)?;
            let oldest = if c.committed { c.since } else { c.version };
            if c.id != named.id.get() || !(oldest..=c.version).contains(&named.version.get()) {
                return Err(No::Stale);
            }
            moved |= c.mover.is_some_and(|(s, _)| s == session);
        }
        if f.inline.is_some() && !(moved && r.drop_inline) {
            return Err(No::Stale);
        }
        for (index, _) in &r.chunks {
            let c = f.chunks.get_mut(&index.get()).ok_or(No::Stale)?;
            if !c.committed {
                (c.committed, c.since) = (true, c.version);
            }
            c.mover = None;
        }
        if r.drop_inline {
            f.inline = None;
        }
        f.size = f.size.max(r.size);
        self.told(r.inode)
    }

    fn resize(&mut self, id: InodeId, size: u64) -> Res<()> {
        let f = self.file(id)?;
        let (before, was_inline) = (f.size, f.inline.is_some());
        f.size = size;
        // Chunks that are of no use at this size, and when the content is inline at a smaller one: all.
        let from = if size < before && was_inline { 0 } else { size.div_ceil(CHUNK_BYTES) };
        let gone = if size <= before { f.chunks.split_off(&from) } else { BTreeMap::new() };
        f.cuts += u64::from(size < before || !gone.is_empty());
        if let Some(content) = f.inline.as_mut().filter(|_| size != before) {
            content.truncate(size as usize);
            if size <= INLINE_BYTES_MAX as u64 {
                content.resize(size as usize, 0);
            }
        }
        f.inline = f.inline.take().filter(|content| !content.is_empty());
        let holes_inline = before == 0 && size > 0 && size <= INLINE_BYTES_MAX as u64;
        if holes_inline && !was_inline && f.chunks.is_empty() {
            f.inline = Some(vec![0; size as usize]);
        }
        let rest = size % CHUNK_BYTES;
        if size < before
            && rest > 0
            && let Some(c) = f.chunks.get_mut(&(size / CHUNK_BYTES))
        {
            c.cut_to = Some(c.cut_to.map_or(rest, |cut| cut.min(rest)));
        }
        self.delete(gone.into_values());
        Ok(())
    }

    fn delete(&mut self, chunks: impl IntoIterator<Item = Chunk>) {
        for c in chunks {
            self.deleting.insert(c.id, (c.version, BTreeSet::from([1, 2])));
        }
    }

    /// A file without name and holder goes, and its chunks with it.
    fn sweep(&mut self, id: u64) {
        if self.files.get(&id).is_some_and(|f| f.links == 0 && f.holders.is_empty())
            && let Some(f) = self.files.remove(&id)
        {
            self.delete(f.chunks.into_values());
        }
    }

    /// A session closes a file for the last time.
    pub fn release(&mut self, id: u64, session: u64) {
        self.open.remove(&(id, session));
        if let Some(f) = self.files.get_mut(&id) {
            f.holders.remove(&session);
        }
        self.sweep(id);
    }

    /// A session ends and lets go of all that it has.
    pub fn end(&mut self, at: usize) {
        let session = self.sessions[at].id;
        (self.sessions[at].epoch, self.sessions[at].last) = (None, None);
        self.open.retain(|(_, s)| *s != session);
        for id in self.files.keys().copied().collect::<Vec<_>>() {
            self.release(id, session);
        }
    }
}
