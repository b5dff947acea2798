//! The main job: a real tree goes in through a mount, another through the SDK, while the leading
//! master and a chunkserver are killed with -9; every byte comes out equal, also after everything
//! was killed at once.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use mooseng_client::{Client, Filesystem};
use mooseng_e2e::{
    cluster::{Daemon, PATIENCE, ProcessCluster, wait_for},
    tree::{Node, compare, gather, scan, totals},
};
use mooseng_net::{
    identity::Identity,
    quic::{QuicOptions, QuicTransport},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// What goes in through the mount.
const FILES: u64 = 10_000;
const BYTES: u64 = 300 << 20;
/// Programs that copy it at the same time: one waits for disks more than it works.
const COPIES: u64 = 4;
/// What goes in through the SDK.
const SDK_FILES: u64 = 1_000;
const SDK_BYTES: u64 = 60 << 20;
/// Longest wait for the copying and for repair.
const LONG: Duration = Duration::from_secs(900);
/// Files of the SDK in flight.
const AT_ONCE: usize = 8;

type Tree = BTreeMap<PathBuf, Node>;

async fn connect(cluster: &ProcessCluster) -> Result<Client> {
    let me = Identity::load(&cluster.identity("admin"))?;
    let client = Client::builder()
        .masters(cluster.master_addrs.clone())
        .transport(QuicTransport::new(&me, QuicOptions::default())?)
        .seams(mooseng_host::host_seams())
        .deadline(Duration::from_secs(60))
        .name("main-job")
        .connect();
    Ok(client.await?)
}

async fn put_tree(fs: &Filesystem, from: &Path, to: &str, tree: &Tree) -> Result<()> {
    fs.create_dir_all(to).await?;
    for path in tree.iter().filter(|(_, n)| **n == Node::Dir).map(|(p, _)| p) {
        fs.create_dir(&format!("{to}/{}", path.display())).await?;
    }
    let put = |(path, node): (&PathBuf, &Node)| {
        let (fs, at, source) = (fs.clone(), format!("{to}/{}", path.display()), from.join(path));
        let node = node.clone();
        async move {
            match node {
                Node::Dir => Ok(()),
                Node::Link(target) => fs.symlink(&target.to_string_lossy(), &at).await.context(at),
                Node::File(..) => {
                    let data = tokio::fs::read(source).await?;
                    fs.write(&at, data).await.context(at)
                }
            }
        }
    };
    futures::stream::iter(tree.iter().map(put)).buffer_unordered(AT_ONCE).try_collect().await
}

/// Reads a tree back through the SDK; it has no more names than were put.
async fn check_tree(fs: &Filesystem, from: &Path, at: &str, tree: &Tree) -> Result<()> {
    let total = fs.totals(at).await?;
    let expected = tree.len() as u64;
    ensure!(
        total.inodes == expected || total.inodes == expected + 1,
        "{} names, not {expected}",
        total.inodes
    );
    let check = |(path, node): (&PathBuf, &Node)| {
        let (fs, at, source, node) =
            (fs.clone(), format!("{at}/{}", path.display()), from.join(path), node.clone());
        async move {
            if let Node::File(len, ..) = node {
                let (got, want) =
                    (fs.read(&at).await.with_context(|| at.clone())?, tokio::fs::read(source).await?);
                ensure!(got == want, "{at} reads back different ({} bytes of {len})", got.len());
            }
            Ok(())
        }
    };
    futures::stream::iter(tree.iter().map(check)).buffer_unordered(AT_ONCE).try_collect().await
}

/// Without permission bits: the SDK's `write` makes files of 0644.
fn kept(tree: &Tree) -> Tree {
    let plain = |n: &Node| match n {
        Node::File(len, hash, _) => Node::File(*len, *hash, 0),
        other => other.clone(),
    };
    tree.iter().map(|(p, n)| (p.clone(), plain(n))).collect()
}

async fn bytes_in(fs: &Filesystem) -> u64 {
    fs.totals("/").await.map_or(0, |t| t.bytes)
}

fn mounted(cluster: &ProcessCluster, name: &str, at: &Path) -> Result<Daemon> {
    let mut mount = cluster.mount(name, at)?;
    mount.start()?;
    mount.wait_ready()?;
    Ok(mount)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_job() -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        println!("skipped: /dev/fuse is not here (modprobe fuse)");
        return Ok(());
    }
    let begin = Instant::now();
    let say = |text: &str| println!("[{:6.1} s] {text}", begin.elapsed().as_secs_f64());
    let dir = tempfile::tempdir()?;
    let (source, sdk_source) = (dir.path().join("source"), dir.path().join("sdk-source"));
    gather(&source, FILES, BYTES, COPIES)?;
    gather(&sdk_source, SDK_FILES, SDK_BYTES, 1)?;
    let (tree, sdk_tree) = (scan(&source)?, scan(&sdk_source)?);
    let (files, bytes) = totals(&tree);
    let (sdk_files, sdk_bytes) = totals(&sdk_tree);
    say(&format!(
        "{files} files of {} MiB for the mount, {sdk_files} of {} MiB for the SDK",
        bytes >> 20,
        sdk_bytes >> 20
    ));

    let mut cluster = ProcessCluster::start(&dir.path().join("cluster"), 3, 3)?;
    say("3 masters and 3 chunkservers with 2 disks each serve over QUIC");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let mut mount_a = mounted(&cluster, "mount-a", &a)?;
    let client = connect(&cluster).await?;
    let fs = client.filesystem();
    std::fs::create_dir(a.join("tree"))?;
    let copy = |share: u64| {
        let share = share.to_string();
        Command::new("cp").arg("-a").arg(source.join(&share)).arg(a.join("tree").join(&share)).spawn()
    };
    let mut copies = (0..COPIES).map(copy).collect::<Result<Vec<_>, _>>()?;
    let sdk = {
        let (fs, from, tree) = (fs.clone(), sdk_source.clone(), sdk_tree.clone());
        tokio::spawn(async move { put_tree(&fs, &from, "/sdk", &tree).await })
    };
    let all = bytes + sdk_bytes;
    let reached = async |part: u64| -> Result<()> {
        let until = Instant::now() + LONG;
        while bytes_in(&fs).await < all * part / 100 {
            ensure!(Instant::now() < until, "{part} % were not copied within {LONG:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    reached(15).await?;
    let leader = cluster.leader()?;
    cluster.masters[leader].kill9()?;
    say(&format!("master {}, which led, was killed with -9", leader + 1));
    reached(35).await?;
    cluster.masters[leader].start()?;
    cluster.chunkservers[0].kill9()?;
    say("it was started again; chunkserver 1 was killed with -9");
    reached(60).await?;
    cluster.masters[leader].wait_ready()?;
    cluster.chunkservers[0].start()?;
    cluster.chunkservers[0].wait_ready()?;
    say("it was started again");
    for copy in &mut copies {
        let copied = wait_for("the copy ends", LONG, || copy.try_wait().ok().flatten())?;
        ensure!(copied.success(), "cp through the mount failed: {copied}");
    }
    sdk.await??;
    say("both trees are in");

    let mut mount_b = mounted(&cluster, "mount-b", &b)?;
    compare("through the second mount", &tree, &scan(&b.join("tree"))?)?;
    compare("what the SDK wrote, through the second mount", &kept(&sdk_tree), &kept(&scan(&b.join("sdk"))?))?;
    check_tree(&fs, &sdk_source, "/sdk", &sdk_tree).await?;
    say("every file reads back equal through a second mount");

    mount_a.stop()?;
    mount_b.stop()?;
    client.shutdown(PATIENCE).await?;
    cluster.kill9_all()?;
    say("all masters and chunkservers were killed with -9 at once");
    cluster.start_all()?;
    let mut mount_b = mounted(&cluster, "mount-c", &b)?;
    compare("after the restart", &tree, &scan(&b.join("tree"))?)?;
    compare("what the SDK wrote, after the restart", &kept(&sdk_tree), &kept(&scan(&b.join("sdk"))?))?;
    say("everything was started again, and every file reads back equal");
    let client = connect(&cluster).await?;
    let until = Instant::now() + LONG;
    loop {
        let s = client.status().await?;
        if s.chunks.healthy == s.chunks.total && s.servers.iter().all(|s| s.alive) {
            say(&format!("all {} chunks have all their copies", s.chunks.total));
            break;
        }
        ensure!(Instant::now() < until, "repair did not end within {LONG:?}: {:?}", s.chunks);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    mount_b.stop()?;
    client.shutdown(PATIENCE).await?;
    Ok(())
}
