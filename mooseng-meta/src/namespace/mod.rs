//! The operations of the namespace: pure functions over a [`View`] or a [`Tx`], with POSIX
//! permissions. Each mutation checks everything before it writes, so that a refused one changes
//! nothing.

mod create;
mod data;
mod links;
mod perm;
mod read;
mod remove;
mod rename;
mod set;
mod totals;

pub use data::purge;
pub use perm::{may, may_open};
pub use read::{fs_stat, layout_chunks, read};
pub use totals::TotalsDelta;

use crate::store::*;
use mooseng_core::{
    attr::{Access, FileKind, Timestamp},
    context::Credentials,
    error::{Errno, MetaError},
    ids::{ChunkIndex, ChunkRef, InodeId, SessionId},
    meta::*,
};
use std::io;

/// Why an operation did not happen: it was refused, or the disk failed and the node must stop.
#[derive(Debug)]
pub enum Fail {
    /// An answer to the caller.
    Meta(MetaError),
    /// The state cannot be read or written.
    Io(io::Error),
}

impl From<io::Error> for Fail {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}
impl From<MetaError> for Fail {
    fn from(e: MetaError) -> Self {
        Self::Meta(e)
    }
}
impl From<Errno> for Fail {
    fn from(e: Errno) -> Self {
        Self::Meta(MetaError::Posix(e))
    }
}

/// Result of an operation.
pub type Res<T> = Result<T, Fail>;

/// What a mutation works with.
pub struct Op<'a> {
    /// The state.
    pub tx: &'a mut dyn Tx,
    /// Master time.
    pub now: Timestamp,
    /// Who asks.
    pub creds: &'a Credentials,
    /// Under which session.
    pub session: SessionId,
    /// What the leader decided.
    pub decisions: &'a Decisions,
    /// Chains taken from the decisions so far.
    pub chains_used: usize,
    /// Deltas of recursive totals, folded once per batch.
    pub totals: &'a mut TotalsDelta,
}

/// Names of single values in [`Table::Meta`].
pub(crate) mod meta_key {
    pub(crate) const NEXT_INODE: &[u8] = b"next-inode";
    pub(crate) const NEXT_CHUNK: &[u8] = b"next-chunk";
    pub(crate) const NEXT_SESSION: &[u8] = b"next-session";
    pub(crate) const CLOCK: &[u8] = b"clock";
    pub(crate) const MARK: &[u8] = b"mark";
    pub(crate) const CLUSTER: &[u8] = b"cluster";
    pub(crate) const INODES: &[u8] = b"inodes";
    pub(crate) const CHUNKS: &[u8] = b"chunks";
}

pub(crate) fn get_number(view: &(impl View + ?Sized), name: &[u8]) -> io::Result<u64> {
    Ok(view.get(Table::Meta, name)?.map_or(0, |v| number(&v)))
}

pub(crate) fn put_number(tx: &mut dyn Tx, name: &[u8], n: u64) -> io::Result<()> {
    tx.put(Table::Meta, name, &key(n))
}

/// Takes the next number of a counter that starts at `first`.
pub(crate) fn take_number(tx: &mut dyn Tx, name: &[u8], first: u64, count: u64) -> io::Result<u64> {
    let n = get_number(tx, name)?.max(first);
    put_number(tx, name, n + count)?;
    Ok(n)
}

pub(crate) fn add_number(tx: &mut dyn Tx, name: &[u8], delta: i64) -> io::Result<()> {
    let n = get_number(tx, name)?.saturating_add_signed(delta);
    put_number(tx, name, n)
}

/// The id of the next session that is opened.
pub fn next_session(view: &(impl View + ?Sized)) -> io::Result<SessionId> {
    Ok(SessionId(get_number(view, meta_key::NEXT_SESSION)?.max(1)))
}

/// An inode, or ESTALE: an id that a client holds and that is gone.
pub fn inode(view: &(impl View + ?Sized), id: InodeId) -> Res<InodeRec> {
    Ok(load(view, Table::Inode, &key(id.get()))?.ok_or(Errno::ESTALE)?)
}

/// A directory, or ENOTDIR.
pub fn directory(view: &(impl View + ?Sized), id: InodeId) -> Res<InodeRec> {
    let rec = inode(view, id)?;
    if rec.kind == FileKind::Dir { Ok(rec) } else { Err(Errno::ENOTDIR.into()) }
}

/// An entry of a directory.
pub fn entry(view: &(impl View + ?Sized), dir: InodeId, name: &[u8]) -> io::Result<Option<EntryRec>> {
    load(view, Table::Entry, &named(dir, name))
}

/// A chunk.
pub fn chunk(view: &(impl View + ?Sized), id: mooseng_core::ids::ChunkId) -> io::Result<Option<ChunkRec>> {
    load(view, Table::Chunk, &key(id.get()))
}

/// The chunk at a place of a file.
pub fn chunk_at(
    view: &(impl View + ?Sized),
    file: InodeId,
    index: ChunkIndex,
) -> io::Result<Option<(ChunkRef, ChunkRec)>> {
    let Some(id) = view.get(Table::Map, &map_key(file, index))? else { return Ok(None) };
    let id = mooseng_core::ids::ChunkId(number(&id));
    let rec =
        chunk(view, id)?.ok_or_else(|| io::Error::other(format!("chunk {id} of {file} has no record")))?;
    Ok(Some((ChunkRef { id, version: rec.version }, rec)))
}

impl Op<'_> {
    pub(crate) fn save_inode(&mut self, id: InodeId, rec: &InodeRec) -> Res<()> {
        Ok(save(self.tx, Table::Inode, &key(id.get()), rec)?)
    }

    /// A directory in which the caller may make and remove names.
    pub(crate) fn writable_dir(&self, id: InodeId) -> Res<InodeRec> {
        let dir = directory(self.tx, id)?;
        if dir.nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
        may(self.creds, &dir, Access::WRITE.and(Access::EXEC))?;
        Ok(dir)
    }

    /// Notes a change of a directory's content. The caller saves it.
    pub(crate) fn touch_dir(&self, dir: &mut InodeRec, entries: i64, subdirs: i32) {
        dir.size = dir.size.saturating_add_signed(entries);
        dir.nlink = dir.nlink.saturating_add_signed(subdirs);
        dir.mtime = self.now;
        dir.ctime = self.now;
        dir.change += 1;
    }
}

/// Carries out one mutation. Requests of other kinds are refused.
pub fn mutate(op: &mut Op<'_>, req: &MetaRequest) -> Res<MetaReply> {
    Ok(match req {
        MetaRequest::SetAttrs(r) => MetaReply::SetAttrs(set::set_attrs(op, r)?),
        MetaRequest::Create(r) => MetaReply::Create(create::create(op, r)?),
        MetaRequest::MkDir(r) => MetaReply::MkDir(create::mkdir(op, r)?),
        MetaRequest::MkNod(r) => MetaReply::MkNod(create::mknod(op, r)?),
        MetaRequest::SymLink(r) => MetaReply::SymLink(create::symlink(op, r)?),
        MetaRequest::Link(r) => MetaReply::Link(create::link(op, r)?),
        MetaRequest::Unlink(r) => MetaReply::Unlink(remove::unlink(op, r)?),
        MetaRequest::RmDir(r) => MetaReply::RmDir(remove::rmdir(op, r)?),
        MetaRequest::Rename(r) => MetaReply::Rename(rename::rename(op, r)?),
        MetaRequest::SetXattr(r) => MetaReply::SetXattr(set::set_xattr(op, r)?),
        MetaRequest::RemoveXattr(r) => MetaReply::RemoveXattr(set::remove_xattr(op, r)?),
        MetaRequest::SetClass(r) => MetaReply::SetClass(set::set_class(op, r)?),
        MetaRequest::Allocate(r) => MetaReply::Allocate(data::allocate(op, r)?),
        MetaRequest::CommitWrite(r) => MetaReply::CommitWrite(data::commit_write(op, r)?),
        MetaRequest::WriteInline(r) => MetaReply::WriteInline(data::write_inline(op, r)?),
        MetaRequest::Truncate(r) => MetaReply::Truncate(data::truncate_open(op, r)?),
        MetaRequest::Batch(r) => MetaReply::Batch(batch(op, r)?),
        other => return Err(MetaError::Invalid(format!("{} is not a mutation", other.name())).into()),
    })
}

fn batch(op: &mut Op<'_>, r: &Batch) -> Res<Vec<bytes::Bytes>> {
    use mooseng_core::{limits::BATCH_MAX, wire};
    if r.ops.len() > BATCH_MAX {
        return Err(MetaError::Invalid(format!("a batch has at most {BATCH_MAX} operations")).into());
    }
    let decoded: Vec<MetaRequest> =
        r.ops.iter().map(|b| wire::decode(b)).collect::<Result<_, _>>().map_err(MetaError::from)?;
    if decoded.iter().any(|r| r.kind() != OpKind::FsWrite || matches!(r, MetaRequest::Batch(_))) {
        return Err(MetaError::Invalid("a batch holds mutations, and no batches".into()).into());
    }
    let mut answers = Vec::with_capacity(decoded.len());
    for req in &decoded {
        let answer = match mutate(op, req) {
            Ok(reply) => Ok(reply),
            Err(Fail::Meta(e)) => Err(e),
            Err(Fail::Io(e)) => return Err(e.into()),
        };
        let failed = answer.is_err();
        answers.push(wire::encode(&answer));
        if failed {
            break;
        }
    }
    Ok(answers)
}
