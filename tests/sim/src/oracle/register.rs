//! A place that several clients write at the same time, a whole value each time (an atomic register:
//! Herlihy and Wing, 1990): which of the values may be read. Pure.

use std::time::Duration;

#[derive(Clone, Debug)]
struct Write {
    tag: u64,
    handle: u64,
    begun: Duration,
    /// When it was known to be at every replica; what failed may arrive at any time.
    ended: Option<Duration>,
}

/// All that was written to one place.
#[derive(Clone, Debug, Default)]
pub struct Register(Vec<Write>);

impl Register {
    /// A handle begins to write a value that nobody else writes.
    pub fn begin(&mut self, tag: u64, handle: u64, now: Duration) {
        self.0.push(Write { tag, handle, begun: now, ended: None });
    }

    /// All that a handle wrote is acknowledged.
    pub fn acknowledged(&mut self, handle: u64, now: Duration) {
        self.0
            .iter_mut()
            .filter(|w| w.handle == handle && w.ended.is_none())
            .for_each(|w| w.ended = Some(now));
    }

    /// Whoever had this handle is kept out from now on: what it wrote is there by now or never.
    pub fn fenced(&mut self, handle: u64, now: Duration) {
        self.acknowledged(handle, now);
        self.0.retain(|w| w.handle != handle || w.begun < now);
    }

    /// Whether another write came for sure after this one and before `then`.
    fn is_replaced(&self, at: usize, then: Duration) -> bool {
        let one = &self.0[at];
        self.0.iter().enumerate().any(|(i, other)| {
            let done = other.ended.is_some_and(|e| e < then);
            let after =
                if other.handle == one.handle { i > at } else { one.ended.is_some_and(|e| e < other.begun) };
            i != at && done && after
        })
    }

    /// Whether a read that began then may have shown what `is` recognizes: a value by its tag, or `None`
    /// for what was there before all. Errors: it may not.
    pub fn admits(&self, then: Duration, is: impl Fn(Option<u64>) -> bool) -> Result<(), String> {
        if let Some(at) = self.0.iter().position(|w| is(Some(w.tag))) {
            return match self.is_replaced(at, then) {
                false => Ok(()),
                true => {
                    Err(format!("{:x} was read, which others had replaced: {:x?}", self.0[at].tag, self.0))
                }
            };
        }
        let written = self.0.iter().any(|w| w.ended.is_some_and(|e| e < then));
        match is(None) {
            true if !written => Ok(()),
            true => Err(format!("nothing was read, although it was written: {:x?}", self.0)),
            false => Err(format!("what was read is no value that was written: {:x?}", self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(r: &Register, then: u64, tag: Option<u64>) -> bool {
        r.admits(Duration::from_secs(then), |t| t == tag).is_ok()
    }

    #[test]
    fn what_was_replaced_may_not_come_back_and_what_is_open_may_be_either() {
        let at = Duration::from_secs;
        let mut r = Register::default();
        r.begin(1, 1, at(1));
        assert!(read(&r, 2, None) && read(&r, 2, Some(1)) && !read(&r, 2, Some(7)));
        r.acknowledged(1, at(2));
        assert!(!read(&r, 3, None) && read(&r, 3, Some(1)));
        r.begin(2, 2, at(3));
        assert!(read(&r, 4, Some(1)) && read(&r, 4, Some(2)));
        r.acknowledged(2, at(5));
        assert!(read(&r, 4, Some(1)), "the read began before the end");
        assert!(!read(&r, 6, Some(1)) && read(&r, 6, Some(2)));
        r.begin(3, 1, at(4));
        assert!(read(&r, 9, Some(3)) && read(&r, 9, Some(2)), "it overlaps");
        r.fenced(1, at(7));
        r.begin(4, 2, at(8));
        r.acknowledged(2, at(9));
        assert!(!read(&r, 10, Some(3)) && read(&r, 10, Some(4)));
    }
}
