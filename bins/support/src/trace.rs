//! Keeps the spans of kept traces, tells them, and carries a trace from node to node.
//!
//! ```text
//!   Traced::call ─ (trace, span) ─▶ Traced::handle ─▶ the service's steps ─▶ Traced::call ─▶ …
//!        └────────────── ends of spans ─▶ Keeper, one for the process ◀──────────┘
//! ```
//!
//! A node keeps the last [`KEPT_MAX`] spans in memory. [`method::TRACE`] asks for those of one trace; an
//! admin may.

#[cfg(feature = "otlp")]
pub mod otlp;

use async_trait::async_trait;
use mooseng_core::{
    attr::Timestamp,
    context::CallContext,
    error::NetError,
    ids::{SpanId, TraceId},
    net::{Connection, Handler, Listening, Message, Method, PeerIdentity, Role, Transport},
    rpc::method,
    trace::{self, SPANS_MAX, SpanRecord},
    wire,
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, Hasher as _},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};
use tracing::{
    Instrument as _, Span, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer, Registry,
    filter::{self, LevelFilter},
    layer::Context,
    registry::LookupSpan,
};

/// Spans that a process keeps.
const KEPT_MAX: usize = 16_384;

static KEPT: Mutex<VecDeque<(TraceId, SpanRecord)>> = Mutex::new(VecDeque::new());

/// 64 bits that no other process has, most likely.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// A number of a span; never 0.
fn fresh_id() -> SpanId {
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(random()));
    SpanId(NEXT.fetch_add(1, Ordering::Relaxed) | 1 << 63)
}

/// A trace to be kept.
#[must_use]
pub fn fresh_trace() -> TraceId {
    TraceId::kept(random())
}

/// What this process has of a trace, by the time at which they began; at most [`SPANS_MAX`].
#[must_use]
pub fn spans_of(trace: TraceId) -> Vec<SpanRecord> {
    let kept = KEPT.lock();
    let its = kept.iter().filter(|(t, _)| *t == trace).map(|(_, span)| span.clone());
    let mut spans: Vec<_> = its.take(SPANS_MAX).collect();
    spans.sort_by_key(|s| s.begin);
    spans
}

/// A span that is going on.
struct Open {
    trace: TraceId,
    id: SpanId,
    parent: SpanId,
    name: String,
    at: Timestamp,
    begin: Instant,
}

#[derive(Default)]
struct Fields {
    trace: u64,
    caller: u64,
    name: String,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "trace" => self.trace = value,
            "caller" => self.caller = value,
            _ => {}
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            value.clone_into(&mut self.name);
        }
    }
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// Keeps the spans of kept traces; a layer of the process's subscriber.
struct Keeper;

/// The layer that keeps spans, and sees no others.
pub fn keeper<S>() -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let its = filter::filter_fn(|m| m.is_span() && m.target() == trace::TARGET);
    // So that what libraries say for debugging stays off everywhere.
    Keeper.with_filter(its.with_max_level_hint(LevelFilter::INFO))
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Keeper {
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let Some(span) = cx.span(id) else { return };
        let mut fields = Fields::default();
        attrs.record(&mut fields);
        let above = span.parent().and_then(|p| p.extensions().get::<Open>().map(|o| (o.trace, o.id)));
        let (trace, parent) = above.unwrap_or((TraceId(fields.trace), SpanId(fields.caller)));
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = Timestamp::new(at.as_secs() as i64, at.subsec_nanos());
        let open = Open { trace, id: fresh_id(), parent, name: fields.name, at, begin: Instant::now() };
        span.extensions_mut().insert(open);
    }

    fn on_close(&self, id: Id, cx: Context<'_, S>) {
        let Some(open) = cx.span(&id).and_then(|s| s.extensions_mut().remove::<Open>()) else { return };
        let micros = open.begin.elapsed().as_micros() as u64;
        let Open { trace, id, parent, name, at: begin, .. } = open;
        let span = SpanRecord { id, parent, name, begin, micros };
        #[cfg(feature = "otlp")]
        otlp::ended(trace, &span);
        let mut kept = KEPT.lock();
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((trace, span));
    }
}

/// The kept trace of what is going on, and its span.
fn now(span: &Span) -> Option<(TraceId, SpanId)> {
    let of = |(id, dispatch): (&Id, &tracing::Dispatch)| {
        let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
        let open = span.extensions();
        open.get::<Open>().map(|o| (o.trace, o.id))
    };
    match trace::is_kept(span) {
        true => span.with_subscriber(of).flatten(),
        false => None,
    }
}

/// A transport around a transport that carries kept traces to the peer and from it.
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
        let step = trace::step(&format!("connect to {to}"));
        let inner = self.0.connect(to).instrument(step).await?;
        let peer = inner.peer();
        let to = format!("{} {}", peer.role, peer.node);
        Ok(Arc::new(TracedConnection { inner, to }))
    }
    async fn listen(&self, at: &str, handler: Arc<dyn Handler>) -> Result<Box<dyn Listening>, NetError> {
        self.0.listen(at, Arc::new(TracedHandler(handler))).await
    }
}

struct TracedConnection {
    inner: Arc<dyn Connection>,
    to: String,
}

#[async_trait]
impl Connection for TracedConnection {
    fn peer(&self) -> &PeerIdentity {
        self.inner.peer()
    }
    async fn call(&self, cx: &CallContext, m: Method, msg: Message) -> Result<Message, NetError> {
        if !trace::is_kept(&Span::current()) {
            return self.inner.call(cx, m, msg).await;
        }
        let step = trace::step(&format!("call {} of {}", method::name(m), self.to));
        let mut cx = cx.clone();
        if let Some((trace, span)) = now(&step) {
            (cx.trace, cx.span) = (trace, span);
        }
        self.inner.call(&cx, m, msg).instrument(step).await
    }
    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
    fn close(&self) {
        self.inner.close();
    }
}

struct TracedHandler(Arc<dyn Handler>);

#[async_trait]
impl Handler for TracedHandler {
    async fn handle(
        &self,
        peer: &PeerIdentity,
        cx: CallContext,
        m: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        if m == method::TRACE {
            if peer.role != Role::Admin {
                return Err(NetError::Refused {
                    cause: format!("traces are told to an admin, not to a {}", peer.role),
                });
            }
            return Ok(Message::of_head(wire::encode(&spans_of(wire::decode(&msg.head)?))));
        }
        let span = match cx.trace.is_kept() {
            true => {
                let name = format!("{} for {} {}", method::name(m), peer.role, peer.name);
                trace::begin(cx.trace, cx.span, &name)
            }
            false => Span::none(),
        };
        self.0.handle(peer, cx, m, msg).instrument(span).await
    }
}

#[cfg(test)]
mod tests;
