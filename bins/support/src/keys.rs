//! Every key of every role: one row each. Flags, environment variables, files, `--help` and the
//! templates in `docker/configs` follow from it.

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name in files; the flag has `-` for `_`.
    pub name: &'static str,
    /// Its environment variables; the first that is set counts.
    pub env: &'static [&'static str],
    /// What holds when nothing is given.
    pub default: Option<&'static str>,
    /// Placeholder in `--help`.
    pub value: &'static str,
    /// What it means.
    pub help: &'static str,
    /// What a right value looks like, for errors.
    pub want: &'static str,
}

impl Key {
    /// The flag without its dashes.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }
}

/// A role of a process, with its keys.
pub trait Role: Send + Sync + Clone + std::fmt::Debug + 'static {
    /// Its name.
    const NAME: &'static str;
    /// Its keys, in groups.
    const KEYS: &'static [&'static [Key]];
    /// All keys.
    fn keys() -> impl Iterator<Item = &'static Key> {
        Self::KEYS.iter().flat_map(|group| group.iter())
    }
}

macro_rules! role {
    ($(#[$doc:meta])* $role:ident, $name:literal, $($group:ident),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $role;
        impl Role for $role {
            const NAME: &'static str = $name;
            const KEYS: &'static [&'static [Key]] = &[$($group),+];
        }
    };
}
role!(/// A master.
    Master, "master", COMMON, SERVER, MASTER);
role!(/// A chunkserver.
    Chunkserver, "chunkserver", COMMON, SERVER, CHUNKSERVER);
role!(/// A mount.
    Mount, "mount", COMMON, MOUNT);
role!(/// A web dashboard.
    Dashboard, "dashboard", COMMON, DASHBOARD);

const PORT: &str = "a port from 1 to 65535 (0: one that is free)";
const ADDRS: &str = "host:port, with commas between, [v6]:port for IPv6";

macro_rules! key {
    ($name:literal, $env:expr, $default:expr, $value:literal, $help:expr, $want:expr) => {
        Key { name: $name, env: &$env, default: $default, value: $value, help: $help, want: $want }
    };
}

const COMMON: &[Key] = &[
    key!(
        "identity",
        ["MOOSENG_IDENTITY_DIR"],
        Some("/etc/mooseng/identity"),
        "DIR",
        "Directory with ca.pem, node.pem and node.key",
        "a directory that `mooseng cluster init`, `issue` or `join` made"
    ),
    key!(
        "cluster_id",
        ["MOOSENG_CLUSTER_ID"],
        None,
        "UUID",
        "The cluster that the certificate must be of",
        "the UUID that `mooseng cluster init` printed, or nothing: the certificate tells it"
    ),
    key!(
        "transport",
        ["MOOSENG_TRANSPORT"],
        Some("quic"),
        "NAME",
        "quic, or tcp (TLS 1.3 on TCP); the same in the whole cluster",
        "quic or tcp"
    ),
    key!(
        "log_level",
        ["MOOSENG_LOG_LEVEL"],
        Some("info"),
        "LEVEL",
        "error, warn, info, debug, trace, or a filter as in RUST_LOG, which overrides it",
        "error, warn, info, debug, trace, or a filter such as mooseng_meta=debug,info"
    ),
    key!(
        "worker_threads",
        ["MOOSENG_WORKER_THREADS"],
        None,
        "N",
        "Threads of the runtime [default: 1 for a client, else half of the processors]",
        "a number from 1 to 1024"
    ),
    key!(
        "stop_timeout",
        ["MOOSENG_STOP_TIMEOUT"],
        Some("20s"),
        "TIME",
        "Longest clean stop after SIGTERM or SIGINT; a second signal ends at once",
        "a time such as 20s or 1m"
    ),
    key!(
        "slow_call",
        ["MOOSENG_SLOW_CALL"],
        Some("1s"),
        "TIME",
        "What takes as long is told in the log, with its trace and where the time went; 0s: nothing is",
        "a time such as 1s or 250ms"
    ),
];

const SERVER: &[Key] = &[key!(
    "listen_addr",
    ["MOOSENG_LISTEN_ADDR"],
    None,
    "ADDR",
    "Address to listen on, without port [default: all]",
    "an address of this machine, such as 10.0.0.7 or ::1"
)];

const MASTER: &[Key] = &[
    key!(
        "node_id",
        ["MOOSENG_NODE_ID", "MOOSENG_SERVER_ID"],
        None,
        "N",
        "Number that the certificate must have",
        "the number after the name in the certificate, or nothing: the certificate tells it"
    ),
    key!(
        "listen_port",
        ["MOOSENG_LISTEN_PORT"],
        Some("9421"),
        "PORT",
        "Port for clients and chunkservers (UDP with quic; HTTP health on TCP)",
        PORT
    ),
    key!(
        "raft_port",
        ["MOOSENG_RAFT_PORT", "MOOSENG_GRPC_PORT"],
        Some("9422"),
        "PORT",
        "Port for the other masters",
        PORT
    ),
    key!("metrics_port", ["MOOSENG_METRICS_PORT"], Some("9423"), "PORT", "Port for metrics and health", PORT),
    key!(
        "advertise_addr",
        ["MOOSENG_ADVERTISE_ADDR"],
        None,
        "ADDR",
        "Where clients reach this master, host or host:port [default: its host in raft_peers]",
        "a host name or address, with or without :port"
    ),
    key!(
        "data_dir",
        ["MOOSENG_DATA_DIR"],
        Some("/var/lib/mooseng/master"),
        "DIR",
        "Directory of the log and the namespace",
        "a directory on a disk of its own that this user may write"
    ),
    key!(
        "raft_peers",
        ["MOOSENG_RAFT_PEERS"],
        None,
        "ADDRS",
        "Raft addresses of all masters in the order of their numbers 1, 2, 3 (or 1=host:port,...); wait: it is \
         added to a running cluster",
        "1, 3, 5 or 7 of host:port in the order of the masters' numbers, or number=host:port, or wait"
    ),
    key!(
        "master_addrs",
        ["MOOSENG_MASTER_ADDRS"],
        None,
        "ADDRS",
        "Client addresses of all masters, in the same order [default: the hosts of raft_peers with listen_port]",
        ADDRS
    ),
    key!(
        "copies",
        ["MOOSENG_COPIES"],
        Some("2"),
        "N",
        "Copies of each chunk in a new filesystem; later `mooseng` sets it per directory",
        "a number from 1 to 9"
    ),
    key!(
        "cache_size_mb",
        ["MOOSENG_CACHE_SIZE_MB"],
        Some("64"),
        "MIB",
        "Memory for the namespace's database",
        "MiB from 8 to 1048576"
    ),
    key!(
        "reserve_mb",
        ["MOOSENG_RESERVE_MB"],
        Some("256"),
        "MIB",
        "Space of the disk for removing only: when most masters have less, nothing is made or written any more",
        "MiB from 0"
    ),
    key!(
        "repair_mb_per_s",
        ["MOOSENG_REPAIR_MB_PER_S"],
        Some("128"),
        "MIB",
        "MiB a second that are copied to restore lost copies, four times as many where one copy is left; 0: as \
         fast as it goes",
        "MiB a second from 0 to 1048576"
    ),
];

const CHUNKSERVER: &[Key] = &[
    key!(
        "server_id",
        ["MOOSENG_SERVER_ID", "MOOSENG_NODE_ID"],
        None,
        "N",
        "Number that the certificate must have",
        "the number after the name in the certificate, or nothing: the certificate tells it"
    ),
    key!(
        "listen_port",
        ["MOOSENG_LISTEN_PORT"],
        Some("9420"),
        "PORT",
        "Port for clients and other chunkservers (UDP with quic; HTTP health on TCP)",
        PORT
    ),
    key!("metrics_port", ["MOOSENG_METRICS_PORT"], Some("9425"), "PORT", "Port for metrics and health", PORT),
    key!(
        "advertise_addr",
        ["MOOSENG_ADVERTISE_ADDR"],
        None,
        "ADDR",
        "Where others reach it, host or host:port [default: listen_addr, or the host's name]",
        "a host name or address, with or without :port"
    ),
    key!(
        "data_dirs",
        ["MOOSENG_DATA_DIRS"],
        Some("/var/lib/mooseng/chunks"),
        "DIRS",
        "Storage directories with commas between, each on a disk of its own",
        "directories that this user may write, with commas between"
    ),
    key!("master_addrs", ["MOOSENG_MASTER_ADDRS"], None, "ADDRS", "Client addresses of the masters", ADDRS),
    key!(
        "reserve_mb",
        ["MOOSENG_RESERVE_MB"],
        Some("256"),
        "MIB",
        "Space of each disk that chunks never use",
        "MiB from 0"
    ),
    key!(
        "scrub_mb_per_s",
        ["MOOSENG_SCRUB_MB_PER_S"],
        Some("8"),
        "MIB",
        "MiB a second that are read from each disk to verify its chunks; 0: only when asked for",
        "MiB a second from 0 to 1048576"
    ),
];

const MOUNT: &[Key] = &[
    key!("metrics_port", ["MOOSENG_METRICS_PORT"], Some("9427"), "PORT", "Port for metrics and health", PORT),
    key!(
        "listen_addr",
        ["MOOSENG_LISTEN_ADDR"],
        None,
        "ADDR",
        "Address of the metrics port [default: all]",
        "an address of this machine, such as 127.0.0.1"
    ),
    key!("master_addrs", ["MOOSENG_MASTER_ADDRS"], None, "ADDRS", "Client addresses of the masters", ADDRS),
    key!(
        "mount_point",
        ["MOOSENG_MOUNT_POINT"],
        Some("/mnt/mooseng"),
        "DIR",
        "Where the filesystem is mounted",
        "an empty directory"
    ),
    key!(
        "cache_size_mb",
        ["MOOSENG_CACHE_SIZE_MB"],
        Some("256"),
        "MIB",
        "Memory for file data: three quarters for what is written and not yet on the disks of chunkservers, a quarter for what is read ahead",
        "MiB from 16 to 1048576"
    ),
    key!(
        "read_only",
        ["MOOSENG_READ_ONLY"],
        Some("false"),
        "BOOL",
        "Nothing can be changed through the mount",
        "true or false"
    ),
    key!(
        "allow_other",
        ["MOOSENG_ALLOW_OTHER"],
        Some("false"),
        "BOOL",
        "Other users than the one who mounts may use it (user_allow_other in /etc/fuse.conf unless root)",
        "true or false"
    ),
    key!(
        "no_exec",
        ["MOOSENG_NO_EXEC"],
        Some("false"),
        "BOOL",
        "Programs cannot be run from the mount",
        "true or false"
    ),
];

const DASHBOARD: &[Key] = &[
    key!(
        "listen_addr",
        ["MOOSENG_LISTEN_ADDR"],
        Some("127.0.0.1"),
        "ADDR",
        "Address of both ports; for the pages another than this machine's own wants a token",
        "an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all"
    ),
    key!("listen_port", ["MOOSENG_LISTEN_PORT"], Some("8080"), "PORT", "Port of the pages", PORT),
    key!("metrics_port", ["MOOSENG_METRICS_PORT"], Some("9429"), "PORT", "Port for metrics and health", PORT),
    key!(
        "token_file",
        ["MOOSENG_DASHBOARD_TOKEN_FILE"],
        None,
        "FILE",
        "File with the token that opens the pages, readable by its owner only [default: none; then only on this machine]",
        "a file (mode 0600) with at least 16 characters, as `openssl rand -base64 24` prints them"
    ),
    key!("master_addrs", ["MOOSENG_MASTER_ADDRS"], None, "ADDRS", "Client addresses of the masters", ADDRS),
];
