//! Directory trees: what is in them, and whether two are equal.

use anyhow::{Context as _, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// What a path of a tree is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// A directory.
    Dir,
    /// A symbolic link and its target.
    Link(PathBuf),
    /// A file: length, SHA-256, permission bits.
    File(u64, [u8; 32], u32),
}

/// SHA-256 of a file's content, read in pieces.
pub fn hash_file(path: &Path) -> Result<(u64, [u8; 32])> {
    let mut file = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let (mut hash, mut len, mut buf) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buf).with_context(|| format!("cannot read {}", path.display()))?;
        if n == 0 {
            return Ok((len, hash.finalize().into()));
        }
        hash.update(&buf[..n]);
        len += n as u64;
    }
}

/// Files whose contents are read at the same time: on a network most of the time is waiting.
const READERS: usize = 4;

/// All that is below a directory, by path relative to it.
pub fn scan(root: &Path) -> Result<BTreeMap<PathBuf, Node>> {
    let (mut nodes, mut files) = (BTreeMap::new(), Vec::new());
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = path.strip_prefix(root)?.to_path_buf();
            if kind.is_dir() {
                nodes.insert(name, Node::Dir);
                dirs.push(path);
            } else if kind.is_symlink() {
                nodes.insert(name, Node::Link(fs::read_link(&path)?));
            } else {
                files.push(path);
            }
        }
    }
    let hashed = std::thread::scope(|scope| {
        let parts = files.chunks(files.len().div_ceil(READERS).max(1));
        let readers: Vec<_> = parts.map(|part| scope.spawn(move || hash_all(part))).collect();
        let join =
            |r: std::thread::ScopedJoinHandle<'_, _>| r.join().map_err(|_| anyhow!("a reader panicked"))?;
        readers.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    for (path, node) in hashed.into_iter().flatten() {
        nodes.insert(path.strip_prefix(root)?.to_path_buf(), node);
    }
    Ok(nodes)
}

fn hash_all(files: &[PathBuf]) -> Result<Vec<(PathBuf, Node)>> {
    let hash = |path: &PathBuf| {
        let meta = fs::symlink_metadata(path).with_context(|| format!("cannot stat {}", path.display()))?;
        let (len, hash) = hash_file(path)?;
        Ok((path.clone(), Node::File(len, hash, meta.permissions().mode() & 0o7777)))
    };
    files.iter().map(hash).collect()
}

/// Fails with the first differences when two scans are not equal.
pub fn compare(what: &str, expected: &BTreeMap<PathBuf, Node>, got: &BTreeMap<PathBuf, Node>) -> Result<()> {
    let mut wrong = Vec::new();
    for (path, node) in expected {
        match got.get(path) {
            None => wrong.push(format!("{} is missing", path.display())),
            Some(other) if other != node => {
                wrong.push(format!("{} is {other:?}, not {node:?}", path.display()));
            }
            Some(_) => {}
        }
    }
    let extra = got.keys().filter(|p| !expected.contains_key(*p));
    wrong.extend(extra.map(|p| format!("{} should not be there", p.display())));
    if wrong.is_empty() {
        return Ok(());
    }
    let first: Vec<_> = wrong.iter().take(5).map(String::as_str).collect();
    bail!("{what}: {} differences, the first: {}", wrong.len(), first.join("; "))
}

/// Totals of a scan: (files, bytes).
pub fn totals(nodes: &BTreeMap<PathBuf, Node>) -> (u64, u64) {
    let files = nodes.values().filter_map(|n| if let Node::File(len, ..) = n { Some(*len) } else { None });
    files.fold((0, 0), |(n, bytes), len| (n + 1, bytes + len))
}

/// A real tree that every machine with Rust has: the toolchain's own directory.
pub fn rust_toolchain() -> Result<PathBuf> {
    let out = std::process::Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let path = PathBuf::from(String::from_utf8(out.stdout)?.trim());
    if path.is_dir() { Ok(path) } else { bail!("rustc told no directory for its sysroot") }
}

/// Gathers real files into `to`: at least `files` of them and `bytes`, from what every machine with
/// Rust has, the toolchain's own directory and the sources that cargo fetched. They are dealt out to
/// `shares` directories, 0 and so on, which can be copied side by side.
pub fn gather(to: &Path, files: u64, bytes: u64, shares: u64) -> Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|h| h.join(".cargo")));
    let sources = home.map(|h| h.join("registry/src")).filter(|p| p.is_dir());
    let (mut have_files, mut have_bytes) = (0, 0);
    for (n, root) in [Some(rust_toolchain()?), sources].into_iter().flatten().enumerate() {
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            let mut entries = fs::read_dir(&dir)?.collect::<Result<Vec<_>, _>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let (path, meta) = (entry.path(), entry.metadata()?);
                if meta.is_dir() {
                    dirs.push(path);
                    continue;
                }
                // Small files until there are enough, large ones until there is enough.
                let wanted = match meta.len() {
                    0..=131_072 => have_files < files,
                    _ => have_bytes < bytes,
                };
                if !wanted {
                    continue;
                }
                let share = to.join((have_files % shares).to_string());
                let at = share.join(n.to_string()).join(path.strip_prefix(&root)?);
                fs::create_dir_all(at.parent().context("a file has a directory")?)?;
                if meta.is_symlink() {
                    std::os::unix::fs::symlink(fs::read_link(&path)?, &at)?;
                } else {
                    fs::copy(&path, &at).with_context(|| format!("cannot copy {}", path.display()))?;
                    (have_files, have_bytes) = (have_files + 1, have_bytes + meta.len());
                }
            }
        }
    }
    if have_files < files || have_bytes < bytes {
        bail!(
            "only {have_files} files of {have_bytes} bytes are on this machine, {files} and {bytes} are needed"
        );
    }
    Ok(())
}
