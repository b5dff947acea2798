//! JSON of files: attributes, and where their chunks are.

use super::{kind, replica_state, time};
use mooseng_core::{attr::Attr, meta::ChunkInfo};
use serde::Serialize;
use serde_json::{Value, json};

/// One item of `mooseng.files/1`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FileItem {
    /// Its path, or its name in the directory that is listed.
    pub path: String,
    /// What it is, as [`kind`] says it.
    pub kind: &'static str,
    /// Permission bits, octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that it has.
    pub links: u32,
    /// Bytes of content.
    pub size: u64,
    /// Bytes that are not holes.
    pub allocated: u64,
    /// Its inode.
    pub inode: u64,
    /// When its content changed.
    pub modified: String,
    /// When it was read.
    pub accessed: String,
    /// When anything of it changed.
    pub changed: String,
    /// When it was made.
    pub created: String,
    /// Of a symbolic link: where it leads.
    pub target: Option<String>,
}

impl FileItem {
    /// From attributes. `target`: of a symbolic link.
    pub fn new(path: impl Into<String>, attr: &Attr, target: Option<String>) -> Self {
        Self {
            path: path.into(),
            kind: kind(attr.kind),
            mode: format!("{:04o}", attr.mode),
            uid: attr.uid,
            gid: attr.gid,
            links: attr.nlink,
            size: attr.size,
            allocated: attr.allocated,
            inode: attr.inode.get(),
            modified: time(attr.mtime),
            accessed: time(attr.atime),
            changed: time(attr.ctime),
            created: time(attr.crtime),
            target,
        }
    }
}

/// One chunk of `mooseng.info/1`.
pub fn chunk_item(c: &ChunkInfo) -> Value {
    json!({
        "index": c.index.get(),
        "chunk": format!("{:016x}", c.chunk.id.get()),
        "version": c.chunk.version.get(),
        "wanted": c.wanted,
        "changing": c.changing,
        "replicas": c.replicas.iter().map(|r| json!({
            "server": r.place.server.get(), "addr": r.place.addr, "alive": r.alive,
            "state": replica_state(r.state), "version": r.version.map(|v| v.get()),
        })).collect::<Vec<_>>(),
    })
}

/// `mooseng.info/1`: where a file's content is. `inline`: inside the inode.
pub fn info(path: &str, attr: &Attr, inline: bool, chunks: &[ChunkInfo]) -> Value {
    json!({
        "schema": "mooseng.info/1",
        "path": path,
        "inode": attr.inode.get(),
        "size": attr.size,
        "inline": inline,
        "chunks": chunks.iter().map(chunk_item).collect::<Vec<_>>(),
    })
}
