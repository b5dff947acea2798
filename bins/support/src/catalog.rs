//! Every metric of every daemon: one row each. What a daemon measures is registered by its row, so that
//! names, kinds, labels and who has them are what [docs/metrics.md](../../../docs/metrics.md) says, which is
//! made from here.

use mooseng_core::net::Role;

/// How values of a metric behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only rises, and begins anew with the process.
    Counter,
    /// Counts what was measured by how much it was.
    Histogram,
}

impl Kind {
    /// Its name in Prometheus' text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its full name.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// Its labels; each has a bounded number of values.
    pub labels: &'static [&'static str],
    /// What its values count.
    pub unit: &'static str,
    /// Whose certificates its processes have.
    pub roles: &'static [Role],
    /// What it means; shown by the daemon, too.
    pub help: &'static str,
}

const ALL_ROLES: &[Role] = &[Role::Master, Role::Chunkserver, Role::Client];
const SERVERS: &[Role] = &[Role::Master, Role::Chunkserver];
const MASTERS: &[Role] = &[Role::Master];
const CHUNKSERVERS: &[Role] = &[Role::Chunkserver];
const CLIENTS: &[Role] = &[Role::Client];

macro_rules! metrics {
    ($($row:ident = $name:literal, $kind:ident [$($label:literal),*], $unit:literal, $roles:ident, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $row: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                unit: $unit,
                roles: $roles,
                help: $help,
            };
        )+
        /// All of them, but those of the process ([`OF_PROCESS`]).
        pub const ALL: &[Metric] = &[$($row),+];
    };
}

metrics! {
    BUILD_INFO = "mooseng_build_info", Gauge ["version", "role", "node", "cluster"], "1", ALL_ROLES,
        "1, with what runs in its labels";
    CERTIFICATE_EXPIRY = "mooseng_certificate_expiry_timestamp_seconds", Gauge [], "seconds since 1970", ALL_ROLES,
        "When the certificate of this node ends";
    RPCS_IN_FLIGHT = "mooseng_rpcs_in_flight", Gauge ["method"], "calls", SERVERS,
        "Calls being answered";
    RPC_DURATION = "mooseng_rpc_duration_seconds", Histogram ["method", "outcome"], "seconds", SERVERS,
        "From a call's arrival to the head of its reply";
    RPC_CALLS_IN_FLIGHT = "mooseng_rpc_calls_in_flight", Gauge ["method"], "calls", ALL_ROLES,
        "Calls of other daemons that are not answered yet";
    RPC_CALL_DURATION = "mooseng_rpc_call_duration_seconds", Histogram ["method", "outcome"], "seconds", ALL_ROLES,
        "From the call of another daemon to the head of its reply: the network and the other's work";
    DISK_IO_DURATION = "mooseng_disk_io_duration_seconds", Histogram ["disk", "op"], "seconds", SERVERS,
        "Time of one read, write, sync or change of names or lengths in a data directory";
    DISK_IO_ERRORS = "mooseng_disk_io_errors_total", Counter ["disk", "op"], "operations", SERVERS,
        "Operations in a data directory that failed, but for want of room, or because a name was not there or taken, or a file shorter";

    RAFT_IS_LEADER = "mooseng_raft_is_leader", Gauge [], "1 or 0", MASTERS,
        "1 where this master leads and has taken over";
    RAFT_HAS_LEADER = "mooseng_raft_has_leader", Gauge [], "1 or 0", MASTERS,
        "1 where this master knows who leads";
    RAFT_TERM = "mooseng_raft_term", Gauge [], "terms", MASTERS,
        "Raft's term";
    RAFT_LAST_LOG = "mooseng_raft_last_log_index", Gauge [], "entries", MASTERS,
        "The last entry of the log";
    RAFT_COMMIT = "mooseng_raft_commit_index", Gauge [], "entries", MASTERS,
        "The last entry that this master knows to be on a quorum of disks";
    RAFT_APPLIED = "mooseng_raft_applied_index", Gauge [], "entries", MASTERS,
        "The last entry in the namespace";
    RAFT_VOTERS = "mooseng_raft_voters", Gauge [], "masters", MASTERS,
        "Masters that vote";
    RAFT_LAG = "mooseng_raft_lag_entries", Gauge ["master"], "entries", MASTERS,
        "Entries that another master lacks, at the leader";
    RAFT_LEADER_CHANGES = "mooseng_raft_leader_changes_total", Counter [], "changes", MASTERS,
        "Leaders that this master has seen taking over, the first one included";

    HEALTH_PROBLEMS = "mooseng_health_problems", Gauge ["code", "severity"], "problems", MASTERS,
        "Problems by their stable code: of the cluster, at the leader; MASTER_NO_QUORUM where no leader is known";
    SESSIONS = "mooseng_sessions", Gauge [], "sessions", MASTERS,
        "Open sessions of clients, at the leader";
    INODES = "mooseng_inodes", Gauge [], "inodes", MASTERS,
        "Inodes in use, at the leader";
    FILES_BYTES = "mooseng_files_bytes", Gauge [], "bytes", MASTERS,
        "Bytes of all files, without copies, at the leader";
    SPACE_TOTAL = "mooseng_space_total_bytes", Gauge [], "bytes", MASTERS,
        "Bytes of all disks, at the leader";
    SPACE_FREE = "mooseng_space_free_bytes", Gauge [], "bytes", MASTERS,
        "Free bytes of all disks, at the leader";
    CHUNKS = "mooseng_chunks", Gauge ["state"], "chunks", MASTERS,
        "Chunks by state of their copies, at the leader";
    CHUNK_COPIES = "mooseng_chunk_copies", Gauge ["expected", "actual"], "chunks", MASTERS,
        "Chunks by the number of copies that are wanted and that are good at servers that are heard, at the leader";
    CHUNKSERVERS_SEEN = "mooseng_chunkservers", Gauge ["state"], "chunkservers", MASTERS,
        "Chunkservers by whether they were heard of lately, at the leader";
    CLOCK_SKEW = "mooseng_clock_skew_seconds", Gauge ["chunkserver"], "seconds", MASTERS,
        "By how much the clock of a chunkserver that is heard is ahead of the leading master's, below 0: behind; at the leader";
    DRAINING_CHUNKS = "mooseng_draining_chunks", Gauge ["chunkserver"], "chunks", MASTERS,
        "Chunks that still need a chunkserver that is being emptied, at the leader";
    REPAIR_QUEUE_CHUNKS = "mooseng_repair_queue_chunks", Gauge [], "chunks", MASTERS,
        "Chunks with fewer copies than wanted that can be copied, at the leader";
    REPAIR_QUEUE_BYTES = "mooseng_repair_queue_bytes", Gauge [], "bytes", MASTERS,
        "Bytes to be copied for these, at the leader";
    REPAIR_STUCK = "mooseng_repair_stuck_chunks", Gauge [], "chunks", MASTERS,
        "Of these, chunks that want more chunkservers than there are with room, at the leader";
    REPAIR_RUNNING = "mooseng_repair_running_chunks", Gauge [], "chunks", MASTERS,
        "Chunks that are being mended now, at the leader";
    REPAIR_SPEED = "mooseng_repair_bytes_per_second", Gauge [], "bytes per second", MASTERS,
        "Bytes that repairs copied a second in the last minute, at the leader";
    REPAIR_TIME_TO_SAFE = "mooseng_repair_time_to_safe_seconds", Gauge [], "seconds", MASTERS,
        "Time until all chunks have their copies, as it goes now, at the leader; missing while nothing tells";
    REPAIR_DONE = "mooseng_repair_chunks_total", Counter [], "chunks", MASTERS,
        "Chunks mended since this leader's election";
    REPAIR_FAILURES = "mooseng_repair_failures_total", Counter [], "attempts", MASTERS,
        "Attempts to mend or settle a chunk that failed since this leader's election";
    META_OPS = "mooseng_meta_ops_total", Counter ["op", "code"], "calls", MASTERS,
        "Calls of clients and servers by operation and answer: ok, the name of an errno, NOT_LEADER and the like, or cancelled";
    META_OP_DURATION = "mooseng_meta_op_duration_seconds", Histogram ["op"], "seconds", MASTERS,
        "From such a call's arrival to its answer, or until its caller has gone";

    CHUNKSERVER_READY = "mooseng_chunkserver_ready", Gauge [], "1 or 0", CHUNKSERVERS,
        "1 where the leading master knows it and all its chunks";
    CHUNKSERVER_ANSWERED = "mooseng_chunkserver_masters_answer", Gauge [], "1 or 0", CHUNKSERVERS,
        "1 while the leading master answers this chunkserver";
    CHUNKSERVER_CHUNKS = "mooseng_chunkserver_chunks", Gauge ["state"], "replicas", CHUNKSERVERS,
        "Replicas here by state";
    CHUNKSERVER_DIRTY = "mooseng_chunkserver_dirty_chunks", Gauge [], "replicas", CHUNKSERVERS,
        "Replicas with writes that are not on disk yet";
    DISK_SIZE = "mooseng_disk_size_bytes", Gauge ["disk"], "bytes", CHUNKSERVERS,
        "Bytes of the disk";
    DISK_USED = "mooseng_disk_used_bytes", Gauge ["disk"], "bytes", CHUNKSERVERS,
        "Bytes of the disk that chunks cannot use: taken, or reserved";
    DISK_CHUNKS = "mooseng_disk_chunks", Gauge ["disk"], "replicas", CHUNKSERVERS,
        "Chunks on the disk";
    DISK_SET_ASIDE = "mooseng_disk_set_aside", Gauge ["disk"], "1 or 0", CHUNKSERVERS,
        "1 where the disk failed and is not used any more";
    DISK_SCRUB_ROUNDS = "mooseng_disk_scrub_rounds_total", Counter ["disk"], "rounds", CHUNKSERVERS,
        "Whole rounds of scrubs";
    DISK_SCRUB_CHUNKS = "mooseng_disk_scrub_chunks_total", Counter ["disk"], "chunks", CHUNKSERVERS,
        "Chunks verified by scrubs";
    DISK_SCRUB_BYTES = "mooseng_disk_scrub_bytes_total", Counter ["disk"], "bytes", CHUNKSERVERS,
        "Bytes verified by scrubs";
    DISK_SCRUB_DAMAGES = "mooseng_disk_scrub_damages_total", Counter ["disk"], "chunks", CHUNKSERVERS,
        "Chunks that scrubs found damaged";
    DISK_LAST_SCRUB = "mooseng_disk_last_scrub_timestamp_seconds", Gauge ["disk"], "seconds since 1970", CHUNKSERVERS,
        "When the last whole round of the scrub since the start ended; 0 before the first";
    CHUNK_READ_BYTES = "mooseng_chunk_read_bytes_total", Counter [], "bytes", CHUNKSERVERS,
        "Bytes served";
    CHUNK_WRITTEN_BYTES = "mooseng_chunk_written_bytes_total", Counter [], "bytes", CHUNKSERVERS,
        "Bytes written";
    CHUNK_READS = "mooseng_chunk_reads_total", Counter [], "reads", CHUNKSERVERS,
        "Reads begun";
    CHUNK_WRITES = "mooseng_chunk_writes_total", Counter [], "frames", CHUNKSERVERS,
        "Frames written";
    CHUNK_SYNCS = "mooseng_chunk_syncs_total", Counter [], "syncs", CHUNKSERVERS,
        "Syncs to disk";
    CHUNK_PULLS = "mooseng_chunk_pulls_total", Counter [], "replicas", CHUNKSERVERS,
        "Copies made from other replicas";
    CHUNK_DAMAGES = "mooseng_chunk_damages_total", Counter [], "blocks or chunks", CHUNKSERVERS,
        "Damaged blocks or chunks met";

    MOUNT_ANSWERED = "mooseng_mount_masters_answer", Gauge [], "1 or 0", CLIENTS,
        "1 while the masters answer this mount";
    CLIENT_READ_BYTES = "mooseng_client_read_bytes_total", Counter [], "bytes", CLIENTS,
        "Bytes that programs have read through this mount";
    CLIENT_WRITTEN_BYTES = "mooseng_client_written_bytes_total", Counter [], "bytes", CLIENTS,
        "Bytes that programs have written through this mount";
    CLIENT_CACHE_HITS = "mooseng_client_cache_hits_total", Counter [], "parts of reads", CLIENTS,
        "Reads of this mount, cut at each MiB, of files over 8 KiB, that an earlier read of the same handle had read ahead; what the kernel's cache answers is no read";
    CLIENT_CACHE_MISSES = "mooseng_client_cache_misses_total", Counter [], "parts of reads", CLIENTS,
        "Such reads that were not read ahead: their bytes came from a chunkserver then, unless they are a hole or own writes under way";
    FUSE_OPS = "mooseng_fuse_ops_total", Counter ["op", "code"], "requests", CLIENTS,
        "Requests of the kernel by kind and answer: ok, or the name of an errno";
    FUSE_OP_DURATION = "mooseng_fuse_op_duration_seconds", Histogram ["op"], "seconds", CLIENTS,
        "From such a request's arrival to its answer";
    FUSE_IN_FLIGHT = "mooseng_fuse_requests_in_flight", Gauge [], "requests", CLIENTS,
        "Requests of the kernel that are not answered yet";
}

/// What every process on Linux tells of itself: name, kind, unit, meaning.
pub const OF_PROCESS: &[(&str, Kind, &str, &str)] = &[
    (
        "process_cpu_seconds_total",
        Kind::Counter,
        "seconds",
        "Total user and system CPU time spent in seconds.",
    ),
    ("process_open_fds", Kind::Gauge, "descriptors", "Number of open file descriptors."),
    ("process_max_fds", Kind::Gauge, "descriptors", "Maximum number of open file descriptors."),
    ("process_virtual_memory_bytes", Kind::Gauge, "bytes", "Virtual memory size in bytes."),
    ("process_resident_memory_bytes", Kind::Gauge, "bytes", "Resident memory size in bytes."),
    (
        "process_start_time_seconds",
        Kind::Gauge,
        "seconds since 1970",
        "Start time of the process since unix epoch in seconds.",
    ),
    ("process_threads", Kind::Gauge, "threads", "Number of OS threads in the process."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fmt::Write as _, fs, path::Path};

    const HEAD: &str = "# Metrics

All daemons answer `GET /metrics` in Prometheus' text format on their metrics port (9423 of a master, 9425 of a chunkserver,
9427 of a mount, 9429 of a dashboard), servers on TCP of their service port, too. This table is made from
`bins/support/src/catalog.rs`, by which the daemons register what they measure; `MOOSENG_WRITE_DOCS=1 cargo test -p
mooseng-support catalog` writes it anew.

What says \"at the leader\" is told by the leading master only, from a look at the whole cluster every ten seconds or
more: use `max(…)` over the masters. A histogram `x` has `x_bucket` (with the label `le`), `x_sum` and `x_count`. No label is
unbounded: `op` is an operation of the protocol or of the kernel, `code` an answer, `disk` a data directory of the process,
`master` and `chunkserver` a number, `code` of `mooseng_health_problems` one of the stable names of `mooseng health`
([runbook](runbook.md)).

";

    fn table() -> String {
        let mut out =
            format!("{HEAD}| name | type | labels | unit | of | meaning |\n|---|---|---|---|---|---|\n");
        for m in ALL {
            let labels: Vec<_> = m.labels.iter().map(|l| format!("`{l}`")).collect();
            let roles = if m.roles == ALL_ROLES {
                "all".into()
            } else {
                m.roles
                    .iter()
                    .map(|r| if *r == Role::Client { "mount" } else { r.as_str() })
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let (name, kind, unit) = (m.name, m.kind.name(), m.unit);
            writeln!(out, "| `{name}` | {kind} | {} | {unit} | {roles} | {} |", labels.join(", "), m.help)
                .unwrap();
        }
        for (name, kind, unit, help) in OF_PROCESS {
            writeln!(
                out,
                "| `{name}` | {} |  | {unit} | all | {} |",
                kind.name(),
                help.trim_end_matches('.')
            )
            .unwrap();
        }
        out
    }

    #[test]
    fn the_table_is_what_the_daemons_register() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        if std::env::var_os("MOOSENG_WRITE_DOCS").is_some() {
            fs::write(&file, table()).unwrap();
        }
        let is = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(is, table(), "{} is out of date: run this test with MOOSENG_WRITE_DOCS=1", file.display());
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let mut names: Vec<_> = ALL.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "a name is there twice");
        for m in ALL {
            assert!(m.name.starts_with("mooseng_"), "{}", m.name);
            assert_eq!(m.kind == Kind::Counter, m.name.ends_with("_total"), "{}", m.name);
            assert!(!m.help.ends_with('.') && !m.help.contains('|') && !m.roles.is_empty(), "{}", m.name);
            let is_base =
                |unit: &str| ["bytes", "seconds"].iter().all(|b| !unit.starts_with(b) || m.name.contains(b));
            assert!(is_base(m.unit), "{} does not tell its unit, {}", m.name, m.unit);
        }
    }
}
