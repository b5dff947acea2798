//! Copies a tree inside a cluster, many files at a time, while a chunkserver dies: the copy goes on,
//! and every file is compared in the end.
//!
//! `cargo run -p mooseng-examples --bin parallel_copy`
#![allow(clippy::print_stdout, reason = "it reports what it did")]

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mooseng_client::{Filesystem, embedded::Cluster};
use mooseng_core::attr::FileKind;

/// Files copied side by side.
const AT_ONCE: usize = 8;
const FILES: usize = 64;

/// Paths of all files below a directory; directories are made below `to` on the way.
async fn tree(fs: &Filesystem, from: &str, to: &str) -> Result<Vec<String>> {
    let (mut files, mut dirs) = (Vec::new(), vec![String::new()]);
    while let Some(dir) = dirs.pop() {
        fs.create_dir_all(&format!("{to}{dir}")).await?;
        let mut entries = fs.read_dir(&format!("{from}{dir}"));
        while let Some(entry) = entries.try_next().await? {
            let path = format!("{dir}/{}", entry.name);
            match entry.kind {
                FileKind::Dir => dirs.push(path),
                FileKind::File => files.push(path),
                _ => {}
            }
        }
    }
    Ok(files)
}

/// Copies one file; it is on the replicas' disks when this returns.
async fn copy(fs: &Filesystem, from: &str, to: &str) -> Result<u64> {
    const STEP: u64 = 1 << 20;
    let (source, target) = (fs.open(from).await?, fs.create(to).await?);
    let mut at = 0;
    loop {
        let data = source.read_at(at, STEP).await?;
        if data.is_empty() {
            break;
        }
        at += data.len() as u64;
        target.write_at(at - data.len() as u64, data).await?;
    }
    target.sync_all().await?;
    target.close().await?;
    source.close().await?;
    Ok(at)
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut cluster = Cluster::builder().masters(1).chunkservers(3).start().await?;
    let fs = cluster.client().await?.filesystem();
    for i in 0..FILES {
        let dir = format!("/source/d{}", i % 4);
        fs.create_dir_all(&dir).await?;
        let content = Bytes::from(vec![i as u8; (i % 7) * 150_000]);
        fs.write(&format!("{dir}/f{i}"), content).await?;
    }
    let files = tree(&fs, "/source", "/target").await?;
    ensure!(files.len() == FILES, "{} of {FILES} files were listed", files.len());

    cluster.kill_chunkserver(0);
    let copied = stream::iter(&files).map(|path| {
        let fs = fs.clone();
        async move {
            let (from, to) = (format!("/source{path}"), format!("/target{path}"));
            copy(&fs, &from, &to).await.with_context(|| to)
        }
    });
    let sizes: Vec<u64> = copied.buffer_unordered(AT_ONCE).try_collect().await?;

    for path in &files {
        let (from, to) = (format!("/source{path}"), format!("/target{path}"));
        ensure!(fs.read(&from).await? == fs.read(&to).await?, "{path} differs");
    }
    println!("copied {} files, {} bytes, with one chunkserver gone", sizes.len(), sizes.iter().sum::<u64>());
    cluster.shutdown().await;
    Ok(())
}
