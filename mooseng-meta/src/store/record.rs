//! Records: a version byte and a postcard body. Golden bytes pin them.

use super::{Table, Tx, View};
use bytes::Bytes;
use mooseng_core::{
    attr::{Attr, FileKind, Timestamp},
    capability::PublicKey,
    ids::*,
    join::Promise,
    limits::{BLOCK_BYTES, CHUNK_BYTES},
    meta::{DirCookie, StorageClass},
    net::CertHash,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;

/// Version of the records written now.
pub const RECORD_VERSION: u8 = 1;

/// An inode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InodeRec {
    /// Kind.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Links; directories count 2 and their directories.
    pub nlink: u32,
    /// Bytes, or entries of a directory.
    pub size: u64,
    /// Device number.
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change.
    pub ctime: Timestamp,
    /// When it was made.
    pub crtime: Timestamp,
    /// Rises with every change.
    pub change: u64,
    /// The directory it is in; of a file, the one of its first link, which counts its bytes.
    pub parent: InodeId,
    /// Placement of its chunks, or of what is made in it.
    pub class: StorageClass,
    /// Rises with every shrinking truncate.
    pub truncates: TruncateCounter,
    /// Chunks it has.
    pub chunks: u64,
    /// Cookie of the next entry.
    pub next_cookie: DirCookie,
    /// Content of a small file, target of a symbolic link.
    pub inline: Option<Bytes>,
}

impl InodeRec {
    /// What `stat` tells of it.
    pub fn attr(&self, inode: InodeId) -> Attr {
        let allocated = match &self.inline {
            Some(data) => (data.len() as u64).next_multiple_of(512),
            None if self.kind == FileKind::File => {
                self.size.next_multiple_of(BLOCK_BYTES).min(self.chunks.saturating_mul(CHUNK_BYTES))
            }
            None => 0,
        };
        Attr {
            inode,
            generation: Generation(0),
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: self.size,
            allocated,
            rdev: self.rdev,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            crtime: self.crtime,
            change: self.change,
        }
    }
    /// Bytes that it adds to the totals of its directory.
    pub fn counted_bytes(&self) -> u64 {
        if matches!(self.kind, FileKind::File | FileKind::Symlink) { self.size } else { 0 }
    }
}

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntryRec {
    /// What it names.
    pub inode: InodeId,
    /// Of which kind.
    pub kind: FileKind,
    /// Where it is in its directory.
    pub cookie: DirCookie,
}

impl ChunkRec {
    /// The newest version that is being made, or the open one.
    pub fn newest(&self) -> ChunkVersion {
        self.pending.as_ref().map_or(self.version, |b| b.version)
    }
}

/// A bump under way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PendingBump {
    /// The version being made.
    pub version: ChunkVersion,
    /// Members that go on.
    pub survivors: Vec<ServerId>,
    /// The one survivor is a suspect, which becomes good as it is.
    pub settles: bool,
    /// Members being filled.
    pub joining: Vec<ServerId>,
    /// Cut to this many bytes.
    pub cut_to: Option<u64>,
}

/// A chunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkRec {
    /// The version that is open.
    pub version: ChunkVersion,
    /// Members in chain order.
    pub members: Vec<ServerId>,
    /// Copies wanted.
    pub wanted: u8,
    /// Whose.
    pub inode: InodeId,
    /// Where in the file.
    pub index: ChunkIndex,
    /// Whether a size commit has named it; before, chunkservers make it with the first write.
    pub committed: bool,
    /// The version that was open at the first commit: every set since has all that was acknowledged to the
    /// one before, and nothing else may have what was acknowledged at an older version.
    pub since: ChunkVersion,
    /// A bump under way.
    pub pending: Option<PendingBump>,
    /// A cut that a truncate wants and no bump has begun.
    pub cut_to: Option<u64>,
    /// Who moves the file's inline data here, since when. Until that is committed, nobody else may
    /// write here: a late copy of the inline data would undo what others wrote.
    pub mover: Option<(SessionId, Timestamp)>,
}

/// A chunk that no file has any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeletingRec {
    /// At which version, or below.
    pub version: ChunkVersion,
    /// Servers that have not confirmed yet.
    pub holders: Vec<ServerId>,
}

/// A session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionRec {
    /// Epoch in force.
    pub epoch: SessionEpoch,
    /// The client's certificate.
    pub cert: CertHash,
    /// What it called itself.
    pub client: String,
    /// Its host.
    pub host: String,
    /// Its version.
    pub version: String,
    /// When it was opened.
    pub since: Timestamp,
    /// Of its opening, so that a repeat opens no second one.
    pub nonce: u64,
}

/// The last mutation of a slot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotRec {
    /// Its number.
    pub seq: SlotSeq,
    /// CRC32C of the encoded request: another request under the same number is an error.
    pub request: u32,
    /// Whether all of it was carried out.
    pub whole: bool,
    /// The encoded answer.
    pub reply: Bytes,
}

/// Sessions that keep an unlinked inode alive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OrphanRec {
    /// The sessions, in order.
    pub holders: Vec<SessionId>,
}

/// A chunkserver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerRec {
    /// Where it answers.
    pub addr: String,
    /// Its last known start.
    pub incarnation: Incarnation,
}

/// A signing key's public half.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyRec {
    /// The key.
    pub key: PublicKey,
    /// Whose.
    pub master: MasterId,
    /// Since when.
    pub since: Timestamp,
    /// When another one came into use: what it signed expires from then on. `None` of the leader's.
    pub unused: Option<Timestamp>,
}

/// A join token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenRec {
    /// What it is good for.
    pub promise: Promise,
    /// SHA-256 of the signing request that used it up.
    pub used: Option<[u8; 32]>,
}

fn damaged(table: Table, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a record of table {table:?} does not decode: {why}"))
}

/// Encodes a record.
pub fn encode_rec<T: Serialize>(rec: &T) -> Vec<u8> {
    postcard::to_extend(rec, vec![RECORD_VERSION]).expect("our records have known lengths")
}

/// Decodes a record.
pub fn decode_rec<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> io::Result<T> {
    match bytes.split_first() {
        Some((&RECORD_VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((rec, [])) => Ok(rec),
            Ok(_) => Err(damaged(table, "bytes left over")),
            Err(e) => Err(damaged(table, e)),
        },
        Some((v, _)) => Err(damaged(table, format!("version {v} is newer than this program"))),
        None => Err(damaged(table, "it is empty")),
    }
}

/// Reads a record.
pub fn load<T: DeserializeOwned>(
    view: &(impl View + ?Sized),
    table: Table,
    key: &[u8],
) -> io::Result<Option<T>> {
    view.get(table, key)?.map(|b| decode_rec(table, &b)).transpose()
}

/// Writes a record.
pub fn save<T: Serialize>(tx: &mut dyn Tx, table: Table, key: &[u8], rec: &T) -> io::Result<()> {
    tx.put(table, key, &encode_rec(rec))
}

/// Visits records of a range in key order; `false` ends the visit.
pub fn scan_recs<T: DeserializeOwned>(
    view: &(impl View + ?Sized),
    table: Table,
    from: &[u8],
    to: &[u8],
    mut visit: impl FnMut(&[u8], T) -> bool,
) -> io::Result<()> {
    let mut failed = None;
    view.scan(table, from, to, &mut |k, v| match decode_rec(table, v) {
        Ok(rec) => visit(k, rec),
        Err(e) => {
            failed = Some(e);
            false
        }
    })?;
    failed.map_or(Ok(()), Err)
}
