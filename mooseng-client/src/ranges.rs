//! Byte ranges of a small file that were written here and are not at the masters. Pure.

use std::{collections::BTreeMap, ops::Range};

/// Ranges that do not touch, in order. Within 8 KiB there are at most
/// [`mooseng_core::limits::INLINE_PARTS_MAX`] of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<usize, usize>);

impl Ranges {
    /// Adds a range; it becomes one with those that it touches.
    pub(crate) fn add(&mut self, range: Range<usize>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            self.0.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.iter().map(|(from, to)| *from..*to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::limits::{INLINE_BYTES_MAX, INLINE_PARTS_MAX};

    #[test]
    fn what_touches_becomes_one() {
        let mut r = Ranges::default();
        for range in [10..20, 30..40, 25..25, 50..60] {
            r.add(range);
        }
        assert_eq!(r.iter().collect::<Vec<_>>(), [10..20, 30..40, 50..60]);
        r.add(20..30);
        assert_eq!(r.iter().collect::<Vec<_>>(), [10..40, 50..60], "it fills a gap");
        r.add(12..15);
        r.add(5..55);
        assert!(r.iter().eq(std::iter::once(5..60)));
        r.add(61..62);
        assert_eq!(r.iter().collect::<Vec<_>>(), [5..60, 61..62], "a byte lies between");
    }

    #[test]
    fn no_more_parts_fit_than_the_limit_says() {
        let mut r = Ranges::default();
        (0..INLINE_BYTES_MAX).step_by(2).for_each(|at| r.add(at..at + 1));
        assert_eq!(r.iter().count(), INLINE_PARTS_MAX);
        r.add(0..INLINE_BYTES_MAX);
        assert_eq!(r.iter().count(), 1);
    }
}
