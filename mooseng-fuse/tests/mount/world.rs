//! A cluster in this process, mounted once or more.

use anyhow::{Context as _, Result, ensure};
use mooseng_client::{
    Client,
    embedded::{Cluster, ClusterBuilder},
};
use mooseng_fuse::{Mount, MountError, MountOptions};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longest wait for a condition.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub cluster: Cluster,
    pub clients: Vec<Client>,
    pub mounts: Vec<Mount>,
    dirs: Vec<TempDir>,
}

/// Whether mounts can be made here; says so when not.
pub fn no_fuse() -> bool {
    let missing = !Path::new("/dev/fuse").exists();
    if missing {
        println!("skipped: no /dev/fuse");
    }
    missing
}

/// Whether a tool is installed; says so when not.
pub fn no_tool(name: &str, arg: &str) -> bool {
    let missing = Command::new(name).arg(arg).output().is_err();
    if missing {
        println!("skipped: no {name}");
    }
    missing
}

/// Whether the test may become another user; says so when not.
pub fn not_root() -> bool {
    let missing = !nix::unistd::geteuid().is_root();
    if missing {
        println!("skipped: not root");
    }
    missing || no_tool("setpriv", "--version")
}

/// One master and two chunkservers: enough for everything but failovers.
pub fn small() -> ClusterBuilder {
    Cluster::builder().masters(1).chunkservers(2)
}

impl World {
    pub async fn start(cluster: ClusterBuilder, options: &[MountOptions]) -> Result<Self> {
        let cluster = cluster.start().await?;
        let mut w = Self { cluster, clients: vec![], mounts: vec![], dirs: vec![] };
        for options in options {
            let client = w.cluster.client().await?;
            let dir = tempfile::tempdir()?;
            w.mounts.push(Mount::start(client.vfs().clone(), dir.path(), options.clone()).await?);
            w.clients.push(client);
            w.dirs.push(dir);
        }
        Ok(w)
    }

    pub async fn one() -> Result<Self> {
        Self::start(small(), &[MountOptions::default()]).await
    }

    pub fn at(&self, mount: usize) -> PathBuf {
        self.mounts[mount].point().to_path_buf()
    }

    /// Runs blocking calls on the first mount.
    pub async fn on<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let at = self.at(0);
        blocking(move || f(&at)).await
    }

    /// Everything ends cleanly.
    pub async fn end(self) -> Result<()> {
        for m in &self.mounts {
            // A program that another test starts has this one's open files for a moment, until it runs.
            let until = Instant::now() + BUSY;
            while let Err(e) = m.unmount().await {
                ensure!(matches!(e, MountError::Busy { .. }) && Instant::now() < until, "{e}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        for c in self.clients {
            c.shutdown(Duration::from_secs(20)).await?;
        }
        self.cluster.shutdown().await;
        Ok(())
    }
}

/// Longest wait for a mount that is in use.
const BUSY: Duration = Duration::from_secs(10);

pub async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await?
}

/// Runs a program in a directory; its output when it succeeded.
pub fn run(dir: &Path, program: &str, args: &[&str]) -> Result<String> {
    let out =
        Command::new(program).args(args).current_dir(dir).output().with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{program} {args:?}: {said}{}", String::from_utf8_lossy(&out.stderr));
    Ok(said)
}

pub fn sh(dir: &Path, script: &str) -> Result<String> {
    run(dir, "sh", &["-ec", script])
}

/// Waits until a condition holds.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
    Ok(())
}

/// Bytes that differ from place to place and from seed to seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}
