//! Older copies of a medium that come back, and what a disk that lied has never had.

use super::{Content, FileRef, SimMedium, State, bytes::Bytes};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

/// What a medium held at one moment, as somebody copies it who freezes it for that.
#[derive(Clone, Debug)]
pub struct Copied(BTreeMap<String, Bytes>);

impl SimMedium {
    /// What is on the medium, and nothing of what is only written: a state that a power failure may leave.
    pub fn copy(&self) -> Copied {
        let s = self.state.lock();
        Copied(s.durable_names.iter().map(|(n, f)| (n.clone(), f.lock().durable.clone())).collect())
    }

    /// The copy is all that is on the medium from now on, whoever had it before.
    pub fn restore(&self, copy: &Copied) {
        let file = |bytes: &Bytes| {
            let content = Content {
                durable: bytes.clone(),
                current: bytes.clone(),
                synced: true,
                ..Content::default()
            };
            Arc::new(Mutex::new(content))
        };
        let names: BTreeMap<String, FileRef> = copy.0.iter().map(|(n, b)| (n.clone(), file(b))).collect();
        let made = names.values().map(Arc::downgrade).collect();
        let mut s = self.state.lock();
        let boot = s.boot + 1;
        *s = State { boot, durable_names: names.clone(), names, made, ..State::default() };
    }

    /// What was written and is not on the medium never will be: of a disk that lied this is all since it began to.
    pub fn forget(&self) {
        let mut s = self.state.lock();
        s.pending_names.clear();
        for file in s.made.iter().filter_map(Weak::upgrade) {
            file.lock().pending.clear();
        }
    }

    /// A number for all that was done to it so far, in order.
    pub fn trace(&self) -> u64 {
        self.trace.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Ill;
    use mooseng_host::SeededRng;

    /// The bytes of a file, if it is there.
    fn content(medium: &SimMedium, name: &str) -> Option<Vec<u8>> {
        let file = medium.mount().open(name).ok()?;
        let mut buf = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut buf).unwrap();
        Some(buf)
    }

    #[test]
    fn a_copy_has_what_was_synced_and_comes_back_as_it_was() {
        let medium = SimMedium::new("d", 1 << 20);
        let file = medium.mount().create("a").unwrap();
        medium.mount().sync_dir("").unwrap();
        file.write_at(0, b"old").unwrap();
        file.sync().unwrap();
        file.write_at(3, b"-pending").unwrap();
        let copy = medium.copy();
        file.sync().unwrap();
        medium.mount().create("b").unwrap();
        medium.mount().sync_dir("").unwrap();
        medium.restore(&copy);
        assert!(file.len().is_err(), "handles die with their process");
        assert_eq!((content(&medium, "a"), content(&medium, "b")), (Some(b"old".into()), None));
        medium.crash(&SeededRng::new(1));
        assert_eq!(content(&medium, "a"), Some(b"old".into()), "it is on the medium");
    }

    #[test]
    fn a_disk_that_lies_keeps_nothing_and_nobody_sees_it_before_power_fails() {
        for all in [true, false] {
            let medium = SimMedium::new("d", 1 << 20);
            let file = medium.mount().create("a").unwrap();
            medium.mount().sync_dir("").unwrap();
            file.write_at(0, b"old").unwrap();
            file.sync().unwrap();
            medium.falls_ill(Ill::Lies, 1);
            file.write_at(0, b"new").unwrap();
            file.sync().unwrap();
            medium.mount().create("b").unwrap();
            medium.mount().sync_dir("").unwrap();
            assert_eq!(medium.felt(), ["a", ""]);
            assert_eq!(content(&medium, "a"), Some(b"new".into()));
            medium.kill();
            assert_eq!(content(&medium, "a"), Some(b"new".into()), "the kernel lives and has it");
            if all {
                medium.forget();
            }
            medium.crash(&SeededRng::new(1));
            medium.recovers();
            if all {
                assert_eq!((content(&medium, "a"), content(&medium, "b")), (Some(b"old".into()), None));
            }
            let file = medium.mount().open("a").unwrap();
            file.write_at(0, b"now").unwrap();
            file.sync().unwrap();
            medium.crash(&SeededRng::new(2));
            assert_eq!(content(&medium, "a"), Some(b"now".into()), "it is well again");
        }
    }
}
