//! The calling side: Raft's messages over any [`Transport`], one shared connection per master.

use super::gate::{Gate, Told};
use super::message::{APPEND, LAST, PRE_VOTE, ROOM, SNAPSHOT, TRANSFER, VOTE, decode, encode, encode_append};
use super::snapshot::SnapshotFile;
use super::starts::{History, Seen};
use super::traced::UnderWay;
use super::types::{MasterNode, Snapshot, Types, Vote, commands, log_pos};
use bytes::Bytes;
use mooseng_core::context::CallContext;
use mooseng_core::error::NetError;
use mooseng_core::health::MASTER_SILENT;
use mooseng_core::net::{Body, Connection, Message, Method, Piece, Role, Transport};
use mooseng_core::planted::{self, Bug};
use mooseng_core::seam::{Lane, on_lane};
use mooseng_core::trace;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Time for a follower to store entries. Much longer than a heartbeat's: a slow disk must not make
/// the leader send the same entries again and again. Heartbeats go beside them.
const APPEND_BUDGET: Duration = Duration::from_secs(5);
/// Silence between the pieces of a snapshot, and time to install it.
const SNAPSHOT_BUDGET: Duration = Duration::from_secs(600);

/// A connection, and the address it was made to.
type Link = (String, Arc<dyn Connection>);

/// Connections to the other masters.
pub(super) struct Links {
    transport: Arc<dyn Transport>,
    open: Mutex<BTreeMap<u64, Link>>,
    silent: Mutex<Silent>,
}

/// What another master is asked for. A disk that hangs lets it give signs of life and votes and store nothing, so that
/// each is told of by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Asked {
    Life,
    Storing,
}

impl Asked {
    /// What is allowed to take longer than one is silent is about a disk.
    fn of(budget: Duration) -> Self {
        if budget > MASTER_SILENT { Self::Storing } else { Self::Life }
    }

    /// Without success for so long it is told.
    fn patience(self) -> Duration {
        match self {
            Self::Life => MASTER_SILENT,
            Self::Storing => APPEND_BUDGET,
        }
    }
}

/// Masters that do not do what they are asked for, which is many times a second: the log has that once.
#[derive(Default)]
struct Silent(BTreeMap<(u64, Asked), Missed>);

/// Questions in a row without success.
#[derive(Clone, Copy)]
struct Missed {
    since: Instant,
    last: Instant,
    is_told: bool,
}

impl Silent {
    /// One was asked from `began` until `now`. When the log is to have something: how long it had no success.
    fn note(&mut self, key: (u64, Asked), is_done: bool, began: Instant, now: Instant) -> Option<Duration> {
        if is_done {
            let missed = self.0.remove(&key).filter(|missed| missed.is_told)?;
            if key.1 == Asked::Life {
                // What it was sent while it was dead is no sign of its disk.
                let anew = Missed { since: now, last: now, is_told: false };
                self.0.insert((key.0, Asked::Storing), anew);
            }
            return Some(missed.last - missed.since);
        }
        let fresh = Missed { since: began, last: now, is_told: false };
        let missed = self.0.entry(key).or_insert(fresh);
        // Who was not asked meanwhile may have been well.
        if began.saturating_duration_since(missed.last) >= MASTER_SILENT {
            *missed = fresh;
        }
        missed.last = now;
        let silent = now - missed.since;
        let is_due = silent >= key.1.patience() && !missed.is_told;
        // Who is told to be dead stores nothing, of course.
        if !is_due || key.1 == Asked::Storing && self.is_dead(key.0) {
            return None;
        }
        self.0.entry(key).and_modify(|missed| missed.is_told = true);
        Some(silent)
    }

    fn is_dead(&self, target: u64) -> bool {
        self.0.get(&(target, Asked::Life)).is_some_and(|missed| missed.is_told)
    }
}

impl Links {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Arc<Self> {
        Arc::new(Self { transport, open: Mutex::default(), silent: Mutex::default() })
    }

    /// The connection to `target`, made if there is none that is open.
    async fn connection(&self, target: u64, addr: &str) -> Result<Arc<dyn Connection>, NetError> {
        if let Some((at, connection)) = self.open.lock().get(&target)
            && at == addr
            && !connection.is_closed()
        {
            return Ok(Arc::clone(connection));
        }
        let connection = self.transport.connect(addr).await?;
        let peer = connection.peer();
        if peer.role != Role::Master || peer.node != target {
            let cause = format!(
                "master {target} was expected at {addr}, {} {} answered: correct the address",
                peer.role, peer.node
            );
            connection.close();
            return Err(NetError::Identity { peer: addr.to_owned(), cause });
        }
        self.open.lock().insert(target, (addr.to_owned(), Arc::clone(&connection)));
        Ok(connection)
    }

    /// One call with its reply's head.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        (target, addr): (u64, &str),
        method: Method,
        message: Message,
        budget: Duration,
    ) -> Result<T, NetError> {
        let work = async {
            let connection = self.connection(target, addr).await?;
            let reply = connection.call(&CallContext::internal(budget), method, message).await;
            if let Err(NetError::Closed { .. } | NetError::Deadline { .. }) = &reply {
                self.forget(target, &connection);
            }
            decode::<T>(&reply?.head)
        };
        let began = Instant::now();
        let late = || NetError::Deadline { peer: addr.to_owned(), millis: budget.as_millis() as u64 };
        let answer = tokio::time::timeout(budget, work).await.unwrap_or_else(|_| Err(late()));
        self.heard((target, Asked::of(budget)), addr, began, answer.as_ref().err());
        answer
    }

    /// Tells the log once when another master does not do what it is asked for, and when it does again.
    fn heard(&self, key: (u64, Asked), addr: &str, began: Instant, error: Option<&NetError>) {
        let told = self.silent.lock().note(key, error.is_none(), began, Instant::now());
        let (Some(time), (target, asked)) = (told, key) else { return };
        match (asked, error) {
            (Asked::Life, Some(e)) => {
                tracing::warn!(error = %e, "master {target} ({addr}) does not answer; it is asked again and again")
            }
            (Asked::Life, None) => tracing::info!("master {target} ({addr}) answers again, after {time:.0?}"),
            (Asked::Storing, Some(e)) => tracing::warn!(
                error = %e,
                "master {target} ({addr}) does not store what it is sent; it is sent again and again"
            ),
            (Asked::Storing, None) => {
                tracing::info!("master {target} ({addr}) stores again what it is sent, after {time:.0?}")
            }
        }
    }

    fn forget(&self, target: u64, connection: &Arc<dyn Connection>) {
        if !connection.is_closed() {
            return;
        }
        let mut open = self.open.lock();
        if open.get(&target).is_some_and(|(_, c)| Arc::ptr_eq(c, connection)) {
            open.remove(&target);
        }
    }

    /// Where the log of another master ends, and what it has seen of this one, whose starts it is told.
    pub(super) async fn last_of(
        &self,
        target: u64,
        addr: &str,
        starts: &History,
        budget: Duration,
    ) -> Result<Told, NetError> {
        self.call((target, addr), LAST, Message::of_head(encode(starts)?), budget).await
    }

    /// Bytes of another master's disk: all, and free.
    pub(super) async fn room_of(
        &self,
        target: u64,
        addr: &str,
        budget: Duration,
    ) -> Result<(u64, u64), NetError> {
        self.call((target, addr), ROOM, Message::of_head(Bytes::new()), budget).await
    }

    /// Closes all connections.
    pub(super) fn close(&self) {
        for (_, (_, connection)) in std::mem::take(&mut *self.open.lock()) {
            connection.close();
        }
    }
}

/// Makes the clients that openraft asks for.
pub(super) struct Factory {
    pub links: Arc<Links>,
    pub gate: Arc<Gate>,
    pub file_lane: Arc<dyn Lane>,
    pub under_way: Arc<UnderWay>,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &MasterNode) -> Client {
        Client {
            links: Arc::clone(&self.links),
            gate: Arc::clone(&self.gate),
            file_lane: Arc::clone(&self.file_lane),
            under_way: Arc::clone(&self.under_way),
            target,
            addr: node.raft_addr.clone(),
        }
    }
}

/// Talks to one other master.
pub(super) struct Client {
    links: Arc<Links>,
    gate: Arc<Gate>,
    file_lane: Arc<dyn Lane>,
    under_way: Arc<UnderWay>,
    target: u64,
    addr: String,
}

fn rpc_error(e: NetError) -> RPCError<Types> {
    match e {
        NetError::Connect { .. } | NetError::Identity { .. } | NetError::Closed { .. } => {
            RPCError::Unreachable(Unreachable::new(&e))
        }
        other => RPCError::Network(NetworkError::new(&other)),
    }
}

impl Client {
    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        message: Result<Message, NetError>,
        budget: Duration,
    ) -> Result<T, RPCError<Types>> {
        let message = message.map_err(rpc_error)?;
        self.links.call((self.target, &self.addr), method, message, budget).await.map_err(rpc_error)
    }

    /// Asks for a vote and says what was seen of the other. Its vote does not count when it has seen of this node
    /// what this one does not have.
    async fn ask_for_vote(
        &self,
        method: Method,
        request: VoteRequest<Types>,
        budget: Duration,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let may_stand = || match self.gate.may_stand() {
            true => Ok(()),
            false => Err(rpc_error(NetError::Refused { cause: "this master may lack what it had".into() })),
        };
        may_stand()?;
        let head = encode(&(self.gate.starts().seen_of(self.target), request));
        let (seen, answer): (Seen, VoteResponse<Types>) =
            self.ask(method, head.map(Message::of_head), budget).await?;
        self.gate.judge(&seen);
        may_stand().map(|()| answer)
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let head = encode(&(vote, snapshot.meta, snapshot.snapshot.pieces));
        let pieces = pieces_of(Arc::clone(&self.file_lane), snapshot.snapshot);
        let message = head.map(|head| Message { head, body: Body::Stream(pieces) });
        self.ask(SNAPSHOT, message, SNAPSHOT_BUDGET).await
    }
}

/// Streams a snapshot's pieces as they are asked for.
fn pieces_of(lane: Arc<dyn Lane>, file: SnapshotFile) -> mooseng_core::net::Pieces {
    let failed = |e: String| NetError::Refused { cause: format!("the snapshot cannot be read: {e}") };
    Box::pin(async_stream::try_stream! {
        let mut reader = Some(file.reader().map_err(|e| failed(e.to_string()))?);
        while let Some(mut at) = reader.take() {
            let (next, at) = on_lane(&lane, move || (at.next_piece(), at))
                .await
                .ok_or_else(|| failed("the node stops".into()))?;
            if let Some(data) = next.map_err(|e| failed(e.to_string()))? {
                yield Piece { head: Bytes::new(), data };
                reader = Some(at);
            }
        }
    })
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let budget = if rpc.entries.is_empty() { option.hard_ttl() } else { APPEND_BUDGET };
        let term = rpc.vote.leader_id.term;
        let upto = rpc.entries.last().map(|e| e.log_id).or(rpc.prev_log_id);
        let has_entries = !rpc.entries.is_empty();
        let place = self.under_way.place(commands(&rpc.entries));
        let ask = self.ask(APPEND, encode_append(rpc, self.gate.durable()), budget);
        let answer = trace::within(place, ask).await;
        if planted::is(Bug::AckBeforeQuorum) && has_entries && answer.is_err() {
            return Ok(AppendEntriesResponse::Success);
        }
        let answer = answer?;
        if let (AppendEntriesResponse::Success, Some(upto)) = (&answer, &upto) {
            self.gate.starts().vouches(self.target, term, Some(log_pos(upto)));
        }
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.ask_for_vote(VOTE, rpc, option.hard_ttl()).await?;
        if answer.vote_granted {
            self.gate.starts().vouches(self.target, answer.vote.leader_id.term, None);
        }
        Ok(answer)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(PRE_VOTE, rpc, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            reply = self.send_snapshot(vote, snapshot) => Ok(reply?),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.ask(TRANSFER, encode(&request).map(Message::of_head), option.hard_ttl()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes questions about life to master 2, each answered at once or not, and keeps what the log is told.
    #[derive(Default)]
    struct Log(Silent, Vec<(u64, u64)>);

    impl Log {
        fn asked(&mut self, begin: Instant, at: impl IntoIterator<Item = u64>, is_done: bool) {
            for millis in at {
                let now = begin + Duration::from_millis(millis);
                if let Some(time) = self.0.note((2, Asked::Life), is_done, now, now) {
                    self.1.push((millis, time.as_millis() as u64));
                }
            }
        }
    }

    #[test]
    fn the_log_is_told_once_of_a_master_that_is_silent_and_once_of_its_return() {
        let (mut log, begin) = (Log::default(), Instant::now());
        log.asked(begin, [0], true);
        log.asked(begin, [100], false);
        log.asked(begin, [200], true);
        assert_eq!(log.1, [], "a moment is not worth a line");
        log.asked(begin, (1000..20_000).step_by(100), false);
        log.asked(begin, [20_000, 20_100], true);
        assert_eq!(log.1, [(4000, 3000), (20_000, 18_900)]);
    }

    #[test]
    fn what_was_not_asked_for_a_while_begins_anew() {
        let begin = Instant::now();
        // It is told, and nobody asks any more, for another leads; or it failed once.
        for (failed, lines) in [(4000, 1), (100, 0)] {
            let mut log = Log::default();
            log.asked(begin, (0..=failed).step_by(100), false);
            assert_eq!(std::mem::take(&mut log.1).len(), lines);
            log.asked(begin, (1_000_000..1_005_000).step_by(100), false);
            log.asked(begin, [1_005_000], true);
            assert_eq!(log.1, [(1_003_000, 3000), (1_005_000, 4900)]);
        }
    }

    #[test]
    fn who_lives_and_stores_nothing_is_told_of() {
        let (mut silent, begin) = (Silent::default(), Instant::now());
        let at = |secs| begin + Duration::from_secs(secs);
        assert_eq!(
            (Asked::of(Duration::from_millis(150)), Asked::of(APPEND_BUDGET)),
            (Asked::Life, Asked::Storing)
        );
        let mut told = Vec::new();
        for n in 0..4 {
            told.extend(silent.note((2, Asked::Life), true, at(5 * n), at(5 * n)));
            told.extend(silent.note((2, Asked::Storing), false, at(5 * n), at(5 * n + 5)));
        }
        assert_eq!(told, [Duration::from_secs(5)]);
        assert_eq!(silent.note((2, Asked::Storing), true, at(20), at(21)), Some(Duration::from_secs(20)));
        // One that is dead is told of once.
        let mut both = |asked, secs| silent.note((3, asked), false, at(secs), at(secs));
        let told: Vec<_> =
            (0..20).flat_map(|s| [both(Asked::Storing, s), both(Asked::Life, s)]).flatten().collect();
        assert_eq!(told, [MASTER_SILENT]);
        // What is under way when it comes back fails after that.
        let mut under_way = silent;
        assert!(under_way.note((3, Asked::Life), true, at(20), at(20)).is_some());
        assert_eq!(under_way.note((3, Asked::Storing), false, at(19), at(24)), None);
        assert!(under_way.note((3, Asked::Storing), false, at(24), at(29)).is_some());
    }
}
