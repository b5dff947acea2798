//! Nodes that join a running cluster of three masters by token, with nothing but one line of text.

mod masters;

use super::*;

/// Three masters to be, each with its ports: client API, Raft, metrics.
pub(super) struct Trio {
    dir: tempfile::TempDir,
    pub(super) ports: Vec<[u16; 3]>,
}

impl Trio {
    pub(super) fn new(init: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = (0..3).map(|_| [free_port(), free_port(), free_port()]).collect();
        let trio = Self { dir, ports };
        let made = trio.path("c");
        let args = ["cluster", "init", "--dir", &made, "--masters", "3", "--chunkservers", "1"];
        assert!(mooseng(&[&args, init].concat()).output().unwrap().status.success());
        trio
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn addr(&self, n: usize) -> String {
        format!("127.0.0.1:{}", self.ports[n][0])
    }

    pub(super) fn addrs(&self) -> String {
        (0..3).map(|n| self.addr(n)).collect::<Vec<_>>().join(",")
    }

    pub(super) fn master(&self, n: usize) -> Daemon {
        let name = format!("master-{}", n + 1);
        let mut c = mooseng(&["master", "--data-dir", &self.path(&name), "--copies", "2"]);
        let raft: Vec<_> = self.ports.iter().map(|p| format!("127.0.0.1:{}", p[1])).collect();
        let [listen, raft_port, metrics] = self.ports[n].map(|p| p.to_string());
        c.env("MOOSENG_IDENTITY_DIR", self.path(&format!("c/{name}")))
            .env("MOOSENG_LISTEN_ADDR", "127.0.0.1");
        c.env("MOOSENG_LISTEN_PORT", listen).env("MOOSENG_RAFT_PORT", raft_port);
        c.env("MOOSENG_METRICS_PORT", metrics).env("MOOSENG_RAFT_PEERS", raft.join(","));
        c.env("MOOSENG_MASTER_ADDRS", self.addrs());
        Daemon::start(c, self.path(&format!("{name}.log")).into())
    }

    pub(super) fn masters(&self) -> Vec<Daemon> {
        let mut masters: Vec<_> = (0..3).map(|n| self.master(n)).collect();
        masters.iter_mut().zip(&self.ports).for_each(|(m, p)| m.wait_ready(p[2]));
        masters
    }

    /// A master that does not lead.
    fn follower(&self) -> usize {
        let leads = |n: &usize| {
            let (_, health) = http_get(self.ports[*n][2], "/health")?;
            Some(health.contains("\"leading\":true"))
        };
        wait_for("one leads and another does not", || {
            (0..3).find(|n| leads(n) == Some(true))?;
            (0..3).find(|n| leads(n) == Some(false))
        })
    }

    pub(super) fn chunkserver(&self, identity: &str, name: &str) -> Daemon {
        let (listen, metrics) = (free_port(), free_port());
        let mut c = mooseng(&["chunkserver", "--data-dirs", &self.path(name), "--reserve-mb", "0"]);
        c.env("MOOSENG_IDENTITY_DIR", identity).env("MOOSENG_LISTEN_ADDR", "127.0.0.1");
        c.env("MOOSENG_LISTEN_PORT", listen.to_string());
        c.env("MOOSENG_METRICS_PORT", metrics.to_string()).env("MOOSENG_MASTER_ADDRS", self.addrs());
        let mut daemon = Daemon::start(c, self.path(&format!("{name}.log")).into());
        daemon.wait_ready(metrics);
        daemon
    }

    pub(super) fn verb(&self, identity: &str, args: &[&str]) -> Command {
        let mut c = mooseng(args);
        c.env("MOOSENG_MASTER_ADDRS", self.addrs()).env("MOOSENG_IDENTITY_DIR", identity);
        c
    }

    pub(super) fn ok(&self, args: &[&str]) -> String {
        said(&mut self.verb(&self.path("c/admin"), args))
    }

    fn token(&self, args: &[&str]) -> String {
        let token = self.ok(&[&["cluster", "token"], args].concat());
        assert_eq!(token.lines().count(), 1, "one line: {token}");
        token
    }

    /// A join with the token from a file; by `masters`, or by those in the token.
    fn join(&self, token: &str, out: &str, masters: Option<&str>) -> Command {
        let file = self.path("token");
        fs::write(&file, token).unwrap();
        let mut c = mooseng(&["cluster", "join", "--out", &self.path(out), "--timeout", "10s"]);
        c.env("MOOSENG_TOKEN_FILE", file);
        if let Some(masters) = masters {
            c.args(["--master-addrs", masters]);
        }
        c
    }

    fn refused(&self, token: &str, code: i32, part: &str) {
        let (got, said) = fails(self.join(token, "never", None));
        assert!(got == Some(code) && said.contains(part), "{got:?} {said}");
        let names = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name());
        let left: Vec<_> = names.filter(|n| n.to_string_lossy().starts_with("never")).collect();
        assert!(left.is_empty(), "{left:?} was left");
    }
}

/// Output of a command that succeeds.
fn said(c: &mut Command) -> String {
    let Output { status, stdout, stderr } = c.output().unwrap();
    assert!(status.success(), "{c:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Status of a POST with so many bytes.
fn http_post(port: u16, bytes: usize) -> u16 {
    let mut s = TcpStream::connect(("127.0.0.1", port)).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head =
        format!("POST /join HTTP/1.1\r\nHost: h\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
    s.write_all(&[head.as_bytes(), &vec![1; bytes]].concat()).unwrap();
    let mut answer = [0; 12];
    s.read_exact(&mut answer).unwrap();
    std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
}

#[test]
fn a_chunkserver_joins_by_token_and_serves_and_nobody_joins_twice() {
    let trio = Trio::new(&[]);
    let _masters = trio.masters();
    let _first = trio.chunkserver(&trio.path("c/chunkserver-1"), "d1");

    // By a master that does not lead: it says who does.
    let token = trio.token(&["--role", "chunkserver", "--node", "2", "--name", "chunkserver-2"]);
    let follower = trio.addr(trio.follower());
    let told = said(&mut trio.join(&token, "second", Some(&follower)));
    assert!(told.contains("the identity of chunkserver-2, a chunkserver of cluster"), "{told}");
    let key = fs::metadata(trio.dir.path().join("second/node.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    trio.refused(&token, 4, "was used already");

    let _second = trio.chunkserver(&trio.path("second"), "d2");
    fs::write(trio.path("file"), vec![7; 100_000]).unwrap();
    trio.ok(&["put", &trio.path("file"), "/file"]);
    assert_eq!(trio.ok(&["info", "/file"]).lines().count(), 2 + 2, "a copy on each of both");
    assert!(trio.ok(&["status"]).contains("1 of 1 with all copies"));

    // A client, by the standard input, works with what it got.
    let token = trio.token(&["--role", "client", "--name", "laptop"]);
    let mut join = mooseng(&["cluster", "join", "--token-file", "-", "--out", &trio.path("laptop")]);
    let mut child = join.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(said(&mut trio.verb(&trio.path("laptop"), &["ls"])), "file\n");
    let client = ["cluster", "token", "--role", "admin", "--name", "boss"];
    let (code, told) = fails(trio.verb(&trio.path("laptop"), &client));
    assert!(code == Some(4) && told.contains("not allowed to a client"), "{code:?} {told}");

    what_is_wrong_is_refused(&trio);
}

fn what_is_wrong_is_refused(trio: &Trio) {
    let admin =
        |args: &[&str]| fails(trio.verb(&trio.path("c/admin"), &[&["cluster", "token"], args].concat()));
    let (code, told) = admin(&["--role", "chunkserver", "--node", "2", "--name", "other"]);
    assert!(code == Some(1) && told.contains("has a chunkserver of number 2"), "{code:?} {told}");
    let (code, told) = admin(&["--role", "chunkserver", "--name", "other"]);
    assert!(code == Some(2) && told.contains("--node N"), "{code:?} {told}");
    let (code, told) = admin(&["--role", "client", "--name", "c", "--lifetime", "8days"]);
    assert!(code == Some(2) && told.contains("lifetime"), "{code:?} {told}");
    trio.refused("nonsense", 2, "no join token");

    let brief = trio.token(&["--role", "client", "--name", "late", "--lifetime", "1s"]);
    let altered = brief.replacen("mooseng-join-1.E", "mooseng-join-1.F", 1);
    trio.refused(&altered, 2, "altered or cut");
    std::thread::sleep(Duration::from_millis(1100));
    trio.refused(&brief, 4, "has expired");

    // A token of another cluster, at this one's masters.
    let other = Trio::new(&[]);
    let foreign = {
        let _masters = other.masters();
        other.token(&["--role", "client", "--name", "stranger"])
    };
    let (code, told) = fails(trio.join(&foreign, "never", Some(&trio.addrs())));
    assert!(code == Some(4) && told.contains("the token is of cluster"), "{code:?} {told}");
    // Its own masters are gone.
    let (code, told) = fails(trio.join(&foreign, "never", Some(&other.addrs())));
    assert!(code == Some(6) && told.contains(&other.addr(0)), "{code:?} {told}");

    let port = trio.ports[0][0];
    assert_eq!((http_post(port, (16 << 10) + 1), http_post(port, 10)), (413, 400));
}

#[test]
fn masters_without_the_ca_key_say_what_to_do_and_then_can() {
    let trio = Trio::new(&["--joins", "false"]);
    let masters = trio.masters();
    let token = ["cluster", "token", "--role", "client", "--name", "c"];
    let (code, told) = fails(trio.verb(&trio.path("c/admin"), &token));
    assert!(code == Some(1) && told.contains("holds no CA key") && told.contains("copy"), "{code:?} {told}");
    drop(masters);

    // As the message says.
    for n in 1..=3 {
        let copy = trio.path(&format!("c/master-{n}/ca"));
        assert!(Command::new("cp").args(["-a", &trio.path("c/ca"), &copy]).status().unwrap().success());
    }
    let masters = trio.masters();
    let token = trio.token(&token[2..]);
    said(&mut trio.join(&token, "client", None));
    drop(masters);

    // Another cluster's authority, or a key that others may read, ends the start.
    let key = trio.dir.path().join("c/master-1/ca/ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let mut master = trio.master(0);
    let ended = wait_for("it ends", || master.child.try_wait().unwrap());
    assert!(ended.code() == Some(4) || ended.code() == Some(1), "{ended}");
    assert!(master.log().contains("chmod 600"), "{}", master.log());
    let other = Trio::new(&[]);
    fs::remove_dir_all(trio.path("c/master-1/ca")).unwrap();
    fs::rename(other.path("c/ca"), trio.path("c/master-1/ca")).unwrap();
    let mut master = trio.master(0);
    wait_for("it ends", || master.child.try_wait().unwrap());
    assert!(master.log().contains("not the one that issued"), "{}", master.log());
}
