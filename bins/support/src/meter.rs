//! A transport around a transport that measures the calls answered here and those asked of others: in flight, by
//! outcome, time to the reply's head; those to masters by operation and answer, too. Each that is answered is a span of
//! its trace ([`crate::trace`]).
//!
//! A call costs some clock reads and additions: what is counted often is bound to its labels once.

use crate::{
    catalog::{self, Metric},
    metrics::{Metrics, Point},
    trace,
};
use async_trait::async_trait;
use mooseng_core::{
    context::CallContext,
    error::NetError,
    meta::OP_NAMES,
    net::{Connection, Handler, Listening, Message, Method, PeerIdentity, Role, Transport},
    rpc::{self, method},
};
use opentelemetry::{
    KeyValue,
    metrics::{BoundCounter, BoundHistogram, Counter, Histogram},
};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Instant,
};

/// Measures what an inner transport's connections are asked and its listeners answer.
pub struct Metered {
    inner: Arc<dyn Transport>,
    asked: Arc<Rpcs>,
    /// `None` at a client: nobody calls it.
    answered: Option<Arc<Answered>>,
}

impl Metered {
    /// Around a daemon's transport.
    pub fn new(inner: Arc<dyn Transport>, metrics: &Metrics) -> Arc<Self> {
        let asked = Arc::new(Rpcs::new(metrics, &catalog::RPC_CALLS_IN_FLIGHT, &catalog::RPC_CALL_DURATION));
        Arc::new(Self { inner, asked, answered: Answered::of(metrics).map(Arc::new) })
    }
}

/// What a call asks for, in the order of [`METHODS`].
fn kind_of(m: Method) -> usize {
    match m {
        method::META_CALL => 0,
        method::META_EVENTS => 1,
        method::CHUNK_READ => 2,
        method::CHUNK_WRITE => 3,
        method::CHUNK_SYNC => 4,
        method::CHUNK_CONTROL => 5,
        method::CHUNK_LIST => 6,
        Method(0x0100..=0x01ff) => 7,
        method::TRACE => 8,
        _ => 9,
    }
}

/// Its name in metrics and traces.
pub(crate) fn name_of(m: Method) -> &'static str {
    METHODS[kind_of(m)]
}

const METHODS: [&str; 10] = [
    "meta_call",
    "meta_events",
    "chunk_read",
    "chunk_write",
    "chunk_sync",
    "chunk_control",
    "chunk_list",
    "raft",
    "trace",
    "unknown",
];
const OUTCOMES: [&str; 3] = ["ok", "error", "cancelled"];
const OK: usize = 0;
const ERROR: usize = 1;
const CANCELLED: usize = 2;

struct Rpcs {
    in_flight: Arc<[AtomicI64; METHODS.len()]>,
    duration: Histogram<f64>,
    /// `duration` by method and outcome, once there was one.
    durations: [[OnceLock<BoundHistogram<f64>>; OUTCOMES.len()]; METHODS.len()],
}

impl Rpcs {
    fn new(metrics: &Metrics, flying: &'static Metric, duration: &'static Metric) -> Self {
        let in_flight: Arc<[AtomicI64; METHODS.len()]> = Arc::default();
        let now = in_flight.clone();
        metrics.gauge(flying, move || {
            let point = |(at, n): (usize, &AtomicI64)| -> Point {
                (n.load(Relaxed) as f64, vec![KeyValue::new("method", METHODS[at])])
            };
            now.iter().enumerate().map(point).collect()
        });
        let duration = metrics.durations(duration);
        Self { in_flight, duration, durations: Default::default() }
    }

    /// A call begins; it is counted as cancelled if nobody says how it ended.
    fn begin(&self, m: Method) -> Call<'_> {
        let method = kind_of(m);
        self.in_flight[method].fetch_add(1, Relaxed);
        Call {
            rpcs: self,
            method,
            begin: Instant::now(),
            outcome: CANCELLED,
            op: None,
            code: OUTCOMES[CANCELLED],
        }
    }

    fn ended(&self, method: usize, outcome: usize, secs: f64) {
        let bound = self.durations[method][outcome].get_or_init(|| {
            let labels =
                [KeyValue::new("method", METHODS[method]), KeyValue::new("outcome", OUTCOMES[outcome])];
            self.duration.bind(&labels)
        });
        bound.record(secs);
    }
}

/// What a server answers.
struct Answered {
    rpcs: Rpcs,
    /// At a master.
    ops: Option<Ops>,
}

impl Answered {
    fn of(metrics: &Metrics) -> Option<Self> {
        let rpcs = || Rpcs::new(metrics, &catalog::RPCS_IN_FLIGHT, &catalog::RPC_DURATION);
        let ops = (metrics.role() == Role::Master).then(|| Ops::new(metrics));
        (metrics.role() != Role::Client).then(|| Self { rpcs: rpcs(), ops })
    }
}

/// Good answers and durations of one operation, once there was one.
type BoundOp = OnceLock<(BoundCounter<u64>, BoundHistogram<f64>)>;

/// The operations of a master.
struct Ops {
    count: Counter<u64>,
    duration: Histogram<f64>,
    /// By place in [`OP_NAMES`].
    bound: Box<[BoundOp]>,
}

impl Ops {
    fn new(metrics: &Metrics) -> Self {
        let (count, duration) =
            (metrics.count(&catalog::META_OPS), metrics.durations(&catalog::META_OP_DURATION));
        Self { count, duration, bound: OP_NAMES.iter().map(|_| OnceLock::new()).collect() }
    }

    fn answered(&self, op: usize, code: &'static str, secs: f64) {
        let op_label = || KeyValue::new("op", OP_NAMES[op]);
        let (good, duration) = self.bound[op].get_or_init(|| {
            let good = self.count.bind(&[op_label(), KeyValue::new("code", "ok")]);
            (good, self.duration.bind(&[op_label()]))
        });
        duration.record(secs);
        match code {
            "ok" => good.add(1),
            code => self.count.add(1, &[op_label(), KeyValue::new("code", code)]),
        }
    }
}

#[async_trait]
impl Transport for Metered {
    async fn connect(&self, to: &str) -> Result<Arc<dyn Connection>, NetError> {
        let inner = self.inner.connect(to).await?;
        Ok(Arc::new(MeteredConnection { inner, rpcs: self.asked.clone() }))
    }
    async fn listen(&self, at: &str, handler: Arc<dyn Handler>) -> Result<Box<dyn Listening>, NetError> {
        let handler: Arc<dyn Handler> = match &self.answered {
            Some(answered) => Arc::new(MeteredHandler { inner: handler, answered: answered.clone() }),
            None => handler,
        };
        self.inner.listen(at, handler).await
    }
}

struct MeteredConnection {
    inner: Arc<dyn Connection>,
    rpcs: Arc<Rpcs>,
}

#[async_trait]
impl Connection for MeteredConnection {
    fn peer(&self) -> &PeerIdentity {
        self.inner.peer()
    }
    async fn call(&self, cx: &CallContext, m: Method, msg: Message) -> Result<Message, NetError> {
        let mut call = self.rpcs.begin(m);
        let reply = self.inner.call(cx, m, msg).await;
        call.outcome = if reply.is_ok() { OK } else { ERROR };
        reply
    }
    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
    fn close(&self) {
        self.inner.close();
    }
}

struct MeteredHandler {
    inner: Arc<dyn Handler>,
    answered: Arc<Answered>,
}

/// Counts down and records when the call ends, also when it is dropped: its caller has gone, and its time counts all the
/// same, or the slowest ones would be missing.
struct Call<'a> {
    rpcs: &'a Rpcs,
    method: usize,
    begin: Instant,
    outcome: usize,
    /// Of a call of a master: the operation, and how it was answered.
    op: Option<(&'a Ops, usize)>,
    code: &'static str,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let secs = self.begin.elapsed().as_secs_f64();
        self.rpcs.in_flight[self.method].fetch_sub(1, Relaxed);
        self.rpcs.ended(self.method, self.outcome, secs);
        if let Some((ops, op)) = self.op {
            ops.answered(op, self.code, secs);
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
        let ops = self.answered.ops.as_ref().filter(|_| method == method::META_CALL);
        let mut call = self.answered.rpcs.begin(method);
        call.op = ops.and_then(|ops| Some((ops, rpc::op_of_call(&msg.head)?)));
        let reply = trace::answered(peer, cx, (method, msg), &self.inner).await;
        (call.outcome, call.code) = match &reply {
            Ok(reply) => (OK, rpc::code_of_reply(&reply.head)),
            Err(_) => (ERROR, OUTCOMES[ERROR]),
        };
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::node;
    use mooseng_core::{
        error::{Errno, MetaError},
        meta::{GetStatus, MetaReply, MetaRequest},
        wire,
    };
    use mooseng_net::memory::MemoryNetwork;
    use tokio::sync::Notify;

    /// Answers when it is told to, with the message itself; at once with ENOENT where it is asked for the status.
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
            if m == method::META_CALL && !msg.head.is_empty() {
                let no = Err::<MetaReply, _>(MetaError::Posix(Errno::ENOENT));
                return Ok(Message::of_head(wire::encode(&no)));
            }
            self.0.notified().await;
            Ok(msg)
        }
    }

    /// Answers nothing.
    struct Never;

    #[async_trait]
    impl Handler for Never {
        async fn handle(
            &self,
            _: &PeerIdentity,
            _: CallContext,
            _: Method,
            _: Message,
        ) -> Result<Message, NetError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn calls_that_are_dropped_are_counted_with_their_operation() {
        let metrics = Metrics::new(&node()).unwrap();
        let handler =
            MeteredHandler { inner: Arc::new(Never), answered: Answered::of(&metrics).unwrap().into() };
        let (peer, message) = (node(), Message::of_head(wire::encode(&MetaRequest::from(GetStatus {}))));
        let mut call = handler.handle(&peer, CallContext::default(), method::META_CALL, message);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(call.as_mut().poll(&mut cx).is_pending());
        drop(call);
        let text = metrics.text().unwrap();
        for line in [
            "mooseng_rpcs_in_flight{method=\"meta_call\"} 0",
            "mooseng_rpc_duration_seconds_count{method=\"meta_call\",outcome=\"cancelled\"} 1",
            "mooseng_meta_ops_total{code=\"cancelled\",op=\"GetStatus\"} 1",
            "mooseng_meta_op_duration_seconds_count{op=\"GetStatus\"} 1",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_client_measures_what_it_asks() {
        let metrics = Metrics::new(&PeerIdentity { role: Role::Client, ..node() }).unwrap();
        let network = MemoryNetwork::new();
        let _listening = network.transport(node()).listen("there", Arc::new(Never)).await.unwrap();
        let to = Metered::new(network.transport(node()), &metrics).connect("there").await.unwrap();
        let cx = CallContext::default();
        let mut call = to.call(&cx, method::CHUNK_READ, Message::of_head(Default::default()));
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(call.as_mut().poll(&mut task).is_pending());
        let text = metrics.text().unwrap();
        assert!(text.contains("mooseng_rpc_calls_in_flight{method=\"chunk_read\"} 1"), "{text}");
        assert!(!text.contains("mooseng_rpcs_in_flight"), "nobody calls it: {text}");
        drop(call);
        let ended = "mooseng_rpc_call_duration_seconds_count{method=\"chunk_read\",outcome=\"cancelled\"} 1";
        let text = metrics.text().unwrap();
        assert!(text.contains(ended), "{text}");
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
        let status = wire::encode(&MetaRequest::from(GetStatus {}));
        for _ in 0..2 {
            to.call(&cx, method::META_CALL, Message::of_head(status.clone())).await.unwrap();
        }
        let text = metrics.text().unwrap();
        for line in [
            "mooseng_rpcs_in_flight{method=\"meta_call\"} 0",
            "mooseng_rpc_duration_seconds_count{method=\"meta_call\",outcome=\"ok\"} 3",
            "mooseng_rpc_duration_seconds_count{method=\"unknown\",outcome=\"error\"} 1",
            "mooseng_meta_ops_total{code=\"ENOENT\",op=\"GetStatus\"} 2",
            "mooseng_meta_op_duration_seconds_count{op=\"GetStatus\"} 2",
            // Who asked and who answered are one here.
            "mooseng_rpc_calls_in_flight{method=\"meta_call\"} 0",
            "mooseng_rpc_call_duration_seconds_count{method=\"meta_call\",outcome=\"ok\"} 3",
            "mooseng_rpc_call_duration_seconds_count{method=\"unknown\",outcome=\"error\"} 1",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
