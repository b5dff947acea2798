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

/// Between two looks at chunkservers, and at least between two at all chunks.
const EVERY: Duration = Duration::from_secs(2);
/// After a look at all chunks the pause until the next one is so many times what it took.
const SHARE: u32 = 50;

/// What a leader watches with.
pub(super) struct Watch {
    ring: Mutex<Ring>,
    seen: Mutex<Seen>,
}

impl Watch {
    /// Of a leader that begins now.
    pub fn new(term: Term) -> Self {
        Self { ring: Mutex::new(Ring::new(term)), seen: Mutex::default() }
    }
}

impl Inner {
    /// Something happened that operators want to know of.
    pub(super) fn tell(&self, lead: &Lead, code: EventCode, text: String) {
        self.tell_of(lead, code, None, text);
    }

    fn tell_of(&self, lead: &Lead, code: EventCode, problem: Option<HealthCode>, text: String) {
        let (name, of) = (code.name(), problem.map(HealthCode::name));
        match code.is_bad() {
            true => tracing::warn!(code = name, problem = of, "{text}"),
            false => tracing::info!(code = name, problem = of, "{text}"),
        }
        lead.watch.ring.lock().tell(self.wall(), code, problem, text);
    }

    pub(super) fn list_events(&self, lead: &Lead, r: &ListEvents) -> EventPage {
        lead.watch.ring.lock().page(r.after, r.count)
    }

    /// Looks at the cluster again and again, and tells what is new.
    pub(super) async fn keep_watch(&self, lead: &Lead) {
        // Before everybody had a chance to register nobody is missed.
        tokio::time::sleep(self.timings.server_dead).await;
        let mut whole_from = self.now();
        loop {
            let began = self.now();
            let is_whole = began >= whole_from;
            if let Err(e) = self.look_around(lead, is_whole).await {
                tracing::warn!(error = %e, "a look at the cluster failed, the next one goes on");
            }
            if is_whole {
                let now = self.now();
                whole_from = now + now.saturating_sub(began) * SHARE;
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// At chunkservers, or at all chunks, too.
    async fn look_around(&self, lead: &Lead, is_whole: bool) -> Result<(), MetaError> {
        let view = self.view()?;
        let news = if is_whole {
            let (status, care) = (self.status(lead, &view, |_, _| ()).await?, self.care(lead, &view).await?);
            lead.watch.seen.lock().look(&status, &care)
        } else {
            lead.watch.seen.lock().servers(&self.server_infos(lead, &view)?)
        };
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
