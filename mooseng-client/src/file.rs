//! [`File`]: an open file.

use crate::{
    ahead::FRESH,
    error::Result,
    vfs::{FileHandle, Vfs},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use mooseng_core::{
    attr::{Attr, SetAttr},
    context::Credentials,
};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf},
    time::Instant,
};

/// Bytes read at once behind `AsyncRead`.
const READ_STEP: u64 = 1 << 20;

/// An open file. Cheap reads and writes at positions by `&self`, side by side if wished;
/// `AsyncRead`, `AsyncWrite` and `AsyncSeek` at its own position.
///
/// A write returns when the client has the bytes. [`File::flush_all`], [`File::sync_all`] and
/// [`File::close`] tell what became of them: they fail as long as data does not reach its replicas
/// (and try again each time), and tell once when it was given up. Dropping a file closes it in the
/// background and logs what was lost.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # let cluster = mooseng_client::embedded::Cluster::builder().masters(1).chunkservers(2).start().await?;
/// # let fs = cluster.client().await?.filesystem();
/// use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
/// let mut file = fs.create("/file").await?;
/// file.write_all(b"hello, ").await?;
/// file.write_all(b"world").await?;
/// file.seek(std::io::SeekFrom::Start(7)).await?;
/// let mut text = String::new();
/// file.read_to_string(&mut text).await?;
/// assert_eq!(text, "world");
/// file.write_at(0, "HELLO").await?;
/// assert_eq!(&file.read_at(0, 5).await?[..], b"HELLO");
/// file.sync_all().await?;
/// file.close().await?;
/// # anyhow::Ok(()) }).unwrap();
/// ```
///
/// Cancel safety: a dropped read leaves nothing; a dropped write was taken whole or not at all; a
/// dropped flush or sync goes on in the background as far as it had come, and can be repeated.
pub struct File {
    vfs: Vfs,
    creds: Credentials,
    attr: Attr,
    fh: FileHandle,
    closed: bool,
    pos: u64,
    /// Read and not yet taken, at `pos`.
    ahead: Ahead,
    work: Mutex<Option<Work>>,
    seek_to: Option<io::SeekFrom>,
    /// Changes at positions so far: what was begun before one does not count after it.
    changes: AtomicU64,
}

#[derive(Default)]
struct Ahead {
    bytes: Bytes,
    changes: u64,
    /// When it was asked for.
    since: Option<Instant>,
}

impl Ahead {
    fn is_fresh(&self, changes: u64) -> bool {
        !self.bytes.is_empty() && self.changes == changes && self.since.is_some_and(|s| s.elapsed() < FRESH)
    }
}

/// What a poll began and did not end. The call may have been dropped: another one goes on with it only when it asks
/// for the same.
enum Work {
    /// At a position, after so many changes.
    Read((u64, u64, Instant), BoxFuture<'static, Result<Bytes>>),
    /// At a position.
    Write((u64, Bytes), BoxFuture<'static, Result<usize>>),
    /// After so many changes.
    Done(u64, BoxFuture<'static, Result<()>>),
    Size((), BoxFuture<'static, Result<Attr>>),
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File").field("inode", &self.attr.inode).finish_non_exhaustive()
    }
}

/// The receipt of an fsync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Synced {
    /// On how many disks it is: of the chunk that is on the fewest. One where the file is to have more copies means that no
    /// other server could take one. `None`: this client wrote to no chunk; small files are with the masters.
    pub disks: Option<u32>,
}

impl File {
    pub(crate) fn new(vfs: Vfs, creds: Credentials, attr: Attr, fh: FileHandle) -> Self {
        let (ahead, work, changes) = (Ahead::default(), Mutex::new(None), AtomicU64::new(0));
        Self { vfs, creds, attr, fh, closed: false, pos: 0, ahead, work, seek_to: None, changes }
    }

    /// Attributes when it was opened.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// Attributes now.
    pub async fn metadata(&self) -> Result<Attr> {
        self.vfs.getattr(&self.creds, self.attr.inode).await
    }

    /// Up to `len` bytes at a position; fewer only at the end of the file.
    pub async fn read_at(&self, at: u64, len: u64) -> Result<Bytes> {
        self.vfs.read(self.fh, at, len).await
    }

    /// Writes all of `data` at a position. Returns when the client has it.
    pub async fn write_at(&self, at: u64, data: impl Into<Bytes>) -> Result<()> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.vfs.write(self.fh, at, data.into()).await.map(drop)
    }

    /// Everything written is on every replica's disk on return, and the size on a quorum of
    /// masters' disks. Waits for a second disk, where the file is to have two copies or more and a server can take one.
    pub async fn sync_all(&self) -> Result<Synced> {
        self.vfs.fsync(self.fh).await
    }

    /// Everything written is in the memory of every replica on return, and the masters know the
    /// size.
    pub async fn flush_all(&self) -> Result<()> {
        self.vfs.flush(self.fh).await
    }

    /// Cuts or grows the file.
    pub async fn set_len(&self, size: u64) -> Result<()> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.vfs.setattr(&self.creds, self.attr.inode, set, Some(self.fh)).await.map(drop)
    }

    /// Flushes and closes; the error is of what was written last.
    pub async fn close(mut self) -> Result<()> {
        self.closed = true;
        self.vfs.close(self.fh).await
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let (vfs, fh) = (self.vfs.clone(), self.fh);
        match tokio::runtime::Handle::try_current() {
            // Errors are logged where they are met.
            Ok(runtime) => drop(runtime.spawn(async move { vfs.release(fh).await })),
            Err(_) => tracing::error!(
                inode = %self.attr.inode,
                "a file was dropped outside the runtime: what was written last and not flushed is lost"
            ),
        }
    }
}

/// Drives one kind of work at a time; another kind, and the same kind of something else, begins anew.
macro_rules! drive {
    ($self:ident, $cx:ident, $kind:ident, $is_it:expr, $make:expr) => {{
        let mut slot = $self.work.lock();
        if !matches!(&*slot, Some(Work::$kind(of, _)) if $is_it(of)) {
            let (of, work) = $make;
            *slot = Some(Work::$kind(of, work));
        }
        let Some(Work::$kind(_, work)) = &mut *slot else { return Poll::Pending };
        let done = ready!(work.as_mut().poll($cx));
        (slot.take(), done)
    }};
}

impl AsyncRead for File {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (vfs, fh, at, changes) = (this.vfs.clone(), this.fh, this.pos, *this.changes.get_mut());
        if !this.ahead.is_fresh(changes) {
            let is_it = |of: &(u64, u64, Instant)| (of.0, of.1) == (at, changes);
            let make = || -> (_, BoxFuture<'static, Result<Bytes>>) {
                let read = async move { vfs.read(fh, at, READ_STEP).await };
                ((at, changes, Instant::now()), Box::pin(read))
            };
            let (of, data) = drive!(this, cx, Read, is_it, make());
            let since = match of {
                Some(Work::Read((_, _, since), _)) => Some(since),
                _ => None,
            };
            this.ahead = Ahead { bytes: data.map_err(io::Error::from)?, changes, since };
        }
        let n = this.ahead.bytes.len().min(buf.remaining());
        buf.put_slice(&this.ahead.bytes.split_to(n));
        this.pos += n as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for File {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let (vfs, fh, at) = (this.vfs.clone(), this.fh, this.pos);
        let buf = &buf[..buf.len().min(READ_STEP as usize)];
        let is_it = |of: &(u64, Bytes)| of.0 == at && of.1 == buf;
        let make = || -> (_, BoxFuture<'static, Result<usize>>) {
            let data = Bytes::copy_from_slice(buf);
            ((at, data.clone()), Box::pin(async move { vfs.write(fh, at, data).await }))
        };
        let n = drive!(this, cx, Write, is_it, make()).1.map_err(io::Error::from)?;
        this.pos += n as u64;
        this.ahead = Ahead::default();
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (vfs, fh, changes) = (this.vfs.clone(), this.fh, *this.changes.get_mut());
        let make = || -> (_, BoxFuture<'static, Result<()>>) {
            (changes, Box::pin(async move { vfs.flush(fh).await }))
        };
        let (_, done) = drive!(this, cx, Done, |of: &u64| *of == changes, make());
        Poll::Ready(done.map_err(io::Error::from))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl AsyncSeek for File {
    fn start_seek(self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        let this = self.get_mut();
        this.seek_to = Some(position);
        *this.work.get_mut() = None;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let this = self.get_mut();
        let Some(to) = this.seek_to else { return Poll::Ready(Ok(this.pos)) };
        let target = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::Current(by) => this.pos.checked_add_signed(by),
            io::SeekFrom::End(by) => {
                let (vfs, creds, inode) = (this.vfs.clone(), this.creds.clone(), this.attr.inode);
                let make = || -> (_, BoxFuture<'static, Result<Attr>>) {
                    ((), Box::pin(async move { vfs.getattr(&creds, inode).await }))
                };
                let (_, attr) = drive!(this, cx, Size, |_: &()| true, make());
                attr.map_err(io::Error::from)?.size.checked_add_signed(by)
            }
        };
        this.seek_to = None;
        let at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        this.pos = at;
        this.ahead = Ahead::default();
        Poll::Ready(Ok(at))
    }
}
