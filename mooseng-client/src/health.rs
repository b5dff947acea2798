//! How well chunkservers answered lately: who is slow or silent is asked last, for a while.

use mooseng_core::{
    ids::{ChunkRef, ServerId},
    meta::Replica,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Half of a penalty is forgotten in this time.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Penalty of a server that did not answer, or failed.
const FAILED: f64 = 8.0;
/// Penalty of one that another was asked beside.
const SLOW: f64 = 1.5;
const PENALTY_MAX: f64 = 64.0;
/// Shortest and longest wait before another replica is asked beside the first.
const HEDGE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(800));
/// The wait for a server of which nothing is known.
const HEDGE_UNKNOWN: Duration = Duration::from_millis(300);
/// A damaged replica is tried last, and not reported again, for this long.
const DAMAGE: Duration = Duration::from_secs(30);
/// Damaged replicas that are remembered.
const DAMAGES_MAX: usize = 4096;

#[derive(Clone, Copy)]
struct Known {
    penalty: f64,
    at: Instant,
    latency: Option<Duration>,
}

impl Known {
    fn penalty_at(&self, now: Instant) -> f64 {
        let lives = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.penalty * (-lives).exp2()
    }
}

#[derive(Default)]
pub(crate) struct Health {
    servers: Mutex<BTreeMap<ServerId, Known>>,
    damages: Mutex<BTreeMap<(ChunkRef, ServerId), Instant>>,
}

impl Health {
    /// Replicas in the order in which they are to be asked.
    pub(crate) fn order<'a>(&self, chunk: ChunkRef, chain: &'a [Replica], now: Instant) -> Vec<&'a Replica> {
        let servers = self.servers.lock();
        let damages = self.damages.lock();
        let mut order: Vec<_> = chain.iter().collect();
        order.sort_by_key(|r| {
            let damaged = damages.get(&(chunk, r.server)).is_some_and(|at| *at + DAMAGE > now);
            // Whole steps, so that small differences change nothing.
            (damaged, servers.get(&r.server).map_or(0, |k| k.penalty_at(now) as u64))
        });
        order
    }

    /// How long to wait for a server before another is asked beside it.
    pub(crate) fn hedge_after(&self, server: ServerId, bytes: u64) -> Duration {
        let latency = self.servers.lock().get(&server).and_then(|k| k.latency);
        let size = Duration::from_millis(20 * (bytes >> 20));
        latency.map_or(HEDGE_UNKNOWN, |l| (l * 8).clamp(HEDGE.0, HEDGE.1)) + size
    }

    fn punish(&self, server: ServerId, by: f64, now: Instant) {
        let mut servers = self.servers.lock();
        let known = servers.entry(server).or_insert(Known { penalty: 0.0, at: now, latency: None });
        (known.penalty, known.at) = ((known.penalty_at(now) + by).min(PENALTY_MAX), now);
    }

    /// It failed, or was silent.
    pub(crate) fn failed(&self, server: ServerId, now: Instant) {
        self.punish(server, FAILED, now);
    }

    /// Another was asked beside it.
    pub(crate) fn slow(&self, server: ServerId, now: Instant) {
        self.punish(server, SLOW, now);
    }

    /// It answered well.
    pub(crate) fn answered(&self, server: ServerId, took: Duration, now: Instant) {
        let mut servers = self.servers.lock();
        let known = servers.entry(server).or_insert(Known { penalty: 0.0, at: now, latency: None });
        (known.penalty, known.at) = (known.penalty_at(now) / 2.0, now);
        known.latency = Some(known.latency.map_or(took, |l| (l * 7 + took) / 8));
    }

    /// Its replica of a chunk is damaged; whether that is news.
    pub(crate) fn damaged(&self, chunk: ChunkRef, server: ServerId, now: Instant) -> bool {
        let mut damages = self.damages.lock();
        if damages.len() >= DAMAGES_MAX {
            damages.retain(|_, at| *at + DAMAGE > now);
        }
        if damages.get(&(chunk, server)).is_some_and(|at| *at + DAMAGE > now) {
            return false;
        }
        if damages.len() < DAMAGES_MAX {
            damages.insert((chunk, server), now);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::ids::{ChunkId, ChunkVersion};

    const CHUNK: ChunkRef = ChunkRef { id: ChunkId(1), version: ChunkVersion(1) };

    fn first(health: &Health, chunk: ChunkRef, now: Instant) -> u64 {
        let replica = |s| Replica { server: ServerId(s), addr: String::new() };
        let chain = [replica(1), replica(2), replica(3)];
        health.order(chunk, &chain, now)[0].server.get()
    }

    #[test]
    fn who_failed_is_asked_last_until_it_is_forgotten() {
        let (health, now) = (Health::default(), Instant::now());
        assert_eq!(first(&health, CHUNK, now), 1);
        health.failed(ServerId(1), now);
        assert_eq!(first(&health, CHUNK, now), 2);
        health.slow(ServerId(2), now);
        assert_eq!(first(&health, CHUNK, now), 3);
        assert_eq!(first(&health, CHUNK, now + HALF_LIFE * 4), 1, "a penalty decays");
    }

    #[test]
    fn damage_concerns_one_chunk_and_is_news_once() {
        let (health, now) = (Health::default(), Instant::now());
        assert!(health.damaged(CHUNK, ServerId(1), now));
        assert!(!health.damaged(CHUNK, ServerId(1), now));
        assert_eq!(first(&health, CHUNK, now), 2);
        assert_eq!(first(&health, ChunkRef { version: ChunkVersion(2), ..CHUNK }, now), 1);
        assert_eq!(first(&health, CHUNK, now + DAMAGE), 1);
        assert!(health.damaged(CHUNK, ServerId(1), now + DAMAGE));
    }

    #[test]
    fn the_wait_follows_what_a_server_usually_takes() {
        let (health, now) = (Health::default(), Instant::now());
        assert_eq!(health.hedge_after(ServerId(1), 0), HEDGE_UNKNOWN);
        health.answered(ServerId(1), Duration::from_millis(1), now);
        assert_eq!(health.hedge_after(ServerId(1), 0), HEDGE.0);
        health.answered(ServerId(1), Duration::from_secs(3600), now);
        assert_eq!(health.hedge_after(ServerId(1), 0), HEDGE.1);
    }
}
