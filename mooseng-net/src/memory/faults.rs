//! What a simulated network may do to messages.

use mooseng_core::net::Method;
use std::{fmt, time::Duration};

/// What happens on the memory network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A connection is being opened.
    Connect,
    /// A request travels; `from` is the caller.
    Request(Method),
    /// A reply's head travels; `from` is the answering side.
    Reply(Method),
    /// A piece of a stream travels in either direction.
    Piece(Method),
    /// Word travels that a caller gave up.
    Cancel(Method),
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It arrives after this time (a cancellation at once).
    Deliver(Duration),
    /// It arrives after the first time, and a second one so much later: a request without a stream, whose
    /// second answer nobody hears. Anything else arrives once.
    Twice(Duration, Duration),
    /// It never arrives: whoever waits for it waits until its deadline; a stream stalls, since a
    /// connection loses nothing from its middle; a cancelled handler runs on.
    Drop,
    /// The connection breaks; a connect is refused.
    Reset,
}

/// Decides what the memory network does. Consulted once for each event, in the order of events.
pub trait Faults: Send + Sync + 'static + fmt::Debug {
    /// What becomes of `event` on its way between the named transports or listening names.
    fn fate(&self, from: &str, to: &str, event: Event) -> Fate;
}

/// A network on which everything arrives at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn fate(&self, _: &str, _: &str, _: Event) -> Fate {
        Fate::Deliver(Duration::ZERO)
    }
}
