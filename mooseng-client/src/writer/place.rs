//! Where a chunk is to be written, and what is asked of it there besides writes.

use super::*;

/// Longest wait for a sync of one chunk.
const SYNC_PATIENCE: Duration = Duration::from_secs(20);
/// Chunks that closed handles left, synced at the same time: after a server's death each has to find its new set.
pub(crate) const LEFT_AT_ONCE: usize = 8;

/// Where a chunk is to be written.
pub(super) struct Located {
    pub(super) place: Place,
    /// What the file has inline and the chunk is to have first.
    pub(super) inline: Option<Bytes>,
    pub(super) session: SessionStamp,
    /// How often the file had been cut then.
    pub(super) truncates: TruncateCounter,
}

/// Where a chunk is to be written; allocates it when it is not there. A truncate by somebody else is
/// caught up with.
pub(super) async fn locate(
    cx: &Context,
    shared: &Shared,
    index: ChunkIndex,
    within: Duration,
) -> Result<Located> {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let truncates = *shared.truncates.lock();
        let op = Allocate { inode: cx.inode, truncates, from: index, count: 1 };
        let (layout, session) = match cx.masters.call_stamped(&cx.creds, op, left).await {
            Err(Error::Meta(MetaError::LayoutStale)) if !left.is_zero() => {
                let op = GetLayout { inode: cx.inode, from: index, count: 0 };
                let now = cx.masters.call_within(&cx.creds, op, left).await?.truncates;
                *shared.truncates.lock() = now;
                continue;
            }
            other => other?,
        };
        // None is there when the file was cut between the allocation and the answer.
        match layout.chunks.into_iter().find(|p| p.index == index) {
            Some(place) => {
                let inline = layout.inline.filter(|_| index == ChunkIndex(0));
                return Ok(Located {
                    place: Place { place, capability: layout.capability },
                    inline,
                    session,
                    truncates,
                });
            }
            None if left.is_zero() => return Err(MetaError::LayoutStale.into()),
            None => {}
        }
    }
}

/// Asks that a chunk's acknowledged writes be on every member's disk.
pub(super) async fn sync_chunk(
    cx: &Context,
    place: &Place,
    session: SessionStamp,
    members: &BTreeSet<Acknowledged>,
) -> std::result::Result<SyncDone, ChunkError> {
    let chain = place.place.chain.clone();
    let head = &chain.first().ok_or(ChunkError::NotFound(place.place.chunk.id))?.clone();
    let store = cx.pool.get(&head.addr, WRITE_PATIENCE).await?;
    let req = SyncRequest {
        chunk: place.place.chunk,
        acknowledged_by: members.iter().copied().collect(),
        chain,
        session,
        capability: place.capability.clone(),
    };
    let call = CallContext::internal(SYNC_PATIENCE);
    let silent = || ChunkError::Busy(format!("no sync within {SYNC_PATIENCE:?}"));
    tokio::select! {
        biased;
        done = tokio::time::timeout(SYNC_PATIENCE, store.sync(&call, req)) => done.map_err(|_| silent())?,
        () = falls_silent(cx.clone(), place.clone()) => Err(gone()),
    }
}

/// Ends when the head of a chain that is waited for does not answer.
async fn falls_silent(cx: Context, place: Place) {
    tokio::time::sleep(FIRST_LOOK).await;
    goes_silent(cx, place).await;
}

/// Asks the head of a chain for a read of nothing, again and again, until it does not answer: a disk may take its
/// time, a server that died is not waited for.
pub(super) async fn goes_silent(cx: Context, place: Place) {
    let call = CallContext::internal(HEAD_PATIENCE);
    let (chunk, head) =
        (place.place.chunk, place.place.chain.first().map(|r| r.addr.clone()).unwrap_or_default());
    loop {
        let nothing = ReadRequest { chunk, at: Offset(0), len: 0, capability: place.capability.clone() };
        let look = async { cx.pool.get(&head, HEAD_PATIENCE).await?.read(&call, nothing).await.map(drop) };
        // Whatever it answers, it lives.
        match tokio::time::timeout(HEAD_PATIENCE, look).await {
            Ok(Err(ChunkError::Net(NetError::Limit { .. } | NetError::Refused { .. }))) => {}
            Err(_) | Ok(Err(ChunkError::Net(_))) => return,
            Ok(_) => {}
        }
        tokio::time::sleep(HEAD_PATIENCE).await;
    }
}

/// Syncs a chunk that a writer left unsynced, when it still is the file's. Its data is not held any
/// more: when none has it that acknowledged it, that is told as a loss. On how many disks it is then.
pub(crate) async fn sync_chunk_left(cx: &Context, index: ChunkIndex, left: &Unsynced) -> Result<Option<u32>> {
    let until = Instant::now() + cx.masters.deadline();
    loop {
        let op = GetLayout { inode: cx.inode, from: index, count: 1 };
        let layout = match cx.masters.call(&cx.creds, op).await {
            // Removed since: there is nothing to be synced.
            Err(e) if e.errno() == mooseng_core::error::Errno::ESTALE => return Ok(None),
            other => other?,
        };
        if !layout.chunks.iter().any(|p| p.index == index && p.chunk.id == left.chunk) {
            return Ok(None);
        }
        let shared = Shared { truncates: Mutex::new(layout.truncates), ..Shared::default() };
        let wait = until.saturating_duration_since(Instant::now());
        let Located { place, session, .. } = locate(cx, &shared, index, wait.max(RETRY)).await?;
        let head = place.place.chain.first().map(|r| r.server);
        let done = sync_chunk(cx, &place, session, &left.members).await;
        let wait = until.saturating_duration_since(Instant::now());
        let last = match done {
            Ok(_) if place.place.copies == Copies::Joining && wait.is_zero() => {
                return Err(too_few(place.place.chunk));
            }
            Ok(_) if place.place.copies == Copies::Joining => {
                tokio::time::sleep(JOINING).await;
                continue;
            }
            Ok(done) => return Ok(Some(done.on_disk.len() as u32)),
            Err(e) => e,
        };
        if wait.is_zero() || matches!(last, ChunkError::Lost { .. } | ChunkError::Invalid(_)) {
            let tried = format!("{:?}", left.members);
            return Err(Error::Chunk { chunk: left.chunk, tried, last });
        }
        if let Some(server) = at_fault(&last, head) {
            let (chunk, problem, full) = (place.place.chunk, last.to_string(), is_full(&last));
            let report = ReportReplica { inode: cx.inode, index, chunk, server, problem, full };
            cx.masters.call_within(&Credentials::root(), report, wait).await?;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// A sync that has waited for its second disk in vain.
pub(super) fn too_few(chunk: ChunkRef) -> Error {
    let last =
        ChunkError::Busy("on one disk only: another copy is being made, and was not done in time".into());
    Error::Chunk { chunk: chunk.id, tried: "its one replica".into(), last }
}

/// Whether a member has no room.
pub(super) fn is_full(e: &ChunkError) -> bool {
    matches!(e, ChunkError::NoSpace(_))
}

/// Whom the leader is to look at.
pub(super) fn at_fault(e: &ChunkError, head: Option<ServerId>) -> Option<ServerId> {
    match e {
        // What a server lost may be on no other any more: who acknowledged it is forgotten with the version.
        ChunkError::Chain { server, .. } | ChunkError::Lost { server, .. } | ChunkError::NoSpace(server) => {
            Some(*server)
        }
        ChunkError::Net(_) | ChunkError::Busy(_) | ChunkError::Disk { .. } => head,
        ChunkError::Damaged { .. } | ChunkError::NotFound(_) | ChunkError::Suspect(_) => head,
        _ => None,
    }
}
