//! File verbs that copy nothing: `ls cat mv rm mkdir stat du`.

use crate::{
    connect::Connection,
    consent::Consent,
    exit::usage,
    output::{self, Format, numbers, words},
    tree,
};
use anyhow::{Context as _, Result};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use mooseng_client::{Client, Filesystem, report::FileItem};
use mooseng_core::{
    attr::{Attr, FileKind},
    error::Errno,
    limits::COPIES_MAX,
    meta::{StorageClass, Totals},
};
use serde::Serialize;
use std::io::Write;

#[derive(Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Directories, or files.
    #[arg(default_value = "/")]
    pub paths: Vec<String>,
    /// With kind, permissions, links, owner, group, size, time.
    #[arg(short, long)]
    pub long: bool,
    /// Also what is below.
    #[arg(short, long)]
    pub recursive: bool,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Args)]
pub(crate) struct CatArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Files.
    #[arg(required = true)]
    pub paths: Vec<String>,
}

#[derive(Args)]
pub(crate) struct MvArgs {
    #[command(flatten)]
    pub to: Connection,
    /// What is moved.
    pub from: String,
    /// Its new path, or a directory to move it into. A file that is there is replaced.
    #[arg(value_name = "TO")]
    pub to_path: String,
}

#[derive(Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    pub to: Connection,
    /// What is removed.
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// Also directories, with everything below; it is asked first.
    #[arg(short, long)]
    pub recursive: bool,
    /// What is not there is no error.
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    pub consent: Consent,
}

#[derive(Args)]
pub(crate) struct MkdirArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Directories.
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// Also those above; no error when it is there.
    #[arg(short, long)]
    pub parents: bool,
    /// How many copies what is made in it has, in directories below it too; without it as many as in
    /// the directory above. With -p also of a directory that is there, for what comes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(COPIES_MAX)))]
    pub copies: Option<u8>,
}

#[derive(Args)]
pub(crate) struct StatArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Files or directories; symbolic links are not followed.
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Args)]
pub(crate) struct DuArgs {
    #[command(flatten)]
    pub to: Connection,
    /// Directories or files.
    #[arg(default_value = "/")]
    pub paths: Vec<String>,
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// One file as it is printed.
#[derive(Serialize)]
struct Item {
    #[serde(flatten)]
    file: FileItem,
    #[serde(skip)]
    attr: Attr,
}

impl Item {
    async fn new(fs: &Filesystem, path: &str, attr: Attr) -> Result<Self> {
        let target = match attr.kind {
            FileKind::Symlink => Some(String::from_utf8_lossy(&fs.read_link(path).await?).into_owned()),
            _ => None,
        };
        Ok(Self { file: FileItem::new(path, &attr, target), attr })
    }

    fn shown(&self) -> String {
        let target = self.file.target.as_ref().map(|t| format!(" -> {t}")).unwrap_or_default();
        format!("{}{target}", self.file.path)
    }
}

pub(crate) async fn ls(client: &Client, args: &LsArgs, out: &mut impl Write) -> Result<()> {
    let (fs, mut listed) = (client.filesystem(), Vec::new());
    for path in &args.paths {
        list(&fs, path, args, &mut listed).await.with_context(|| path.clone())?;
    }
    if args.output == Format::Table && !args.long {
        for item in &listed {
            writeln!(out, "{}", output::shown(&item.file.path))?;
        }
        return Ok(());
    }
    let columns = [
        words("MODE"),
        numbers("LINKS"),
        numbers("UID"),
        numbers("GID"),
        numbers("SIZE"),
        words("MODIFIED"),
        words("NAME"),
    ];
    output::items(out, args.output, "mooseng.files/1", &listed, columns, |i| {
        let mode = output::mode(i.attr.kind, i.attr.mode);
        let file = &i.file;
        let (links, uid, gid) = (file.links.to_string(), file.uid.to_string(), file.gid.to_string());
        [mode, links, uid, gid, output::size(file.size), file.modified.clone(), i.shown()]
    })
}

/// Lists a path, sorted by name; names only, or whole paths when several directories are listed.
async fn list(fs: &Filesystem, path: &str, args: &LsArgs, into: &mut Vec<Item>) -> Result<()> {
    let attr = fs.metadata(path).await?;
    if attr.kind != FileKind::Dir {
        into.push(Item::new(fs, path, fs.symlink_metadata(path).await?).await?);
        return Ok(());
    }
    let mut entries: Vec<_> = fs.read_dir(path).try_collect().await?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let whole = args.recursive || args.paths.len() > 1;
    for entry in entries {
        let below = tree::join(path, &tree::text(&entry.name)?);
        let attr = match entry.attr {
            Some(attr) => attr,
            None => fs.symlink_metadata(&below).await?,
        };
        let is_dir = attr.kind == FileKind::Dir;
        let mut item = Item::new(fs, &below, attr).await?;
        if !whole {
            item.file.path = entry.name.to_string();
        }
        into.push(item);
        if args.recursive && is_dir {
            Box::pin(list(fs, &below, args, into)).await?;
        }
    }
    Ok(())
}

pub(crate) async fn cat(client: &Client, paths: &[String], out: &mut impl Write) -> Result<()> {
    let fs = client.filesystem();
    for path in paths {
        let mut pieces = Box::pin(tree::read_cluster(&fs, path));
        while let Some(piece) = pieces.next().await {
            out.write_all(&piece.with_context(|| path.clone())?)?;
        }
    }
    Ok(())
}

pub(crate) async fn mv(client: &Client, from: &str, to: &str) -> Result<()> {
    let fs = client.filesystem();
    let to = tree::into_dir(&fs, to, tree::last(from)).await?;
    fs.rename(from, &to).await.with_context(|| format!("{from} to {to}"))
}

/// All is looked at before anything is removed.
pub(crate) async fn rm(client: &Client, args: &RmArgs) -> Result<()> {
    let (fs, mut found) = (client.filesystem(), Vec::new());
    for path in &args.paths {
        if tree::last(path).is_empty() || matches!(tree::last(path), "." | "..") {
            return Err(usage(format!("{path} is not removed: name what is below it")));
        }
        let attr = match fs.symlink_metadata(path).await {
            Err(e) if args.force && e.errno() == Errno::ENOENT => continue,
            other => other.with_context(|| path.clone())?,
        };
        let is_dir = attr.kind == FileKind::Dir;
        if is_dir && !args.recursive {
            return Err(usage(format!("{path} is a directory: use -r to remove it with all below")));
        }
        found.push((path, is_dir));
    }
    let dirs: Vec<_> = found.iter().filter(|(_, is_dir)| *is_dir).map(|(path, _)| path.as_str()).collect();
    if !dirs.is_empty() {
        args.consent.given(&format!("removes {} with all below, for good", dirs.join(", "))).await?;
    }
    for (path, is_dir) in found {
        let removed = if is_dir { fs.remove_dir_all(path).await } else { fs.remove_file(path).await };
        match removed {
            Err(e) if args.force && e.errno() == Errno::ENOENT => {}
            other => other.with_context(|| path.clone())?,
        }
    }
    Ok(())
}

pub(crate) async fn mkdir(client: &Client, args: &MkdirArgs) -> Result<()> {
    let fs = client.filesystem();
    for path in &args.paths {
        let made = if args.parents { fs.create_dir_all(path).await } else { fs.create_dir(path).await };
        made.with_context(|| path.clone())?;
        if let Some(copies) = args.copies {
            fs.set_class(path, StorageClass { copies }).await.with_context(|| path.clone())?;
        }
    }
    Ok(())
}

pub(crate) async fn stat(
    client: &Client,
    paths: &[String],
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    let (fs, mut items) = (client.filesystem(), Vec::new());
    for path in paths {
        let attr = fs.symlink_metadata(path).await.with_context(|| path.clone())?;
        items.push(Item::new(&fs, path, attr).await.with_context(|| path.clone())?);
    }
    if format != Format::Table {
        let none = |_: &Item| [];
        return output::items(out, format, "mooseng.files/1", &items, [], none);
    }
    for i in &items {
        let (f, shown) = (&i.file, output::mode(i.attr.kind, i.attr.mode));
        writeln!(out, "path      {}", output::shown(&i.shown()))?;
        writeln!(out, "kind      {}, inode {}, {} links", f.kind, f.inode, f.links)?;
        writeln!(out, "size      {} ({} bytes, {} allocated)", output::size(f.size), f.size, f.allocated)?;
        writeln!(out, "mode      {} ({shown}), uid {}, gid {}", f.mode, f.uid, f.gid)?;
        writeln!(out, "accessed  {}\nmodified  {}", f.accessed, f.modified)?;
        writeln!(out, "changed   {}\ncreated   {}", f.changed, f.created)?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Usage {
    path: String,
    bytes: u64,
    files: u64,
    dirs: u64,
}

pub(crate) async fn du(
    client: &Client,
    paths: &[String],
    format: Format,
    out: &mut impl Write,
) -> Result<()> {
    let (fs, mut rows) = (client.filesystem(), Vec::new());
    for path in paths {
        let Totals { inodes, dirs, bytes } = fs.totals(path).await.with_context(|| path.clone())?;
        rows.push(Usage { path: path.clone(), bytes, files: inodes.saturating_sub(dirs), dirs });
    }
    let columns = [numbers("SIZE"), numbers("BYTES"), numbers("FILES"), numbers("DIRS"), words("PATH")];
    output::items(out, format, "mooseng.usage/1", &rows, columns, |u| {
        let (files, dirs) = (u.files.to_string(), u.dirs.to_string());
        [output::size(u.bytes), u.bytes.to_string(), files, dirs, u.path.clone()]
    })
}
