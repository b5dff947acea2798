//! Directory trees: what is in them, and whether two are equal.

use anyhow::{Context as _, Result, bail};
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

/// All that is below a directory, by path relative to it.
pub fn scan(root: &Path) -> Result<BTreeMap<PathBuf, Node>> {
    let mut nodes = BTreeMap::new();
    let mut dirs = vec![root.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = entry?.path();
            let meta =
                fs::symlink_metadata(&path).with_context(|| format!("cannot stat {}", path.display()))?;
            let node = if meta.is_dir() {
                dirs.push(path.clone());
                Node::Dir
            } else if meta.is_symlink() {
                Node::Link(fs::read_link(&path)?)
            } else {
                let (len, hash) = hash_file(&path)?;
                Node::File(len, hash, meta.permissions().mode() & 0o7777)
            };
            nodes.insert(path.strip_prefix(root)?.to_path_buf(), node);
        }
    }
    Ok(nodes)
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
