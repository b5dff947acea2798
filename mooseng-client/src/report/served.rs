//! What chunkservers serve each second, from counts that each of them tells every few seconds.

use mooseng_core::{
    ids::ServerId,
    meta::{Served, ServerLoad},
};
use std::{collections::BTreeMap, iter::Sum, ops::Add, time::Duration};

/// A chunkserver that has told nothing new for so long serves nothing.
const STALE: Duration = Duration::from_secs(20);

/// What a chunkserver serves each second, or all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServedRate {
    /// Bytes that clients and other chunkservers read.
    pub read_bytes: f64,
    /// Bytes written: each copy counts.
    pub written_bytes: f64,
    /// Reads begun.
    pub reads: f64,
    /// Frames written.
    pub writes: f64,
    /// Syncs.
    pub syncs: f64,
}

impl ServedRate {
    /// Between two tellings of one start; `None` when they are not that.
    fn between(a: &ServerLoad, b: &ServerLoad) -> Option<Self> {
        let secs = (b.told.0 - a.told.0) as f64 / 1e9;
        let of = |what: fn(&Served) -> u64| what(&b.served).saturating_sub(what(&a.served)) as f64 / secs;
        (a.incarnation == b.incarnation && secs > 0.0).then(|| Self {
            read_bytes: of(|s| s.read_bytes),
            written_bytes: of(|s| s.written_bytes),
            reads: of(|s| s.reads),
            writes: of(|s| s.writes),
            syncs: of(|s| s.syncs),
        })
    }
}

impl Add for ServedRate {
    type Output = Self;

    fn add(self, b: Self) -> Self {
        Self {
            read_bytes: self.read_bytes + b.read_bytes,
            written_bytes: self.written_bytes + b.written_bytes,
            reads: self.reads + b.reads,
            writes: self.writes + b.writes,
            syncs: self.syncs + b.syncs,
        }
    }
}

impl Sum for ServedRate {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

#[derive(Clone, Copy, Debug)]
struct Told {
    load: ServerLoad,
    /// When that was heard first.
    heard: Duration,
    rate: Option<ServedRate>,
}

/// What chunkservers serve now, each between the last two times that it told. Pure: the caller tells the time, by one
/// clock of its own.
#[derive(Clone, Debug, Default)]
pub struct ServedRates {
    told: BTreeMap<ServerId, Told>,
    now: Duration,
}

impl ServedRates {
    /// Takes what [`Client::loads`](crate::Client::loads) answered at a time.
    pub fn hear(&mut self, now: Duration, loads: &[ServerLoad]) {
        self.now = now;
        for load in loads {
            let rate = match self.told.get(&load.server) {
                Some(t) if t.load.told == load.told => continue,
                Some(t) => ServedRate::between(&t.load, load),
                None => None,
            };
            self.told.insert(load.server, Told { load: *load, heard: now, rate });
        }
    }

    /// What a chunkserver serves. One that is silent serves nothing; of one that was heard once since its start it is
    /// not known.
    pub fn of(&self, server: ServerId) -> Option<ServedRate> {
        self.rate(self.told.get(&server)?)
    }

    /// What all serve of whom it is known.
    pub fn sum(&self) -> ServedRate {
        self.told.values().filter_map(|t| self.rate(t)).sum()
    }

    fn rate(&self, t: &Told) -> Option<ServedRate> {
        if self.now.saturating_sub(t.heard) > STALE { Some(ServedRate::default()) } else { t.rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{attr::Timestamp, ids::Incarnation};

    fn load(server: u64, start: u64, told: i64, read_bytes: u64) -> ServerLoad {
        ServerLoad {
            server: ServerId(server),
            incarnation: Incarnation(start),
            told: Timestamp::new(told, 0),
            served: Served {
                read_bytes,
                written_bytes: 2 * read_bytes,
                reads: read_bytes / 10,
                ..Served::default()
            },
        }
    }

    /// What 1 reads each second after such tellings of it, 2 s apart.
    fn read(tellings: &[ServerLoad]) -> Option<f64> {
        let mut rates = ServedRates::default();
        for (n, load) in (0..).zip(tellings) {
            rates.hear(Duration::from_secs(2 * n), &[*load]);
        }
        rates.of(ServerId(1)).map(|r| r.read_bytes)
    }

    #[test]
    fn rates_are_between_two_tellings_of_one_start() {
        let first = load(1, 7, 100, 1000);
        assert_eq!(read(&[first, first]), None, "one telling tells no rate");
        let second = load(1, 7, 105, 6000);
        assert_eq!(read(&[first, second]), Some(1000.0));
        assert_eq!(read(&[first, second, second]), Some(1000.0), "it has told nothing new");
        let again = load(1, 8, 106, 50);
        assert_eq!(read(&[first, second, again]), None, "it has started anew");
        assert_eq!(read(&[first, second, again, load(1, 8, 107, 1050)]), Some(1000.0));
        assert_eq!(read(&[second, load(1, 7, 104, 7000)]), None, "another leader's clock is behind");
    }

    #[test]
    fn servers_that_are_silent_serve_nothing_though_nobody_else_tells() {
        let (mut rates, begin) = (ServedRates::default(), Duration::from_secs(5));
        rates.hear(Duration::ZERO, &[load(1, 7, 100, 1000), load(2, 7, 100, 0)]);
        let second = [load(1, 7, 105, 6000), load(2, 7, 105, 500)];
        rates.hear(begin, &second);
        assert_eq!(
            (rates.sum().read_bytes, rates.sum().written_bytes, rates.sum().reads),
            (1100.0, 2200.0, 110.0)
        );
        rates.hear(begin + STALE, &second);
        assert_eq!(rates.of(ServerId(2)).unwrap().read_bytes, 100.0);
        rates.hear(begin + STALE + Duration::from_secs(1), &second);
        assert_eq!(
            (rates.of(ServerId(1)), rates.sum()),
            (Some(ServedRate::default()), ServedRate::default())
        );
        assert_eq!(rates.of(ServerId(3)), None);
    }
}
