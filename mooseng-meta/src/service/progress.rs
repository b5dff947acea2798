//! How fast repairs go, how fast they may, and how long what is left of them takes. Pure: the caller
//! tells the time.

use crate::repair::Risk;
use std::{collections::VecDeque, time::Duration};

/// The speed is that of so long a time.
const WINDOW: Duration = Duration::from_secs(60);
/// Before so long a time the first copies tell too little.
const TELLS_AFTER: Duration = Duration::from_secs(3);
/// Copying may run so far ahead of its pace: what is copied is known when it is done only.
const AHEAD: Duration = Duration::from_secs(1);
/// A chunk of which one copy is left goes at so many times the pace.
const ENDANGERED_FASTER: u64 = 4;

/// Copies made while nobody waited for them.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// When the pace is kept again.
    kept_at: Duration,
    /// Copies made lately: when, how many bytes.
    lately: VecDeque<(Duration, u64)>,
    /// Chunks looked after now.
    pub running: usize,
    /// Chunks mended in this leader's term.
    pub done: u64,
    /// Attempts in this leader's term to mend or settle a chunk that failed.
    pub failed: u64,
}

impl Progress {
    /// Whether another may begin now.
    pub fn may_begin(&self, now: Duration) -> bool {
        self.kept_at <= now + AHEAD
    }

    /// Copies of a chunk were made, of so many bytes in sum. `per_s`: the pace, 0 for none.
    pub fn copied(&mut self, now: Duration, bytes: u64, risk: Risk, per_s: u64) {
        self.done += 1;
        self.lately.push_back((now, bytes));
        self.forget(now);
        self.spent(now, bytes, risk, per_s);
    }

    /// So many bytes were copied, whatever came of it.
    pub fn spent(&mut self, now: Duration, bytes: u64, risk: Risk, per_s: u64) {
        if per_s > 0 {
            let faster = if risk >= Risk::Endangered { ENDANGERED_FASTER } else { 1 };
            let takes = Duration::from_secs_f64(bytes as f64 / per_s.saturating_mul(faster) as f64);
            self.kept_at = self.kept_at.max(now) + takes;
        }
    }

    fn forget(&mut self, now: Duration) {
        while self.lately.front().is_some_and(|(at, _)| now.saturating_sub(*at) > WINDOW) {
            self.lately.pop_front();
        }
    }

    /// Chunks and bytes lately, and in how many seconds; `None` when that is too little to tell.
    fn speed(&self, now: Duration) -> Option<(f64, f64, f64)> {
        let within = || self.lately.iter().filter(|(at, _)| now.saturating_sub(*at) <= WINDOW);
        let took = now.saturating_sub(within().next()?.0);
        let bytes: u64 = within().map(|(_, bytes)| bytes).sum();
        (took >= TELLS_AFTER).then(|| (within().count() as f64, bytes as f64, took.as_secs_f64()))
    }

    /// Bytes a second lately; 0 when nothing was copied, or too little to tell.
    pub fn bytes_per_s(&self, now: Duration) -> u64 {
        self.speed(now).map_or(0, |(_, bytes, secs)| (bytes / secs) as u64)
    }

    /// How long so many chunks of so many bytes take: many small ones take their time, too. `None` while
    /// nothing tells.
    pub fn takes(&self, now: Duration, chunks: u64, bytes: u64) -> Option<Duration> {
        if chunks == 0 {
            return Some(Duration::ZERO);
        }
        let (chunks_lately, bytes_lately, secs) = self.speed(now)?;
        let by_chunks = chunks as f64 * secs / chunks_lately;
        let by_bytes = bytes as f64 * secs / bytes_lately.max(1.0);
        Some(Duration::from_secs(by_chunks.max(by_bytes).ceil() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_pace_is_kept_on_average_and_one_copy_left_goes_faster() {
        for (risk, wanted) in [(Risk::Undergoal, 10), (Risk::Endangered, 40)] {
            let (mut p, mut now, mut copied) = (Progress::default(), secs(100), 0);
            while now < secs(200) {
                if p.may_begin(now) {
                    p.copied(now, 4 * MIB, risk, 10 * MIB);
                    copied += 4;
                } else {
                    now += Duration::from_millis(500);
                }
            }
            let per_s = copied / 100;
            assert!((wanted..=wanted + 1).contains(&per_s), "{risk:?}: {per_s} MiB a second");
        }
        let mut free = Progress::default();
        for _ in 0..1000 {
            free.copied(secs(1), 64 * MIB, Risk::Undergoal, 0);
            assert!(free.may_begin(secs(1)), "without a pace nothing waits");
        }
    }

    #[test]
    fn the_time_left_comes_from_the_speed_of_the_last_minute() {
        let mut p = Progress::default();
        assert_eq!((p.takes(secs(5), 1, 1), p.takes(secs(5), 0, 0)), (None, Some(secs(0))));
        for n in 10..20 {
            p.copied(secs(n), 10 * MIB, Risk::Undergoal, 0);
        }
        assert_eq!(p.bytes_per_s(secs(20)), 10 * MIB);
        assert_eq!(p.takes(secs(20), 5, 300 * MIB), Some(secs(30)), "a few large ones");
        assert_eq!(p.takes(secs(20), 50, MIB), Some(secs(50)), "many small ones");
        assert_eq!(p.takes(secs(12), 5, 300 * MIB), None, "too little tells nothing");
        assert_eq!(p.takes(secs(100), 5, 300 * MIB), None, "what was long ago tells nothing");
        assert_eq!(p.done, 10);
    }
}
