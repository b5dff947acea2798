//! What clients were promised, and whether they got it. Pure.
//!
//! Each path is written by one client, so its history is a sequence; what makes it interesting is
//! that an operation may end *unknown* (the deadline passed, the leader died): then both the state
//! before and the state after are possible, until a read shows which. A state is durable once it
//! was synced; one that was only closed survives every kill but not a power failure.

use std::collections::BTreeMap;

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Acknowledged.
    Done,
    /// Refused: nothing changed.
    Refused,
    /// Nobody can tell.
    Unknown,
}

/// What a path may hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// No such name.
    Nothing,
    /// A directory.
    Dir,
    /// A file with this content.
    File {
        /// All of its bytes.
        content: Vec<u8>,
        /// Whether a power failure must not touch it.
        synced: bool,
    },
    /// A file whose content nobody was promised: unsynced at a power failure, or a write that ended
    /// unknown.
    Anything,
}

/// What a read showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// ENOENT.
    Nothing,
    /// A directory.
    Dir,
    /// A file's content.
    File(Vec<u8>),
    /// A file that answered EIO.
    Unreadable,
}

/// The promises of all paths.
#[derive(Debug, Default)]
pub struct Oracle {
    paths: BTreeMap<String, Vec<Held>>,
}

impl Held {
    fn admits(&self, seen: &Seen) -> bool {
        match (self, seen) {
            (Self::Nothing, Seen::Nothing) | (Self::Dir, Seen::Dir) => true,
            (Self::File { content, .. }, Seen::File(bytes)) => content == bytes,
            (Self::Anything, Seen::File(_) | Seen::Unreadable) => true,
            _ => false,
        }
    }
}

impl Oracle {
    /// What a path may hold now, most of the time one state.
    pub fn possible(&self, path: &str) -> Vec<Held> {
        self.paths.get(path).cloned().unwrap_or_else(|| vec![Held::Nothing])
    }

    /// Paths that were ever touched.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.keys().map(String::as_str)
    }

    /// An operation that turns each possible state of a path into `after` ended so.
    pub fn changed(&mut self, path: &str, after: Held, ended: Ended) {
        let states = match ended {
            Ended::Refused => return,
            Ended::Done => vec![after],
            Ended::Unknown => {
                let mut states = self.possible(path);
                // A write that ended unknown may have left any part of itself.
                let after = if let Held::File { .. } = after { Held::Anything } else { after };
                if !states.contains(&after) {
                    states.push(after);
                }
                states
            }
        };
        self.paths.insert(path.to_owned(), states);
    }

    /// A rename ended so. `to` is replaced.
    pub fn renamed(&mut self, from: &str, to: &str, ended: Ended) {
        let moved = self.possible(from);
        match ended {
            Ended::Refused => {}
            Ended::Done => {
                self.paths.insert(to.to_owned(), moved);
                self.paths.insert(from.to_owned(), vec![Held::Nothing]);
            }
            Ended::Unknown => {
                let mut at_to = self.possible(to);
                at_to.extend(moved.iter().filter(|h| !at_to.contains(h)).cloned().collect::<Vec<_>>());
                self.paths.insert(to.to_owned(), at_to);
                let mut at_from = moved;
                if !at_from.contains(&Held::Nothing) {
                    at_from.push(Held::Nothing);
                }
                self.paths.insert(from.to_owned(), at_from);
            }
        }
    }

    /// A sync of a file was acknowledged: what it holds is durable.
    pub fn synced(&mut self, path: &str) {
        for held in self.paths.get_mut(path).into_iter().flatten() {
            if let Held::File { synced, .. } = held {
                *synced = true;
            }
        }
    }

    /// Power failed somewhere: what was not synced is promised to nobody.
    pub fn power_failed(&mut self) {
        for held in self.paths.values_mut().flatten() {
            if matches!(held, Held::File { synced: false, .. }) {
                *held = Held::Anything;
            }
        }
    }

    /// A read showed this: an error tells what was promised instead. What was possible and did not
    /// show is ruled out.
    pub fn saw(&mut self, path: &str, seen: &Seen) -> Result<(), String> {
        let possible = self.possible(path);
        let left: Vec<_> = possible.iter().filter(|h| h.admits(seen)).cloned().collect();
        if left.is_empty() {
            return Err(format!("{path}: saw {}, promised {}", brief_seen(seen), brief(&possible)));
        }
        self.paths.insert(path.to_owned(), left);
        Ok(())
    }
}

fn brief_bytes(b: &[u8]) -> String {
    let sum = b.iter().fold(0u32, |h, x| h.wrapping_mul(31).wrapping_add(u32::from(*x)));
    format!("{} bytes #{sum:08x}", b.len())
}

fn brief_seen(seen: &Seen) -> String {
    match seen {
        Seen::File(b) => format!("a file of {}", brief_bytes(b)),
        other => format!("{other:?}"),
    }
}

fn brief(possible: &[Held]) -> String {
    let each = possible.iter().map(|h| match h {
        Held::File { content, synced } => format!("a file of {} (synced: {synced})", brief_bytes(content)),
        other => format!("{other:?}"),
    });
    each.collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> Held {
        Held::File { content: content.to_vec(), synced: false }
    }

    #[test]
    fn acknowledged_is_binding() {
        let mut o = Oracle::default();
        o.changed("a", file(b"x"), Ended::Done);
        assert!(o.saw("a", &Seen::File(b"x".to_vec())).is_ok());
        assert!(o.saw("a", &Seen::File(b"y".to_vec())).is_err());
        assert!(o.saw("a", &Seen::Nothing).is_err());
        assert!(o.saw("a", &Seen::Unreadable).is_err());
    }

    #[test]
    fn unknown_is_either_until_it_is_seen() {
        let mut o = Oracle::default();
        o.changed("d", Held::Dir, Ended::Unknown);
        assert!(o.saw("d", &Seen::Nothing).is_ok());
        assert!(o.saw("d", &Seen::Dir).is_err(), "it was not there, nobody made it since");
    }

    #[test]
    fn a_power_failure_frees_only_what_was_not_synced() {
        let mut o = Oracle::default();
        o.changed("a", file(b"x"), Ended::Done);
        o.changed("b", file(b"y"), Ended::Done);
        o.synced("a");
        o.power_failed();
        assert!(o.saw("a", &Seen::Unreadable).is_err());
        assert!(o.saw("b", &Seen::Unreadable).is_ok());
        assert!(o.saw("b", &Seen::Nothing).is_err(), "the name was acknowledged");
    }

    #[test]
    fn an_unknown_rename_leaves_both_names_open() {
        let mut o = Oracle::default();
        o.changed("a", file(b"x"), Ended::Done);
        o.renamed("a", "b", Ended::Unknown);
        assert!(o.saw("b", &Seen::File(b"x".to_vec())).is_ok());
        assert!(o.saw("a", &Seen::Nothing).is_ok());
    }
}
