//! Attaching places and capabilities to layouts. Never saved: each answer is made afresh by
//! whoever leads.

use super::{Inner, Lead, answer, internal};
use crate::{
    namespace,
    placement::{place, seed_of},
    repair::SYNCED_MIN,
    store::*,
};
use mooseng_core::{
    attr::Timestamp,
    capability::{Claims, KeyId, Rights},
    context::CallContext,
    error::MetaError,
    ids::*,
    meta::*,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Which chunks, with which rights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub from: ChunkIndex,
    pub count: u32,
    pub rights: Rights,
}

/// Pause before a chunk that somebody waits for is looked after again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

impl Inner {
    /// Address of a chunkserver.
    pub(super) fn replica(&self, view: &RedbView, server: ServerId) -> Result<Replica, MetaError> {
        Ok(self.start_of(view, server)?.0)
    }

    /// Address and last known start of a chunkserver.
    fn start_of(&self, view: &RedbView, server: ServerId) -> Result<(Replica, Incarnation), MetaError> {
        let rec: Option<ServerRec> = load(view, Table::Server, &key(server.get())).map_err(internal)?;
        let (addr, start) = rec.map(|r| (r.addr, r.incarnation)).unwrap_or_default();
        Ok((Replica { server, addr }, start))
    }

    /// Adds the places of chunks and the right to touch them. Waits a while for bumps under way.
    pub(super) async fn attach(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        mut layout: Layout,
        want: Want,
    ) -> Result<Layout, MetaError> {
        let inode = layout.attr.inode;
        let wait = tokio::time::sleep(self.timings.bump_wait.min(cx.budget));
        tokio::pin!(wait);
        let mut asked = false;
        let chunks = loop {
            let bumped = lead.bumped.notified();
            tokio::pin!(bumped);
            bumped.as_mut().enable();
            let view = self.view()?;
            let chunks = answer(namespace::layout_chunks(&view, inode, want.from, want.count))?;
            let mut busy = None;
            for (_, chunk, rec) in &chunks {
                // A head that may still write for an ended session heads for nobody else: it
                // acknowledges the fence, or a version without it opens.
                let unfenced = match rec.members.first() {
                    Some(head) => self.owes_a_fence(&view, *head)?,
                    None => false,
                };
                if unfenced || rec.pending.is_some() || rec.cut_to.is_some() {
                    busy = Some((chunk.id, unfenced));
                    break;
                }
            }
            let Some((busy, unfenced)) = busy else { break chunks };
            if std::mem::replace(&mut asked, true) {
                // It was looked after and could not be helped, or another chunk was: at once it would end in the same way.
                tokio::select! {
                    biased;
                    () = wait.as_mut() => return Err(MetaError::ChunkBusy(busy)),
                    () = tokio::time::sleep(ASK_AGAIN) => {}
                }
            }
            *lead.memory.lock().wanted.entry(busy).or_insert(false) |= unfenced;
            lead.wake.notify_one();
            tokio::select! {
                biased;
                () = bumped.as_mut() => {}
                () = wait.as_mut() => return Err(MetaError::ChunkBusy(busy)),
            }
        };
        let view = self.view()?;
        // The attributes belong to the same moment as the places.
        let rec = answer(namespace::inode(&view, inode))?;
        layout.attr = rec.attr(inode);
        if want.rights.has(Rights::WRITE) {
            self.to_be_moved(cx, &rec, &chunks, &mut layout)?;
        }
        let (mut rights, mut all_makers) = (Vec::with_capacity(chunks.len()), BTreeSet::new());
        for (index, chunk, rec) in chunks {
            let starts = rec.members.iter().map(|s| self.start_of(&view, *s));
            let starts: Vec<_> = starts.collect::<Result<_, _>>()?;
            let makers = match rec.committed {
                true => vec![],
                false => starts.iter().map(|(r, start)| (r.server, *start)).collect(),
            };
            let chain = starts.into_iter().map(|(replica, _)| replica).collect();
            let mut right = want.rights;
            if !rec.committed && right.has(Rights::WRITE) {
                right = right.and(Rights::CREATE);
                all_makers.extend(makers.iter().copied());
            }
            rights.push((chunk, right));
            let copies = match want.rights.has(Rights::WRITE) {
                true => self.copies(lead, &view, chunk.id, &rec)?,
                false => Copies::Enough,
            };
            layout.chunks.push(ChunkPlace { index, chunk, chain, makers, copies });
        }
        if !rights.is_empty() {
            let (session, cert) = self.checked_session(&view, cx)?;
            let lifetime_secs = self.timings.capability.as_secs() as i64;
            let expires = Timestamp::new(self.wall().secs() + lifetime_secs, 0);
            let makers = all_makers.into_iter().collect();
            let claims = Claims { key: KeyId(0), cert, session, chunks: rights, makers, expires };
            layout.capability = Some(self.signing_key().sign(claims));
        }
        Ok(layout)
    }

    /// Whether an fsync has as many disks as it wants. Who could take a copy that is lacking gets it soon.
    fn copies(&self, lead: &Lead, view: &RedbView, id: ChunkId, rec: &ChunkRec) -> Result<Copies, MetaError> {
        if rec.members.len() >= usize::from(rec.wanted).min(SYNCED_MIN) {
            return Ok(Copies::Enough);
        }
        let mut m = lead.memory.lock();
        let (mut able, full) = (m.able(self.now(), self.timings.server_dead), m.full(id, self.now()));
        able.retain(|c| !full.contains(&c.server));
        let is_one_able = !place(seed_of(id), 1, &able, &rec.members).is_empty();
        if is_one_able {
            m.wanted.entry(id).or_insert(false);
            lead.wake.notify_one();
        }
        drop(m);
        // Who has not come to this leader yet may be able, too.
        Ok(if is_one_able || self.gathers(lead, view)? { Copies::Joining } else { Copies::Alone })
    }

    /// Gives the inline data to the one session that may write it to chunk 0; others wait.
    fn to_be_moved(
        &self,
        cx: &CallContext,
        rec: &InodeRec,
        chunks: &[(ChunkIndex, ChunkRef, ChunkRec)],
        layout: &mut Layout,
    ) -> Result<(), MetaError> {
        let first = chunks.iter().find(|(index, ..)| *index == ChunkIndex(0));
        let (Some((_, _, chunk)), Some(data)) = (first, &rec.inline) else { return Ok(()) };
        if chunk.mover.map(|(s, _)| s) != cx.session.map(|s| s.id) {
            return Err(MetaError::Busy("another client moves the content to a chunk".into()));
        }
        layout.inline = Some(data.clone());
        Ok(())
    }
}
