//! The answering side of Raft's messages.

use super::gate::{self, End, Gate};
use super::message::{APPEND, LAST, PRE_VOTE, ROOM, SNAPSHOT, TRANSFER, VOTE, decode, decode_append, encode};
use super::segment::LogPos;
use super::snapshot::{FileWriter, SnapshotFile};
use super::starts::{History, Seen};
use super::state::Shared;
use super::types::{LogId, Mark, Raft, Snapshot, SnapshotMeta, Types, Vote, commands, log_pos};
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
use parking_lot::Mutex;
use std::{io, sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// Answers the other masters.
pub(super) struct RaftHandler {
    pub raft: Raft,
    pub gate: Arc<Gate>,
    pub state: Arc<Shared>,
    /// One snapshot is received at a time: bounds the space they take.
    pub receiving: tokio::sync::Mutex<()>,
    pub told: Told,
    pub heard: Arc<Heard>,
}

/// When a leader was last heard that this node follows.
#[derive(Default)]
pub(super) struct Heard(Mutex<Option<Instant>>);

impl Heard {
    fn now(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Whether that was within a time.
    pub(super) fn within(&self, time: Duration) -> bool {
        self.0.lock().is_some_and(|at| at.elapsed() < time)
    }
}

/// Up to where this node has told its leader that it has the log on its disk.
#[derive(Default)]
pub(super) struct Told(Mutex<Option<(Vote, LogId)>>);

impl Told {
    fn stored(&self, leader: Vote, upto: Option<LogId>) {
        let mut told = self.0.lock();
        let before = told.filter(|(to, _)| *to == leader).map(|(_, upto)| upto);
        *told = before.max(upto).map(|upto| (leader, upto));
    }

    fn covers(&self, leader: Vote, upto: Option<LogId>) -> bool {
        upto.is_none() || self.0.lock().is_some_and(|(to, told)| to == leader && upto <= Some(told))
    }
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
            APPEND => {
                let answer = self.append(peer.node, decode_append(message)?).await?;
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.heard.now();
                }
                encode(&answer)?
            }
            VOTE => encode(&self.vote(peer.node, decode(&message.head)?, false).await?)?,
            PRE_VOTE => encode(&self.vote(peer.node, decode(&message.head)?, true).await?)?,
            SNAPSHOT => self.snapshot(message).await?,
            TRANSFER => {
                let request: TransferLeaderRequest<Types> = decode(&message.head)?;
                if !self.gate.may_stand() {
                    return Err(refused("this master has not caught up since its log was cut"));
                }
                encode(&self.raft.handle_transfer_leader(request).await.map_err(refused)?)?
            }
            LAST => encode(&self.last(peer.node, decode(&message.head)?).await?)?,
            ROOM => encode(&self.state.space().await.map_err(refused)?)?,
            Method(other) => return Err(NetError::UnknownMethod(other)),
        };
        Ok(Message::of_head(head))
    }
}

impl RaftHandler {
    /// A sign of life is answered when it was taken, and does not wait until entries that came before are on the
    /// disk: a slow disk is no reason to doubt the leader. What it claims of the log was told to this leader before,
    /// so that the leader learns only that this node follows it; a question for where the logs agree, which has no
    /// entries either, waits.
    async fn append(
        &self,
        from: u64,
        (request, durable): (AppendEntriesRequest<Types>, Option<LogPos>),
    ) -> Result<AppendEntriesResponse<Types>, NetError> {
        let (vote, prev) = (request.vote, request.prev_log_id);
        // What is committed and on its disk, it does not lose.
        let has = request.leader_commit.as_ref().map(log_pos).min(durable);
        let upto = request.entries.last().map(|e| e.log_id).or(prev);
        let _noted = self.state.under_way.note(commands(&request.entries));
        let sign_of_life = request.entries.is_empty() && self.told.covers(vote, prev);
        let stored = async {
            let answer = self.raft.append_entries(request).await.map_err(refused)?;
            if matches!(answer, AppendEntriesResponse::Success) {
                self.told.stored(vote, upto);
                self.gate.starts().vouches(from, vote.leader_id.term, has);
            }
            Ok(answer)
        };
        if !sign_of_life {
            return stored.await;
        }
        // Asked behind the sign of life, so that it is answered behind it. Whoever asked may be gone by then: openraft's
        // `with_raft_state` would tell the log of an error.
        let followed = async {
            let (told, hears) = oneshot::channel();
            let ask = self.raft.external_request(move |s| _ = told.send(*s.vote_ref() == vote)).await;
            ask.ok()?;
            hears.await.ok()
        };
        tokio::select! {
            biased;
            answer = stored => answer,
            Some(true) = followed => Ok(AppendEntriesResponse::Success),
        }
    }

    /// Both sides say what they have seen of the other, so that one that was restored hears of it before its vote
    /// counts.
    async fn vote(
        &self,
        from: u64,
        (seen, request): (Seen, VoteRequest<Types>),
        pre: bool,
    ) -> Result<(Seen, VoteResponse<Types>), NetError> {
        self.gate.asked().await;
        self.gate.judge(&seen);
        let answer = self.vote_for(request, pre).await?;
        let seen = self.gate.starts().seen_of(from);
        if answer.vote_granted && !pre {
            // It has voted for itself, on its disk.
            self.gate.starts().vouches(from, answer.vote.leader_id.term, None);
        }
        Ok((seen, answer))
    }

    /// Where this log ends, and what was seen of the one who asks; its start is kept.
    async fn last(&self, from: u64, theirs: History) -> Result<gate::Told, NetError> {
        let seen = self.gate.starts().seen_of(from);
        if let Err(e) = self.gate.starts().meet(from, &theirs).await {
            tracing::error!(error = %e, "the start of another master cannot be stored: this master stops");
            let _ = self.raft.shutdown().await;
            return Err(refused(format!("the start cannot be stored: {e}")));
        }
        let term = self.raft.metrics().borrow_watched().vote.leader_id.term;
        let end = End { last: self.gate.last(), term };
        Ok(gate::Told { end, starts: self.gate.starts().own(), seen })
    }

    async fn vote_for(
        &self,
        request: VoteRequest<Types>,
        pre: bool,
    ) -> Result<VoteResponse<Types>, NetError> {
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
        let answer = self.raft.install_full_snapshot(vote, snapshot).await.map_err(refused)?;
        // One of a leader that is over is refused.
        if answer.vote == vote {
            self.heard.now();
        }
        encode(&answer)
    }

    /// A disk that does not keep what it is given stops its master, as at every other flush. One that is
    /// full is waited for: the leader sends the snapshot again.
    async fn not_stored(&self, e: io::Error) -> NetError {
        if e.kind() == io::ErrorKind::StorageFull {
            tracing::warn!(error = %e, "there is no room for a snapshot that the leader sent: it is sent again");
        } else {
            tracing::error!(error = %e, "a snapshot that the leader sent cannot be stored: this master stops");
            let _ = self.raft.shutdown().await;
        }
        refused(format!("the snapshot cannot be stored: {e}"))
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
        let stopped = || refused("the node stops");
        let begun = on_lane(&lane, move || FileWriter::begin(&at)).await.ok_or_else(stopped)?;
        let mut writer = match begun {
            Ok(writer) => writer,
            Err(e) => return Err(self.not_stored(e).await),
        };
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            let written = on_lane(&lane, move || writer.piece(&piece.data).map(|()| writer)).await;
            writer = match written.ok_or_else(stopped)? {
                Ok(writer) => writer,
                Err(e) => return Err(self.not_stored(e).await),
            };
        }
        if writer.pieces() != count {
            return Err(NetError::Malformed { what: "a snapshot with pieces missing".into() });
        }
        let mark = Mark { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        match on_lane(&lane, move || writer.finish(&mark)).await.ok_or_else(stopped)? {
            Ok(file) => Ok(file),
            Err(e) => Err(self.not_stored(e).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{segment::LogPos, types::log_id};

    #[test]
    fn a_sign_of_life_claims_only_what_its_leader_was_told() {
        let at = |term, index| Some(log_id(LogPos { term, index }));
        let leader = |term| Vote::new_committed(term, 1);
        let told = Told::default();
        assert!(told.covers(leader(1), None), "it claims nothing");
        assert!(!told.covers(leader(1), at(1, 1)), "nothing was told");
        told.stored(leader(1), at(1, 5));
        told.stored(leader(1), at(1, 3));
        assert!(told.covers(leader(1), at(1, 5)));
        assert!(!told.covers(leader(1), at(1, 6)), "it may be in memory only");
        assert!(!told.covers(leader(2), at(1, 5)), "another leader was told nothing");
        told.stored(leader(2), at(1, 2));
        assert!(
            told.covers(leader(2), at(1, 2)) && !told.covers(leader(2), at(1, 5)),
            "what was cut off is gone"
        );
    }
}
