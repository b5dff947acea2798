//! A transport around a transport that measures the calls answered here: in flight, by outcome,
//! time to the reply's head.

use crate::metrics::Metrics;
use async_trait::async_trait;
use mooseng_core::{
    context::CallContext,
    error::NetError,
    ids::TraceId,
    net::{Connection, Handler, Listening, Message, Method, PeerIdentity, Transport},
    rpc::method,
};
use opentelemetry::{
    KeyValue,
    metrics::{Histogram, UpDownCounter},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// From then on a call is worth a line in the log.
const SLOW: Duration = Duration::from_secs(1);
/// Upper bounds of the histogram's buckets in seconds.
const BUCKETS: [f64; 12] = [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 2.0, 10.0];

/// Measures what an inner transport's listeners answer.
pub struct Metered {
    inner: Arc<dyn Transport>,
    rpcs: Rpcs,
}

impl Metered {
    /// Around a transport.
    pub fn new(inner: Arc<dyn Transport>, metrics: &Metrics) -> Arc<Self> {
        let meter = metrics.meter();
        let in_flight = meter
            .i64_up_down_counter("mooseng_rpcs_in_flight")
            .with_description("Calls being answered")
            .build();
        let duration = meter
            .f64_histogram("mooseng_rpc_duration_seconds")
            .with_description("From a call's arrival to the head of its reply")
            .with_boundaries(BUCKETS.to_vec())
            .build();
        Arc::new(Self { inner, rpcs: Rpcs { in_flight, duration } })
    }
}

#[derive(Clone)]
struct Rpcs {
    in_flight: UpDownCounter<i64>,
    duration: Histogram<f64>,
}

#[async_trait]
impl Transport for Metered {
    async fn connect(&self, to: &str) -> Result<Arc<dyn Connection>, NetError> {
        self.inner.connect(to).await
    }
    async fn listen(&self, at: &str, handler: Arc<dyn Handler>) -> Result<Box<dyn Listening>, NetError> {
        let rpcs = self.rpcs.clone();
        self.inner.listen(at, Arc::new(MeteredHandler { inner: handler, rpcs })).await
    }
}

struct MeteredHandler {
    inner: Arc<dyn Handler>,
    rpcs: Rpcs,
}

/// Counts down and records when the call ends, also when it is dropped.
struct Call<'a> {
    rpcs: &'a Rpcs,
    method: &'static str,
    trace: TraceId,
    begin: Instant,
    outcome: &'static str,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let method = KeyValue::new("method", self.method);
        self.rpcs.in_flight.add(-1, std::slice::from_ref(&method));
        let labels = [method, KeyValue::new("outcome", self.outcome)];
        let took = self.begin.elapsed();
        self.rpcs.duration.record(took.as_secs_f64(), &labels);
        // A control call may be a copy of a whole chunk.
        if took >= SLOW && self.method != method::name(method::CHUNK_CONTROL) {
            let (method, trace, outcome) = (self.method, self.trace.get(), self.outcome);
            tracing::warn!(method, trace = format_args!("{trace:016x}"), outcome, ?took, "a slow call");
        }
    }
}

#[async_trait]
impl Handler for MeteredHandler {
    async fn handle(
        &self,
        peer: &PeerIdentity,
        cx: CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        let label = method::name(method);
        self.rpcs.in_flight.add(1, &[KeyValue::new("method", label)]);
        let mut call = Call {
            rpcs: &self.rpcs,
            method: label,
            trace: cx.trace,
            begin: Instant::now(),
            outcome: "cancelled",
        };
        let reply = self.inner.handle(peer, cx, method, msg).await;
        call.outcome = if reply.is_ok() { "ok" } else { "error" };
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::node;
    use mooseng_net::memory::MemoryNetwork;
    use tokio::sync::Notify;

    /// Answers when it is told to.
    struct Waits(Notify);

    #[async_trait]
    impl Handler for Waits {
        async fn handle(
            &self,
            _: &PeerIdentity,
            _: CallContext,
            m: Method,
            msg: Message,
        ) -> Result<Message, NetError> {
            if m == Method(999) {
                return Err(NetError::UnknownMethod(999));
            }
            self.0.notified().await;
            Ok(msg)
        }
    }

    #[tokio::test]
    async fn calls_are_counted_while_they_last_and_when_they_end() {
        let metrics = Metrics::new(&node()).unwrap();
        let network = MemoryNetwork::new();
        let transport = Metered::new(network.transport(node()), &metrics);
        let handler = Arc::new(Waits(Notify::new()));
        let _listening = transport.listen("here", handler.clone()).await.unwrap();
        let to = transport.connect("here").await.unwrap();
        let cx = CallContext::default();
        let message = || Message::of_head(Default::default());
        assert!(to.call(&cx, Method(999), message()).await.is_err());
        let call = to.call(&cx, method::META_CALL, message());
        let look = async {
            let wanted = "mooseng_rpcs_in_flight{method=\"meta_call\"} 1";
            while !metrics.text().unwrap().contains(wanted) {
                tokio::task::yield_now().await;
            }
            handler.0.notify_one();
        };
        let (reply, ()) = tokio::join!(call, look);
        reply.unwrap();
        let text = metrics.text().unwrap();
        for line in [
            "mooseng_rpcs_in_flight{method=\"meta_call\"} 0",
            "mooseng_rpc_duration_seconds_count{method=\"meta_call\",outcome=\"ok\"} 1",
            "mooseng_rpc_duration_seconds_count{method=\"unknown\",outcome=\"error\"} 1",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
