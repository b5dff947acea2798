//! `mooseng mini --mount`: the cluster as a directory, and the proof through it.

use super::Entry;
use anyhow::{Context as _, Result, ensure};
use mooseng_client::{Client, Filesystem};
use mooseng_fuse::{Mount, MountError, MountOptions};
use std::path::{Path, PathBuf};

/// Where in the cluster the tree goes that is written through the mount.
const TREE: &str = "proof-mount";

/// Mounts the cluster; the directory is made when it is not there.
pub(super) async fn start(dir: &Path, client: &Client) -> Result<Mount> {
    if !dir.exists() {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot make {}; choose another --mount", dir.display()))?;
    }
    Ok(Mount::start(client.vfs().clone(), dir, MountOptions::default()).await?)
}

/// Writes files with the system's calls, reads them with the SDK; and the other way round.
pub(super) async fn prove(mount: &Mount, fs: &Filesystem, files: &[Entry]) -> Result<()> {
    let name = |path: &str| PathBuf::from(path.trim_start_matches('/').replacen("proof", TREE, 1));
    let at = mount.point().to_path_buf();
    let (root, written) = (at.clone(), files.to_vec());
    tokio::task::spawn_blocking(move || {
        if root.join(TREE).exists() {
            std::fs::remove_dir_all(root.join(TREE))?;
        }
        for (path, data) in &written {
            let path = root.join(name(path));
            let dir = path.parent().unwrap_or(&root);
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
            std::fs::write(&path, data).with_context(|| path.display().to_string())?;
        }
        Ok::<_, anyhow::Error>(())
    })
    .await??;
    for (path, data) in files {
        let path = format!("/{}", name(path).display());
        let got = fs.read(&path).await.with_context(|| path.clone())?;
        ensure!(got == data, "{path} was written through the mount and reads back different");
    }
    let files = files.to_vec();
    tokio::task::spawn_blocking(move || {
        for (path, data) in &files {
            let path = at.join(path.trim_start_matches('/'));
            let got = std::fs::read(&path).with_context(|| path.display().to_string())?;
            ensure!(got == *data, "{} reads back different through the mount", path.display());
        }
        Ok(())
    })
    .await?
}

/// Unmounts. What is still open there keeps its files until it closes them, and the end goes on.
pub(super) async fn end(mount: Mount) -> Result<()> {
    match mount.unmount().await {
        Err(e @ MountError::Busy { .. }) => {
            eprintln!("mooseng: {e}; it is detached now");
            Ok(())
        }
        other => Ok(other?),
    }
}
