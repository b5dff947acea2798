//! A filesystem in plain maps, written from what POSIX and Linux say and not from the implementation:
//! the tree, its rights, and what can be seen of it.

use mooseng_core::{
    attr::FileKind,
    context::Credentials,
    error::{Errno, Errno::*},
    limits::LINKS_MAX,
};
use std::collections::{BTreeMap, BTreeSet};

pub const ROOT: u64 = 1;
pub const READ: u32 = 4;
pub const WRITE: u32 = 2;
pub const EXEC: u32 = 1;

/// Why something is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum No {
    Posix(Errno),
    /// The layout is out of date.
    Stale,
    /// Something that makes no sense.
    Invalid,
}

impl From<Errno> for No {
    fn from(e: Errno) -> Self {
        Self::Posix(e)
    }
}

pub type Res<T> = Result<T, No>;

/// What is inside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    File(Vec<u8>),
    /// Names in the order they came.
    Dir(Vec<(String, u64)>),
    Symlink(String),
    Other,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: FileKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub body: Body,
    /// How often it is named in each directory.
    pub names: BTreeMap<u64, u32>,
    /// The directory whose totals count it.
    pub home: u64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    pub copies: u8,
    /// Cuts so far: a writer has to know of all of them.
    pub cuts: u64,
}

/// What `stat` tells of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    pub id: u64,
    pub kind: FileKind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub size: u64,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub nodes: BTreeMap<u64, Node>,
    pub next: u64,
    pub opened: BTreeSet<u64>,
}

impl Model {
    pub fn new() -> Self {
        let root = Node {
            kind: FileKind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            body: Body::Dir(vec![]),
            names: BTreeMap::new(),
            home: ROOT,
            xattrs: BTreeMap::new(),
            copies: 2,
            cuts: 0,
        };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: 2, opened: BTreeSet::new() }
    }

    pub fn node(&self, id: u64) -> Res<&Node> {
        Ok(self.nodes.get(&id).ok_or(ESTALE)?)
    }

    pub fn node_mut(&mut self, id: u64) -> Res<&mut Node> {
        Ok(self.nodes.get_mut(&id).ok_or(ESTALE)?)
    }

    pub fn entries(&self, id: u64) -> Res<&Vec<(String, u64)>> {
        match &self.node(id)?.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(ENOTDIR.into()),
        }
    }

    pub fn entries_mut(&mut self, id: u64) -> Res<&mut Vec<(String, u64)>> {
        match &mut self.node_mut(id)?.body {
            Body::Dir(entries) => Ok(entries),
            _ => Err(ENOTDIR.into()),
        }
    }

    pub fn is_dir(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|n| n.kind == FileKind::Dir)
    }

    /// Whether a directory can still have entries.
    pub fn is_live(&self, id: u64) -> bool {
        id == ROOT || self.nodes.get(&id).is_some_and(|n| !n.names.is_empty())
    }

    /// The directory above; the one it was in last, when it is in none.
    pub fn above(&self, dir: u64) -> u64 {
        self.nodes.get(&dir).map_or(ROOT, |n| n.home)
    }

    /// Whether a directory is another or below it.
    pub fn is_within(&self, mut dir: u64, other: u64) -> bool {
        loop {
            if dir == other {
                return true;
            }
            if dir == ROOT {
                return false;
            }
            dir = self.above(dir);
        }
    }

    pub fn links(&self, id: u64) -> u32 {
        let Some(n) = self.nodes.get(&id) else { return 0 };
        match &n.body {
            Body::Dir(_) if !self.is_live(id) => 0,
            Body::Dir(entries) => 2 + entries.iter().filter(|(_, e)| self.is_dir(*e)).count() as u32,
            _ => n.names.values().sum(),
        }
    }

    pub fn stat(&self, id: u64) -> Res<Stat> {
        let n = self.node(id)?;
        let size = match &n.body {
            Body::File(content) => content.len(),
            Body::Dir(entries) => entries.len(),
            Body::Symlink(target) => target.len(),
            Body::Other => 0,
        };
        let (kind, mode, uid, gid) = (n.kind, n.mode, n.uid, n.gid);
        Ok(Stat { id, kind, mode, uid, gid, links: self.links(id), size: size as u64 })
    }

    /// Inodes, directories and bytes below a directory, itself counted.
    pub fn totals(&self, dir: u64) -> (u64, u64, u64) {
        let mut sum = (1, 1, 0);
        let mut seen = BTreeSet::new();
        for (_, id) in self.entries(dir).into_iter().flatten() {
            let n = &self.nodes[id];
            if n.home != dir || !seen.insert(*id) {
                continue;
            }
            let (inodes, dirs, bytes) = match &n.body {
                Body::Dir(_) => self.totals(*id),
                Body::File(content) => (1, 0, content.len() as u64),
                Body::Symlink(target) => (1, 0, target.len() as u64),
                Body::Other => (1, 0, 0),
            };
            sum = (sum.0 + inodes, sum.1 + dirs, sum.2 + bytes);
        }
        sum
    }

    /// EACCES unless the caller has all of these rights.
    pub fn may(&self, who: &Credentials, id: u64, want: u32) -> Res<()> {
        let n = self.node(id)?;
        let class = match (who.uid == n.uid, who.gid == n.gid || who.groups.contains(&n.gid)) {
            (true, _) => n.mode >> 6,
            (false, true) => n.mode >> 3,
            (false, false) => n.mode,
        };
        let executable = n.kind == FileKind::Dir || n.mode & 0o111 != 0;
        let has = if who.uid == 0 { READ | WRITE | if executable { EXEC } else { 0 } } else { class & 7 };
        if has & want == want { Ok(()) } else { Err(EACCES.into()) }
    }

    pub fn owns(&self, who: &Credentials, id: u64) -> Res<()> {
        if who.uid == 0 || who.uid == self.node(id)?.uid { Ok(()) } else { Err(EPERM.into()) }
    }

    /// What a name names, for one who may search the directory.
    pub fn find(&self, who: &Credentials, dir: u64, name: &str) -> Res<Option<u64>> {
        self.entries(dir)?;
        self.may(who, dir, EXEC)?;
        Ok(self.entries(dir)?.iter().find(|(n, _)| n == name).map(|(_, id)| *id))
    }

    /// Whether the caller may make names in a directory.
    pub fn may_make(&self, who: &Credentials, dir: u64) -> Res<()> {
        if !self.is_live(dir) {
            return Err(ENOENT.into());
        }
        self.may(who, dir, WRITE | EXEC)
    }

    /// Whether the caller may take a name of this inode away.
    pub fn may_take(&self, who: &Credentials, dir: u64, id: u64) -> Res<()> {
        self.may_make(who, dir)?;
        let sticky = self.node(dir)?.mode & 0o1000 != 0;
        if sticky && self.owns(who, dir).is_err() { self.owns(who, id) } else { Ok(()) }
    }

    /// A write or another owner takes privileges.
    pub fn lower(&mut self, id: u64) -> Res<()> {
        let n = self.node_mut(id)?;
        if n.kind == FileKind::File {
            let group = if n.mode & 0o10 != 0 { 0o2000 } else { 0 };
            n.mode &= !(0o4000 | group);
        }
        Ok(())
    }

    /// Puts a name at the end of a directory.
    pub fn name(&mut self, dir: u64, name: &str, id: u64) -> Res<()> {
        self.entries_mut(dir)?.push((name.into(), id));
        self.named(dir, id)
    }

    /// Notes a name of an inode.
    pub fn named(&mut self, dir: u64, id: u64) -> Res<()> {
        let n = self.node_mut(id)?;
        *n.names.entry(dir).or_default() += 1;
        if n.names.len() == 1 {
            n.home = dir;
        }
        Ok(())
    }

    /// A name of an inode is gone. Where it counts it has a name, as long as it has one.
    pub fn unnamed(&mut self, dir: u64, id: u64) -> Res<()> {
        let n = self.node_mut(id)?;
        let left = n.names.get_mut(&dir).ok_or(EIO)?;
        *left -= 1;
        if *left == 0 {
            n.names.remove(&dir);
        }
        if let Some(first) = n.names.keys().next().copied().filter(|_| !n.names.contains_key(&n.home)) {
            n.home = first;
        }
        Ok(())
    }

    /// Takes a name away, and with the last one the inode, unless somebody has it open.
    pub fn take(&mut self, dir: u64, name: &str) -> Res<u64> {
        let entries = self.entries_mut(dir)?;
        let at = entries.iter().position(|(n, _)| n == name).ok_or(ENOENT)?;
        let (_, id) = entries.remove(at);
        self.unnamed(dir, id)?;
        Ok(id)
    }

    /// An inode goes when nobody names it or has it open.
    pub fn sweep(&mut self, id: u64) {
        if id != ROOT && !self.is_live(id) && !self.opened.contains(&id) {
            self.nodes.remove(&id);
        }
    }

    /// Whether a directory can have one more in it.
    pub fn has_room(&self, dir: u64) -> Res<()> {
        if self.links(dir) < LINKS_MAX { Ok(()) } else { Err(EMLINK.into()) }
    }
}
