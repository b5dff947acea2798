//! Traces: which call caused which others, on which nodes, and where the time went (Sigelman and others,
//! Dapper, 2010).
//!
//! What runs has a place in a trace, [`here`]: whatever it awaits is at the same place, tasks that it begins take it
//! along with [`carry`], calls name it in their context. A [`step`] is a span of that trace.
//!
//! Clock, randomness and memory are the [`Recorder`]'s, of which a process has one or none; without one, nothing
//! but the place is kept. A trace is *kept* when somebody wants all of its spans, else *passing*: of that the recorder
//! keeps the spans that took long. A span costs two looks at the clock and no memory, as long as it is not kept.

use crate::{
    attr::Timestamp,
    ids::{SpanId, TraceId},
};
use futures::Stream;
use pin_project_lite::pin_project;
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, ready},
    time::Duration,
};

/// Most spans of one trace that a node tells.
pub const SPANS_MAX: usize = 4096;

/// The lowest bit, so that the encoded length of a random number says nothing of it.
const KEPT: u64 = 1;

impl TraceId {
    /// Of a call that is to be noted everywhere.
    #[must_use]
    pub const fn kept(random: u64) -> Self {
        Self(random | KEPT)
    }
    /// Of a call that is noted where it takes long.
    #[must_use]
    pub const fn passing(random: u64) -> Self {
        Self(random & !KEPT | 2)
    }
    /// Whether it is to be noted everywhere.
    #[must_use]
    pub const fn is_kept(self) -> bool {
        self.0 & KEPT != 0
    }
}

/// A span that has ended, as its node tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SpanRecord {
    /// Random, so that those of different nodes differ.
    pub id: SpanId,
    /// The span in which it began, maybe on another node; 0 for a trace's first.
    pub parent: SpanId,
    /// What was done.
    pub name: String,
    /// When it began, by its node's time of day.
    pub begin: Timestamp,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// Keeps what has ended. Called on the threads that work: it must not wait.
pub trait Recorder: Send + Sync + 'static {
    /// 64 bits that no other process has, most likely, and another time others.
    fn random(&self) -> u64;
    /// Time since some moment of this process.
    fn now(&self) -> Duration;
    /// A span has ended.
    fn ended(&self, span: &Ended<'_>);
}

/// A span that has ended just now.
pub struct Ended<'a> {
    /// Its trace, and itself.
    pub at: Here,
    /// The span in which it began.
    pub parent: SpanId,
    /// When it began, by the recorder's clock.
    pub begin: Duration,
    /// Whether it came to its end, or was given up.
    pub whole: bool,
    /// Whether somebody is to hear of it when it was slow: it is what the node was asked for.
    pub is_asked: bool,
    /// What was done; made when it is wanted.
    pub name: &'a dyn Fn() -> String,
}

static RECORDER: OnceLock<Box<dyn Recorder>> = OnceLock::new();

/// Makes a recorder that of this process. `false` when there is one already.
pub fn record_with(recorder: Box<dyn Recorder>) -> bool {
    RECORDER.set(recorder).is_ok()
}

/// A place in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Here {
    /// The trace; 0 for none.
    pub trace: TraceId,
    /// The span that is going on.
    pub span: SpanId,
}

impl Here {
    /// In no trace.
    pub const NOWHERE: Self = Self { trace: TraceId(0), span: SpanId(0) };

    /// Whether it is in a trace.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.trace.0 != 0
    }

    /// Here, or at the begin of a passing trace.
    fn or_fresh(self, recorder: &dyn Recorder) -> Self {
        if self.is_known() { self } else { Self { trace: TraceId::passing(recorder.random()), ..self } }
    }
}

thread_local! {
    static HERE: Cell<Here> = const { Cell::new(Here::NOWHERE) };
}

/// Goes back when it is dropped.
struct Entered(Here);

impl Drop for Entered {
    fn drop(&mut self) {
        HERE.set(self.0);
    }
}

fn enter(here: Here) -> Entered {
    Entered(HERE.replace(here))
}

/// The place of what runs.
#[must_use]
pub fn here() -> Here {
    HERE.get()
}

pin_project! {
    /// Work at a place, as [`within`] makes it.
    pub struct Within<F> {
        #[pin]
        work: F,
        here: Here,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _back = enter(*this.here);
        this.work.poll(cx)
    }
}

impl<S: Stream> Stream for Within<S> {
    type Item = S::Item;
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let _back = enter(*this.here);
        this.work.poll_next(cx)
    }
}

/// `work`, a future or a stream, at another place.
pub fn within<F>(here: Here, work: F) -> Within<F> {
    Within { work, here }
}

/// `work` that is done by another task, at the place of this one.
pub fn carry<F>(work: F) -> Within<F> {
    within(here(), work)
}

/// A span that goes on until this is dropped.
pub struct Open<N: Fn() -> String> {
    recorder: &'static dyn Recorder,
    at: Here,
    parent: SpanId,
    begin: Duration,
    whole: bool,
    is_asked: bool,
    name: N,
}

impl<N: Fn() -> String> Open<N> {
    fn begin(recorder: &'static dyn Recorder, above: Here, is_asked: bool, name: N) -> Self {
        let at = Here { trace: above.trace, span: SpanId(recorder.random().max(1)) };
        Self { recorder, at, parent: above.span, begin: recorder.now(), whole: true, is_asked, name }
    }
}

impl<N: Fn() -> String> Drop for Open<N> {
    fn drop(&mut self) {
        let Self { at, parent, begin, whole, is_asked, .. } = *self;
        self.recorder.ended(&Ended { at, parent, begin, whole, is_asked, name: &self.name });
    }
}

/// Begins a span at a place. `None`: nobody records, or the place is in no trace.
pub fn open(at: Here, name: &'static str) -> Option<Open<impl Fn() -> String>> {
    let recorder = RECORDER.get()?;
    at.is_known().then(|| Open::begin(&**recorder, at, false, move || name.to_owned()))
}

/// Does `job` as a span at a place.
pub fn timed<T>(at: Here, name: &'static str, job: impl FnOnce() -> T) -> T {
    let _open = open(at, name);
    job()
}

pin_project! {
    /// Work as a span, as [`step`] and others make it. It begins when it is polled first.
    pub struct Spanned<F, N: Fn() -> String> {
        #[pin]
        work: F,
        state: State<N>,
    }
}

enum State<N: Fn() -> String> {
    /// Where; `None` for where it is polled. Whether it is what was asked for.
    Waits(Option<Here>, bool, N),
    GoesOn(Open<N>),
    /// Nobody records: only the place is kept, `None` where it is what it is.
    Unseen(Option<Here>),
}

impl<N: Fn() -> String> State<N> {
    fn begin(&mut self) {
        let Self::Waits(at, is_asked, name) = std::mem::replace(self, Self::Unseen(None)) else { return };
        let Some(recorder) = RECORDER.get() else {
            *self = Self::Unseen(at);
            return;
        };
        let at = at.unwrap_or_else(here);
        let at = if is_asked { at.or_fresh(&**recorder) } else { at };
        if at.is_known() {
            let mut open = Open::begin(&**recorder, at, is_asked, name);
            open.whole = false;
            *self = Self::GoesOn(open);
        }
    }
}

impl<F: Future, N: Fn() -> String> Future for Spanned<F, N> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if let State::Waits(..) = this.state {
            this.state.begin();
        }
        let at = match &*this.state {
            State::GoesOn(open) => Some(open.at),
            State::Unseen(at) => *at,
            State::Waits(..) => None,
        };
        let back = at.map(enter);
        let done = ready!(this.work.poll(cx));
        drop(back);
        if let State::GoesOn(open) = this.state {
            open.whole = true;
        }
        *this.state = State::Unseen(None);
        Poll::Ready(done)
    }
}

/// `work` as a step of what is going on. Nothing in no trace.
pub fn step<F: Future>(name: &'static str, work: F) -> Spanned<F, impl Fn() -> String> {
    step_as(move || name.to_owned(), work)
}

/// The same with a name that is made when it is wanted.
pub fn step_as<F: Future, N: Fn() -> String>(name: N, work: F) -> Spanned<F, N> {
    Spanned { work, state: State::Waits(None, false, name) }
}

/// `work` that this node was asked for by somebody at a place: when it is slow, it is told. In a trace of its own
/// where that is in none.
pub fn asked<F: Future, N: Fn() -> String>(at: Here, name: N, work: F) -> Spanned<F, N> {
    Spanned { work, state: State::Waits(Some(at), true, name) }
}

/// A span's number, that of the one above it, and when it began.
pub type Key = (SpanId, SpanId, i64);

/// Spans with their depths: those above before those below, else by time. Whose upper one is not there stands by
/// itself, and so does what would be above itself.
pub fn in_order<T>(spans: Vec<T>, key: impl Fn(&T) -> Key) -> Vec<(usize, T)> {
    let mut by_id: BTreeMap<SpanId, T> = spans.into_iter().map(|s| (key(&s).0, s)).collect();
    let mut below: BTreeMap<SpanId, Vec<(i64, SpanId)>> = BTreeMap::new();
    let mut first = Vec::new();
    for (id, parent, begin) in by_id.values().map(&key) {
        let there = parent != id && by_id.contains_key(&parent);
        if there { below.entry(parent).or_default() } else { &mut first }.push((begin, id));
    }
    first.sort();
    below.values_mut().for_each(|spans| spans.sort());
    let mut rows = Vec::with_capacity(by_id.len());
    let mut todo: Vec<(usize, SpanId)> = first.iter().rev().map(|(_, id)| (0, *id)).collect();
    loop {
        // A ring of spans, which only a broken node tells, has no first one.
        let next = todo.pop().or_else(|| by_id.keys().next().map(|id| (0, *id)));
        let Some((depth, id)) = next else { return rows };
        let Some(span) = by_id.remove(&id) else { continue };
        rows.push((depth, span));
        todo.extend(below.remove(&id).unwrap_or_default().iter().rev().map(|(_, id)| (depth + 1, *id)));
    }
}

#[cfg(test)]
mod tests;
