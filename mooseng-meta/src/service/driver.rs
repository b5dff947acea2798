//! What a leader does by itself, from election to deposition: takes up its term, ends silent
//! sessions; `upkeep` looks after chunks, `deleting` removes what nobody needs.

use super::{
    Inner, Lead,
    drain::{disks, draining},
    internal, room,
    watch::Watch,
};
use crate::{namespace::meta_key, store::*};
use futures::{StreamExt as _, stream};
use mooseng_core::{error::MetaError, ids::*, meta::*};
use std::{sync::Arc, time::Duration};

/// Sessions ended at the same time.
const ENDING_MAX: usize = 64;
const COMMIT: Duration = Duration::from_secs(10);

/// Follows leadership until the node's Raft ends.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut leadership = inner.raft.leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        if !now.is_me {
            *inner.lead.write() = None;
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        }
        let lead = tokio::select! {
            biased;
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            lead = inner.take_over(now.term) => lead,
        };
        match lead {
            Ok(lead) => {
                tracing::info!(master = %inner.id, term = %now.term, "this master leads");
                *inner.lead.write() = Some(lead.clone());
                tokio::select! {
                    biased;
                    changed = leadership.wait_for(|l| l.term != now.term || !l.is_me) => {
                        if changed.is_err() {
                            *inner.lead.write() = None;
                            return;
                        }
                    }
                    () = inner.drive(&lead) => {}
                }
                *inner.lead.write() = None;
            }
            Err(e) => {
                tracing::warn!(error = %e, "taking over failed, trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Inner {
    /// The first entries of a term: everything before them is applied when they are.
    async fn take_over(&self, term: Term) -> Result<Arc<Lead>, MetaError> {
        self.propose(Command::Lead { master: self.id }, COMMIT).await?;
        if self.view()?.get(Table::Meta, meta_key::CLUSTER).map_err(internal)?.is_none() {
            self.propose(Command::Init { cluster: self.cluster, class: self.class }, COMMIT).await?;
        }
        let key = self.keys.lock().begin();
        self.propose(Command::AddKey { key, master: self.id }, COMMIT).await?;
        let lead = Lead {
            term,
            since: self.now(),
            memory: Default::default(),
            bumping: Default::default(),
            ahead: Default::default(),
            bumped: Default::default(),
            cramped: Default::default(),
            wake: Default::default(),
            counts: Default::default(),
            watch: Watch::new(term),
        };
        {
            let mut m = lead.memory.lock();
            let view = self.view()?;
            // Silence is counted from the election, for sessions and servers alike.
            for id in self.all_sessions(&view)? {
                m.contacts.insert(id, lead.since);
            }
            (m.draining, m.disk_drains) =
                (draining(&view).map_err(internal)?, disks(&view).map_err(internal)?);
            m.look_at_all = true;
        }
        self.tell(
            &lead,
            EventCode::MasterElected,
            format!("master {} leads from term {} on", self.id.get(), term.get()),
        );
        Ok(Arc::new(lead))
    }

    /// Sessions, chunks, deletions and keys are looked after side by side: none waits for another.
    async fn drive(self: &Arc<Self>, lead: &Arc<Lead>) {
        futures::join!(
            self.keep_sessions(lead),
            self.keep_chunks(lead),
            self.keep_deleting(lead),
            self.keep_keys(lead),
            self.watch_servers(lead),
            self.watch_cluster(lead),
            room::keep(self, lead)
        );
    }

    async fn keep_sessions(&self, lead: &Lead) {
        loop {
            tokio::time::sleep(self.timings.tick).await;
            if let Err(e) = self.end_silent_sessions(lead).await {
                tracing::warn!(error = %e, "a round over the sessions failed, the next one goes on");
            }
            if let Err(e) = self.fence_the_rest(lead).await {
                tracing::warn!(error = %e, "fences could not be told, they are told again");
            }
            if let Err(e) = self.release_strays(lead).await {
                tracing::warn!(error = %e, "removed files could not be let go, the next round goes on");
            }
        }
    }

    async fn end_silent_sessions(&self, lead: &Lead) -> Result<(), MetaError> {
        let now = self.now();
        let silent: Vec<_> = {
            let m = lead.memory.lock();
            let of = m
                .contacts
                .iter()
                .filter(|(_, heard)| now.saturating_sub(**heard) > self.timings.session_lifetime);
            of.map(|(id, _)| *id).collect()
        };
        let end = |id: SessionId| async move {
            if let Err(e) = self.end_silent(lead, id).await {
                tracing::warn!(%id, error = %e, "a silent session could not be ended, it is tried again");
            }
        };
        stream::iter(silent).for_each_concurrent(ENDING_MAX, end).await;
        Ok(())
    }

    /// What a session's client called itself, and its host.
    fn name_of(&self, id: SessionId) -> Result<String, MetaError> {
        let rec: Option<SessionRec> =
            load(&self.view()?, Table::Session, &key(id.get())).map_err(internal)?;
        Ok(rec.map_or_else(String::new, |s| format!("{} at {}", s.client, s.host)))
    }

    async fn end_silent(&self, lead: &Lead, id: SessionId) -> Result<(), MetaError> {
        match self.epoch_of(&self.view()?, id) {
            Ok(epoch) => {
                let who = self.name_of(id)?;
                self.end_session(lead, SessionStamp { id, epoch }, COMMIT).await?;
                let text = format!("session {} ({who}) was not heard of and has ended", id.get());
                self.tell(lead, EventCode::SessionFenced, text);
                Ok(())
            }
            Err(MetaError::SessionEnded) => {
                lead.memory.lock().forget(id);
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}
