//! Looking at a whole group through a client: what a person would see with `ls -lR` and `cat`.

use crate::{
    cast::Group,
    oracle::{Seen, SeenFile, SeenNode, WIDE_BASE},
    steps::{Hands, Step},
};
use anyhow::Result;
use futures::TryStreamExt as _;
use mooseng_client::Filesystem;
use mooseng_core::{attr::FileKind, error::Errno, limits::BLOCK_BYTES, meta::DirEntry};

/// A file of more bytes is a wide one.
const WIDE_FROM: u64 = 32 << 20;
/// Bytes of a wide file's hole that are looked at.
const SAMPLE: u64 = 4096;

/// Lists the directory of a group's path and gives its entries that belong to the group.
async fn list(hands: &Hands, fs: &Filesystem, group: &Group, dir: &str) -> Result<Step<Vec<DirEntry>>> {
    let path = if dir.is_empty() { "/".to_owned() } else { group.path(dir) };
    let entries = fs.read_dir(&path).try_collect::<Vec<_>>();
    Ok(hands.step(&format!("list {path}"), entries).await?.map(|mut entries| {
        if dir.is_empty() {
            entries.retain(|e| e.name.to_string().starts_with(&group.prefix));
        }
        entries
    }))
}

/// Looks at all of a group. `None` when a fault kept the answer back.
pub async fn look(hands: &Hands, fs: &Filesystem, group: &Group) -> Result<Option<Seen>> {
    let mut seen = Seen::new();
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        let Step::Done(entries) = list(hands, fs, group, &dir).await? else { return Ok(None) };
        for entry in entries {
            let name = entry.name.to_string();
            let name = match dir.is_empty() {
                true => name[group.prefix.len()..].to_owned(),
                false => format!("{dir}/{name}"),
            };
            let node = if entry.kind == FileKind::Dir {
                dirs.push(name.clone());
                SeenNode::Dir
            } else {
                let Some(node) = read(hands, fs, group, &name).await? else { return Ok(None) };
                node
            };
            anyhow::ensure!(seen.insert(name.clone(), node).is_none(), "{name} is listed twice");
        }
    }
    Ok(Some(seen))
}

async fn read(hands: &Hands, fs: &Filesystem, group: &Group, name: &str) -> Result<Option<SeenNode>> {
    let path = &group.path(name);
    let file = match hands.step(&format!("open {path}"), fs.open(path)).await? {
        Step::Done(file) => file,
        Step::Refused(e) => anyhow::bail!("{path} is listed and cannot be opened: {e}"),
        Step::Failed => return Ok(None),
    };
    let (inode, links, size) = (file.attr().inode, file.attr().nlink, file.attr().size);
    let base = if size > WIDE_FROM { WIDE_BASE.min(size) } else { 0 };
    if base > 0 {
        let at = hands.random() % (base - SAMPLE);
        let lossy = group.book.lock().worlds.is_lossy(name);
        let what = format!("read the hole of {path}");
        let Step::Done(hole) = hands.step_on(&what, lossy, file.read_at(at, SAMPLE)).await? else {
            return Ok(None);
        };
        anyhow::ensure!(hole.iter().all(|b| *b == 0), "{path} has a hole at {at} that is not zeros");
    }
    let Some(content) = read_all(hands, &file, (group, name), base, size).await? else { return Ok(None) };
    if !matches!(hands.step(&format!("close {path}"), file.close()).await?, Step::Done(())) {
        return Ok(None);
    }
    Ok(Some(SeenNode::File(inode.get(), links, Some(content))))
}

/// All bytes from `base` on. In calm weather bytes that cannot be read are told as such; where
/// nothing is promised they are not even asked for then.
async fn read_all(
    hands: &Hands,
    file: &mooseng_client::File,
    (group, name): (&Group, &str),
    base: u64,
    size: u64,
) -> Result<Option<SeenFile>> {
    let path = &group.path(name);
    let mut seen = SeenFile { size, base, data: Vec::new(), bad: Vec::new() };
    let mut one_by_one = false;
    while base + (seen.data.len() as u64) < size {
        let at = base + seen.data.len() as u64;
        let want = if one_by_one { BLOCK_BYTES - at % BLOCK_BYTES } else { size - at }.min(size - at);
        let range = seen.data.len()..seen.data.len() + want as usize;
        if one_by_one && !group.book.lock().worlds.promises(name, range.clone()) {
            seen.data.resize(range.end, 0);
            seen.bad.push(range);
            continue;
        }
        let calm = hands.calm();
        let got = hands.try_step(&format!("read {path} at {at}"), file.read_at(at, want)).await?;
        match got {
            Ok(data) => {
                anyhow::ensure!(!data.is_empty(), "{path} ends at {at}, its size is {size}");
                seen.data.extend_from_slice(&data);
            }
            Err(e) if e.errno() == Errno::EIO && hands.still(calm) => {
                if one_by_one {
                    hands.note(format_args!("{path} at {at} cannot be read: {e}"));
                    seen.data.resize(range.end, 0);
                    seen.bad.push(range);
                }
                one_by_one = true;
            }
            Err(e) => {
                hands.failed(&e, calm)?;
                return Ok(None);
            }
        }
    }
    Ok(Some(seen))
}
