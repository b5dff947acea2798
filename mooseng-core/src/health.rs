//! What is wrong with a cluster, under stable names: pure, from what its leader tells.

use crate::{
    ids::ServerId,
    meta::{Care, ClusterStatus, ServerInfo},
};
use serde::Serialize;
use std::{fmt, time::Duration};

/// A master that has not answered the leader for this long is told of; signs of life are exchanged many times a
/// second.
pub const MASTER_SILENT: Duration = Duration::from_secs(3);
/// Entries of the log that a master may be behind while it answers.
const MASTER_LAG: u64 = 10_000;
/// Clocks that differ so much are told of. NTP keeps them within some milliseconds, and
/// heartbeats are on their way for no longer. Rights expire by the chunkserver's clock, without grace, a day after they
/// were signed, and certificates begin five minutes before they were issued: this is long before anything is refused.
pub const CLOCK_SKEW: Duration = Duration::from_secs(1);
/// Hundredths of a disk, or of all disks, that should stay free.
const FREE_PERCENT: u64 = 5;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Everything works, and less safely than it should.
    Warning,
    /// Something does not work, or data cannot be had.
    Critical,
}

impl Severity {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $severity:ident, $cure:literal;)+) => {
        /// A kind of problem. Its name is stable: alerts, scripts and runbooks may rely on it.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
        pub enum HealthCode {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl HealthCode {
            /// All of them, the worst first.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity),+ }
            }

            /// What to do about it.
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$variant => $cure),+ }
            }
        }
    };
}

codes! {
    /// No master leads, as far as one can tell that was asked. Who looks at the cluster through its leader never sees it.
    MasterNoQuorum = "MASTER_NO_QUORUM", Critical,
        "start masters until more than half of them run and reach each other on their Raft ports: `mooseng doctor master` on each machine tells what is wrong there";
    /// Chunks without any good copy at a server that is heard.
    ChunkMissing = "CHUNK_MISSING", Critical,
        "start the chunkservers that are silent, or mount again the disks that were taken away; `mooseng fsck` names the files";
    /// No chunkserver has ever joined.
    NoChunkserver = "NO_CHUNKSERVER", Critical,
        "start chunkservers: `mooseng chunkserver --data-dirs DIRS --master-addrs ADDRS`";
    /// Chunks with one copy where more are wanted.
    ChunkEndangered = "CHUNK_ENDANGERED", Warning,
        "they are copied by themselves: `mooseng status` tells how long that takes, and whether it waits for a silent chunkserver or for room";
    /// No leading master answers the daemon that tells it: a chunkserver, a mount, a dashboard. Who looks at the cluster
    /// through its leader never sees it.
    MasterUnreachable = "MASTER_UNREACHABLE", Warning,
        "mend the network between it and the masters, or start masters: `mooseng doctor` on its machine tells which of them answer";
    /// Chunks with fewer copies than wanted, but more than one.
    ChunkUndergoal = "CHUNK_UNDERGOAL", Warning,
        "they are copied by themselves: `mooseng status` tells how long that takes, and whether it waits for a silent chunkserver or for room";
    /// A chunkserver that is not heard.
    ChunkserverSilent = "CHUNKSERVER_SILENT", Warning,
        "look at its machine and log, and start it; one that is gone for good: `mooseng drain NUMBER`";
    /// A master that does not answer the leader.
    MasterSilent = "MASTER_SILENT", Warning,
        "look at its machine and log, and start it; one that is gone for good is replaced: `mooseng cluster remove-master NUMBER`, then `add-master`";
    /// A master that answers and is far behind.
    MasterBehind = "MASTER_BEHIND", Warning,
        "look at the load and the disk of its machine: it cannot take over while it is behind";
    /// A disk that was set aside after errors.
    DiskError = "DISK_ERROR", Warning,
        "replace the disk: its copies are made elsewhere by themselves; `mooseng disks` tells the error";
    /// Disks, together, with little room.
    SpaceNearfull = "SPACE_NEARFULL", Warning,
        "add disks or chunkservers, or remove files: writes fail with ENOSPC when there is no room";
    /// A disk with little room.
    DiskNearfull = "DISK_NEARFULL", Warning,
        "add disks to its chunkserver, or remove files: new chunks go to disks with more room";
    /// A chunkserver whose clock differs from the leader's. Those of the other masters it does not know: a wrong one is
    /// told of all chunkservers once its master leads, and before by `mooseng doctor`.
    ClockSkew = "CLOCK_SKEW", Warning,
        "synchronise the clocks of its machine and the masters' (chrony, systemd-timesyncd): `mooseng doctor chunkserver` there shows how far they are apart";
    /// Masters that are older than their chunkservers.
    MastersBehind = "MASTERS_BEHIND", Warning,
        "the masters were restored from an old state: nothing they do not know is removed; see `mooseng gc`";
    /// Copies that wait for an operator before they are removed.
    RemovalsHeld = "REMOVALS_HELD", Warning,
        "look at `mooseng gc`: more copies were to be removed than is usual; `mooseng gc --allow SERVER` lets it";
}

impl fmt::Display for HealthCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One problem of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// Its kind.
    pub code: HealthCode,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub cause: String,
    /// What to do about it.
    pub cure: &'static str,
}

impl Problem {
    /// Seen, with the code's severity and cure.
    pub fn new(code: HealthCode, cause: String) -> Self {
        Self { code, severity: code.severity(), cause, cure: code.cure() }
    }
}

/// Whether less than [`FREE_PERCENT`] of it is free.
fn nearly_full(total: u64, free: u64) -> bool {
    total > 0 && u128::from(free) * 100 < u128::from(total) * u128::from(FREE_PERCENT)
}

/// One word for all problems: healthy, degraded or critical.
pub fn word(problems: &[Problem]) -> &'static str {
    match problems.iter().map(|p| p.severity).max() {
        None => "healthy",
        Some(Severity::Warning) => "degraded",
        Some(Severity::Critical) => "critical",
    }
}

/// What a master tells that knows no leader; `voters` masters vote.
pub fn no_quorum(voters: usize) -> Problem {
    let cause = match voters {
        0 => "this master belongs to no cluster yet: it waits for the others, or to be added".to_owned(),
        n => format!(
            "this master knows no leader that a majority follows: {} of {n} masters have to answer each other",
            n / 2 + 1
        ),
    };
    Problem::new(HealthCode::MasterNoQuorum, cause)
}

/// What a client of the masters tells that none answers.
pub fn master_unreachable() -> Problem {
    Problem::new(HealthCode::MasterUnreachable, "no leading master has answered lately".into())
}

/// What is wrong with a cluster, the worst first; empty when it is healthy.
pub fn problems(s: &ClusterStatus, care: &Care) -> Vec<Problem> {
    let mut all = Vec::new();
    let mut tell = |code, cause| all.push(Problem::new(code, cause));
    of_chunks(s, care, &mut tell);
    of_masters(s, &mut tell);
    of_servers(s, care, &mut tell);
    all.sort_by_key(|p| p.code);
    all
}

type Tell<'a> = &'a mut dyn FnMut(HealthCode, String);

fn of_chunks(s: &ClusterStatus, care: &Care, tell: Tell<'_>) {
    let c = &s.chunks;
    if c.missing > 0 {
        let cause = format!("{} of {} chunks have no copy that can be read", c.missing, c.total);
        tell(HealthCode::ChunkMissing, cause);
    }
    if c.endangered > 0 {
        let cause =
            format!("{} of {} chunks have one copy left where more are wanted", c.endangered, c.total);
        tell(HealthCode::ChunkEndangered, cause);
    }
    if c.undergoal > 0 {
        let cause = format!("{} of {} chunks have fewer copies than wanted", c.undergoal, c.total);
        tell(HealthCode::ChunkUndergoal, cause);
    }
    let ahead: u64 = care.servers.iter().map(|c| c.ahead).sum();
    if ahead > 0 {
        let cause = format!("chunkservers have {ahead} copies that these masters have never ordered");
        tell(HealthCode::MastersBehind, cause);
    }
}

fn of_masters(s: &ClusterStatus, tell: Tell<'_>) {
    let voters = s.masters.iter().filter(|m| m.voter).count();
    let is_silent = |silent_ms: u64| silent_ms >= MASTER_SILENT.as_millis() as u64;
    let answer = s.masters.iter().filter(|m| m.voter && !is_silent(m.silent_ms)).count();
    for m in &s.masters {
        let (id, addr) = (m.id.get(), &m.raft_addr);
        if is_silent(m.silent_ms) {
            let secs = m.silent_ms / 1000;
            let mut cause = format!("master {id} ({addr}) has not answered the leader for {secs} s");
            // A majority of them has to answer.
            if m.voter && answer == voters / 2 + 1 {
                cause += "; when one more fails, the cluster stops";
            }
            tell(HealthCode::MasterSilent, cause);
        } else if let Some(lag) = m.lag.filter(|l| *l >= MASTER_LAG) {
            tell(HealthCode::MasterBehind, format!("master {id} ({addr}) lacks {lag} entries of the log"));
        }
    }
}

fn of_servers(s: &ClusterStatus, care: &Care, tell: Tell<'_>) {
    // One that was drained may be gone.
    let is_empty = |s: &ServerInfo| care.drains.iter().any(|d| d.server == s.id && d.left == 0);
    let lives = |id: ServerId| s.servers.iter().any(|s| s.id == id && s.alive);
    if s.servers.is_empty() {
        tell(HealthCode::NoChunkserver, "no chunkserver has joined".into());
    }
    for server in &s.servers {
        let (id, addr) = (server.id.get(), &server.addr);
        if server.silent && !is_empty(server) {
            let secs = server.silent_ms / 1000;
            let cause = format!("chunkserver {id} ({addr}) was not heard for {secs} s");
            tell(HealthCode::ChunkserverSilent, cause);
        }
        let apart = Duration::from_millis(server.clock_ms.unsigned_abs());
        if server.alive && apart >= CLOCK_SKEW {
            let way = if server.clock_ms > 0 { "ahead of" } else { "behind" };
            let secs = apart.as_secs_f64();
            let cause =
                format!("the clock of chunkserver {id} ({addr}) is {secs:.1} s {way} the leading master's");
            tell(HealthCode::ClockSkew, cause);
        }
        // A disk that is being emptied has no room for anything, on purpose.
        for d in &server.disks {
            if let Some(e) = &d.error {
                let cause = format!("disk {} of chunkserver {id} ({addr}) was set aside: {e}", d.path);
                tell(HealthCode::DiskError, cause);
            } else if !d.drains && nearly_full(d.total_bytes, d.free_bytes) {
                let cause = format!(
                    "disk {} of chunkserver {id} ({addr}) has {} of {} MiB free",
                    d.path,
                    d.free_bytes >> 20,
                    d.total_bytes >> 20
                );
                tell(HealthCode::DiskNearfull, cause);
            }
        }
    }
    if nearly_full(s.fs.total_bytes, s.fs.free_bytes) {
        let (free, total) = (s.fs.free_bytes >> 20, s.fs.total_bytes >> 20);
        tell(HealthCode::SpaceNearfull, format!("all disks together have {free} of {total} MiB free"));
    }
    for c in care.servers.iter().filter(|c| c.held && lives(c.server)) {
        let (id, n) = (c.server.get(), c.due + c.surplus);
        let cause =
            format!("chunkserver {id} has {n} copies to remove, more than are removed within an hour");
        tell(HealthCode::RemovalsHeld, cause);
    }
}

#[cfg(test)]
mod tests;
