//! Traces: which call caused which others, on which nodes, and where the time went (Sigelman and others,
//! Dapper, 2010).
//!
//! A call whose [`TraceId`] is *kept* is noted wherever it comes: as a [`tracing::Span`] of target [`TARGET`],
//! whose children are the steps within it and the calls it makes. Who holds the process's subscriber keeps
//! the ends of such spans as [`SpanRecord`]s. Calls of other traces make no span.

use crate::{
    attr::Timestamp,
    ids::{SpanId, TraceId},
};
use serde::{Deserialize, Serialize};
use tracing::Span;

/// The target of spans that belong to a kept trace.
pub const TARGET: &str = "mooseng::trace";

/// Most spans of one trace that a node tells.
pub const SPANS_MAX: usize = 4096;

const KEPT: u64 = 1 << 63;

impl TraceId {
    /// Of a call that is to be noted everywhere.
    #[must_use]
    pub const fn kept(random: u64) -> Self {
        Self(random | KEPT)
    }
    /// Of a call that leaves nothing but its number in log lines.
    #[must_use]
    pub const fn passing(random: u64) -> Self {
        Self(random & !KEPT)
    }
    /// Whether it is to be noted.
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

/// A step of what is going on, when that belongs to a kept trace; else a span that is none.
#[must_use]
pub fn step(name: &str) -> Span {
    let now = Span::current();
    match is_kept(&now) {
        true => tracing::info_span!(target: TARGET, parent: &now, "step", name),
        false => Span::none(),
    }
}

/// The first span of a trace, or of its part on this node: `parent` is the caller's.
#[must_use]
pub fn begin(trace: TraceId, parent: SpanId, name: &str) -> Span {
    match trace.is_kept() {
        true => {
            let (trace, caller) = (trace.get(), parent.get());
            tracing::info_span!(target: TARGET, parent: None, "trace", trace, caller, name)
        }
        false => Span::none(),
    }
}

/// Whether a span belongs to a kept trace.
#[must_use]
pub fn is_kept(span: &Span) -> bool {
    span.metadata().is_some_and(|m| m.target() == TARGET)
}
