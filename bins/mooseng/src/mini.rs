//! `mooseng mini`: a whole cluster in one process that proves itself: a tree goes in, a
//! chunkserver and the leading master are ended, the tree comes out equal, the copies are repaired.

mod board;
mod mount;

use crate::exit::usage;
use anyhow::{Context as _, Result, ensure};
use board::Board;
use bytes::Bytes;
use bytesize::ByteSize;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mooseng_client::{Client, Filesystem, embedded::Cluster};
use mooseng_host::DirLock;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Files in flight.
const AT_ONCE: usize = 8;
/// Files of the tree that is made when none is given.
const FILES: u64 = 400;
/// Longest wait for repair.
const REPAIR: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep the data below this directory and find it again; in memory when left out.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End after the proof, with 0 when it holds and 1 when not.
    #[arg(long)]
    once: bool,
    /// Masters: 1, 3 or 5.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=5))]
    masters: u64,
    /// Chunkservers, 2 to 9: one is ended to prove that nothing is lost.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=9))]
    chunkservers: u64,
    /// A directory whose files are written; without it a tree is made up.
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// Mount the cluster at this directory (Linux, FUSE) until the end; the proof goes through it too.
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
}

/// One file of the tree: its path in the cluster, its content.
type Entry = (String, Bytes);

pub(crate) async fn run(args: Args) -> Result<()> {
    if args.masters.is_multiple_of(2) {
        let cause = format!("{} masters: an odd number is needed for a quorum; use 1, 3 or 5", args.masters);
        return Err(usage(cause));
    }
    let tree = match &args.tree {
        Some(dir) => read_tree(dir)?,
        None => made_up(),
    };
    if tree.is_empty() {
        return Err(usage("there is no file to write in the tree given; choose another --tree"));
    }
    let board = Board::new();
    let _lock = args.dir.as_deref().map(lock).transpose()?;
    let mut builder = Cluster::builder().masters(args.masters).chunkservers(args.chunkservers);
    if let Some(dir) = &args.dir {
        builder = builder.dir(dir);
    }
    board.begin("the cluster starts", 1);
    let mut cluster = builder.start().await.context("the cluster does not start")?;
    board.shown(&format!("{} masters and {} chunkservers serve", args.masters, args.chunkservers));
    let client = cluster.client().await?;
    let mounted = match &args.mount {
        Some(dir) => Some(mount::start(dir, &client).await?),
        None => None,
    };
    prove(&args, &board, &mut cluster, &client, &tree).await?;
    if let Some(mounted) = &mounted {
        mount::prove(mounted, &client.filesystem(), &tree).await?;
        board.shown(&format!("every file is the same through the mount at {}", mounted.point().display()));
    }
    board.end();
    print_box(&args, &client).await?;
    if !args.once {
        tokio::signal::ctrl_c().await?;
    }
    if let Some(mounted) = mounted {
        mount::end(mounted).await?;
    }
    client.shutdown(Duration::from_secs(10)).await?;
    cluster.shutdown().await;
    Ok(())
}

fn lock(dir: &Path) -> Result<DirLock> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot make {}; choose another --dir", dir.display()))?;
    DirLock::take(dir).with_context(|| {
        format!("cannot use {}; stop the other process or choose another --dir", dir.display())
    })
}

async fn prove(
    args: &Args,
    board: &Board,
    cluster: &mut Cluster,
    client: &Client,
    tree: &[Entry],
) -> Result<()> {
    let fs = client.filesystem();
    let bytes: usize = tree.iter().map(|(_, d)| d.len()).sum();
    if fs.exists("/proof").await? {
        fs.remove_dir_all("/proof").await?;
    }
    // The first half goes in while all is well, the second while parts of the cluster end.
    let (first, second) = tree.split_at(tree.len() / 2);
    board.begin("files are written and synced", tree.len() as u64);
    write(&fs, first, board).await?;
    cluster.kill_chunkserver(0);
    board.shown("chunkserver 1 was ended");
    if args.masters > 1 {
        let leader = cluster.leader().context("no master leads")?;
        cluster.kill_master(leader).await;
        board.shown(&format!("the leading master {} was ended", leader + 1));
        write(&fs, second, board).await?;
        cluster.start_master(leader).await?;
    } else {
        write(&fs, second, board).await?;
    }
    let mib = bytes as f64 / (1 << 20) as f64 / board.seconds();
    board.shown(&format!(
        "{} files, {} written and synced ({mib:.0} MiB/s, failures included)",
        tree.len(),
        ByteSize(bytes as u64)
    ));
    compare(&fs, tree, board).await?;
    board.shown("every file reads back equal with one chunkserver gone");
    cluster.start_chunkserver(0).await?;
    wait_healthy(client, board).await?;
    board.shown("all chunks have all their copies again");
    compare(&fs, tree, board).await?;
    board.shown("every file reads back equal");
    Ok(())
}

async fn write(fs: &Filesystem, files: &[Entry], board: &Board) -> Result<()> {
    let put = |(path, data): &Entry| {
        let (fs, path, data) = (fs.clone(), path.clone(), data.clone());
        async move {
            let dir = path.rsplit_once('/').map_or("/", |(d, _)| d);
            fs.create_dir_all(dir).await.with_context(|| dir.to_owned())?;
            let file = fs.create(&path).await.with_context(|| path.clone())?;
            file.write_at(0, data).await.with_context(|| path.clone())?;
            file.sync_all().await.with_context(|| path.clone())?;
            file.close().await.with_context(|| path.clone())?;
            board.step();
            Ok(())
        }
    };
    stream::iter(files.iter().map(put)).buffer_unordered(AT_ONCE).try_collect().await
}

async fn compare(fs: &Filesystem, files: &[Entry], board: &Board) -> Result<()> {
    board.begin("files are read back", files.len() as u64);
    let check = |(path, data): &Entry| {
        let (fs, path, data) = (fs.clone(), path.clone(), data.clone());
        async move {
            let got = fs.read(&path).await.with_context(|| path.clone())?;
            ensure!(got == data, "{path} reads back different: {} bytes, {} written", got.len(), data.len());
            board.step();
            Ok(())
        }
    };
    stream::iter(files.iter().map(check)).buffer_unordered(AT_ONCE).try_collect().await
}

async fn wait_healthy(client: &Client, board: &Board) -> Result<()> {
    board.begin("copies are made again", 0);
    let until = Instant::now() + REPAIR;
    loop {
        let s = client.status().await?;
        board.at(s.chunks.healthy, s.chunks.total);
        if s.chunks.healthy == s.chunks.total && s.servers.iter().all(|s| s.alive) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "repair did not end within {REPAIR:?}: {:?}", s.chunks);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Files of all sizes, the same each time.
fn made_up() -> Vec<Entry> {
    let mut x = 88_172_645_463_325_252u64;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let size = |i: u64, r: u64| match i % 10 {
        0 => 1 << 20,
        1..=3 => r % 300_000,
        _ => r % 9_000,
    };
    (0..FILES)
        .map(|i| {
            let len = if i == 5 { 70 << 20 } else { size(i, next()) as usize };
            let mut data = Vec::with_capacity(len + 8);
            while data.len() < len {
                data.extend_from_slice(&next().to_le_bytes());
            }
            data.truncate(len);
            (format!("/proof/d{}/f{i}", i % 20), data.into())
        })
        .collect()
}

/// Regular files below a directory.
fn read_tree(root: &Path) -> Result<Vec<Entry>> {
    let (mut files, mut dirs) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                let name = entry.path().strip_prefix(root)?.to_string_lossy().into_owned();
                files.push((format!("/proof/{name}"), std::fs::read(entry.path())?.into()));
            }
        }
    }
    Ok(files)
}

async fn print_box(args: &Args, client: &Client) -> Result<()> {
    let s = client.status().await?;
    let leader = s.masters.iter().find(|m| m.leader).map_or(0, |m| m.id.get());
    let at = args.dir.as_ref().map_or("in memory".into(), |d| d.display().to_string());
    let lines = [
        "MooseNG mini: the proof holds".to_owned(),
        format!("masters       {} (master {leader} leads, term {})", s.masters.len(), s.term.get()),
        format!(
            "chunkservers  {} of {} alive",
            s.servers.iter().filter(|s| s.alive).count(),
            s.servers.len()
        ),
        format!("chunks        {} of {} with all copies", s.chunks.healthy, s.chunks.total),
        format!("inodes        {}, {} in files", s.fs.inodes, ByteSize(s.fs.used_bytes)),
        format!("data          {at}"),
        format!("mount         {}", args.mount.as_ref().map_or("none".into(), |d| d.display().to_string())),
        if args.once {
            "next          leave out --once to let it run".into()
        } else {
            "next          Ctrl-C ends it".to_owned()
        },
    ];
    let width = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    println!("┌{}┐", "─".repeat(width + 2));
    for line in lines {
        println!("│ {line:width$} │");
    }
    println!("└{}┘", "─".repeat(width + 2));
    Ok(())
}
