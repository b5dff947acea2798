//! What clients were promised, and whether they got it. Pure.
//!
//! Names and files come in *groups*; one client changes a group at a time, so that its history is a
//! sequence. What makes it interesting is that an operation may end *unknown* (the deadline passed,
//! the session ended): then the state before and the state after are both possible, until a look
//! shows which. A group's promises are therefore a set of possible [`World`]s, most of the time one.
//!
//! What ended unknown may still be on its way when its client hears of it. Such a group is left in
//! peace until it can only have arrived or not at all (see `workload`), then it is looked at.

mod file;
mod history;
mod register;
mod tree;

pub use file::{FileState, SeenFile, WIDE_BASE};
pub use history::{Answer, Ask, CALLS_MAX, History, Pending};
pub use register::Register;
pub use tree::{FileId, NameOp, Node, Seen, SeenNode, World};

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Acknowledged.
    Done,
    /// Refused: nothing changed.
    Refused,
    /// Failed before anything happened, and not for what the namespace holds.
    NotApplied,
    /// Nobody can tell.
    Unknown,
}

/// The promises of one group.
#[derive(Clone, Debug)]
pub struct Worlds {
    worlds: Vec<World>,
    next_file: u32,
}

impl Default for Worlds {
    fn default() -> Self {
        Self { worlds: vec![World::default()], next_file: 0 }
    }
}

impl Worlds {
    /// The state, when it is known.
    pub fn only(&self) -> Option<&World> {
        if let [world] = &self.worlds[..] { Some(world) } else { None }
    }

    /// A file that is about to be made.
    pub fn next_file(&mut self) -> FileId {
        self.next_file += 1;
        FileId(self.next_file)
    }

    /// An operation on names ended so. Errors: it could not end so.
    pub fn named(&mut self, op: &NameOp, ended: Ended) -> Result<(), String> {
        let applied: Vec<(&World, Option<World>)> = self
            .worlds
            .iter()
            .map(|w| {
                let mut after = w.clone();
                (w, after.apply(op).ok().map(|()| after))
            })
            .collect();
        let mut left: Vec<World> = Vec::new();
        let mut add = |w: World| {
            if !left.contains(&w) {
                left.push(w);
            }
        };
        for (before, after) in applied {
            match ended {
                Ended::Done => after.into_iter().for_each(&mut add),
                Ended::Refused if after.is_none() => add(before.clone()),
                Ended::Refused => {}
                Ended::NotApplied => add(before.clone()),
                Ended::Unknown => {
                    add(before.clone());
                    after.into_iter().for_each(&mut add);
                }
            }
        }
        if left.is_empty() {
            return Err(format!("{op:?} ended {ended:?}, which no possible state explains"));
        }
        self.worlds = left;
        Ok(())
    }

    /// Whether a file was there to be opened. Errors: it could not end so.
    pub fn opened(&mut self, path: &str, ended: Ended) -> Result<(), String> {
        let is_file = |w: &World| w.file(path).is_some();
        match ended {
            Ended::Done => self.worlds.retain(is_file),
            Ended::Refused => self.worlds.retain(|w| !is_file(w)),
            Ended::NotApplied | Ended::Unknown => {}
        }
        let what = if ended == Ended::Done { "was opened" } else { "could not be opened" };
        if self.worlds.is_empty() {
            Err(format!("{path} {what}, which was promised otherwise"))
        } else {
            Ok(())
        }
    }

    /// Something happened to the content of a file.
    pub fn each(&mut self, path: &str, change: impl Fn(&mut FileState)) {
        self.worlds.iter_mut().filter_map(|w| w.file_mut(path)).for_each(change);
    }

    /// A sync of a file by a writer was acknowledged.
    pub fn synced(&mut self, path: &str, writer: u32) -> Result<(), String> {
        self.worlds.iter_mut().filter_map(|w| w.file_mut(path)).try_for_each(|f| f.synced(writer))
    }

    /// A writer is gone, with what it had not flushed.
    pub fn writer_died(&mut self, writer: u32) {
        self.worlds.iter_mut().flat_map(World::files_mut).for_each(|f| f.failed(writer));
    }

    /// All replicas of whatever may have lost power.
    pub fn power_failed(&mut self) {
        self.worlds.iter_mut().flat_map(World::files_mut).for_each(FileState::power_failed);
    }

    /// All replicas of whatever may have been started anew.
    pub fn restarted(&mut self) {
        self.worlds.iter_mut().flat_map(World::files_mut).for_each(FileState::restarted);
    }

    /// Whether the next sync of the file at a path may have to refuse.
    pub fn is_untold(&self, path: &str) -> bool {
        self.worlds.iter().filter_map(|w| w.file(path)).any(|f| f.untold)
    }

    /// Whether a power failure may have taken data of the file at a path.
    pub fn is_lossy(&self, path: &str) -> bool {
        self.worlds.iter().filter_map(|w| w.file(path)).any(|f| f.lossy)
    }

    /// Names of files of which a power failure may have taken data.
    pub fn lossy(&self) -> Vec<String> {
        let names = self.worlds.iter().flat_map(World::names).filter(|n| self.is_lossy(n));
        let names: std::collections::BTreeSet<_> = names.map(str::to_owned).collect();
        names.into_iter().collect()
    }

    /// Whether anything is promised of these bytes of a file, counted from its base.
    pub fn promises(&self, path: &str, range: std::ops::Range<usize>) -> bool {
        self.worlds.iter().filter_map(|w| w.file(path)).any(|f| f.promises(range.clone()))
    }

    /// A read by the one who has the file open showed these bytes.
    pub fn read(&self, path: &str, at: usize, data: &[u8]) -> Result<(), String> {
        let all = self.worlds.iter().filter_map(|w| w.file(path)).map(|f| f.admits_at(at, data, &[]));
        let mut last = Ok(());
        for one in all {
            if one.is_ok() {
                return Ok(());
            }
            last = one;
        }
        last.map_err(|e| format!("{path}: {e}"))
    }

    /// A look at everything showed this: an error tells what was promised instead. What was
    /// possible and did not show is ruled out.
    pub fn saw(&mut self, seen: &Seen) -> Result<(), String> {
        let judged: Vec<_> = self.worlds.iter().map(|w| w.admits(seen)).collect();
        if judged.iter().all(Result::is_err) {
            let why: Vec<_> = judged.into_iter().filter_map(Result::err).collect();
            return Err(why.join("; or "));
        }
        let mut admitted = judged.iter().map(Result::is_ok);
        self.worlds.retain(|_| admitted.next().unwrap_or(false));
        let mut left: Vec<World> = Vec::new();
        for mut w in self.worlds.drain(..) {
            w.saw(seen);
            if !left.contains(&w) {
                left.push(w);
            }
        }
        self.worlds = left;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_either_until_it_is_seen() {
        let mut o = Worlds::default();
        o.named(&NameOp::MkDir("d".into()), Ended::Unknown).unwrap();
        let mut other = o.clone();
        o.saw(&Seen::new()).unwrap();
        assert!(o.saw(&Seen::from([("d".into(), SeenNode::Dir)])).is_err(), "it was not there");
        other.saw(&Seen::from([("d".into(), SeenNode::Dir)])).unwrap();
        assert!(other.saw(&Seen::new()).is_err());
    }

    #[test]
    fn an_unknown_rename_leaves_one_of_two_names() {
        let mut o = Worlds::default();
        o.named(&NameOp::MkDir("a".into()), Ended::Done).unwrap();
        o.named(&NameOp::Rename("a".into(), "b".into()), Ended::Unknown).unwrap();
        let at = |n: &[&str]| n.iter().map(|n| ((*n).to_owned(), SeenNode::Dir)).collect::<Seen>();
        assert!(o.clone().saw(&at(&["a", "b"])).is_err());
        assert!(o.clone().saw(&at(&[])).is_err());
        o.saw(&at(&["b"])).unwrap();
        assert!(o.saw(&at(&["a"])).is_err());
    }

    #[test]
    fn a_refusal_must_have_a_reason() {
        let mut o = Worlds::default();
        assert!(o.named(&NameOp::MkDir("d".into()), Ended::Refused).is_err());
        o.named(&NameOp::MkDir("d".into()), Ended::Done).unwrap();
        o.named(&NameOp::MkDir("d".into()), Ended::Refused).unwrap();
        assert!(o.named(&NameOp::MkDir("d".into()), Ended::Done).is_err(), "carried out twice");
    }
}
