//! What operators are told: status, health, repair, drains, scrubs, checks.

use super::types::*;
use crate::{attr::Timestamp, ids::*};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One master as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MasterInfo {
    /// Which.
    pub id: MasterId,
    /// Where masters reach it.
    pub raft_addr: String,
    /// Where clients reach it.
    pub client_addr: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Entries it is behind, as far as the leader knows.
    pub lag: Option<u64>,
    /// Milliseconds since it last answered the leader, or since the leader's election.
    pub silent_ms: u64,
}

/// One chunkserver as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Which.
    pub id: ServerId,
    /// Where it answers.
    pub addr: String,
    /// Whether it was heard of lately.
    pub alive: bool,
    /// Milliseconds since then, or since the leader's election.
    pub silent_ms: u64,
    /// By how many milliseconds its clock is ahead of the leader's, by its last heartbeats; below 0: behind. What a
    /// heartbeat is on its way counts as behind. 0 before this leader has heard some.
    pub clock_ms: i64,
    /// Its disks, as last reported; none before the leader has heard it.
    pub disks: Vec<DiskReport>,
    /// Whether it was silent for so long that its copies do not count. A new leader gives all whom it has not
    /// heard this time, before they are neither alive nor silent.
    pub silent: bool,
}

/// Counts of chunks by risk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ChunkHealth {
    /// Chunks in all.
    pub total: u64,
    /// With as many good replicas as wanted.
    pub healthy: u64,
    /// With fewer, but more than one.
    pub undergoal: u64,
    /// With one where more are wanted.
    pub endangered: u64,
    /// With none.
    pub missing: u64,
    /// With too many.
    pub overgoal: u64,
    /// Waiting to be deleted.
    pub deleting: u64,
}

/// State of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Which cluster.
    pub cluster: ClusterId,
    /// The leader's term.
    pub term: Term,
    /// Last applied log index.
    pub revision: Revision,
    /// Masters.
    pub masters: Vec<MasterInfo>,
    /// Chunkservers.
    pub servers: Vec<ServerInfo>,
    /// Chunks.
    pub chunks: ChunkHealth,
    /// Sessions.
    pub sessions: u64,
    /// Space and inodes.
    pub fs: FsStat,
}

/// One replica of a chunk as the leader sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// Where.
    pub place: Replica,
    /// Whether the server lives.
    pub alive: bool,
    /// As last reported; `None` when nothing was heard of it.
    pub state: Option<ReplicaState>,
    /// Version as last reported.
    pub version: Option<ChunkVersion>,
}

/// One chunk of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkInfo {
    /// Position.
    pub index: ChunkIndex,
    /// Id and version.
    pub chunk: ChunkRef,
    /// Copies wanted.
    pub wanted: u8,
    /// Replicas.
    pub replicas: Vec<ReplicaInfo>,
    /// Whether the version is changing now.
    pub changing: bool,
}

/// One session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Which.
    pub stamp: SessionStamp,
    /// What the client called itself.
    pub client: String,
    /// Its host.
    pub host: String,
    /// Its version.
    pub version: String,
    /// Files open, as the leader knows.
    pub open: u64,
    /// Calls of it that this leader answered.
    pub calls: u64,
    /// When it was opened.
    pub since: Timestamp,
}

/// Answer to making a join token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CreatedToken {
    /// When it ends, by the leader's time.
    pub expires: Timestamp,
    /// Client addresses of the masters.
    pub masters: Vec<String>,
}

/// Copies at one chunkserver that no record names, and what becomes of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerCare {
    /// Which chunkserver.
    pub server: ServerId,
    /// Copies of chunks that are neither a file's, nor waiting to be deleted, nor a living session's: in
    /// quarantine.
    pub unknown: u64,
    /// Of these, those whose quarantine is over.
    pub due: u64,
    /// Copies with ids that these masters have never given out: the masters are older than their
    /// chunkservers. They are kept.
    pub ahead: u64,
    /// Copies of chunks whose set names other servers.
    pub surplus: u64,
    /// Copies of both kinds that were removed within the last hour.
    pub removed: u64,
    /// More are to be removed than may be within an hour: all of them wait for an operator.
    pub held: bool,
}

/// What the leader looks after besides the chunks' records.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Care {
    /// Seconds that an unknown chunk is kept at least.
    pub quarantine_secs: u64,
    /// By chunkserver.
    pub servers: Vec<ServerCare>,
    /// Chunkservers that are being emptied.
    pub drains: Vec<Draining>,
    /// How far the copying of what lacks copies is.
    pub repairs: Repairs,
    /// Disks that are being emptied.
    pub disks: Vec<DrainingDisk>,
}

/// Chunks that lack copies, and their copying.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Repairs {
    /// Chunks with fewer copies than wanted, not counting those at servers that are being emptied. Chunks
    /// without any copy are not among them.
    pub chunks: u64,
    /// Bytes to be copied for these, by their files' sizes.
    pub bytes: u64,
    /// Of these, chunks that want more servers than there are with room.
    pub stuck: u64,
    /// Chunks looked after now.
    pub running: u64,
    /// Chunks mended since this leader's election.
    pub done: u64,
    /// Bytes copied a second, in the last minute.
    pub bytes_per_s: u64,
    /// Seconds for which silent servers are still waited for before their chunks are copied.
    pub waits_secs: u64,
    /// Seconds until all of these have their copies, as it goes now; `None` while nothing tells.
    pub until_safe_secs: Option<u64>,
}

/// What a chunkserver is told besides its orders.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ToldServer {
    /// When an operator last asked for a scrub's round, by the leader's clock.
    pub scrub_asked: Option<Timestamp>,
    /// When it is being emptied: chunks whose set still names it.
    pub drain_left: Option<u64>,
}

/// A chunkserver that is being emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Draining {
    /// Which.
    pub server: ServerId,
    /// When that began.
    pub since: Timestamp,
    /// Chunks whose set still names it.
    pub left: u64,
}

/// A disk of a chunkserver that is being emptied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DrainingDisk {
    /// Whose.
    pub server: ServerId,
    /// Which.
    pub disk: DiskId,
    /// Its directory, for people; `None` when the server was not heard since the leader's election, or does
    /// not have the disk any more.
    pub path: Option<String>,
    /// When that began.
    pub since: Timestamp,
    /// Copies that are on it still. `None` until its server has said that it puts no new ones there.
    pub left: Option<u64>,
}

/// The scrub of one disk of a chunkserver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DiskScrub {
    /// Which disk.
    pub disk: DiskId,
    /// Whole rounds since the server's start.
    pub rounds: u64,
    /// Chunks verified since then.
    pub chunks: u64,
    /// Bytes read and verified since then.
    pub bytes: u64,
    /// Chunks with damage met since then.
    pub damages: u64,
    /// Of them in the round under way, or in the last one.
    pub found: u64,
    /// Chunks done in the round under way.
    pub done: u64,
    /// Chunks of the round under way; 0 between rounds.
    pub total: u64,
    /// The round under way was asked for and goes faster.
    pub fast: bool,
    /// When the last whole round ended, by the server's clock.
    pub ended: Option<Timestamp>,
    /// The last asking that a whole round has answered.
    pub answered: Option<Timestamp>,
}

/// The scrubs of one chunkserver, as it last told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerScrub {
    /// Which chunkserver.
    pub server: ServerId,
    /// Whether it was heard of lately.
    pub alive: bool,
    /// Its disks.
    pub disks: Vec<DiskScrub>,
}

/// What is wrong with a copy of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CopyFault {
    /// Its server answers and has none.
    Missing,
    /// Its server does not answer.
    Silent,
    /// It is at another version.
    OtherVersion(ChunkVersion),
    /// It was dirty at an unclean stop, and was not settled yet.
    Suspect,
    /// It has damaged blocks.
    Damaged,
    /// The chunk's set does not name its server.
    Surplus(ChunkVersion),
    /// No record names the chunk.
    Unknown(ChunkVersion),
    /// Its id was never given out by these masters.
    Ahead(ChunkVersion),
}

/// A chunk that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkFinding {
    /// Which; its version by the record, 0 without one.
    pub chunk: ChunkRef,
    /// Copies wanted; 0 without a record.
    pub wanted: u8,
    /// Good copies.
    pub good: u8,
    /// The file it belongs to, and where there.
    pub file: Option<(InodeId, ChunkIndex)>,
    /// One path of the file, when data is missing and it has one.
    pub path: Option<Bytes>,
    /// The record names a file that is not there, or that does not name the chunk.
    pub stray: bool,
    /// Faults by server.
    pub faults: Vec<(ServerId, CopyFault)>,
}

/// One page of a comparison of records and copies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkCheck {
    /// Chunks with a record that were looked at.
    pub records: u64,
    /// Copies that were looked at.
    pub copies: u64,
    /// Chunks whose version is changing now; they were not judged.
    pub changing: u64,
    /// What is not as it should be.
    pub findings: Vec<ChunkFinding>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<ChunkId>,
}
