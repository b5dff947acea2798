//! Reads and mutations of the namespace.

use super::{Inner, Lead, answer, internal, layout::Want, room};
use crate::{
    namespace,
    placement::place,
    state::{SlotCheck, check_slot},
    store::{RedbView, Table, View as _, map_key, number},
};
use mooseng_core::{
    attr::{Access, Attr, FileKind, SetAttr},
    capability::Rights,
    context::CallContext,
    error::{Errno, MetaError},
    ids::*,
    limits::GROUPS_MAX,
    meta::*,
    name::Name,
    wire,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// For so long a leader that does not hear of enough chunkservers waits for more before it says that there is no room.
const GATHERS: Duration = Duration::from_secs(10);

/// Marks inodes as being removed until it is dropped, so that nobody opens one in between.
struct Removing {
    lead: Arc<Lead>,
    inodes: BTreeSet<InodeId>,
}

impl Drop for Removing {
    fn drop(&mut self) {
        let mut m = self.lead.memory.lock();
        for inode in &self.inodes {
            if let Some(n) = m.removing.get_mut(inode) {
                *n -= 1;
                if *n == 0 {
                    m.removing.remove(inode);
                }
            }
        }
    }
}

/// An open that is being judged; dropped, it was not carried out.
struct Opening {
    lead: Arc<Lead>,
    inode: InodeId,
    session: SessionId,
}

impl Opening {
    fn done(self, access: Access) {
        self.lead.memory.lock().opened(self.inode, self.session, access);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.lead.memory.lock().end_open(self.inode, self.session);
    }
}

/// The mutations of a batch; one within a batch is none, and is refused when it is applied.
pub(super) fn elements(b: &Batch) -> impl Iterator<Item = MetaRequest> + '_ {
    let decoded = b.ops.iter().filter_map(|b| wire::decode::<MetaRequest>(b).ok());
    decoded.filter(|op| !matches!(op, MetaRequest::Batch(_)))
}

/// The id from a granted range that a request makes an inode with. Applying refuses one that exists.
fn made_id(req: &MetaRequest) -> Option<InodeId> {
    match req {
        MetaRequest::MkNod(r) => r.id,
        MetaRequest::Create(r) if r.exclusive => r.id,
        _ => None,
    }
}

/// The inode whose content a request changes.
fn content_of(req: &MetaRequest) -> Option<InodeId> {
    match req {
        MetaRequest::Allocate(r) => Some(r.inode),
        MetaRequest::CommitWrite(r) => Some(r.inode),
        MetaRequest::WriteInline(r) => Some(r.inode),
        MetaRequest::Truncate(r) => Some(r.inode),
        _ => None,
    }
}

/// Names that a request may take the last link from.
fn removed_names(req: &MetaRequest, names: &mut Vec<(InodeId, Name)>) {
    match req {
        MetaRequest::Unlink(r) => names.push((r.parent, r.name.clone())),
        MetaRequest::RmDir(r) => names.push((r.parent, r.name.clone())),
        MetaRequest::Rename(r) if r.mode == RenameMode::Replace => {
            names.push((r.new_parent, r.new_name.clone()));
        }
        MetaRequest::Batch(b) => {
            elements(b).for_each(|op| removed_names(&op, names));
        }
        _ => {}
    }
}

impl Inner {
    pub(super) async fn fs_read(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        req: MetaRequest,
    ) -> Result<MetaReply, MetaError> {
        if let MetaRequest::Open(r) = req {
            return self.open(lead, cx, r).await.map(MetaReply::Open);
        }
        let view = self.fresh_view(cx.budget).await?;
        self.checked_session(&view, cx)?;
        if matches!(req, MetaRequest::StatFs(_)) {
            let (total, free) = lead.memory.lock().space();
            return answer(namespace::fs_stat(&view, total, free)).map(MetaReply::StatFs);
        }
        let reply = answer(namespace::read(&view, &cx.creds, &req))?;
        match (req, reply) {
            (MetaRequest::GetLayout(r), MetaReply::GetLayout(layout)) => {
                self.may_touch(lead, cx, &view, r.inode, Access::READ)?;
                let want = Want { from: r.from, count: r.count, rights: Rights::READ };
                self.attach(lead, cx, layout, want).await.map(MetaReply::GetLayout)
            }
            (_, reply) => Ok(reply),
        }
    }

    /// A session may touch content when the permission bits allow it, when it owns the file, or
    /// when it has opened it with that right (a file made read-only is still written by its maker).
    fn may_touch(
        &self,
        lead: &Lead,
        cx: &CallContext,
        view: &RedbView,
        inode: InodeId,
        access: Access,
    ) -> Result<(), MetaError> {
        let rec = answer(namespace::inode(view, inode))?;
        let session = cx.session.map_or(SessionId(0), |s| s.id);
        let opened = lead.memory.lock().has_open(inode, session, access);
        if opened || rec.uid == cx.creds.uid {
            return Ok(());
        }
        answer(namespace::may(&cx.creds, &rec, access))
    }

    /// Content is changed under the right that an open gave: applying asks for none.
    fn may_change_content(
        &self,
        lead: &Lead,
        cx: &CallContext,
        view: &RedbView,
        req: &MetaRequest,
    ) -> Result<(), MetaError> {
        match req {
            MetaRequest::Batch(b) => {
                let mut made = BTreeSet::new();
                for op in elements(b) {
                    match made_id(&op) {
                        Some(id) => drop(made.insert(id)),
                        // What the batch makes by itself is its caller's.
                        None if content_of(&op).is_some_and(|inode| made.contains(&inode)) => {}
                        None => self.may_change_content(lead, cx, view, &op)?,
                    }
                }
                Ok(())
            }
            op => match content_of(op) {
                Some(inode) => self.may_touch(lead, cx, view, inode, Access::WRITE),
                None => Ok(()),
            },
        }
    }

    async fn open(&self, lead: &Arc<Lead>, cx: &CallContext, r: Open) -> Result<Opened, MetaError> {
        let session = cx.session.ok_or(MetaError::SessionEnded)?.id;
        lead.memory.lock().may_open(session, [Some(r.inode)].into_iter())?;
        let opening = self.begin_open(lead, r.inode, session)?;
        let opened = self.opened_layout(lead, cx, &r).await?;
        opening.done(r.access);
        Ok(opened)
    }

    async fn opened_layout(&self, lead: &Arc<Lead>, cx: &CallContext, r: &Open) -> Result<Opened, MetaError> {
        let view = self.fresh_view(cx.budget).await?;
        self.checked_session(&view, cx)?;
        let req = MetaRequest::from(r.clone());
        let MetaReply::Open(opened) = answer(namespace::read(&view, &cx.creds, &req))? else {
            return Err(internal("an open answered something else"));
        };
        if r.layout_chunks == 0 || !r.access.has(Access::READ) {
            return Ok(opened);
        }
        let want = Want { from: ChunkIndex(0), count: r.layout_chunks, rights: Rights::READ };
        Ok(Opened { layout: self.attach(lead, cx, opened.layout, want).await? })
    }

    /// Notes an open before it is judged, so that an unlink that comes in between counts it.
    fn begin_open(&self, lead: &Arc<Lead>, inode: InodeId, session: SessionId) -> Result<Opening, MetaError> {
        let mut m = lead.memory.lock();
        if m.removing.contains_key(&inode) {
            return Err(MetaError::Busy(format!("{inode} is being removed")));
        }
        m.begin_open(inode, session);
        Ok(Opening { lead: lead.clone(), inode, session })
    }

    pub(super) async fn fs_write(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        req: MetaRequest,
    ) -> Result<MetaReply, MetaError> {
        let slot = cx.slot.ok_or_else(|| MetaError::Invalid("a mutation needs a slot".into()))?;
        if cx.creds.groups.len() > GROUPS_MAX {
            return Err(MetaError::Invalid(format!("at most {GROUPS_MAX} supplementary groups")));
        }
        let view = self.view()?;
        let (session, _) = self.checked_session(&view, cx)?;
        match check_slot(&view, session, slot, &req).map_err(internal)? {
            SlotCheck::Answered(saved) => {
                // It is in the state already; the rights that come with it are of this moment.
                let reply = (*saved)?;
                self.fresh_view(cx.budget).await?;
                return self.finish(lead, cx, &req, reply).await;
            }
            SlotCheck::Misused => return Err(MetaError::SlotMisuse),
            SlotCheck::New => {}
        }
        self.may_change_content(lead, cx, &view, &req)?;
        room::is_there_for(lead, &req)?;
        // What is made is opened with the answer: too late to be refused.
        if matches!(&req, MetaRequest::Create(r) if r.open != Access(0)) {
            lead.memory.lock().may_open(session.id, [None].into_iter())?;
        }
        if let MetaRequest::Allocate(r) = &req
            && let Some(layout) = self.all_allocated(cx, r).await?
        {
            return self.finish(lead, cx, &req, MetaReply::Allocate(layout)).await;
        }
        let removing = self.reserve(lead, &view, &req)?;
        let decisions = self.decide(lead, &view, &req, &removing)?;
        let command = Command::Fs { session, slot, creds: cx.creds.clone(), decisions, request: req.clone() };
        let applied = self.propose(command, cx.budget).await;
        drop(removing);
        match applied? {
            Applied::Fs(reply) => self.finish(lead, cx, &req, reply?).await,
            other => Err(internal(format!("a mutation answered {other:?}"))),
        }
    }

    /// When all chunks asked for exist, nothing is to be logged.
    async fn all_allocated(&self, cx: &CallContext, r: &Allocate) -> Result<Option<Layout>, MetaError> {
        let view = self.fresh_view(cx.budget).await?;
        let rec = answer(namespace::inode(&view, r.inode))?;
        if rec.truncates != r.truncates {
            return Err(MetaError::LayoutStale);
        }
        let chunks = answer(namespace::layout_chunks(&view, r.inode, r.from, r.count))?;
        // Who moves inline data to chunk 0 is decided by the log.
        let moves = rec.inline.is_some() && r.from == ChunkIndex(0);
        let all = r.count > 0 && chunks.len() == r.count as usize && !moves;
        let attr = rec.attr(r.inode);
        Ok(all.then(|| Layout {
            attr,
            truncates: rec.truncates,
            inline: None,
            chunks: vec![],
            capability: None,
        }))
    }

    /// Marks what the request may remove.
    fn reserve(&self, lead: &Arc<Lead>, view: &RedbView, req: &MetaRequest) -> Result<Removing, MetaError> {
        let mut names = Vec::new();
        removed_names(req, &mut names);
        let mut inodes = BTreeSet::new();
        for (parent, name) in names {
            let e = namespace::entry(view, parent, name.as_bytes()).map_err(internal)?;
            inodes.extend(e.map(|e| e.inode));
        }
        let mut m = lead.memory.lock();
        for inode in &inodes {
            *m.removing.entry(*inode).or_default() += 1;
        }
        drop(m);
        Ok(Removing { lead: lead.clone(), inodes })
    }

    fn decide(
        &self,
        lead: &Lead,
        view: &RedbView,
        req: &MetaRequest,
        removing: &Removing,
    ) -> Result<Decisions, MetaError> {
        let mut decisions = Decisions::default();
        if !removing.inodes.is_empty() {
            let sessions = self.all_sessions(view)?;
            let m = lead.memory.lock();
            decisions.holders = removing.inodes.iter().map(|i| (*i, m.holders(*i, &sessions))).collect();
        }
        self.decide_chains(lead, view, req, &mut decisions)?;
        Ok(decisions)
    }

    fn decide_chains(
        &self,
        lead: &Lead,
        view: &RedbView,
        req: &MetaRequest,
        decisions: &mut Decisions,
    ) -> Result<(), MetaError> {
        match req {
            MetaRequest::Batch(b) => {
                elements(b).try_for_each(|op| self.decide_chains(lead, view, &op, decisions))
            }
            MetaRequest::Allocate(r) => {
                let rec = answer(namespace::inode(view, r.inode))?;
                let copies = usize::from(rec.class.copies);
                let candidates = lead.memory.lock().places(copies, self.now(), self.timings.server_dead);
                for index in 0..u64::from(r.count.min(mooseng_core::limits::LAYOUT_CHUNKS_MAX)) {
                    let index = ChunkIndex(r.from.get().saturating_add(index));
                    let there = view.get(Table::Map, &map_key(r.inode, index)).map_err(internal)?.is_some();
                    // Chunk 0 beside inline data may be another session's, and be made anew.
                    if there && !(rec.inline.is_some() && index == ChunkIndex(0)) {
                        continue;
                    }
                    let seed = r.inode.get().rotate_left(20) ^ index.get();
                    let chain = place(seed, copies, &candidates, &[]);
                    // Fewer copies than wanted are written while two at least are safe; repair adds the rest.
                    if chain.len() < copies.min(2) {
                        if self.gathers(lead, view)? {
                            return Err(MetaError::Busy(
                                "not all chunkservers have come to this leader yet".into(),
                            ));
                        }
                        let (wanted, found) = (copies.min(2) as u32, chain.len() as u32);
                        return Err(MetaError::NoServers { wanted, found });
                    }
                    decisions.chains.push(chain);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether chunkservers may still come that were there under the leader before this one.
    pub(super) fn gathers(&self, lead: &Lead, view: &RedbView) -> Result<bool, MetaError> {
        if self.now().saturating_sub(lead.since) >= GATHERS {
            return Ok(false);
        }
        let (mut all, heard) = (true, lead.memory.lock().servers.keys().copied().collect::<BTreeSet<_>>());
        view.scan(Table::Server, &[], &[], &mut |k, _| {
            all &= heard.contains(&ServerId(number(k)));
            all
        })
        .map_err(internal)?;
        Ok(!all)
    }

    /// What the leader adds to an answer, fresh each time: opens, places, capabilities, and what is
    /// to be done behind it.
    async fn finish(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        req: &MetaRequest,
        reply: MetaReply,
    ) -> Result<MetaReply, MetaError> {
        match (req, reply) {
            (MetaRequest::Allocate(r), MetaReply::Allocate(layout)) => {
                let rights = Rights::READ.and(Rights::WRITE);
                let want = Want { from: r.from, count: r.count, rights };
                self.attach(lead, cx, layout, want).await.map(MetaReply::Allocate)
            }
            (MetaRequest::Create(r), MetaReply::Create(created)) => {
                if r.open == Access(0) {
                    return Ok(MetaReply::Create(created));
                }
                self.open_created(lead, cx, &created, r.open).map(MetaReply::Create)
            }
            (MetaRequest::SetAttrs(SetAttrs { set: SetAttr { size: Some(_), .. }, .. }), reply)
            | (MetaRequest::Truncate(_), reply) => {
                lead.wake.notify_one();
                Ok(reply)
            }
            (_, reply) => Ok(reply),
        }
    }

    /// Opens what a create made or found; its content is of the moment of the answer.
    fn open_created(
        &self,
        lead: &Arc<Lead>,
        cx: &CallContext,
        created: &Created,
        access: Access,
    ) -> Result<Created, MetaError> {
        let (session, inode) = (cx.session.ok_or(MetaError::SessionEnded)?.id, created.attr.inode);
        let opening = self.begin_open(lead, inode, session)?;
        let rec = match answer(namespace::inode(&self.view()?, inode)) {
            Ok(rec) => rec,
            // It was made, and somebody removed it before its maker heard of that: the maker has a file
            // without a name, as if the answer had come in time, and without the content it never had.
            Err(MetaError::Posix(Errno::ESTALE)) if created.created => {
                let attr = Attr { nlink: 0, ..created.attr.clone() };
                return Ok(Created { attr, ..created.clone() });
            }
            // One that was found is gone: there is nothing to open.
            Err(e) => return Err(e),
        };
        opening.done(access);
        let (attr, truncates, has_chunks) = (rec.attr(inode), rec.truncates, rec.chunks > 0);
        let inline = if rec.kind == FileKind::File { rec.inline } else { None };
        Ok(Created { attr, created: created.created, truncates, inline, has_chunks })
    }
}
