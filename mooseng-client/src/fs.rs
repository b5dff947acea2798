//! [`Filesystem`]: files by path, with the names of `tokio::fs`.

use crate::{
    client::Client,
    error::{Error, Result},
    file::File,
    vfs::OpenFlags,
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use mooseng_core::{
    attr::{Attr, FileKind, SetAttr},
    context::Credentials,
    error::{Errno, MetaError},
    ids::{ChunkIndex, InodeId},
    limits::LAYOUT_CHUNKS_MAX,
    meta::*,
    name::{Name, NameError},
};

/// Symbolic links followed in one path (Linux MAXSYMLINKS).
const LINKS_MAX: u32 = 40;
/// Walks to a file that is replaced again and again, after each of which it was gone when opened.
const WALKS_MAX: u32 = 10;
const DIR_PAGE: u32 = 512;
/// Bytes copied at once.
const COPY_STEP: u64 = 1 << 20;

/// Files by path, as one user. Paths are absolute or relative to the root; `..` is allowed but as the
/// last name of what is made, removed or renamed; the empty path names nothing (ENOENT).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let cluster = mooseng_client::embedded::Cluster::builder().masters(1).chunkservers(2).start().await?;
/// use futures::StreamExt as _;
/// use mooseng_core::context::Credentials;
/// let fs = cluster.client().await?.filesystem();
/// fs.create_dir_all("/a/b").await?;
/// fs.write("/a/b/file", "content").await?;
/// fs.set_permissions("/a/b/file", 0o600).await?;
/// let names: Vec<_> = fs.read_dir("/a/b").map(|e| e.unwrap().name.to_string()).collect().await;
/// assert_eq!(names, ["file"]);
/// let other = fs.with_credentials(Credentials::user(1000, 1000));
/// assert_eq!(other.read("/a/b/file").await.unwrap_err().kind(), mooseng_client::ErrorKind::PermissionDenied);
/// # anyhow::Ok(()) }).unwrap();
/// ```
///
/// Cancel safety: a dropped future changes nothing later; what it had asked of the masters may have
/// been carried out or not.
#[derive(Clone, Debug)]
pub struct Filesystem {
    client: Client,
    creds: Credentials,
}

/// Splits a path; a NUL, or a name over 255 bytes, is refused here.
fn names(path: &str) -> Result<Vec<Option<Name>>> {
    if path.contains('\0') {
        return Err(Error::Invalid("a path cannot contain NUL".into()));
    }
    let parts = path.split('/').filter(|p| !p.is_empty() && *p != ".");
    parts
        .map(|p| match Name::new(p) {
            Ok(name) => Ok(Some(name)),
            Err(NameError::Dots) => Ok(None),
            Err(e) => Err(MetaError::Name(e).into()),
        })
        .collect()
}

impl Filesystem {
    pub(crate) fn new(client: Client, creds: Credentials) -> Self {
        Self { client, creds }
    }

    /// The same filesystem as another user: the masters check what it may.
    #[must_use]
    pub fn with_credentials(&self, creds: Credentials) -> Self {
        Self { client: self.client.clone(), creds }
    }

    /// Walks a path. `follow`: whether a symbolic link at its end is followed.
    async fn walk(&self, path: &str, follow: bool) -> Result<Attr> {
        if path.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        let vfs = self.client.vfs();
        let mut todo: Vec<_> = names(path)?.into_iter().rev().collect();
        let mut above: Vec<Attr> = Vec::new();
        let mut at = vfs.getattr(&self.creds, InodeId::ROOT).await?;
        let mut links = 0;
        while let Some(part) = todo.pop() {
            let Some(name) = part else {
                at = above.pop().unwrap_or(at);
                continue;
            };
            let found = vfs.lookup(&self.creds, at.inode, &name).await?;
            if found.kind != FileKind::Symlink || (todo.is_empty() && !follow) {
                above.push(std::mem::replace(&mut at, found));
                continue;
            }
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::ELOOP.into());
            }
            let target = vfs.readlink(&self.creds, found.inode).await?;
            let target = String::from_utf8_lossy(&target).into_owned();
            if target.starts_with('/') {
                above.clear();
                at = vfs.getattr(&self.creds, InodeId::ROOT).await?;
            }
            todo.extend(names(&target)?.into_iter().rev());
        }
        Ok(at)
    }

    /// The directory of a path's last name, and that name.
    async fn parent(&self, path: &str) -> Result<(InodeId, Name)> {
        let path = path.trim_end_matches('/');
        let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
        let name = Name::new(last).map_err(MetaError::Name)?;
        let dir = self.walk(if dir.is_empty() { "/" } else { dir }, true).await?;
        if dir.kind != FileKind::Dir {
            return Err(Errno::ENOTDIR.into());
        }
        Ok((dir.inode, name))
    }

    /// Attributes; symbolic links are followed.
    pub async fn metadata(&self, path: &str) -> Result<Attr> {
        self.walk(path, true).await
    }

    /// Attributes of what the path names itself.
    pub async fn symlink_metadata(&self, path: &str) -> Result<Attr> {
        self.walk(path, false).await
    }

    /// Whether something is there.
    pub async fn exists(&self, path: &str) -> Result<bool> {
        match self.metadata(path).await {
            Ok(_) => Ok(true),
            Err(e) if e.errno() == Errno::ENOENT => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Opens a file as the flags say; `mode` counts when it is made.
    pub async fn open_with(&self, path: &str, flags: OpenFlags, mode: u32) -> Result<File> {
        let vfs = self.client.vfs().clone();
        if flags.create {
            let (dir, name) = self.parent(path).await?;
            match vfs.create(&self.creds, dir, &name, mode, flags).await {
                Ok((attr, fh)) => return Ok(File::new(vfs, self.creds.clone(), attr, fh)),
                // A symbolic link is followed, unless it must not be there.
                Err(e) if e.errno() == Errno::ELOOP && !flags.exclusive => {}
                Err(e) => return Err(e),
            }
        }
        let mut walks = 0;
        loop {
            walks += 1;
            let inode = self.walk(path, true).await?.inode;
            match vfs.open(&self.creds, inode, flags).await {
                Ok((attr, fh)) => return Ok(File::new(vfs, self.creds.clone(), attr, fh)),
                // It was replaced by a rename after the walk: the name names another one now.
                Err(e) if e.errno() == Errno::ESTALE && walks < WALKS_MAX => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Opens a file for reading.
    pub async fn open(&self, path: &str) -> Result<File> {
        self.open_with(path, OpenFlags { read: true, ..OpenFlags::default() }, 0).await
    }

    /// Opens a file for writing, made or cut to nothing.
    pub async fn create(&self, path: &str) -> Result<File> {
        let flags =
            OpenFlags { read: true, write: true, create: true, truncate: true, ..OpenFlags::default() };
        self.open_with(path, flags, 0o644).await
    }

    /// The whole content of a file.
    pub async fn read(&self, path: &str) -> Result<Bytes> {
        let file = self.open(path).await?;
        let data = file.read_at(0, file.attr().size).await;
        file.close().await?;
        data
    }

    /// The whole content of a file that is UTF-8.
    pub async fn read_to_string(&self, path: &str) -> Result<String> {
        let data = self.read(path).await?;
        String::from_utf8(data.into()).map_err(|_| Error::Invalid(format!("{path} is not UTF-8")))
    }

    /// Copies the content of a file over another, made when it is not there; how many bytes.
    pub async fn copy(&self, from: &str, to: &str) -> Result<u64> {
        let (source, target) = (self.open(from).await?, self.create(to).await?);
        let mut at = 0;
        loop {
            let data = source.read_at(at, COPY_STEP).await?;
            if data.is_empty() {
                break;
            }
            let len = data.len() as u64;
            target.write_at(at, data).await?;
            at += len;
        }
        target.close().await?;
        source.close().await?;
        Ok(at)
    }

    /// Changes the permission bits.
    pub async fn set_permissions(&self, path: &str, mode: u32) -> Result<()> {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        self.set_attr(path, set).await.map(drop)
    }

    /// Replaces the content of a file; made when it is not there. Closed on return, not synced.
    pub async fn write(&self, path: &str, data: impl Into<Bytes>) -> Result<()> {
        let file = self.create(path).await?;
        file.write_at(0, data.into()).await?;
        file.close().await
    }

    /// The entries of a directory, in the order they were made.
    pub fn read_dir(&self, path: &str) -> impl Stream<Item = Result<DirEntry>> + Send + 'static {
        let (this, path) = (self.clone(), path.to_owned());
        let stream = async_stream::try_stream! {
            let dir = this.walk(&path, true).await?.inode;
            let mut after = DirCookie(0);
            loop {
                let page = this.client.vfs().readdir(&this.creds, dir, after, DIR_PAGE, true).await?;
                let eof = page.eof || page.entries.is_empty();
                for entry in page.entries {
                    after = entry.cookie;
                    yield entry;
                }
                if eof {
                    break;
                }
            }
        };
        stream.boxed()
    }

    /// Makes a directory.
    pub async fn create_dir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.parent(path).await?;
        self.client.vfs().mkdir(&self.creds, dir, &name, 0o755).await.map(drop)
    }

    /// Makes a directory and those above it that are not there.
    pub async fn create_dir_all(&self, path: &str) -> Result<()> {
        let mut at = String::new();
        for name in names(path)?.into_iter() {
            at.push('/');
            match name {
                Some(n) => at.push_str(&n.to_string()),
                None => at.push_str(".."),
            }
            match self.create_dir(&at).await {
                Ok(()) => {}
                Err(e) if matches!(e.errno(), Errno::EEXIST | Errno::EINVAL) => {}
                Err(e) => return Err(e),
            }
        }
        match self.metadata(path).await?.kind {
            FileKind::Dir => Ok(()),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    /// Removes a name that is not a directory's.
    pub async fn remove_file(&self, path: &str) -> Result<()> {
        let (dir, name) = self.parent(path).await?;
        self.client.vfs().unlink(&self.creds, dir, &name).await
    }

    /// Removes an empty directory.
    pub async fn remove_dir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.parent(path).await?;
        self.client.vfs().rmdir(&self.creds, dir, &name).await
    }

    /// Removes a directory and everything below it. Symbolic links are removed, never followed: the
    /// walk goes by inodes, so that a name that is exchanged meanwhile leads nowhere else.
    pub async fn remove_dir_all(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path).await?;
        let dir = self.client.vfs().lookup(&self.creds, parent, &name).await?;
        if dir.kind != FileKind::Dir {
            return Err(Errno::ENOTDIR.into());
        }
        self.empty(dir.inode).await?;
        self.client.vfs().rmdir(&self.creds, parent, &name).await
    }

    /// Removes all that is below a directory. What others removed meanwhile is no error.
    async fn empty(&self, dir: InodeId) -> Result<()> {
        let vfs = self.client.vfs();
        let mut after = DirCookie(0);
        loop {
            let page = vfs.readdir(&self.creds, dir, after, DIR_PAGE, false).await?;
            let eof = page.eof || page.entries.is_empty();
            for entry in page.entries {
                after = entry.cookie;
                let removed = if entry.kind == FileKind::Dir {
                    Box::pin(self.empty(entry.inode)).await?;
                    vfs.rmdir(&self.creds, dir, &entry.name).await
                } else {
                    vfs.unlink(&self.creds, dir, &entry.name).await
                };
                match removed {
                    Err(e) if e.errno() != Errno::ENOENT => return Err(e),
                    _ => {}
                }
            }
            if eof {
                return Ok(());
            }
        }
    }

    /// Renames, replacing what is there.
    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from_dir, from_name) = self.parent(from).await?;
        let (to_dir, to_name) = self.parent(to).await?;
        let (from, to) = ((from_dir, &from_name), (to_dir, &to_name));
        self.client.vfs().rename(&self.creds, from, to, RenameMode::Replace).await
    }

    /// Adds a name to a file.
    pub async fn hard_link(&self, original: &str, link: &str) -> Result<()> {
        let inode = self.walk(original, false).await?.inode;
        let (dir, name) = self.parent(link).await?;
        self.client.vfs().link(&self.creds, inode, dir, &name).await.map(drop)
    }

    /// Makes a symbolic link.
    pub async fn symlink(&self, target: &str, link: &str) -> Result<()> {
        let (dir, name) = self.parent(link).await?;
        let target = Bytes::copy_from_slice(target.as_bytes());
        self.client.vfs().symlink(&self.creds, dir, &name, target).await.map(drop)
    }

    /// Target of a symbolic link.
    pub async fn read_link(&self, path: &str) -> Result<Bytes> {
        let inode = self.walk(path, false).await?.inode;
        self.client.vfs().readlink(&self.creds, inode).await
    }

    /// Changes attributes.
    pub async fn set_attr(&self, path: &str, set: SetAttr) -> Result<Attr> {
        let inode = self.walk(path, true).await?.inode;
        self.client.vfs().setattr(&self.creds, inode, set, None).await
    }

    /// Recursive totals, in one call.
    pub async fn totals(&self, path: &str) -> Result<Totals> {
        let inode = self.walk(path, true).await?.inode;
        self.client.vfs().request(&self.creds, GetTotals { inode }).await
    }

    /// Sets the storage class of a file, or of what will be made in a directory.
    pub async fn set_class(&self, path: &str, class: StorageClass) -> Result<()> {
        let inode = self.walk(path, true).await?.inode;
        self.client.vfs().request(&self.creds, SetClass { inode, class }).await
    }

    /// Where up to 64 chunks of a file are, from one on: their replicas, as the servers that have them say now. A hole
    /// has no chunk. Empty of what is no regular file, and past the end.
    pub async fn chunks_from(&self, path: &str, from: ChunkIndex) -> Result<Vec<ChunkInfo>> {
        let inode = self.walk(path, true).await?.inode;
        let op = GetChunks { inode, from, count: LAYOUT_CHUNKS_MAX };
        self.client.vfs().request(&self.creds, op).await
    }

    /// Up to `max` entries of a directory, in the order they were made, after a place (0: from the first); and whether
    /// the directory ends there. A page may have fewer.
    pub async fn read_dir_page(&self, path: &str, after: DirCookie, max: u32) -> Result<DirPage> {
        let dir = self.walk(path, true).await?.inode;
        self.client.vfs().readdir(&self.creds, dir, after, max, true).await
    }

    /// Chunks of a file with their replicas.
    pub async fn chunks(&self, path: &str) -> Result<Vec<ChunkInfo>> {
        let attr = self.walk(path, true).await?;
        let (mut all, mut from) = (Vec::new(), 0);
        let end = attr.size.div_ceil(mooseng_core::limits::CHUNK_BYTES);
        while from < end {
            let op = GetChunks { inode: attr.inode, from: ChunkIndex(from), count: LAYOUT_CHUNKS_MAX };
            all.extend(self.client.vfs().request(&self.creds, op).await?);
            from += u64::from(LAYOUT_CHUNKS_MAX);
        }
        Ok(all)
    }

    /// Space and inodes.
    pub async fn stat_fs(&self) -> Result<FsStat> {
        self.client.vfs().statfs(&self.creds).await
    }
}
