//! Trees of files, here and in the cluster: what is below, how a file is read and written whole.

use crate::exit::usage;
use anyhow::{Context as _, Result, anyhow};
use async_stream::try_stream;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use mooseng_client::{Filesystem, vfs::OpenFlags};
use mooseng_core::{
    attr::{FileKind, SetAttr},
    error::Errno,
    name::Name,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes read or written at once.
const STEP: u64 = 1 << 20;
/// Reads of one file in flight.
const AHEAD: usize = 4;

/// What something is, of what a copy knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Dir,
    File { size: u64, mode: u32 },
    Link { target: String },
}

/// One thing of a tree: its path below the root, empty for the root itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub path: String,
    pub kind: Kind,
}

/// A path below a path.
pub(crate) fn join(dir: &str, name: &str) -> String {
    match name {
        "" => dir.to_owned(),
        name => format!("{}/{name}", dir.trim_end_matches('/')),
    }
}

/// The last name of a path.
pub(crate) fn last(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// A name of the cluster as text, which paths are made of.
pub(crate) fn text(name: &Name) -> Result<String> {
    let text = String::from_utf8(name.as_bytes().to_vec());
    text.map_err(|_| anyhow!("the name {name} is not UTF-8: the command line cannot handle it, a mount can"))
}

/// `to`, or `to/name` when `to` is a directory.
pub(crate) async fn into_dir(fs: &Filesystem, to: &str, name: &str) -> Result<String> {
    match fs.metadata(to).await {
        Ok(attr) if attr.kind == FileKind::Dir => Ok(join(to, name)),
        Ok(_) => Ok(to.into()),
        Err(e) if e.errno() == Errno::ENOENT => Ok(to.into()),
        Err(e) => Err(e).with_context(|| to.to_owned()),
    }
}

/// Everything of a tree in the cluster, directories before what is in them.
pub(crate) async fn walk_cluster(fs: &Filesystem, root: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut dirs = vec![String::new()];
    // What is named is followed, what is below is not, as with cp -r.
    let attr = fs.metadata(root).await.with_context(|| root.to_owned())?;
    if attr.kind != FileKind::Dir {
        dirs.clear();
        entries.push(cluster_entry(fs, root, String::new(), &attr).await?);
    } else {
        entries.push(Entry { path: String::new(), kind: Kind::Dir });
    }
    while let Some(dir) = dirs.pop() {
        let at = join(root, &dir);
        let mut below = fs.read_dir(&at);
        while let Some(entry) = below.next().await {
            let entry = entry.with_context(|| at.clone())?;
            let name = text(&entry.name)?;
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let whole = join(root, &path);
            let attr = match entry.attr {
                Some(attr) => attr,
                None => fs.symlink_metadata(&whole).await.with_context(|| whole.clone())?,
            };
            if attr.kind == FileKind::Dir {
                dirs.push(path.clone());
            }
            entries.push(cluster_entry(fs, &whole, path, &attr).await?);
        }
    }
    Ok(entries)
}

async fn cluster_entry(
    fs: &Filesystem,
    whole: &str,
    path: String,
    attr: &mooseng_core::attr::Attr,
) -> Result<Entry> {
    let kind = match attr.kind {
        FileKind::Dir => Kind::Dir,
        FileKind::File => Kind::File { size: attr.size, mode: attr.mode },
        FileKind::Symlink => {
            let target = fs.read_link(whole).await.with_context(|| whole.to_owned())?;
            let target = String::from_utf8(target.to_vec());
            Kind::Link { target: target.with_context(|| format!("the target of {whole} is not UTF-8"))? }
        }
        _ => return Err(anyhow!("{whole} is neither file, directory nor symbolic link: it is not copied")),
    };
    Ok(Entry { path, kind })
}

/// The same of a local tree. Blocks.
pub(crate) fn walk_local(root: &Path) -> Result<Vec<Entry>> {
    let about = |p: &Path| p.display().to_string();
    let meta = fs::metadata(root).with_context(|| about(root))?;
    let mut entries = vec![local_entry(root, String::new(), &meta)?];
    let mut dirs = if meta.is_dir() { vec![(root.to_path_buf(), String::new())] } else { Vec::new() };
    while let Some((dir, path)) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| about(&dir))? {
            let entry = entry.with_context(|| about(&dir))?;
            let name = entry.file_name().into_string();
            let name =
                name.map_err(|n| anyhow!("the name {} in {} is not UTF-8", n.display(), dir.display()))?;
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            let meta = entry.metadata().with_context(|| about(&entry.path()))?;
            entries.push(local_entry(&entry.path(), path.clone(), &meta)?);
            if meta.is_dir() {
                dirs.push((entry.path(), path));
            }
        }
    }
    Ok(entries)
}

fn local_entry(at: &Path, path: String, meta: &fs::Metadata) -> Result<Entry> {
    let kind = if meta.is_dir() {
        Kind::Dir
    } else if meta.is_file() {
        Kind::File { size: meta.len(), mode: meta.permissions().mode() & 0o777 }
    } else if meta.is_symlink() {
        let target = fs::read_link(at).with_context(|| at.display().to_string())?;
        let target = target.into_os_string().into_string();
        Kind::Link { target: target.map_err(|_| anyhow!("the target of {} is not UTF-8", at.display()))? }
    } else {
        return Err(anyhow!(
            "{} is neither file, directory nor symbolic link: it is not copied",
            at.display()
        ));
    };
    Ok(Entry { path, kind })
}

/// Pieces of a file in the cluster, as long as it was when it was opened.
pub(crate) fn read_cluster(fs: &Filesystem, path: &str) -> impl Stream<Item = Result<Bytes>> + use<> {
    let (fs, path) = (fs.clone(), path.to_owned());
    try_stream! {
        let file = fs.open(&path).await?;
        let size = file.attr().size;
        {
            let starts = (0..size).step_by(STEP as usize);
            let mut pieces = stream::iter(starts.map(|at| file.read_at(at, STEP.min(size - at)))).buffered(AHEAD);
            while let Some(piece) = pieces.try_next().await? {
                yield piece;
            }
        }
        file.close().await?;
    }
}

/// Pieces of a local file, or of the standard input.
pub(crate) fn read_local(mut from: impl AsyncRead + Unpin) -> impl Stream<Item = Result<Bytes>> {
    try_stream! {
        loop {
            let mut buffer = BytesMut::with_capacity(STEP as usize);
            while buffer.len() < STEP as usize && (&mut from).take(STEP - buffer.len() as u64).read_buf(&mut buffer).await? > 0 {}
            if buffer.is_empty() {
                break;
            }
            yield buffer.freeze();
        }
    }
}

/// What is not whole yet: removed when the user gives up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Part {
    Cluster(String),
    Local(PathBuf),
}

/// The parts of one verb that are not whole yet.
#[derive(Debug, Default)]
pub(crate) struct Parts(Mutex<BTreeSet<Part>>);

/// Listed as long as it lives.
struct Listed<'a>(&'a Parts, Part);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.0.lock().remove(&self.1);
    }
}

impl Parts {
    fn list(&self, part: Part) -> Listed<'_> {
        self.0.lock().insert(part.clone());
        Listed(self, part)
    }

    /// Gives `work` up and removes what it left half done.
    pub(crate) async fn give_up<T>(&self, fs: &Filesystem, work: impl Future<Output = T>) {
        let parts = self.0.lock().clone();
        drop(work);
        for part in parts {
            // It may not have been made yet, or be whole by now.
            let _ = match part {
                Part::Cluster(path) => fs.remove_file(&path).await.map_err(anyhow::Error::from),
                Part::Local(path) => tokio::fs::remove_file(path).await.map_err(anyhow::Error::from),
            };
        }
    }
}

/// A name beside `path` that nobody else uses, for what is not whole yet.
fn beside(path: &str, name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let short: String = name.chars().take(40).collect();
    let dir = path.strip_suffix(name).unwrap_or_default();
    format!("{dir}.{short}.mooseng-{}-{n}.part", std::process::id())
}

/// Writes a file of the cluster whole or not at all: to a name beside it, synced, then renamed.
pub(crate) async fn write_cluster(
    (fs, parts): (&Filesystem, &Parts),
    path: &str,
    mode: u32,
    pieces: impl Stream<Item = Result<Bytes>>,
    mut progress: impl FnMut(u64),
) -> Result<()> {
    let path = path.trim_end_matches('/');
    if last(path).is_empty() {
        return Err(usage("the target has no name"));
    }
    let part = beside(path, last(path));
    let _listed = parts.list(Part::Cluster(part.clone()));
    let work = async {
        let flags = OpenFlags { write: true, create: true, exclusive: true, ..OpenFlags::default() };
        let file = fs.open_with(&part, flags, mode).await?;
        let mut pieces = std::pin::pin!(pieces);
        let mut at = 0;
        while let Some(piece) = pieces.try_next().await? {
            let len = piece.len() as u64;
            file.write_at(at, piece).await?;
            at += len;
            progress(len);
        }
        file.sync_all().await?;
        file.close().await?;
        fs.set_attr(&part, SetAttr { mode: Some(mode), ..SetAttr::default() }).await?;
        fs.rename(&part, path).await?;
        Ok(())
    };
    let done: Result<()> = work.await;
    if done.is_err() {
        // It may never have been made; the error tells what went wrong.
        let _ = fs.remove_file(&part).await;
    }
    done.with_context(|| path.to_owned())
}

/// Writes a local file whole or not at all.
pub(crate) async fn write_local(
    parts: &Parts,
    path: &Path,
    mode: u32,
    pieces: impl Stream<Item = Result<Bytes>>,
    mut progress: impl FnMut(u64),
) -> Result<()> {
    let shown = path.display().to_string();
    let name =
        path.file_name().ok_or_else(|| usage(format!("{shown} has no name")))?.to_string_lossy().into_owned();
    let part: PathBuf = path.with_file_name(beside(&name, &name));
    let _listed = parts.list(Part::Local(part.clone()));
    let work = async {
        let mut options = tokio::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&part).await?;
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.try_next().await? {
            file.write_all(&piece).await?;
            progress(piece.len() as u64);
        }
        file.flush().await?;
        file.sync_all().await?;
        file.set_permissions(fs::Permissions::from_mode(mode & 0o777)).await?;
        tokio::fs::rename(&part, path).await?;
        Ok(())
    };
    let done: Result<()> = work.await;
    if done.is_err() {
        let _ = tokio::fs::remove_file(&part).await;
    }
    done.with_context(|| shown)
}
