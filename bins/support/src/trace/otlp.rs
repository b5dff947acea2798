//! Sends spans that have ended to an OpenTelemetry collector: OTLP over HTTP, to where the environment
//! variable `OTEL_EXPORTER_OTLP_ENDPOINT` says (`http://collector:4318`), nowhere without it.

use anyhow::{Context as _, Result};
use mooseng_core::{attr::Timestamp, ids::TraceId, net::PeerIdentity, trace::SpanRecord};
use opentelemetry::{
    KeyValue,
    trace::{self as otel, SpanContext, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};
use tokio::sync::mpsc;

/// Where the collector is.
pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Spans that wait to be sent; what comes when they are so many is not sent.
const WAITING_MAX: usize = 4096;
/// Spans of one message.
const BATCH_MAX: usize = 512;
/// How long a span waits for others.
const PAUSE: Duration = Duration::from_secs(1);

static SENDS: OnceLock<mpsc::Sender<(TraceId, SpanRecord)>> = OnceLock::new();

/// A span has ended.
pub(super) fn ended(trace: TraceId, span: &SpanRecord) {
    if let Some(sends) = SENDS.get() {
        let _ = sends.try_send((trace, span.clone()));
    }
}

/// Begins to send what ends from now on, as `me`, on the runtime of the caller. Does nothing without
/// [`ENDPOINT`], nor a second time.
///
/// # Errors
/// The variables of OpenTelemetry make no sense.
pub fn begin(me: &PeerIdentity) -> Result<()> {
    let Some(endpoint) = std::env::var(ENDPOINT).ok().filter(|at| !at.is_empty()) else { return Ok(()) };
    let at = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder().with_http().with_endpoint(&at).build();
    let mut exporter = exporter.with_context(|| format!("{ENDPOINT}={endpoint}"))?;
    let resource = Resource::builder().with_service_name(format!("mooseng-{}", me.role.as_str()));
    exporter.set_resource(
        &resource.with_attribute(KeyValue::new("service.instance.id", me.name.clone())).build(),
    );
    let (sends, waiting) = mpsc::channel(WAITING_MAX);
    if SENDS.set(sends).is_ok() {
        tracing::info!(at, "spans of kept traces are sent");
        tokio::spawn(send(exporter, waiting));
    }
    Ok(())
}

async fn send(exporter: SpanExporter, mut waiting: mpsc::Receiver<(TraceId, SpanRecord)>) {
    let mut batch = Vec::new();
    let mut works = true;
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let sent = exporter.export(batch.drain(..).map(|(trace, span)| data(trace, span)).collect()).await;
        let ok = sent.is_ok();
        match (sent, works) {
            (Err(e), true) => {
                tracing::warn!(error = %e, "spans cannot be sent to the collector and are dropped")
            }
            (Ok(()), false) => tracing::info!("spans are sent to the collector again"),
            _ => {}
        }
        works = ok;
        tokio::time::sleep(PAUSE).await;
    }
}

fn time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(at.secs().max(0) as u64, at.nanos())
}

fn data(trace: TraceId, span: SpanRecord) -> SpanData {
    let (trace, id) = (otel::TraceId::from(u128::from(trace.get())), otel::SpanId::from(span.id.get()));
    let begin = time(span.begin);
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: otel::SpanId::from(span.parent.get()),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: span.name.into(),
        start_time: begin,
        end_time: begin + Duration::from_micros(span.micros),
        attributes: vec![],
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: Default::default(),
    }
}
