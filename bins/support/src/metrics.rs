//! Metrics of a process: OpenTelemetry instruments, shown in Prometheus' text format.

use anyhow::Context as _;
use mooseng_core::net::PeerIdentity;
use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider as _},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder, process_collector::ProcessCollector};
use std::fmt;

/// One observation: a value and its labels.
pub type Point = (f64, Vec<KeyValue>);

/// All metrics of a process.
pub struct Metrics {
    registry: Registry,
    meter: Meter,
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
        let metrics = Self { registry, meter: provider.meter("mooseng"), _provider: provider };
        let labels = vec![
            KeyValue::new("version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("role", node.role.as_str()),
            KeyValue::new("node", node.name.clone()),
            KeyValue::new("cluster", node.cluster.to_string()),
        ];
        metrics.gauge("mooseng_build_info", "1, with what runs in its labels", move || {
            vec![(1.0, labels.clone())]
        });
        Ok(metrics)
    }

    /// For instruments that are fed where things happen.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// A value that goes up and down, asked for when somebody looks.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        look: impl Fn() -> Vec<Point> + Send + Sync + 'static,
    ) {
        let gauge = self.meter.f64_observable_gauge(name).with_description(help);
        gauge.with_callback(move |to| look().iter().for_each(|(v, labels)| to.observe(*v, labels))).build();
    }

    /// A value that only rises, asked for when somebody looks; `name` ends in `_total`.
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        look: impl Fn() -> Vec<Point> + Send + Sync + 'static,
    ) {
        let counter = self.meter.f64_observable_counter(name).with_description(help);
        counter.with_callback(move |to| look().iter().for_each(|(v, labels)| to.observe(*v, labels))).build();
    }

    /// Prometheus' text. Asks every instrument.
    pub fn text(&self) -> anyhow::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather()).context("metrics cannot be written")
    }
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
        metrics.gauge("mooseng_disk_size_bytes", "Bytes of a disk", || {
            vec![(7.0, vec![KeyValue::new("disk", "/a")]), (8.0, vec![KeyValue::new("disk", "/b")])]
        });
        metrics.counter("mooseng_read_bytes_total", "Bytes read", || plain(9.0));
        let text = metrics.text().unwrap();
        for line in [
            "# HELP mooseng_disk_size_bytes Bytes of a disk",
            "# TYPE mooseng_disk_size_bytes gauge",
            "mooseng_disk_size_bytes{disk=\"/a\"} 7",
            "mooseng_disk_size_bytes{disk=\"/b\"} 8",
            "# TYPE mooseng_read_bytes_total counter",
            "mooseng_read_bytes_total 9",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        for part in ["mooseng_build_info{", "process_resident_memory_bytes ", "process_open_fds "] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(!text.contains("otel_"), "{text}");
    }
}
