//! The leader's own look at the cluster, from which events come.

use super::{
    Inner, Lead,
    events::{Ring, Seen},
};
use mooseng_core::{
    error::MetaError,
    health::HealthCode,
    ids::Term,
    meta::{EventCode, EventPage, ListEvents, ServerLoad},
};
use parking_lot::Mutex;
use std::time::Duration;

/// Between two looks, at least.
const EVERY: Duration = Duration::from_secs(2);
/// A look goes through all chunks: it takes one part in so many of a processor.
const SHARE: u32 = 50;

/// What a leader watches with.
pub(super) struct Watch {
    ring: Mutex<Ring>,
    seen: Mutex<Seen>,
    /// When the next look is due.
    due: Mutex<Duration>,
}

impl Watch {
    /// Of a leader that begins now.
    pub fn new(term: Term) -> Self {
        Self { ring: Mutex::new(Ring::new(term)), seen: Mutex::default(), due: Mutex::default() }
    }
}

impl Inner {
    /// Something happened that operators want to know of.
    pub(super) fn tell(&self, lead: &Lead, code: EventCode, text: String) {
        self.tell_of(lead, code, None, text);
    }

    fn tell_of(&self, lead: &Lead, code: EventCode, problem: Option<HealthCode>, text: String) {
        tracing::info!(code = code.name(), problem = problem.map(HealthCode::name), "{text}");
        lead.watch.ring.lock().tell(self.wall(), code, problem, text);
    }

    pub(super) fn list_events(&self, lead: &Lead, r: &ListEvents) -> EventPage {
        lead.watch.ring.lock().page(r.after, r.count)
    }

    /// Looks at the cluster when it is time to, and tells what is new.
    pub(super) async fn watch(&self, lead: &Lead) {
        let began = self.now();
        // Before everybody had a chance to register nobody is missed.
        let early = began.saturating_sub(lead.since) <= self.timings.server_dead;
        if early || began < *lead.watch.due.lock() {
            return;
        }
        if let Err(e) = self.look_around(lead).await {
            tracing::warn!(error = %e, "a look at the cluster failed, the next one goes on");
        }
        let now = self.now();
        *lead.watch.due.lock() = now + EVERY.max(now.saturating_sub(began) * SHARE);
    }

    async fn look_around(&self, lead: &Lead) -> Result<(), MetaError> {
        let view = self.view()?;
        let (status, care) = (self.status(lead, &view).await?, self.care(lead, &view).await?);
        let news = lead.watch.seen.lock().look(&status, &care);
        for (code, problem, text) in news {
            self.tell_of(lead, code, problem, text);
        }
        Ok(())
    }

    /// What chunkservers told of what they serve.
    pub(super) fn loads(&self, lead: &Lead) -> Vec<ServerLoad> {
        lead.memory.lock().loads.values().copied().collect()
    }
}
