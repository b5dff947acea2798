//! What clients report of replicas.

use super::{Inner, Lead, internal, outlook::names};
use crate::{
    namespace,
    placement::{Candidate, ROOM_BYTES_MIN},
};
use mooseng_core::{context::CallContext, error::MetaError, meta::ReportReplica};
use std::sync::Arc;

impl Inner {
    /// A client could not write or read through a replica: look, and bump. Answers when the layout
    /// can be read again.
    pub(super) async fn report_replica(
        self: &Arc<Self>,
        lead: &Arc<Lead>,
        cx: &CallContext,
        r: ReportReplica,
    ) -> Result<(), MetaError> {
        let view = self.fresh_view(cx.budget).await?;
        let Some((chunk, rec)) = namespace::chunk_at(&view, r.inode, r.index).map_err(internal)? else {
            return Ok(());
        };
        if chunk.id != r.chunk.id || chunk.version > r.chunk.version {
            return Ok(());
        }
        drop(view);
        tracing::warn!(id = %chunk.id, server = %r.server, problem = r.problem, "a client reports a replica");
        if names(&rec, r.server) {
            let (mut m, now) = (lead.memory.lock(), self.now());
            if r.full {
                let full = m.full(chunk.id, now);
                m.note_full(chunk.id, r.server, now);
                // The head refused it before anybody has applied it, and still nobody can take its place: another
                // version would change nothing.
                let room = |c: &Candidate| {
                    let is_other = !rec.members.contains(&c.server) && !full.contains(&c.server);
                    is_other && c.free_bytes >= ROOM_BYTES_MIN
                };
                let is_room = m.candidates(now, self.timings.server_dead).iter().any(room);
                if full.contains(&r.server)
                    && !is_room
                    && rec.members.first() == Some(&r.server)
                    && rec.pending.is_none()
                {
                    return Ok(());
                }
            } else {
                m.doubted.insert(r.server, now);
            }
        }
        if rec.members.contains(&r.server) || rec.pending.is_some() {
            self.settle(lead, chunk.id, true).await?;
        }
        Ok(())
    }
}
