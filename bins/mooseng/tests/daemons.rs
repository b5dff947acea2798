//! Real processes on this machine: what `cluster init` makes, daemons on it, verbs against them.
#![allow(clippy::unwrap_used, reason = "tests may panic")]
#![allow(clippy::print_stdout, reason = "a test that cannot run says so")]

mod bad;
mod join;
mod trace;
mod verbs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what} did not come true within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn free_port() -> u16 {
    mooseng_e2e::cluster::free_port().unwrap()
}

/// Status and body of a GET.
fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut s = TcpStream::connect(("127.0.0.1", port)).ok()?;
    s.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(s, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    s.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
}

fn mooseng(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_mooseng"));
    // Nothing of the machine's own settings.
    c.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

/// A daemon, killed when it is dropped.
struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let file = fs::File::create(&log).unwrap();
        let child = command.stderr(file).spawn().unwrap();
        Self { child, log }
    }
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
    fn wait_ready(&mut self, port: u16) {
        wait_for("a daemon is ready", || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended:\n{}", self.log());
            http_get(port, "/readyz").filter(|(status, _)| *status == 200)
        });
    }
    /// Stops it with SIGTERM; its exit code.
    fn stop(mut self) -> Option<i32> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        wait_for("a daemon ends after SIGTERM", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One master and one chunkserver to be.
struct Site {
    dir: tempfile::TempDir,
    transport: &'static str,
    /// Client API, Raft, metrics.
    master: [u16; 3],
    /// Service, metrics.
    chunkserver: [u16; 2],
}

impl Site {
    fn new(transport: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Self {
            dir,
            transport,
            master: [free_port(), free_port(), free_port()],
            chunkserver: [free_port(), free_port()],
        };
        let made = site.path("c");
        site.ok(&["cluster", "init", "--dir", &made, "--masters", "1", "--chunkservers", "1"]);
        site
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn master_addr(&self) -> String {
        format!("127.0.0.1:{}", self.master[0])
    }

    fn master_command(&self, data: &str) -> Command {
        let mut c = mooseng(&["master", "--data-dir", data, "--copies", "1"]);
        c.env("MOOSENG_IDENTITY_DIR", self.path("c/master-1"));
        c.env("MOOSENG_TRANSPORT", self.transport).env("MOOSENG_LISTEN_ADDR", "127.0.0.1");
        c.env("MOOSENG_LISTEN_PORT", self.master[0].to_string());
        c.env("MOOSENG_GRPC_PORT", self.master[1].to_string());
        c.env("MOOSENG_METRICS_PORT", self.master[2].to_string());
        c.env("MOOSENG_RAFT_PEERS", format!("127.0.0.1:{}", self.master[1]));
        c
    }

    fn chunkserver_command(&self, data: &str) -> Command {
        let mut c = mooseng(&["chunkserver", "--data-dirs", data, "--reserve-mb", "0"]);
        c.env("MOOSENG_IDENTITY_DIR", self.path("c/chunkserver-1"));
        c.env("MOOSENG_TRANSPORT", self.transport).env("MOOSENG_LISTEN_ADDR", "127.0.0.1");
        c.env("MOOSENG_LISTEN_PORT", self.chunkserver[0].to_string());
        c.env("MOOSENG_METRICS_PORT", self.chunkserver[1].to_string());
        c.env("MOOSENG_MASTER_ADDRS", self.master_addr());
        c
    }

    /// Of a mount by the cluster's client, with HTTP at `port`.
    fn mount_command(&self, at: &Path, port: u16) -> Command {
        let mut c = self.verb(&["mount", "--mount-point", at.to_str().unwrap()]);
        c.env("MOOSENG_IDENTITY_DIR", self.path("c/client-1"));
        c.env("MOOSENG_METRICS_PORT", port.to_string());
        // fusermount3, for who is not the superuser.
        c.env("PATH", "/usr/bin:/bin");
        c
    }

    fn start_master(&self) -> Daemon {
        Daemon::start(self.master_command(&self.path("m")), self.path("m.log").into())
    }

    fn start_chunkserver(&self) -> Daemon {
        let dirs = format!("{},{}", self.path("d1"), self.path("d2"));
        Daemon::start(self.chunkserver_command(&dirs), self.path("c.log").into())
    }

    fn verb(&self, args: &[&str]) -> Command {
        let mut c = mooseng(args);
        c.env("MOOSENG_MASTER_ADDRS", self.master_addr()).env("MOOSENG_TRANSPORT", self.transport);
        c.env("MOOSENG_IDENTITY_DIR", self.path("c/admin"));
        c
    }

    /// Output of a verb that succeeds.
    fn ok(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.verb(args).output().unwrap();
        assert!(status.success(), "{args:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }
}

/// Exit code and error output.
fn fails(mut command: Command) -> (Option<i32>, String) {
    let out = command.output().unwrap();
    (out.status.code(), String::from_utf8(out.stderr).unwrap())
}

/// Everything that a user does with a small cluster, on one transport.
fn a_cluster_is_used(transport: &'static str) {
    let site = Site::new(transport);
    let mut master = site.start_master();
    master.wait_ready(site.master[2]);
    let mut chunkserver = site.start_chunkserver();
    chunkserver.wait_ready(site.chunkserver[1]);

    let big = site.path("big");
    let content: Vec<u8> =
        (0..70u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(&big, &content).unwrap();
    site.ok(&["mkdir", "/in"]);
    site.ok(&["put", &big, "/in"]);
    let back = site.path("back");
    site.ok(&["get", "/in/big", &back]);
    assert!(fs::read(&back).unwrap() == content, "what comes back differs");
    assert_eq!(site.ok(&["ls", "/in"]), "big\n");
    assert!(site.ok(&["stat", "/in/big"]).contains("size      70.0 MiB (73400320 bytes"));
    assert!(site.ok(&["du", "/in"]).contains("73400320"));
    assert_eq!(site.ok(&["info", "/in/big"]).lines().count(), 2 + 2, "two chunks of one copy");
    assert!(site.ok(&["status"]).contains("health    healthy"));
    let mut cat = site.verb(&["put", "-", "/from-pipe"]);
    let mut child = cat.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"piped").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(site.ok(&["cat", "/from-pipe"]), "piped");
    let (code, said) = fails(site.verb(&["cat", "/none"]));
    assert!(code == Some(3) && said.contains("/none"), "{code:?} {said}");

    for (port, part) in
        [(site.master[0], "\"role\":\"master\""), (site.chunkserver[0], "\"role\":\"chunkserver\"")]
    {
        let (status, body) = http_get(port, "/health").expect("health on the service port");
        assert!(status == 200 && body.contains(part), "{status} {body}");
    }
    let (status, metrics) = http_get(site.master[2], "/metrics").unwrap();
    let leads = "\nmooseng_raft_is_leader 1\n";
    assert!(status == 200 && metrics.contains(leads) && metrics.contains("\nprocess_open_fds "), "{metrics}");
    let (_, metrics) = http_get(site.chunkserver[1], "/metrics").unwrap();
    assert!(metrics.contains("mooseng_rpc_duration_seconds_count{method=\"chunk_write\""), "{metrics}");

    assert_eq!(chunkserver.stop(), Some(0));
    assert_eq!(master.stop(), Some(0));
    // What was there is there again.
    let mut master = site.start_master();
    master.wait_ready(site.master[2]);
    let mut chunkserver = site.start_chunkserver();
    chunkserver.wait_ready(site.chunkserver[1]);
    assert_eq!(site.ok(&["cat", "/from-pipe"]), "piped");
    let again = site.path("again");
    site.ok(&["get", "/in/big", &again]);
    assert!(fs::read(&again).unwrap() == content, "what comes back after a restart differs");
    what_cannot_be_taken_back_wants_a_yes(&site);
}

/// Where nobody can be asked.
fn what_cannot_be_taken_back_wants_a_yes(site: &Site) {
    for (line, what) in [
        ("rm -r /from-pipe /in", "removes /in with all below"),
        ("rm -rf /in", "removes /in with all below"),
        ("gc --allow 1", "copies that wait at chunkserver 1"),
        ("cluster remove-master 1", "removes master 1 "),
    ] {
        let (code, said) = fails(site.verb(&line.split(' ').collect::<Vec<_>>()));
        assert!(code == Some(2) && said.contains(what) && said.contains("--yes"), "{line}: {code:?} {said}");
    }
    assert_eq!(site.ok(&["ls"]), "from-pipe\nin\n", "nothing was removed");
    site.ok(&["gc", "--allow", "1", "--yes"]);
    site.ok(&["rm", "-r", "--yes", "/in"]);
    assert_eq!(site.ok(&["ls"]), "from-pipe\n");
}

#[test]
fn a_cluster_of_processes_is_used_over_quic() {
    a_cluster_is_used("quic");
}

#[test]
fn a_cluster_of_processes_is_used_over_tcp() {
    a_cluster_is_used("tcp");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let site = Site::new("quic");
    let mut master = site.start_master();
    master.wait_ready(site.master[2]);

    // A second process on the directory of the first.
    let other = Site::new("quic");
    let mut second = other.master_command(&site.path("m"));
    second.env("MOOSENG_IDENTITY_DIR", site.path("c/master-1"));
    let (code, said) = fails(second);
    assert!(code == Some(1) && said.contains("in use by another process"), "{code:?} {said}");

    // Ports that are taken: by whom, and the flag that helps.
    let (code, said) = fails(site.master_command(&site.path("m2")));
    let by = format!("in use by process {}", master.child.id());
    assert!(code == Some(1) && said.contains(&by) && said.contains("use --"), "{code:?} {said}");

    // Another cluster's certificate.
    let mut foreign = site.verb(&["ls", "--timeout", "3s"]);
    foreign.env("MOOSENG_IDENTITY_DIR", other.path("c/admin"));
    let (code, said) = fails(foreign);
    assert!(code == Some(4) && said.contains("authority"), "{code:?} {said}");

    // A directory of another cluster.
    assert_eq!(master.stop(), Some(0));
    let (code, said) = fails(other.master_command(&site.path("m")));
    assert!(code == Some(1) && said.contains("belongs to"), "{code:?} {said}");

    // A server's certificate for a verb, a wrong number, a wrong cluster, nobody there.
    let mut server = site.verb(&["ls"]);
    server.env("MOOSENG_IDENTITY_DIR", site.path("c/master-1"));
    let (code, said) = fails(server);
    assert!(code == Some(1) && said.contains("a client's or an admin's is needed"), "{code:?} {said}");
    let mut number = site.master_command(&site.path("m"));
    number.env("MOOSENG_NODE_ID", "2");
    let (code, said) = fails(number);
    assert!(code == Some(2) && said.contains("the certificate is number 1"), "{code:?} {said}");
    let mut cluster = site.chunkserver_command(&site.path("d"));
    cluster.env("MOOSENG_CLUSTER_ID", "0193f3a0-0000-7000-8000-000000000001");
    let (code, said) = fails(cluster);
    assert!(code == Some(2) && said.contains("the certificate is of cluster"), "{code:?} {said}");
    let (code, said) = fails(site.verb(&["ls", "--timeout", "1s"]));
    assert!(code == Some(6) && said.contains("check --masters"), "{code:?} {said}");
}

#[test]
fn a_directory_that_cannot_be_written_is_told_with_its_cure() {
    let site = Site::new("quic");
    let parent = site.dir.path().join("sealed");
    fs::create_dir(&parent).unwrap();
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o500)).unwrap();
    if writable(&parent) {
        // The superuser may write everywhere; /proc takes nothing from anybody.
        let (code, said) = fails(site.master_command("/proc/mooseng"));
        assert!(code == Some(1) && said.contains("data directory /proc/mooseng cannot be used"), "{said}");
        return;
    }
    let data = parent.join("m").display().to_string();
    let (code, said) = fails(site.master_command(&data));
    assert!(code == Some(1) && said.contains("cannot be used") && said.contains("chown"), "{code:?} {said}");
}

fn writable(dir: &Path) -> bool {
    fs::write(dir.join("try"), "").is_ok()
}

#[test]
fn what_is_in_force_is_shown_with_its_source() {
    let site = Site::new("quic");
    let mut command = site.master_command("/data");
    let out = command.args(["--print-config", "--metrics-port", "1"]).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success());
    for line in ["metrics_port = \"1\" # from a flag", "cache_size_mb = \"64\" # from the default"] {
        assert!(said.lines().any(|l| l == line), "no {line} in\n{said}");
    }
    assert!(said.contains("# from the environment variable MOOSENG_GRPC_PORT"), "{said}");
}

#[test]
fn a_mount_is_used_and_goes_with_its_process() {
    if let Err(e) = fs::File::options().read(true).write(true).open("/dev/fuse") {
        println!("skipped: /dev/fuse cannot be opened: {e}");
        return;
    }
    let site = Site::new("quic");
    let mut master = site.start_master();
    master.wait_ready(site.master[2]);
    let mut chunkserver = site.start_chunkserver();
    chunkserver.wait_ready(site.chunkserver[1]);
    let (port, at) = (free_port(), site.dir.path().join("mnt"));
    fs::create_dir(&at).unwrap();
    let mut mount = Daemon::start(site.mount_command(&at, port), site.path("mount.log").into());
    mount.wait_ready(port);

    fs::write(at.join("from-mount"), "hello").unwrap();
    assert_eq!(site.ok(&["cat", "/from-mount"]), "hello");
    fs::write(site.path("local"), "back").unwrap();
    site.ok(&["put", &site.path("local"), "/from-verb"]);
    assert_eq!(fs::read_to_string(at.join("from-verb")).unwrap(), "back");
    let (status, body) = http_get(port, "/health").unwrap();
    assert!(status == 200 && body.contains("\"role\":\"client\""), "{body}");
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "the mount is gone");
    assert_eq!(site.ok(&["cat", "/from-mount"]), "hello");
}
