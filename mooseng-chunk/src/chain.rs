//! Chains (van Renesse and Schneider, OSDI 2004): each member writes and forwards at the same time,
//! and acknowledges when itself and everybody behind it are done.

use crate::{slot::Slot, store::Shared};
use futures::StreamExt as _;
use mooseng_core::{
    chunk::*, context::CallContext, error::ChunkError, ids::*, limits::WRITE_WINDOW_FRAMES, meta::Replica,
    rpc::RemoteChunks,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};

/// Silence of a stream that is not a failure: writers pause.
const IDLE: Duration = Duration::from_secs(3600);
/// Longest wait for a sync behind this server.
const SYNC: Duration = Duration::from_secs(15);

#[derive(Clone, Debug, Default)]
struct Progress {
    upto: WriteNumber,
    members: Vec<(ServerId, Incarnation)>,
    failed: Option<ChunkError>,
}

fn behind(next: &Replica, e: ChunkError) -> ChunkError {
    match e {
        // What somebody further behind said of somebody else is passed on as it is.
        ChunkError::Chain { .. } => e,
        e => ChunkError::Chain { server: next.server, cause: e.to_string() },
    }
}

/// Takes a stream of writes. What was admitted is completed whatever becomes of the caller.
pub(crate) async fn write(shared: Arc<Shared>, slot: Arc<Slot>, req: WriteRequest, frames: Frames) -> Acks {
    let here = vec![(shared.server, shared.incarnation)];
    let local = watch::channel(Progress { members: here, ..Progress::default() });
    let (forward, down) = match req.chain.get(1).cloned() {
        Some(next) => {
            let (tx, rx) = mpsc::channel::<Frame>(WRITE_WINDOW_FRAMES);
            let down = watch::channel(Progress::default());
            tokio::spawn(forward_to(shared.clone(), next.clone(), req.clone(), rx, down.0));
            (Some(tx), Some((next, down.1)))
        }
        None => (None, None),
    };
    let patience = shared.chain_patience;
    tokio::spawn(take(shared, slot, req, frames, forward, local.0));
    acks(local.1, down, patience)
}

/// Applies frames in order and hands each on first, so that forwarding runs ahead.
async fn take(
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    req: WriteRequest,
    mut frames: Frames,
    forward: Option<mpsc::Sender<Frame>>,
    said: watch::Sender<Progress>,
) {
    let mut first = true;
    while let Some(frame) = frames.next().await {
        let done = async {
            let frame = frame?;
            shared.verify(slot.id, &frame)?;
            if let Some(next) = &forward {
                // A next server that is gone is told by its acknowledgements' end.
                let _ = next.send(frame.clone()).await;
            }
            shared.apply(&slot, &req, &frame, first).await?;
            Ok::<_, ChunkError>(frame.head.number)
        };
        first = match done.await {
            Ok(number) => {
                said.send_modify(|p| p.upto = p.upto.max(number));
                false
            }
            Err(e) => {
                said.send_modify(|p| p.failed = Some(e));
                return;
            }
        };
    }
}

/// Sends frames to the next server and notes what it acknowledges.
async fn forward_to(
    shared: Arc<Shared>,
    next: Replica,
    mut req: WriteRequest,
    frames: mpsc::Receiver<Frame>,
    said: watch::Sender<Progress>,
) {
    req.chain.remove(0);
    req.capability = None;
    let failed = async {
        let c = shared.peers.get(&next.addr, shared.chain_patience).await?;
        let source =
            futures::stream::unfold(frames, |mut rx| async move { rx.recv().await.map(|f| (Ok(f), rx)) });
        let mut acks = RemoteChunks::new(c).write(&CallContext::internal(IDLE), req, source.boxed()).await?;
        while let Some(ack) = acks.next().await {
            let ack = ack?;
            said.send_modify(|p| {
                p.upto = p.upto.max(ack.upto);
                p.members = ack.members;
            });
        }
        Err(ChunkError::Busy("its stream ended".into()))
    };
    if let Err::<(), _>(e) = failed.await {
        said.send_modify(|p| p.failed = Some(behind(&next, e)));
    }
}

/// Acknowledges what is done here and behind. Ends with the first failure, or when the server
/// behind makes no progress for a while.
fn acks(
    mut local: watch::Receiver<Progress>,
    mut down: Option<(Replica, watch::Receiver<Progress>)>,
    patience: Duration,
) -> Acks {
    let stream = async_stream::stream! {
        let mut told = WriteNumber(0);
        loop {
            let here = local.borrow_and_update().clone();
            let there = down.as_mut().map(|(_, d)| d.borrow_and_update().clone());
            let mut upto = here.upto;
            let mut members = here.members.clone();
            if let Some(there) = &there {
                upto = upto.min(there.upto);
                members.extend(there.members.iter().copied());
            }
            if upto > told {
                told = upto;
                yield Ok(Ack { upto, members });
                continue;
            }
            if let Some(e) = here.failed.or_else(|| there.and_then(|t| t.failed)) {
                yield Err(e);
                return;
            }
            let waits_for_down = here.upto > told;
            let moved = async {
                match &mut down {
                    // A local end without failure is the writer's end: what is behind is waited for.
                    Some((_, d)) => tokio::select! {
                        biased;
                        r = local.changed() => match r {
                            Ok(()) => true,
                            Err(_) => waits_for_down && d.changed().await.is_ok(),
                        },
                        r = d.changed() => r.is_ok(),
                    },
                    None => local.changed().await.is_ok(),
                }
            };
            let wait = if waits_for_down { patience } else { IDLE };
            match tokio::time::timeout(wait, moved).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    if let Some((next, _)) = &down {
                        let cause = format!("no progress within {patience:?}");
                        yield Err(ChunkError::Chain { server: next.server, cause });
                    }
                    return;
                }
            }
        }
    };
    stream.boxed()
}

/// Syncs here and behind at the same time.
pub(crate) async fn sync(
    shared: &Arc<Shared>,
    _cx: &CallContext,
    mut req: SyncRequest,
) -> Result<SyncDone, ChunkError> {
    let id = req.chunk.id;
    let next = req.chain.get(1).cloned();
    let down = async {
        let Some(next) = next else { return Ok(vec![]) };
        req.chain.remove(0);
        req.capability = None;
        let work = async {
            let c = shared.peers.get(&next.addr, shared.chain_patience).await?;
            RemoteChunks::new(c).sync(&CallContext::internal(SYNC), req).await
        };
        let silent = || ChunkError::Busy(format!("no sync within {SYNC:?}"));
        match tokio::time::timeout(SYNC, work).await.map_err(|_| silent()).and_then(|r| r) {
            Ok(done) => Ok(done.on_disk),
            // A restart behind this server is the writer's to know.
            Err(e @ ChunkError::Lost { .. }) => Err(e),
            Err(e) => Err(behind(&next, e)),
        }
    };
    let (here, behind) = futures::future::join(shared.sync_here(id), down).await;
    here?;
    let mut on_disk = vec![shared.server];
    on_disk.extend(behind?);
    Ok(SyncDone { on_disk })
}
