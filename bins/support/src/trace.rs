//! Keeps the spans of this process, tells them, and carries a trace from node to node.
//!
//! ```text
//!   Traced::call ─ (trace, span) ─▶ Metered: answered ─▶ the service's steps ─▶ Traced::call ─▶ …
//!        └────────────── ends of spans ─▶ Keeper, one for the process ◀───────────┘
//! ```
//!
//! In memory are the last [`KEPT_MAX`] spans of kept traces, and of passing ones the last [`PASSING_MAX`] that took
//! long. [`method::TRACE`] asks for those of one trace; an admin may. What a node was asked for and was slow goes to
//! its log, with what it knows of where the time went.

#[cfg(feature = "otlp")]
pub mod otlp;
mod slow;

use crate::meter;
use async_trait::async_trait;
use mooseng_core::{
    attr::Timestamp,
    context::CallContext,
    error::NetError,
    ids::TraceId,
    meta::OP_NAMES,
    net::{Connection, Handler, Listening, Message, Method, PeerIdentity, Role, Transport},
    rpc::{self, method},
    trace::{self, Ended, Here, Recorder, SPANS_MAX, SpanRecord},
    wire,
};
use parking_lot::Mutex;
use slow::Tells;
use std::{
    borrow::Cow,
    collections::VecDeque,
    hash::{BuildHasher as _, Hasher as _},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

/// Spans of kept traces in memory.
pub const KEPT_MAX: usize = 16_384;
/// Spans of other traces in memory.
pub const PASSING_MAX: usize = 4096;
/// Bytes of a span's name that are kept: a peer says how it is called.
const NAME_MAX: usize = 200;
/// A span of a passing trace is noted from this part of what is slow.
const NOTED_PART: u64 = 16;

/// The last spans that have ended, the oldest first.
struct Ring {
    max: usize,
    spans: Mutex<VecDeque<(TraceId, Arc<SpanRecord>)>>,
}

impl Ring {
    fn new(max: usize) -> Self {
        Self { max, spans: Mutex::default() }
    }

    fn keep(&self, trace: TraceId, span: SpanRecord) {
        let mut spans = self.spans.lock();
        if spans.len() >= self.max {
            spans.pop_front();
        }
        spans.push_back((trace, Arc::new(span)));
    }

    /// Those of a trace by the time at which they began, of more than [`SPANS_MAX`] those that ended last. They are
    /// copied when the ring is free again.
    fn of(&self, trace: TraceId) -> Vec<SpanRecord> {
        let spans = self.spans.lock();
        let its = spans.iter().rev().filter(|(t, _)| *t == trace).map(|(_, span)| Arc::clone(span));
        let its: Vec<_> = its.take(SPANS_MAX).collect();
        drop(spans);
        let mut its: Vec<_> = its.iter().map(|span| SpanRecord::clone(span)).collect();
        its.sort_by_key(|s| s.begin);
        its
    }
}

struct Keeper {
    start: Instant,
    numbers: AtomicU64,
    /// Nanoseconds from which on a call is slow.
    slow: AtomicU64,
    kept: Ring,
    passing: Ring,
    tells: Mutex<Tells>,
}

static KEEPER: LazyLock<Keeper> = LazyLock::new(|| Keeper {
    start: Instant::now(),
    numbers: AtomicU64::new(std::hash::RandomState::new().build_hasher().finish()),
    slow: AtomicU64::new(u64::MAX),
    kept: Ring::new(KEPT_MAX),
    passing: Ring::new(PASSING_MAX),
    tells: Mutex::default(),
});

/// The process's recorder: a handle to its keeper.
struct Process;

/// Records from now on. What takes as long as `slow` is told in the log; nothing with `None`.
pub fn begin(slow: Option<Duration>) {
    let nanos = slow.map_or(u64::MAX, |slow| slow.as_nanos() as u64);
    KEEPER.slow.store(nanos, Relaxed);
    trace::record_with(Box::new(Process));
}

/// A trace to be kept.
#[must_use]
pub fn fresh_trace() -> TraceId {
    TraceId::kept(Process.random())
}

/// What this process has of a trace, by the time at which they began; of more than [`SPANS_MAX`] those that ended last, as
/// what is above others does.
#[must_use]
pub fn spans_of(trace: TraceId) -> Vec<SpanRecord> {
    ring_of(trace).of(trace)
}

fn ring_of(trace: TraceId) -> &'static Ring {
    if trace.is_kept() { &KEEPER.kept } else { &KEEPER.passing }
}

impl Recorder for Process {
    /// SplitMix64 (Steele, Lea and Flood, 2014) from a random begin.
    fn random(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let z = KEEPER.numbers.fetch_add(GAMMA, Relaxed);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn now(&self) -> Duration {
        KEEPER.start.elapsed()
    }

    fn ended(&self, span: &Ended<'_>) {
        let took = self.now().saturating_sub(span.begin);
        let (trace, slow, nanos) = (span.at.trace, KEEPER.slow.load(Relaxed), took.as_nanos() as u64);
        if !trace.is_kept() && nanos < slow / NOTED_PART {
            return;
        }
        let record = record(span, took);
        #[cfg(feature = "otlp")]
        otlp::ended(trace, &record);
        let (id, name) = (record.id, record.name.clone());
        ring_of(trace).keep(trace, record);
        if span.is_asked && nanos >= slow {
            let now = self.now();
            let room = KEEPER.tells.lock().room(now);
            slow::tell(trace, id, (&name, took), room);
        }
    }
}

fn record(span: &Ended<'_>, took: Duration) -> SpanRecord {
    let mut name = (span.name)();
    if !span.whole {
        name.push_str(" (given up)");
    }
    if name.len() > NAME_MAX {
        name.truncate(name.floor_char_boundary(NAME_MAX));
        name.push('…');
    }
    let begin = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
    let begin = begin.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let begin = Timestamp::new(begin.as_secs() as i64, begin.subsec_nanos());
    let micros = took.as_micros() as u64;
    SpanRecord { id: span.at.span, parent: span.parent, name, begin, micros }
}

/// What a call asks for: the operation, of a call of a master.
fn asks_for(m: Method, op: Option<usize>) -> &'static str {
    op.and_then(|op| OP_NAMES.get(op).copied()).unwrap_or_else(|| meter::name_of(m))
}

fn op_of(m: Method, msg: &Message) -> Option<usize> {
    if m == method::META_CALL { rpc::op_of_call(&msg.head) } else { None }
}

/// The work on a call of `peer`, as a span of the trace that the call names. What an admin or a server has kept is
/// kept; a client's traces pass.
pub(crate) async fn answered(
    peer: &PeerIdentity,
    cx: CallContext,
    (m, msg): (Method, Message),
    inner: &Arc<dyn Handler>,
) -> Result<Message, NetError> {
    if m == method::TRACE {
        return tell(peer, &msg);
    }
    let mut at = Here { trace: cx.trace, span: cx.span };
    if peer.role == Role::Client && at.trace.is_kept() {
        at.trace = TraceId::passing(at.trace.get());
    }
    let op = op_of(m, &msg);
    let name = || format!("{} for {} {}", asks_for(m, op), peer.role, peer.name);
    // A command to a chunkserver may be a copy of a whole chunk.
    if m == method::CHUNK_CONTROL {
        return trace::within(at, trace::step_as(name, inner.handle(peer, cx, m, msg))).await;
    }
    trace::asked(at, name, inner.handle(peer, cx, m, msg)).await
}

fn tell(peer: &PeerIdentity, msg: &Message) -> Result<Message, NetError> {
    if peer.role != Role::Admin {
        let cause = format!("traces are told to an admin, not to a {}", peer.role);
        return Err(NetError::Refused { cause });
    }
    Ok(Message::of_head(wire::encode(&spans_of(wire::decode(&msg.head)?))))
}

/// A transport around a transport that gives each call the place of its caller.
pub struct Traced(Arc<dyn Transport>);

impl Traced {
    /// Around a transport.
    #[must_use]
    pub fn new(inner: Arc<dyn Transport>) -> Arc<Self> {
        Arc::new(Self(inner))
    }
}

#[async_trait]
impl Transport for Traced {
    async fn connect(&self, to: &str) -> Result<Arc<dyn Connection>, NetError> {
        let inner = trace::step_as(|| format!("connect to {to}"), self.0.connect(to)).await?;
        Ok(Arc::new(TracedConnection(inner)))
    }
    async fn listen(&self, at: &str, handler: Arc<dyn Handler>) -> Result<Box<dyn Listening>, NetError> {
        self.0.listen(at, handler).await
    }
}

struct TracedConnection(Arc<dyn Connection>);

#[async_trait]
impl Connection for TracedConnection {
    fn peer(&self) -> &PeerIdentity {
        self.0.peer()
    }
    async fn call(&self, cx: &CallContext, m: Method, msg: Message) -> Result<Message, NetError> {
        if !trace::here().is_known() {
            return self.0.call(cx, m, msg).await;
        }
        let (op, peer) = (op_of(m, &msg), self.0.peer());
        let name = || format!("call {} of {} {}", asks_for(m, op), peer.role, peer.node);
        let work = async { self.0.call(&placed(cx, trace::here()), m, msg).await };
        trace::step_as(name, work).await
    }
    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
    fn close(&self) {
        self.0.close();
    }
}

/// A call's context with its caller's place; of a passing trace only the trace. One that is in another trace already
/// stays there: the number means something to who made it.
fn placed(cx: &CallContext, here: Here) -> Cow<'_, CallContext> {
    if cx.trace.get() != 0 && cx.trace != here.trace {
        return Cow::Borrowed(cx);
    }
    match here.trace.is_kept() {
        true => Cow::Owned(CallContext { trace: here.trace, span: here.span, ..cx.clone() }),
        false if cx.trace != here.trace => Cow::Owned(CallContext { trace: here.trace, ..cx.clone() }),
        false => Cow::Borrowed(cx),
    }
}

#[cfg(test)]
mod tests;
