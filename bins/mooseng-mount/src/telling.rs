//! What a mount tells: what the kernel asked of it, and how that went; what was read ahead.

use mooseng_client::Vfs;
use mooseng_core::error::Errno;
use mooseng_fuse::{Observer, RequestKind};
use mooseng_support::{
    catalog,
    metrics::{Metrics, plain},
};
use opentelemetry::{
    KeyValue,
    metrics::{BoundCounter, BoundHistogram, Counter, Histogram},
};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Good answers and durations of one kind, once there was one.
type Bound = OnceLock<(BoundCounter<u64>, BoundHistogram<f64>)>;

/// Counts the requests of the kernel. A good answer costs two additions: what is counted often is bound to its
/// labels once.
#[derive(Debug)]
pub(crate) struct Requests {
    count: Counter<u64>,
    duration: Histogram<f64>,
    bound: [Bound; RequestKind::ALL.len()],
    read: AtomicU64,
    written: AtomicU64,
}

impl Requests {
    /// Registers what it counts.
    pub(crate) fn new(metrics: &Metrics) -> Arc<Self> {
        let this = Arc::new(Self {
            count: metrics.count(&catalog::FUSE_OPS),
            duration: metrics.durations(&catalog::FUSE_OP_DURATION),
            bound: [const { OnceLock::new() }; RequestKind::ALL.len()],
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        let (read, written) = (this.clone(), this.clone());
        metrics.counter(&catalog::CLIENT_READ_BYTES, move || plain(read.read.load(Relaxed) as f64));
        metrics.counter(&catalog::CLIENT_WRITTEN_BYTES, move || plain(written.written.load(Relaxed) as f64));
        this
    }
}

impl Observer for Requests {
    fn answered(&self, kind: RequestKind, took: Duration, error: Option<Errno>) {
        let op = || KeyValue::new("op", kind.name());
        let (good, duration) = self.bound[kind as usize].get_or_init(|| {
            let good = self.count.bind(&[op(), KeyValue::new("code", "ok")]);
            (good, self.duration.bind(&[op()]))
        });
        duration.record(took.as_secs_f64());
        match error {
            None => good.add(1),
            Some(e) => self.count.add(1, &[op(), KeyValue::new("code", e.name())]),
        }
    }
    fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Relaxed);
    }
    fn written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Relaxed);
    }
}

/// Registers what the client counts of its reads.
pub(crate) fn reads(metrics: &Metrics, vfs: &Vfs) {
    let (hits, misses) = (vfs.clone(), vfs.clone());
    metrics.counter(&catalog::CLIENT_CACHE_HITS, move || plain(hits.cache_counts().hits as f64));
    metrics.counter(&catalog::CLIENT_CACHE_MISSES, move || plain(misses.cache_counts().misses as f64));
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::net::{PeerIdentity, Role};

    #[test]
    fn requests_are_counted_by_kind_and_answer() {
        let cluster = "0193f3a0-0000-7000-8000-000000000001".parse().unwrap();
        let (role, name, cert_hash) = (Role::Admin, "admin".into(), Default::default());
        let metrics = Metrics::new(&PeerIdentity { cluster, role, node: 0, name, cert_hash }).unwrap();
        let requests = Requests::new(&metrics);
        for kind in RequestKind::ALL {
            requests.answered(*kind, Duration::from_millis(3), None);
        }
        requests.answered(RequestKind::Lookup, Duration::from_millis(1), Some(Errno::ENOENT));
        requests.read(5);
        requests.written(7);
        let text = metrics.text().unwrap();
        for line in [
            "mooseng_fuse_ops_total{code=\"ok\",op=\"lookup\"} 1",
            "mooseng_fuse_ops_total{code=\"ENOENT\",op=\"lookup\"} 1",
            "mooseng_fuse_ops_total{code=\"ok\",op=\"access\"} 1",
            "mooseng_fuse_op_duration_seconds_count{op=\"lookup\"} 2",
            "mooseng_client_read_bytes_total 5",
            "mooseng_client_written_bytes_total 7",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
    }
}
