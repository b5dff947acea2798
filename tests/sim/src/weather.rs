//! The network of a run: small delays always; lost messages and broken connections while it is
//! *flaky*; walls between nodes; slow nodes. Every decision goes into the journal's hash.

use crate::journal::Journal;
use mooseng_core::seam::Rng as _;
use mooseng_host::SeededRng;
use mooseng_net::memory::{Event, Fate, Faults};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

/// What does not get through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wall {
    /// Nothing to or from this node.
    Around(String),
    /// Nothing that this node sends; it hears everybody.
    Mute(String),
    /// Nothing that is sent to this node; everybody hears it.
    Deaf(String),
    /// Nothing between these two; both reach all others.
    Between(String, String),
    /// Nothing from the first to the second, everything back.
    OneWay(String, String),
    /// Nothing to or from the first, except what the second sends and gets.
    Only(String, String),
}

impl Wall {
    fn stops(&self, from: &str, to: &str) -> bool {
        match self {
            Self::Around(n) => from == n || to == n,
            Self::Mute(n) => from == n,
            Self::Deaf(n) => to == n,
            Self::Between(a, b) => (from == a && to == b) || (from == b && to == a),
            Self::OneWay(a, b) => from == a && to == b,
            Self::Only(n, friend) => (from == n && to != friend) || (to == n && from != friend),
        }
    }

    /// Whether a connection between these two crosses it, in either direction.
    pub fn crosses(&self, a: &str, b: &str) -> bool {
        self.stops(a, b) || self.stops(b, a)
    }
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Around(n) => write!(f, "{n} is isolated"),
            Self::Mute(n) => write!(f, "{n} hears and is not heard"),
            Self::Deaf(n) => write!(f, "{n} is heard and hears nothing"),
            Self::Between(a, b) => write!(f, "{a} and {b} do not reach each other"),
            Self::OneWay(a, b) => write!(f, "{a} does not reach {b}"),
            Self::Only(n, friend) => write!(f, "{n} and {friend} have nobody but each other"),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    flaky: bool,
    walls: Vec<Wall>,
    slow: BTreeMap<String, Duration>,
    /// Until when nodes stand still.
    paused: BTreeMap<String, Duration>,
    dead: BTreeSet<String>,
    /// Pairs between which something was lost, with the time of the first loss.
    lost: BTreeMap<(String, String), Duration>,
    events: u64,
}

/// Silence after which a real connection ends. Something that is lost for good is such a silence:
/// no transport loses a message and goes on.
const IDLE: Duration = Duration::from_secs(8);

/// Who reads everything to look for damage, over a network that is reliable for it.
pub const SCRUBBER: &str = "scrubber";

/// The network's faults.
#[derive(Debug)]
pub struct Weather {
    rng: SeededRng,
    journal: Arc<Journal>,
    state: Mutex<State>,
}

/// A node by any of its names: masters listen for each other at a name of its own.
pub fn node_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

impl Weather {
    /// Fair weather of a seed.
    pub fn new(seed: u64, journal: Arc<Journal>) -> Self {
        Self { rng: SeededRng::new(seed), journal, state: Mutex::default() }
    }

    /// Whether messages get lost and connections break now and then.
    pub fn set_flaky(&self, flaky: bool) {
        self.state.lock().flaky = flaky;
    }

    /// Puts a wall up.
    pub fn wall(&self, wall: Wall) {
        self.state.lock().walls.push(wall);
    }

    /// Makes every message from or to a node late by up to twice this.
    pub fn slow(&self, node: &str, by: Duration) {
        self.state.lock().slow.insert(node.to_owned(), by);
    }

    /// A node stands still until then, by the journal's time, as after SIGSTOP: what is sent to it waits,
    /// and so does what it has sent. Its own timers go on.
    pub fn pause(&self, node: &str, until: Duration) {
        self.state.lock().paused.insert(node.to_owned(), until);
    }

    /// All walls fall, nobody is slow.
    pub fn clear(&self) {
        let mut s = self.state.lock();
        s.walls.clear();
        s.slow.clear();
    }

    /// The process of this name is gone for good: what its tasks still do reaches nobody.
    pub fn bury(&self, node: &str) {
        self.state.lock().dead.insert(node.to_owned());
    }

    /// Pairs whose connections are to end, for what was lost on them was lost long ago. Told once.
    pub fn take_silent(&self) -> BTreeSet<(String, String)> {
        let now = self.journal.elapsed();
        let mut s = self.state.lock();
        let (silent, lost) = std::mem::take(&mut s.lost).into_iter().partition(|(_, at)| *at + IDLE <= now);
        s.lost = lost;
        let silent: BTreeMap<_, Duration> = silent;
        silent.into_keys().flat_map(|(a, b)| [(a.clone(), b.clone()), (b, a)]).collect()
    }

    /// Decisions so far.
    pub fn events(&self) -> u64 {
        self.state.lock().events
    }
}

impl State {
    /// How long a message has to wait for one of its ends.
    fn stands_still(&self, from: &str, to: &str, now: Duration) -> Duration {
        let until = [from, to].into_iter().filter_map(|n| self.paused.get(n)).max();
        until.map_or(Duration::ZERO, |until| until.saturating_sub(now))
    }

    fn fate(&self, from: &str, to: &str, event: Event, r: u64, now: Duration) -> Fate {
        let connect = matches!(event, Event::Connect);
        if self.dead.contains(from) || self.dead.contains(to) {
            return if connect { Fate::Reset } else { Fate::Drop };
        }
        // A connection needs both directions to come about.
        if self.walls.iter().any(|w| w.stops(from, to) || (connect && w.crosses(from, to))) {
            return Fate::Drop;
        }
        let waits = self.stands_still(from, to, now);
        if !waits.is_zero() {
            // A call is not cancelled before it came.
            return match event {
                Event::Connect | Event::Cancel(_) => Fate::Drop,
                _ => Fate::Deliver(waits + Duration::from_micros(50 + r % 2000)),
            };
        }
        let may_be_lost = matches!(event, Event::Request(_) | Event::Reply(_));
        let flaky = self.flaky && ![from, to].contains(&SCRUBBER);
        match (r >> 32) % 1000 {
            0..4 if flaky && !connect => return Fate::Reset,
            4..8 if flaky && may_be_lost => return Fate::Drop,
            _ => {}
        }
        let again = flaky && matches!(event, Event::Request(_)) && (8..18).contains(&((r >> 32) % 1000));
        let mut delay = Duration::from_micros(50 + r % 2000);
        for slow in [from, to].into_iter().filter_map(|n| self.slow.get(n)) {
            delay += slow.mul_f64((r % 1024) as f64 / 512.0);
        }
        match again {
            // Mostly soon, at times when much has happened since.
            true => Fate::Twice(delay, Duration::from_millis(1 << ((r >> 48) % 14))),
            false => Fate::Deliver(delay),
        }
    }
}

impl Faults for Weather {
    fn fate(&self, from: &str, to: &str, event: Event) -> Fate {
        let r = self.rng.next_u64();
        let (from, to) = (node_of(from), node_of(to));
        let mut state = self.state.lock();
        state.events += 1;
        let now = self.journal.elapsed();
        let fate = state.fate(from, to, event, r, now);
        let waits = matches!(event, Event::Connect) || !state.stands_still(from, to, now).is_zero();
        if fate == Fate::Drop && !waits {
            state.lost.entry((from.to_owned(), to.to_owned())).or_insert(now);
        }
        drop(state);
        self.journal.fold(from.bytes().chain(to.bytes()).chain(r.to_le_bytes()));
        fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::net::Method;

    #[test]
    fn walls_stop_what_they_say_and_nothing_else() {
        let (a, b, c) = ("a", "b", "c");
        let one_way = Wall::OneWay(a.into(), b.into());
        assert!(one_way.stops(a, b) && !one_way.stops(b, a) && !one_way.stops(a, c));
        let mute = Wall::Mute(a.into());
        assert!(mute.stops(a, c) && !mute.stops(c, a) && mute.crosses(c, a));
        let between = Wall::Between(a.into(), b.into());
        assert!(between.stops(b, a) && !between.stops(c, a));
        let only = Wall::Only(a.into(), b.into());
        assert!(!only.stops(a, b) && !only.stops(b, a) && only.stops(a, c) && only.stops(c, a));
        assert!(!only.stops(b, c));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_to_one_who_stands_still_comes_when_it_goes_on() {
        let weather = Weather::new(1, Arc::new(Journal::new()));
        weather.pause("a", Duration::from_secs(30));
        let request = Event::Request(Method(1));
        for (from, to) in [("a", "b"), ("b", "a")] {
            let Fate::Deliver(after) = weather.fate(from, to, request) else { panic!("it is lost") };
            assert!(after > Duration::from_secs(30) && after < Duration::from_secs(31));
        }
        assert_eq!(weather.fate("b", "a", Event::Cancel(Method(1))), Fate::Drop);
        assert_eq!(weather.fate("b", "a", Event::Connect), Fate::Drop);
        assert!(weather.take_silent().is_empty(), "its connections last");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(matches!(weather.fate("b", "a", Event::Connect), Fate::Deliver(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_in_one_direction_lets_no_connection_come_about() {
        let weather = Weather::new(1, Arc::new(Journal::new()));
        weather.wall(Wall::OneWay("a".into(), "b".into()));
        assert_eq!(weather.fate("b", "a", Event::Connect), Fate::Drop);
        let reply = Event::Reply(Method(1));
        assert!(matches!(weather.fate("b/raft", "a", reply), Fate::Deliver(_)));
        weather.clear();
        assert!(matches!(weather.fate("a", "b", reply), Fate::Deliver(_)));
    }
}
