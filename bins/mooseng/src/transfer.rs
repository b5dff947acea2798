//! `put`, `get`, `cp`: one copy of a tree between two places.

use crate::{
    connect::Connection,
    exit::usage,
    tree::{self, Entry, Kind, Parts, join},
};
use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use mooseng_client::{Client, Filesystem};
use mooseng_core::error::Errno;
use std::{
    io::{IsTerminal as _, Write},
    path::{Path, PathBuf},
};

/// Permissions of a file that comes from the standard input.
const PIPE_MODE: u32 = 0o644;

#[derive(Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Local files; `-` is the standard input.
    #[arg(required = true)]
    pub from: Vec<PathBuf>,
    /// Path in the cluster; a directory that is there takes what is put by its name.
    #[arg(value_name = "TO")]
    pub to_path: String,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Path in the cluster.
    pub from: String,
    /// Local path; a directory takes it by its name; `-` is the standard output.
    #[arg(value_name = "TO", default_value = ".")]
    pub to_path: PathBuf,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args)]
pub(crate) struct CpArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Path in the cluster.
    pub from: String,
    /// Path in the cluster; a directory that is there takes the copy by its name.
    #[arg(value_name = "TO")]
    pub to_path: String,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct How {
    /// Also directories, with everything below.
    #[arg(short, long)]
    pub recursive: bool,
    /// Files copied at the same time.
    #[arg(short, long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// No progress bar.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Where a copy begins or ends.
#[derive(Clone, Debug)]
enum Place {
    Local(PathBuf),
    Cluster(String),
}

impl Place {
    fn shown(&self) -> String {
        match self {
            Self::Local(path) => path.display().to_string(),
            Self::Cluster(path) => path.clone(),
        }
    }
    fn below(&self, path: &str) -> Self {
        match (self, path) {
            (_, "") => self.clone(),
            (Self::Local(root), path) => Self::Local(root.join(path)),
            (Self::Cluster(root), path) => Self::Cluster(join(root, path)),
        }
    }
}

pub(crate) async fn put(client: &Client, args: &PutArgs, parts: &Parts) -> Result<()> {
    let fs = client.filesystem();
    if args.from.len() > 1 {
        let attr = fs.metadata(&args.to_path).await.with_context(|| args.to_path.clone())?;
        if attr.kind != mooseng_core::attr::FileKind::Dir {
            return Err(usage(format!("{} is no directory: it cannot take several files", args.to_path)));
        }
    }
    for from in &args.from {
        if from.as_os_str() == "-" {
            let bar = bar(&args.how, 0);
            let pieces = tree::read_local(tokio::io::stdin());
            tree::write_cluster((&fs, parts), &args.to_path, PIPE_MODE, pieces, |n| bar.inc(n)).await?;
            bar.finish_and_clear();
            continue;
        }
        let name = local_name(from)?;
        let to = tree::into_dir(&fs, &args.to_path, &name).await?;
        let root = from.clone();
        let entries = tokio::task::spawn_blocking(move || tree::walk_local(&root)).await??;
        copy((&fs, parts), &args.how, entries, Place::Local(from.clone()), Place::Cluster(to)).await?;
    }
    Ok(())
}

/// The name of a local path, also of `.` and `..`.
fn local_name(path: &Path) -> Result<String> {
    let whole = path.canonicalize().with_context(|| path.display().to_string())?;
    let name = path.file_name().or(whole.file_name());
    let name = name.ok_or_else(|| usage(format!("{} has no name", path.display())))?;
    Ok(name.to_str().ok_or_else(|| anyhow!("the name {} is not UTF-8", name.display()))?.to_owned())
}

pub(crate) async fn get(client: &Client, args: &GetArgs, parts: &Parts, out: &mut impl Write) -> Result<()> {
    let fs = client.filesystem();
    if args.to_path.as_os_str() == "-" {
        return crate::files::cat(client, std::slice::from_ref(&args.from), out).await;
    }
    let entries = tree::walk_cluster(&fs, &args.from).await?;
    let mut to = args.to_path.clone();
    if to.is_dir() {
        let name = tree::last(&args.from);
        to = if name.is_empty() { to } else { to.join(name) };
    }
    copy((&fs, parts), &args.how, entries, Place::Cluster(args.from.clone()), Place::Local(to)).await
}

pub(crate) async fn cp(client: &Client, args: &CpArgs, parts: &Parts) -> Result<()> {
    let fs = client.filesystem();
    let entries = tree::walk_cluster(&fs, &args.from).await?;
    let to = tree::into_dir(&fs, &args.to_path, tree::last(&args.from)).await?;
    let (from, below) = (names(&args.from), names(&to));
    if below == from || (below.starts_with(&from) && matches!(entries[0].kind, Kind::Dir)) {
        return Err(usage(format!("{to} is {} itself, or below it", args.from)));
    }
    copy((&fs, parts), &args.how, entries, Place::Cluster(args.from.clone()), Place::Cluster(to)).await
}

fn names(path: &str) -> Vec<&str> {
    path.split('/').filter(|n| !n.is_empty() && *n != ".").collect()
}

/// A bar on the error output, when that is a terminal.
fn bar(how: &How, bytes: u64) -> ProgressBar {
    if how.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {wide_msg}";
    let bar = ProgressBar::new(bytes);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Copies the entries of the tree `from` to `to`: directories, then files, several at a time.
async fn copy(
    (fs, parts): (&Filesystem, &Parts),
    how: &How,
    entries: Vec<Entry>,
    from: Place,
    to: Place,
) -> Result<()> {
    if !how.recursive && entries.iter().any(|e| e.kind == Kind::Dir) {
        return Err(usage(format!("{} is a directory: use -r to copy it with all below", from.shown())));
    }
    let size = |e: &Entry| if let Kind::File { size, .. } = e.kind { size } else { 0 };
    let bar = bar(how, entries.iter().map(size).sum());
    for dir in entries.iter().filter(|e| e.kind == Kind::Dir) {
        let at = to.below(&dir.path);
        make_dir(fs, &at).await.with_context(|| at.shown())?;
    }
    let one = |entry: Entry| {
        let (from, to, bar) = (from.below(&entry.path), to.below(&entry.path), bar.clone());
        async move {
            bar.set_message(entry.path.clone());
            copy_one((fs, parts), &entry.kind, &from, &to, |n| bar.inc(n)).await
        }
    };
    let rest = entries.into_iter().filter(|e| e.kind != Kind::Dir);
    stream::iter(rest.map(one)).buffer_unordered(usize::from(how.jobs)).try_collect::<()>().await?;
    bar.finish_and_clear();
    Ok(())
}

async fn make_dir(fs: &Filesystem, at: &Place) -> Result<()> {
    match at {
        Place::Local(path) => Ok(tokio::fs::create_dir_all(path).await?),
        Place::Cluster(path) if names(path).is_empty() => Ok(()),
        Place::Cluster(path) => match fs.create_dir(path).await {
            Err(e)
                if e.errno() == Errno::EEXIST
                    && fs.metadata(path).await?.kind == mooseng_core::attr::FileKind::Dir =>
            {
                Ok(())
            }
            other => Ok(other?),
        },
    }
}

async fn copy_one(
    (fs, parts): (&Filesystem, &Parts),
    kind: &Kind,
    from: &Place,
    to: &Place,
    progress: impl FnMut(u64),
) -> Result<()> {
    match kind {
        Kind::Dir => Ok(()),
        Kind::Link { target } => link(fs, target, to).await.with_context(|| to.shown()),
        Kind::File { mode, .. } => match (from, to) {
            (Place::Local(from), Place::Cluster(to)) => {
                let file = tokio::fs::File::open(from).await.with_context(|| from.display().to_string())?;
                tree::write_cluster((fs, parts), to, *mode, tree::read_local(file), progress).await
            }
            (Place::Cluster(from), Place::Cluster(to)) => {
                tree::write_cluster((fs, parts), to, *mode, tree::read_cluster(fs, from), progress).await
            }
            (Place::Cluster(from), Place::Local(to)) => {
                tree::write_local(parts, to, *mode, tree::read_cluster(fs, from), progress).await
            }
            (Place::Local(_), Place::Local(_)) => Err(usage("both places are local")),
        },
    }
}

/// A symbolic link, in the place of a link that is there.
async fn link(fs: &Filesystem, target: &str, at: &Place) -> Result<()> {
    match at {
        Place::Cluster(path) => {
            if fs.read_link(path).await.is_ok() {
                fs.remove_file(path).await?;
            }
            Ok(fs.symlink(target, path).await?)
        }
        Place::Local(path) => {
            if tokio::fs::read_link(path).await.is_ok() {
                tokio::fs::remove_file(path).await?;
            }
            Ok(tokio::fs::symlink(target, path).await?)
        }
    }
}
