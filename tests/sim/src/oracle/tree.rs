//! One possible state of a group's names. Pure: a small filesystem that says of each operation on
//! names whether it would succeed and what it leaves.

use super::file::{FileState, SeenFile};
use std::collections::{BTreeMap, BTreeSet};

/// A file, whatever its names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FileId(pub u32);

/// What a name means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    /// A directory.
    Dir,
    /// A file.
    File(FileId),
}

/// An operation on names; paths are relative to the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NameOp {
    /// A file is made, or cut to nothing.
    Create(String, FileId),
    /// A directory is made.
    MkDir(String),
    /// A file's name is removed.
    Unlink(String),
    /// An empty directory is removed.
    RmDir(String),
    /// The first is renamed to the second, which is replaced.
    Rename(String, String),
    /// The file at the first gets the second as a further name.
    Link(String, String),
    /// The file's size is set, from its base.
    Resize(String, usize),
}

/// The model refuses; which error is not its business.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refuses;

/// What a look at one name showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SeenNode {
    /// A directory.
    Dir,
    /// A file with its inode number, its link count, its content unless that was not looked at.
    File(u64, u32, Option<SeenFile>),
}

/// All names of a group that a look showed.
pub type Seen = BTreeMap<String, SeenNode>;

/// One possible state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct World {
    names: BTreeMap<String, Node>,
    files: BTreeMap<FileId, FileState>,
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(dir, _)| dir)
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

impl World {
    /// What a path names.
    pub fn node(&self, path: &str) -> Option<Node> {
        self.names.get(path).copied()
    }

    /// The file that a path names.
    pub fn file(&self, path: &str) -> Option<&FileState> {
        let Some(Node::File(id)) = self.node(path) else { return None };
        self.files.get(&id)
    }

    /// The same, to change what is promised of it.
    pub fn file_mut(&mut self, path: &str) -> Option<&mut FileState> {
        let Some(Node::File(id)) = self.node(path) else { return None };
        self.files.get_mut(&id)
    }

    /// All files.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut FileState> {
        self.files.values_mut()
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    fn can_be_made(&self, path: &str) -> Result<(), Refuses> {
        match parent(path) {
            None => Ok(()),
            Some(dir) if self.node(dir) == Some(Node::Dir) => Ok(()),
            Some(_) => Err(Refuses),
        }
    }

    fn is_empty_dir(&self, path: &str) -> bool {
        !self.names.keys().any(|n| is_below(n, path))
    }

    fn drop_unnamed(&mut self) {
        let named: BTreeSet<FileId> = self
            .names
            .values()
            .filter_map(|n| if let Node::File(id) = n { Some(*id) } else { None })
            .collect();
        self.files.retain(|id, _| named.contains(id));
    }

    /// Carries an operation out.
    pub fn apply(&mut self, op: &NameOp) -> Result<(), Refuses> {
        match op {
            NameOp::Create(path, id) => {
                self.can_be_made(path)?;
                match self.node(path) {
                    Some(Node::Dir) => return Err(Refuses),
                    Some(Node::File(there)) => drop(self.files.insert(there, FileState::default())),
                    None => {
                        self.names.insert(path.clone(), Node::File(*id));
                        self.files.insert(*id, FileState::default());
                    }
                }
            }
            NameOp::MkDir(path) => {
                self.can_be_made(path)?;
                if self.node(path).is_some() {
                    return Err(Refuses);
                }
                self.names.insert(path.clone(), Node::Dir);
            }
            NameOp::Unlink(path) => {
                let Some(Node::File(_)) = self.node(path) else { return Err(Refuses) };
                self.names.remove(path);
            }
            NameOp::RmDir(path) => {
                if self.node(path) != Some(Node::Dir) || !self.is_empty_dir(path) {
                    return Err(Refuses);
                }
                self.names.remove(path);
            }
            NameOp::Rename(from, to) => self.rename(from, to)?,
            NameOp::Link(original, link) => {
                let Some(file @ Node::File(_)) = self.node(original) else { return Err(Refuses) };
                self.can_be_made(link)?;
                if self.node(link).is_some() {
                    return Err(Refuses);
                }
                self.names.insert(link.clone(), file);
            }
            NameOp::Resize(path, len) => self.file_mut(path).ok_or(Refuses)?.resized(*len),
        }
        self.drop_unnamed();
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), Refuses> {
        let moved = self.node(from).ok_or(Refuses)?;
        self.can_be_made(to)?;
        if is_below(to, from) {
            return Err(Refuses);
        }
        match (moved, self.node(to)) {
            // Two names of one file, or of one directory: nothing happens.
            (a, Some(b)) if from == to || (a == b && a != Node::Dir) => return Ok(()),
            (Node::Dir, Some(Node::File(_))) | (Node::File(_), Some(Node::Dir)) => return Err(Refuses),
            (Node::Dir, Some(Node::Dir)) if !self.is_empty_dir(to) => return Err(Refuses),
            _ => {}
        }
        let below: Vec<String> =
            self.names.keys().filter(|n| *n == from || is_below(n, from)).cloned().collect();
        for name in below {
            if let Some(node) = self.names.remove(&name) {
                self.names.insert(format!("{to}{}", &name[from.len()..]), node);
            }
        }
        Ok(())
    }

    /// Whether a look may have shown this. Errors tell what was promised instead.
    pub fn admits(&self, seen: &Seen) -> Result<(), String> {
        if let Some(missing) = self.names.keys().find(|n| !seen.contains_key(*n)) {
            return Err(format!("{missing} is missing"));
        }
        if let Some(ghost) = seen.keys().find(|n| !self.names.contains_key(*n)) {
            return Err(format!("{ghost} is there and should not be"));
        }
        let mut inodes: BTreeMap<FileId, u64> = BTreeMap::new();
        let mut ids: BTreeMap<u64, FileId> = BTreeMap::new();
        for (path, node) in seen {
            match (self.node(path), node) {
                (Some(Node::Dir), SeenNode::Dir) => {}
                (Some(Node::File(id)), SeenNode::File(inode, links, content)) => {
                    if *inodes.entry(id).or_insert(*inode) != *inode || *ids.entry(*inode).or_insert(id) != id
                    {
                        return Err(format!("{path} is not the file that its other names are"));
                    }
                    let named = self.names.values().filter(|n| **n == Node::File(id)).count();
                    if *links as usize != named {
                        return Err(format!("{path} counts {links} names, and has {named}"));
                    }
                    let (Some(content), Some(file)) = (content, self.files.get(&id)) else { continue };
                    file.admits(content).map_err(|e| format!("{path}: {e}; {}", file.brief()))?;
                }
                (promised, _) => return Err(format!("{path} is {node:?}, promised {promised:?}")),
            }
        }
        Ok(())
    }

    /// What was seen is what is there.
    pub fn saw(&mut self, seen: &Seen) {
        for (path, node) in seen {
            if let (SeenNode::File(_, _, Some(content)), Some(file)) = (node, self.file_mut(path)) {
                file.saw(content);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(ops: &[NameOp]) -> World {
        let mut w = World::default();
        ops.iter().for_each(|op| w.apply(op).unwrap());
        w
    }

    #[test]
    fn a_directory_moves_with_what_is_in_it() {
        let mut w = world(&[NameOp::MkDir("d".into()), NameOp::Create("d/x".into(), FileId(1))]);
        assert_eq!(w.apply(&NameOp::RmDir("d".into())), Err(Refuses));
        assert_eq!(w.apply(&NameOp::Rename("d".into(), "d/e".into())), Err(Refuses));
        w.apply(&NameOp::Rename("d".into(), "e".into())).unwrap();
        assert_eq!(w.node("e/x"), Some(Node::File(FileId(1))));
        assert_eq!(w.node("d"), None);
    }

    #[test]
    fn links_share_their_content_until_the_last_is_gone() {
        let mut w = world(&[NameOp::Create("a".into(), FileId(1)), NameOp::Link("a".into(), "b".into())]);
        w.file_mut("a").unwrap().write(0, b"x", 1);
        w.apply(&NameOp::Unlink("a".into())).unwrap();
        assert_eq!(w.file("b").unwrap().content(), b"x");
        let seen = |links| Seen::from([("b".into(), SeenNode::File(7, links, None))]);
        assert!(w.admits(&seen(1)).is_ok());
        assert!(w.admits(&seen(2)).is_err());
        assert!(w.admits(&Seen::new()).is_err(), "the name was acknowledged");
    }

    #[test]
    fn ghosts_are_seen() {
        let seen = Seen::from([("a".into(), SeenNode::Dir)]);
        assert!(World::default().admits(&seen).is_err());
    }
}
