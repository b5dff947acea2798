//! A clock for each node: they run at rates of their own, and the time of day jumps. What a node waits for
//! (tokio's timers) passes at one rate for all; how late it is, each judges by its own clock.

use mooseng_core::{
    attr::Timestamp,
    seam::{Clock, Seams},
};
use mooseng_host::VirtualClock;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A clock's rate when it is right.
pub const RIGHT: u32 = 1000;

#[derive(Clone, Copy, Debug)]
struct Pace {
    /// True time of the last change, and what the clock showed then.
    since: Duration,
    shown: Duration,
    /// Milliseconds in a true second.
    rate: u32,
    /// Seconds by which the time of day is wrong.
    off: i64,
}

/// The clock of one node.
#[derive(Debug)]
pub struct NodeClock {
    right: VirtualClock,
    pace: Mutex<Pace>,
}

impl NodeClock {
    fn new() -> Self {
        let pace = Pace { since: Duration::ZERO, shown: Duration::ZERO, rate: RIGHT, off: 0 };
        Self { right: VirtualClock::new(), pace: Mutex::new(pace) }
    }

    /// Runs at another rate from now on, in milliseconds a second; the time of day jumps to
    /// so many seconds off, when given.
    pub fn changes(&self, rate: u32, off: Option<i64>) {
        let shown = self.now();
        let mut pace = self.pace.lock();
        *pace = Pace { since: self.right.now(), shown, rate, off: off.unwrap_or(pace.off) };
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Duration {
        let pace = *self.pace.lock();
        pace.shown + (self.right.now() - pace.since) * pace.rate / RIGHT
    }
    fn wall(&self) -> Timestamp {
        let (start, pace) = (self.right.wall(), *self.pace.lock());
        let elapsed = self.now();
        let midnight = start.secs().saturating_sub_unsigned(self.right.now().as_secs());
        Timestamp::new(midnight.saturating_add_unsigned(elapsed.as_secs()) + pace.off, elapsed.subsec_nanos())
    }
}

/// All clocks of a run, by the names of their nodes.
#[derive(Clone, Debug, Default)]
pub struct Clocks(Arc<Mutex<BTreeMap<String, Arc<NodeClock>>>>);

impl Clocks {
    /// The clock of a node.
    pub fn of(&self, node: &str) -> Arc<NodeClock> {
        self.0.lock().entry(node.to_owned()).or_insert_with(|| Arc::new(NodeClock::new())).clone()
    }

    /// What a node is given: its clock, and the rest that all share.
    pub fn seams(&self, shared: &Seams, node: &str) -> Seams {
        Seams { clock: self.of(node), ..shared.clone() }
    }

    /// All run right from now on; the times of day stay as they are.
    pub fn run_right(&self) {
        self.0.lock().values().for_each(|c| c.changes(RIGHT, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_may_be_fast_and_its_day_may_jump_and_it_never_goes_back() {
        let clocks = Clocks::default();
        let (clock, right) = (clocks.of("a"), clocks.of("b"));
        let start = clock.wall();
        clock.changes(2000, Some(-3600));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((clock.now(), right.now()), (Duration::from_secs(20), Duration::from_secs(10)));
        assert_eq!(clock.wall().secs(), start.secs() + 20 - 3600);
        clocks.run_right();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.now(), Duration::from_secs(21));
    }
}
