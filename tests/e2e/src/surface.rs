//! The two ways in, the SDK and a mount, as one set of blocking calls: what makes load and what
//! judges it is written once.

use crate::cluster::ProcessCluster;
use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use mooseng_client::{Client, File, Filesystem};
use mooseng_net::{
    identity::Identity,
    quic::{QuicOptions, QuicTransport},
};
use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{runtime::Handle, sync::watch};

/// A client of the SDK, named for the cluster's list of sessions.
pub async fn connect(cluster: &ProcessCluster, name: &str, deadline: Duration) -> Result<Client> {
    connect_to(cluster, cluster.master_addrs.clone(), name, deadline).await
}

/// As [`connect`], which begins with these masters alone.
pub async fn connect_to(
    cluster: &ProcessCluster,
    masters: Vec<String>,
    name: &str,
    deadline: Duration,
) -> Result<Client> {
    let me = Identity::load(&cluster.identity("admin"))?;
    let client = Client::builder()
        .masters(masters)
        .transport(QuicTransport::new(&me, QuicOptions::default())?)
        .seams(mooseng_host::host_seams())
        .deadline(deadline)
        .name(name)
        .connect();
    Ok(client.await?)
}

/// A file that stays open.
pub trait Open: Send {
    /// Writes; the caller may have to wait for room, not for replicas.
    fn write_at(&self, at: u64, data: &[u8]) -> Result<()>;
    /// fsync.
    fn sync(&self) -> Result<()>;
    /// Closes, and tells what became of the data.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Calls of a filesystem; paths are relative to its root.
pub trait Surface: Send + Sync {
    /// Makes a directory; one that is there is fine.
    fn make_dir(&self, path: &str) -> Result<()>;
    /// Makes or cuts a file and opens it.
    fn create(&self, path: &str) -> Result<Box<dyn Open>>;
    /// Opens a file that is there for writing.
    fn open(&self, path: &str) -> Result<Box<dyn Open>>;
    /// Renames.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> Result<()>;
    /// The content of a file; `None` where there is none.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>>;
    /// Names in a directory.
    fn names(&self, path: &str) -> Result<Vec<String>>;
    /// Makes a file with this content and closes it, with an fsync before if wished.
    fn put(&self, path: &str, data: &[u8], sync: bool) -> Result<()> {
        let file = self.create(path)?;
        file.write_at(0, data)?;
        if sync {
            file.sync()?;
        }
        file.close()
    }
}

/// Through the SDK. Its calls are for threads outside of the runtime.
#[derive(Clone)]
pub struct Sdk {
    /// The client's filesystem.
    pub fs: Filesystem,
    run: Run,
}

/// Runs calls to their end, or to the client's.
#[derive(Clone)]
struct Run {
    rt: Handle,
    dead: watch::Receiver<bool>,
}

impl Run {
    fn wait<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T>
    where
        anyhow::Error: From<E>,
    {
        let mut dead = self.dead.clone();
        self.rt.block_on(async {
            tokio::select! {
                biased;
                Ok(_) = dead.wait_for(|dead| *dead) => bail!("the client was killed"),
                done = call => Ok(done?),
            }
        })
    }
}

impl Sdk {
    /// Calls that end when they end.
    pub fn new(fs: Filesystem, rt: Handle) -> Self {
        Self::mortal(fs, rt).0
    }

    /// Calls that end without an answer once `true` is sent, as if the process had been killed.
    pub fn mortal(fs: Filesystem, rt: Handle) -> (Self, watch::Sender<bool>) {
        let (kill, dead) = watch::channel(false);
        (Self { fs, run: Run { rt, dead } }, kill)
    }
}

fn slash(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}

impl Surface for Sdk {
    fn make_dir(&self, path: &str) -> Result<()> {
        self.run.wait(self.fs.create_dir_all(&slash(path))).with_context(|| format!("mkdir {path}"))
    }
    fn create(&self, path: &str) -> Result<Box<dyn Open>> {
        let file = self.run.wait(self.fs.create(&slash(path))).with_context(|| format!("create {path}"))?;
        Ok(Box::new(SdkOpen { file, run: self.run.clone() }))
    }
    fn open(&self, path: &str) -> Result<Box<dyn Open>> {
        let flags = mooseng_client::OpenFlags { read: true, write: true, ..Default::default() };
        let at = slash(path);
        let file = self.run.wait(self.fs.open_with(&at, flags, 0)).with_context(|| format!("open {path}"))?;
        Ok(Box::new(SdkOpen { file, run: self.run.clone() }))
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let done = self.run.wait(self.fs.rename(&slash(from), &slash(to)));
        done.with_context(|| format!("rename {from} to {to}"))
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.run.wait(self.fs.remove_file(&slash(path))).with_context(|| format!("remove {path}"))
    }
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.run.wait(self.fs.read(&slash(path))) {
            Ok(data) => Ok(Some(data.to_vec())),
            Err(e) if is_not_found(&e) => Ok(None),
            Err(e) => Err(e).with_context(|| format!("read {path}")),
        }
    }
    fn names(&self, path: &str) -> Result<Vec<String>> {
        let at = slash(path);
        let all = self.fs.read_dir(&at).try_collect::<Vec<_>>();
        let all = self.run.wait(all).with_context(|| format!("list {path}"))?;
        Ok(all.into_iter().map(|e| e.name.to_string()).collect())
    }
}

fn is_not_found(e: &anyhow::Error) -> bool {
    e.downcast_ref::<mooseng_client::Error>().is_some_and(|e| e.kind() == mooseng_client::ErrorKind::NotFound)
}

struct SdkOpen {
    file: File,
    run: Run,
}

impl Open for SdkOpen {
    fn write_at(&self, at: u64, data: &[u8]) -> Result<()> {
        let data = bytes::Bytes::copy_from_slice(data);
        self.run.wait(self.file.write_at(at, data)).context("write")
    }
    fn sync(&self) -> Result<()> {
        self.run.wait(self.file.sync_all()).map(drop).context("fsync")
    }
    fn close(self: Box<Self>) -> Result<()> {
        self.run.wait(self.file.close()).context("close")
    }
}

/// Through a mount.
#[derive(Clone)]
pub struct Mounted {
    /// Where.
    pub at: PathBuf,
}

impl Mounted {
    fn path(&self, path: &str) -> PathBuf {
        self.at.join(path.trim_start_matches('/'))
    }
}

impl Surface for Mounted {
    fn make_dir(&self, path: &str) -> Result<()> {
        fs::create_dir_all(self.path(path)).with_context(|| format!("mkdir {path}"))
    }
    fn create(&self, path: &str) -> Result<Box<dyn Open>> {
        Ok(Box::new(fs::File::create(self.path(path)).with_context(|| format!("create {path}"))?))
    }
    fn open(&self, path: &str) -> Result<Box<dyn Open>> {
        let file = fs::File::options().write(true).open(self.path(path));
        Ok(Box::new(file.with_context(|| format!("open {path}"))?))
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        fs::rename(self.path(from), self.path(to)).with_context(|| format!("rename {from} to {to}"))
    }
    fn remove(&self, path: &str) -> Result<()> {
        fs::remove_file(self.path(path)).with_context(|| format!("remove {path}"))
    }
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(path)) {
            Ok(data) => Ok(Some(data)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("read {path}")),
        }
    }
    fn names(&self, path: &str) -> Result<Vec<String>> {
        let all = fs::read_dir(self.path(path)).with_context(|| format!("list {path}"))?;
        all.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
    }
}

impl Open for fs::File {
    fn write_at(&self, at: u64, data: &[u8]) -> Result<()> {
        self.write_all_at(data, at).context("write")
    }
    fn sync(&self) -> Result<()> {
        self.sync_all().context("fsync")
    }
    fn close(self: Box<Self>) -> Result<()> {
        // close(2) tells what flush made of the data; dropping the file would keep it quiet.
        nix::unistd::close(*self).context("close")
    }
}

/// A mount in a process of its own, detached when it is dropped.
pub struct MountProcess {
    /// The process.
    pub daemon: crate::cluster::Daemon,
    /// Where.
    pub at: PathBuf,
}

impl MountProcess {
    /// Starts it and waits until it serves.
    pub fn start(cluster: &ProcessCluster, name: &str, at: &Path) -> Result<Self> {
        Self::begin(cluster.mount(name, at)?, at)
    }

    /// As [`MountProcess::start`], of a daemon that was made already.
    pub fn begin(daemon: crate::cluster::Daemon, at: &Path) -> Result<Self> {
        let mut this = Self { daemon, at: at.into() };
        this.daemon.start()?;
        this.daemon.wait_ready()?;
        Ok(this)
    }

    /// Its filesystem.
    pub fn surface(&self) -> Mounted {
        Mounted { at: self.at.clone() }
    }

    /// Kills it with -9 and takes the dead mount away.
    pub fn kill9(&mut self) -> Result<()> {
        self.daemon.kill9()?;
        detach(&self.at)
    }
}

fn detach(at: &Path) -> Result<()> {
    match nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH) {
        // The daemon may have got to it itself.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(e) => bail!("cannot unmount {}: {e}", at.display()),
    }
}

impl Drop for MountProcess {
    fn drop(&mut self) {
        if self.daemon.pid().is_some() {
            let _ = self.daemon.resume();
            let _ = self.daemon.kill9();
        }
        let _ = detach(&self.at);
    }
}
