//! Clocks: the machine's, and one that follows tokio's.

use mooseng_core::{attr::Timestamp, seam::Clock};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The machine's clocks: CLOCK_BOOTTIME (runs through suspend) and the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsClock;

impl Clock for OsClock {
    fn now(&self) -> Duration {
        let t = clock_gettime(ClockId::Boottime);
        Duration::new(t.tv_sec.try_into().unwrap_or(0), t.tv_nsec.try_into().unwrap_or(0))
    }
    fn wall(&self) -> Timestamp {
        let t = clock_gettime(ClockId::Realtime);
        Timestamp::new(t.tv_sec, t.tv_nsec.try_into().unwrap_or(0))
    }
}

/// A clock that reads tokio's time, so that it stands still and jumps with a paused runtime.
///
/// `now` starts at zero when it is made; `wall` starts at 2026-01-01 00:00 UTC. Make and read it on
/// the runtime whose time it should follow.
#[derive(Clone, Copy, Debug)]
pub struct VirtualClock {
    start: tokio::time::Instant,
}

/// 2026-01-01 00:00 UTC in seconds: a fixed start makes equal runs equal.
const WALL_START_SECS: i64 = 1_767_225_600;

impl VirtualClock {
    /// A clock at zero.
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now() }
    }
}

impl Default for VirtualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        tokio::time::Instant::now().saturating_duration_since(self.start)
    }
    fn wall(&self) -> Timestamp {
        let now = self.now();
        Timestamp::new(WALL_START_SECS.saturating_add_unsigned(now.as_secs()), now.subsec_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_clock_moves_forward_and_knows_the_century() {
        let a = OsClock.now();
        let b = OsClock.now();
        assert!(b >= a && a > Duration::ZERO);
        assert!(OsClock.wall().secs() > 1_600_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_virtual_clock_follows_paused_time() {
        let clock = VirtualClock::new();
        assert_eq!(clock.now(), Duration::ZERO);
        tokio::time::advance(Duration::from_millis(90_500)).await;
        assert_eq!(clock.now(), Duration::from_millis(90_500));
        assert_eq!(clock.wall(), Timestamp::new(WALL_START_SECS + 90, 500_000_000));
    }
}
