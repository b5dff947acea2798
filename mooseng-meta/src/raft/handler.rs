//! The answering side of Raft's messages.

use super::gate::{End, Gate};
use super::message::{APPEND, LAST, PRE_VOTE, ROOM, SNAPSHOT, TRANSFER, VOTE, decode, decode_append, encode};
use super::snapshot::{FileWriter, SnapshotFile};
use super::state::Shared;
use super::types::{Mark, Raft, Snapshot, SnapshotMeta, Types, Vote, log_pos};
use async_trait::async_trait;
use futures::StreamExt;
use mooseng_core::context::CallContext;
use mooseng_core::error::NetError;
use mooseng_core::net::{Body, Handler, Message, Method, PeerIdentity, Pieces, Role};
use mooseng_core::seam::on_lane;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use std::{io, sync::Arc};

/// Answers the other masters.
pub(super) struct RaftHandler {
    pub raft: Raft,
    pub gate: Arc<Gate>,
    pub state: Arc<Shared>,
    /// One snapshot is received at a time: bounds the space they take.
    pub receiving: tokio::sync::Mutex<()>,
}

fn refused(cause: impl std::fmt::Display) -> NetError {
    NetError::Refused { cause: cause.to_string() }
}

#[async_trait]
impl Handler for RaftHandler {
    async fn handle(
        &self,
        peer: &PeerIdentity,
        _cx: CallContext,
        method: Method,
        message: Message,
    ) -> Result<Message, NetError> {
        if peer.role != Role::Master {
            return Err(refused(format!("Raft is spoken among masters; {} is a {}", peer.name, peer.role)));
        }
        let head = match method {
            APPEND => encode(&self.append(decode_append(message)?).await?)?,
            VOTE => encode(&self.vote(decode(&message.head)?, false).await?)?,
            PRE_VOTE => encode(&self.vote(decode(&message.head)?, true).await?)?,
            SNAPSHOT => self.snapshot(message).await?,
            TRANSFER => {
                let request: TransferLeaderRequest<Types> = decode(&message.head)?;
                if !self.gate.may_stand() {
                    return Err(refused("this master has not caught up since its log was cut"));
                }
                encode(&self.raft.handle_transfer_leader(request).await.map_err(refused)?)?
            }
            LAST => {
                let term = self.raft.metrics().borrow_watched().vote.leader_id.term;
                encode(&End { last: self.gate.last(), term })?
            }
            ROOM => encode(&self.state.space().await.map_err(refused)?)?,
            Method(other) => return Err(NetError::UnknownMethod(other)),
        };
        Ok(Message::of_head(head))
    }
}

impl RaftHandler {
    /// A sign of life is answered when it was taken, and does not wait until entries that came before are on the
    /// disk: a slow disk is no reason to doubt the leader. What the leader learns from the answer is only that
    /// this node follows it.
    async fn append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesResponse<Types>, NetError> {
        let vote = request.entries.is_empty().then_some(request.vote);
        let stored = self.raft.append_entries(request);
        let Some(vote) = vote else { return stored.await.map_err(refused) };
        // Asked behind the sign of life, so that it is answered behind it.
        let followed = self.raft.with_raft_state(move |s| *s.vote_ref() == vote);
        tokio::select! {
            biased;
            answer = stored => answer.map_err(refused),
            Ok(true) = followed => Ok(AppendEntriesResponse::Success),
        }
    }

    async fn vote(&self, request: VoteRequest<Types>, pre: bool) -> Result<VoteResponse<Types>, NetError> {
        // A vote that is not binding is not counted in terms.
        let term = if pre { u64::MAX } else { request.vote.leader_id.term };
        if !self.gate.may_vote(request.last_log_id.as_ref().map(log_pos), term) {
            let vote = self.raft.metrics().borrow_watched().vote;
            return Ok(VoteResponse::new(vote, None, false));
        }
        let answer = if pre { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        answer.map_err(refused)
    }

    async fn snapshot(&self, message: Message) -> Result<bytes::Bytes, NetError> {
        let (vote, meta, count): (Vote, SnapshotMeta, u64) = decode(&message.head)?;
        let Body::Stream(pieces) = message.body else {
            return Err(NetError::Malformed { what: "a snapshot without its pieces".into() });
        };
        let _one = self.receiving.lock().await;
        let file = self.receive(&meta, count, pieces).await?;
        let snapshot = Snapshot { meta, snapshot: file };
        encode(&self.raft.install_full_snapshot(vote, snapshot).await.map_err(refused)?)
    }

    /// Writes the pieces to a file beside the current snapshot, complete and verified on return.
    async fn receive(
        &self,
        meta: &SnapshotMeta,
        count: u64,
        mut pieces: Pieces,
    ) -> Result<SnapshotFile, NetError> {
        let files = self.state.files();
        let (at, lane) = (Arc::clone(&files), Arc::clone(&files.lane));
        let failed = |e: io::Error| refused(format!("the snapshot cannot be stored: {e}"));
        let stopped = || refused("the node stops");
        let mut writer =
            on_lane(&lane, move || FileWriter::begin(&at)).await.ok_or_else(stopped)?.map_err(failed)?;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            writer = on_lane(&lane, move || writer.piece(&piece.data).map(|()| writer))
                .await
                .ok_or_else(stopped)?
                .map_err(failed)?;
        }
        if writer.pieces() != count {
            return Err(NetError::Malformed { what: "a snapshot with pieces missing".into() });
        }
        let mark = Mark { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        on_lane(&lane, move || writer.finish(&mark)).await.ok_or_else(stopped)?.map_err(failed)
    }
}
