//! Metrics of a process: OpenTelemetry instruments, shown in Prometheus' text format.

use crate::catalog::{self, Kind, Metric};
use anyhow::Context as _;
use mooseng_core::{
    meta::LATENCY_BOUNDS,
    net::{PeerIdentity, Role},
};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder, process_collector::ProcessCollector};
use std::{fmt, time::Duration};

/// One observation: a value and its labels.
pub type Point = (f64, Vec<KeyValue>);

/// All metrics of a process. Each is registered by its row of the [`catalog`].
pub struct Metrics {
    registry: Registry,
    meter: Meter,
    role: Role,
    // Instruments end with their provider.
    _provider: SdkMeterProvider,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// With `mooseng_build_info` and the metrics of the process itself.
    pub fn new(node: &PeerIdentity) -> anyhow::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self())).context("metrics of the process")?;
        // Names are given in full, with units, as Prometheus wants them.
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .without_units()
            .without_counter_suffixes()
            .build()
            .context("metrics cannot be exported")?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        // An operator's mount is a mount.
        let role = if node.role == Role::Admin { Role::Client } else { node.role };
        let metrics = Self { registry, meter: provider.meter("mooseng"), role, _provider: provider };
        let labels = vec![
            KeyValue::new("version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("role", node.role.as_str()),
            KeyValue::new("node", node.name.clone()),
            KeyValue::new("cluster", node.cluster.to_string()),
        ];
        metrics.gauge(&catalog::BUILD_INFO, move || vec![(1.0, labels.clone())]);
        Ok(metrics)
    }

    /// What the process is.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// A row that this process may register as what it is.
    fn check(&self, row: &Metric, kind: Kind) {
        assert!(
            row.kind == kind && row.roles.contains(&self.role),
            "{} is no {kind:?} of a {}",
            row.name,
            self.role
        );
    }

    /// A value that goes up and down, asked for when somebody looks.
    pub fn gauge(&self, row: &'static Metric, look: impl Fn() -> Vec<Point> + Send + Sync + 'static) {
        self.check(row, Kind::Gauge);
        let gauge = self.meter.f64_observable_gauge(row.name).with_description(row.help);
        gauge.with_callback(move |to| points(row, &look).iter().for_each(|(v, l)| to.observe(*v, l))).build();
    }

    /// A value that only rises, asked for when somebody looks.
    pub fn counter(&self, row: &'static Metric, look: impl Fn() -> Vec<Point> + Send + Sync + 'static) {
        self.check(row, Kind::Counter);
        let counter = self.meter.f64_observable_counter(row.name).with_description(row.help);
        counter
            .with_callback(move |to| points(row, &look).iter().for_each(|(v, l)| to.observe(*v, l)))
            .build();
    }

    /// A counter that is fed where things happen; bind it to its labels where that is often.
    pub fn count(&self, row: &'static Metric) -> Counter<u64> {
        self.check(row, Kind::Counter);
        self.meter.u64_counter(row.name).with_description(row.help).build()
    }

    /// A histogram of durations that is fed where things happen; bind it to its labels where that is often.
    pub fn durations(&self, row: &'static Metric) -> Histogram<f64> {
        self.check(row, Kind::Histogram);
        let histogram = self.meter.f64_histogram(row.name).with_description(row.help);
        histogram.with_boundaries(LATENCY_BOUNDS.iter().map(Duration::as_secs_f64).collect()).build()
    }

    /// Prometheus' text. Asks every instrument.
    pub fn text(&self) -> anyhow::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather()).context("metrics cannot be written")
    }
}

/// What somebody who looks is told, with the labels of the row.
fn points(row: &Metric, look: &impl Fn() -> Vec<Point>) -> Vec<Point> {
    let points = look();
    let labelled = |(_, of): &Point| {
        of.len() == row.labels.len() && of.iter().all(|l| row.labels.contains(&l.key.as_str()))
    };
    debug_assert!(points.iter().all(labelled), "{} has other labels: {points:?}", row.name);
    points
}

/// A value without labels.
pub fn plain(value: f64) -> Vec<Point> {
    vec![(value, Vec::new())]
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use mooseng_core::{ids::ClusterId, net::Role};

    pub(crate) fn node() -> PeerIdentity {
        let cluster: ClusterId = "0193f3a0-0000-7000-8000-000000000001".parse().unwrap();
        PeerIdentity {
            cluster,
            role: Role::Master,
            node: 1,
            name: "m1".into(),
            cert_hash: Default::default(),
        }
    }

    #[test]
    fn names_are_shown_as_they_were_given() {
        let metrics = Metrics::new(&node()).unwrap();
        metrics.gauge(&catalog::RAFT_LAG, || {
            vec![(7.0, vec![KeyValue::new("master", "1")]), (8.0, vec![KeyValue::new("master", "2")])]
        });
        metrics.counter(&catalog::RAFT_LEADER_CHANGES, || plain(9.0));
        metrics
            .count(&catalog::META_OPS)
            .add(3, &[KeyValue::new("op", "Lookup"), KeyValue::new("code", "ok")]);
        metrics.durations(&catalog::META_OP_DURATION).record(0.02, &[KeyValue::new("op", "Lookup")]);
        let text = metrics.text().unwrap();
        for line in [
            "# HELP mooseng_raft_lag_entries Entries that another master lacks, at the leader",
            "# TYPE mooseng_raft_lag_entries gauge",
            "mooseng_raft_lag_entries{master=\"1\"} 7",
            "mooseng_raft_lag_entries{master=\"2\"} 8",
            "# TYPE mooseng_raft_leader_changes_total counter",
            "mooseng_raft_leader_changes_total 9",
            "mooseng_meta_ops_total{code=\"ok\",op=\"Lookup\"} 3",
            "# TYPE mooseng_meta_op_duration_seconds histogram",
            "mooseng_meta_op_duration_seconds_bucket{op=\"Lookup\",le=\"0.01\"} 0",
            "mooseng_meta_op_duration_seconds_bucket{op=\"Lookup\",le=\"0.025\"} 1",
            "mooseng_meta_op_duration_seconds_bucket{op=\"Lookup\",le=\"1\"} 1",
            "mooseng_meta_op_duration_seconds_bucket{op=\"Lookup\",le=\"2.5\"} 1",
            "mooseng_meta_op_duration_seconds_count{op=\"Lookup\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        for part in ["mooseng_build_info{", "process_resident_memory_bytes ", "process_open_fds "] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(!text.contains("otel_"), "{text}");
    }

    #[test]
    #[should_panic(expected = "mooseng_chunk_reads_total is no Counter of a master")]
    fn a_daemon_has_the_metrics_of_its_role_only() {
        Metrics::new(&node()).unwrap().counter(&catalog::CHUNK_READS, || plain(1.0));
    }
}
