//! Sends the spans that this process notes to an OpenTelemetry collector: OTLP over HTTP, to where the environment
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
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
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

/// Spans that were not sent since that was last told.
static DROPPED: AtomicU64 = AtomicU64::new(0);

static SENDS: OnceLock<mpsc::Sender<(TraceId, SpanRecord)>> = OnceLock::new();

/// A span has ended.
pub(super) fn ended(trace: TraceId, span: &SpanRecord) {
    if let Some(sends) = SENDS.get()
        && sends.try_send((trace, span.clone())).is_err()
    {
        DROPPED.fetch_add(1, Relaxed);
    }
}

/// What sends spans of `me` to the collector; `None` without [`ENDPOINT`].
fn exporter(me: &PeerIdentity) -> Result<Option<SpanExporter>> {
    let Some(endpoint) = std::env::var(ENDPOINT).ok().filter(|at| !at.is_empty()) else { return Ok(None) };
    let at = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    exporter_to(me, &at).map(Some).with_context(|| format!("{ENDPOINT}={endpoint}"))
}

fn exporter_to(me: &PeerIdentity, at: &str) -> Result<SpanExporter> {
    let mut exporter = SpanExporter::builder().with_http().with_endpoint(at).build()?;
    let resource = Resource::builder().with_service_name(format!("mooseng-{}", me.role.as_str()));
    let name = KeyValue::new("service.instance.id", me.name.clone());
    exporter.set_resource(&resource.with_attribute(name).build());
    tracing::info!(at, "spans are sent");
    Ok(exporter)
}

/// Begins to send what ends from now on, as `me`, on the runtime of the caller. Does nothing without
/// [`ENDPOINT`], nor a second time.
///
/// # Errors
/// The variables of OpenTelemetry make no sense.
pub fn begin(me: &PeerIdentity) -> Result<()> {
    if let Some(exporter) = exporter(me)? {
        send_by(exporter);
    }
    Ok(())
}

fn send_by(exporter: SpanExporter) {
    let (sends, waiting) = mpsc::channel(WAITING_MAX);
    if SENDS.set(sends).is_ok() {
        tokio::spawn(send(exporter, waiting));
    }
}

/// Sends what a process that is about to end has of a trace, as `me`; nothing without [`ENDPOINT`].
///
/// # Errors
/// As of [`begin`], or the collector does not take them.
pub async fn send_now(me: &PeerIdentity, trace: TraceId, spans: &[SpanRecord]) -> Result<()> {
    let Some(exporter) = exporter(me)? else { return Ok(()) };
    let batch = spans.iter().map(|span| data(trace, span.clone())).collect();
    exporter.export(batch).await.context("the collector does not take the spans")
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
        let dropped = DROPPED.swap(0, Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "spans were not sent to the collector: there were too many at a time");
        }
        // What waits already goes at once.
        if waiting.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::node;
    use mooseng_core::ids::SpanId;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    /// A collector: takes one message, answers it with a status, and tells its head and body.
    async fn take(listener: &TcpListener, status: &str) -> (String, Vec<u8>) {
        tokio::time::timeout(Duration::from_secs(120), take_now(listener, status))
            .await
            .expect("a message comes")
    }

    async fn take_now(listener: &TcpListener, status: &str) -> (String, Vec<u8>) {
        let (mut s, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        let (head, length) = loop {
            s.read_buf(&mut got).await.unwrap();
            let Some(end) = got.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(got.drain(..end + 4).collect()).unwrap().to_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
            let length: usize = length.parse().unwrap();
            break (head, length);
        };
        while got.len() < length {
            s.read_buf(&mut got).await.unwrap();
        }
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        s.write_all(answer.as_bytes()).await.unwrap();
        (head, got)
    }

    fn has(body: &[u8], part: &[u8]) -> bool {
        body.windows(part.len()).any(|w| w == part)
    }

    #[tokio::test]
    async fn a_collector_hears_of_spans_also_after_it_refused_some() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let (sends, waiting) = mpsc::channel(4);
        tokio::spawn(send(exporter_to(&node(), &at).unwrap(), waiting));
        let trace = TraceId::kept(0x0123_4567_89ab_cdee);
        let span = |name: &str| SpanRecord {
            id: SpanId(0x1122_3344_5566_7788),
            parent: SpanId(0x99aa_bbcc_ddee_ff00),
            name: name.into(),
            begin: Timestamp::new(1_700_000_000, 5),
            micros: 7,
        };
        for (name, status) in [("lost", "400 Bad Request"), ("the log's disk", "200 OK")] {
            sends.send((trace, span(name))).await.unwrap();
            let (head, body) = take(&listener, status).await;
            assert!(
                head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"),
                "{head}"
            );
            let service = format!("mooseng-{}", node().role);
            for part in [name, &service, "service.instance.id", &node().name] {
                assert!(has(&body, part.as_bytes()), "no {part} in {body:?}");
            }
            let numbers = (u128::from(trace.get()).to_be_bytes(), 0x1122_3344_5566_7788u64.to_be_bytes());
            assert!(has(&body, &numbers.0) && has(&body, &numbers.1), "{body:?}");
            assert!(has(&body, &1_700_000_000_000_000_005u64.to_le_bytes()), "when it began: {body:?}");
            assert!(has(&body, &1_700_000_000_000_007_005u64.to_le_bytes()), "when it ended: {body:?}");
        }
    }
}
