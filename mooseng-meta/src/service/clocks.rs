//! How far the clock of a chunkserver is from this leader's, as its heartbeats tell. Pure.

use mooseng_core::attr::Timestamp;
use std::collections::VecDeque;

/// Heartbeats that are looked at. One may wait behind a network or a processor that is busy for a second; a clock is
/// wrong in all of them.
const KEPT: usize = 4;

/// Milliseconds by which it was ahead at the last heartbeats.
#[derive(Clone, Debug, Default)]
pub(super) struct Ahead(VecDeque<i64>);

impl Ahead {
    /// A heartbeat told `theirs` when this clock showed `ours`.
    pub fn tell(&mut self, theirs: Timestamp, ours: Timestamp) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(theirs.0.saturating_sub(ours.0) / 1_000_000);
    }

    /// By how many milliseconds it is ahead; below 0: behind. The way takes time from each heartbeat, so that the one that
    /// was fastest is nearest the truth; none comes before it was sent. So long as there were few, all of them may
    /// be late.
    pub fn millis(&self) -> i64 {
        let nearest = self.0.iter().copied().max().unwrap_or_default();
        if self.0.len() < KEPT { nearest.max(0) } else { nearest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(beats: &[i64]) -> i64 {
        let (mut ahead, ours) = (Ahead::default(), Timestamp::new(1_000, 0));
        for ms in beats {
            ahead.tell(Timestamp(ours.0 + ms * 1_000_000), ours);
        }
        ahead.millis()
    }

    #[test]
    fn one_late_heartbeat_makes_no_clock_wrong_and_several_do() {
        assert_eq!(after(&[]), 0);
        assert_eq!(after(&[5000]), 5000, "nothing comes before it was sent");
        assert_eq!(after(&[-4000, -4001, -4002]), 0, "they may all be late");
        assert_eq!(after(&[-1, -4000, -4002, -4001]), -1);
        assert_eq!(after(&[-1, -4000, -4002, -4001, -4009]), -4000);
        assert_eq!(after(&[5000, -1, -2, -3, -4]), -1, "it was set right");
    }

    #[test]
    fn a_server_that_tells_nonsense_harms_nobody() {
        let mut ahead = Ahead::default();
        ahead.tell(Timestamp(i64::MIN), Timestamp(i64::MAX));
        assert_eq!(ahead.millis(), 0);
        ahead.tell(Timestamp(i64::MAX), Timestamp(i64::MIN));
        assert_eq!(ahead.millis(), i64::MAX / 1_000_000);
    }
}
