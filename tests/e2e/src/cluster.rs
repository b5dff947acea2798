//! A cluster of real processes on this machine, started as an operator would: binaries,
//! environment variables, identities from `mooseng cluster init`.

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Longest wait for anything to become true.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` answers something, at most `patience`.
pub fn wait_for<T>(what: &str, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        ensure!(begin.elapsed() < patience, "{what} did not become true within {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Directory of the binaries as users run them; builds them once.
pub fn binaries() -> Result<PathBuf> {
    static DONE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = DONE.get_or_init(|| build().map_err(|e| format!("{e:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let profile = exe.ancestors().find(|p| p.ends_with("deps")).and_then(Path::parent);
    let target = profile.and_then(Path::parent).context("the test is not below target/PROFILE/deps/")?;
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.args([
        "build",
        "--release",
        "--quiet",
        "-p",
        "mooseng",
        "-p",
        "mooseng-master",
        "-p",
        "mooseng-chunkserver",
    ]);
    cargo.args(["-p", "mooseng-mount", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    ensure!(cargo.status()?.success(), "the binaries do not build");
    Ok(target.join("release"))
}

/// A port that nobody uses, for TCP and UDP.
pub fn free_port() -> Result<u16> {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let port = tcp.local_addr()?.port();
        if std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}

/// `GET path` of a daemon's HTTP port: status and body.
pub fn http_get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut s = TcpStream::connect(("127.0.0.1", port))?;
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(s, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    s.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|c| c.parse().ok()).context("no HTTP status")?;
    Ok((status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

/// One daemon: how it is started, and whether it runs.
pub struct Daemon {
    /// For messages and the log file.
    pub name: String,
    /// HTTP port of metrics and health.
    pub metrics_port: u16,
    program: PathBuf,
    env: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Starts it; its output goes to its log file.
    pub fn start(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.envs(self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let mut child = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        kill(Pid::from_raw(child.id() as i32), signal)?;
        child.wait()?;
        Ok(())
    }

    /// Kills it with -9.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)
    }

    /// Stops it with SIGTERM and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            if http_get(self.metrics_port, "/readyz").is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
            let ended = child.try_wait()?;
            if ended.is_some() || begin.elapsed() > PATIENCE {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<_> = log.lines().rev().take(20).collect();
                let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
                bail!("{} is not ready ({ended:?}); its log ends:\n{tail}", self.name);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill9();
        }
    }
}

/// Three masters and chunkservers with two disks each, on QUIC with mutual TLS.
pub struct ProcessCluster {
    /// Masters, by position.
    pub masters: Vec<Daemon>,
    /// Chunkservers, by position.
    pub chunkservers: Vec<Daemon>,
    /// Client addresses of the masters.
    pub master_addrs: Vec<String>,
    dir: PathBuf,
    bin: PathBuf,
}

fn run(program: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new(program).args(args).output()?;
    let err = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{} {} failed: {err}", program.display(), args.join(" "));
    Ok(String::from_utf8(out.stdout)?)
}

impl ProcessCluster {
    /// Makes identities, configures and starts everything below `dir`, and waits until it is ready.
    pub fn start(dir: &Path, masters: usize, chunkservers: usize) -> Result<Self> {
        let bin = binaries()?;
        fs::create_dir_all(dir)?;
        let identities = dir.join("identities");
        let (m, s, at) = (masters.to_string(), chunkservers.to_string(), identities.display().to_string());
        let args = ["cluster", "init", "--dir", &at, "--masters", &m, "--chunkservers", &s];
        run(&bin.join("mooseng"), &args)?;
        let mut c =
            Self { masters: vec![], chunkservers: vec![], master_addrs: vec![], dir: dir.into(), bin };
        let mut raft = Vec::new();
        for _ in 0..masters {
            c.master_addrs.push(format!("127.0.0.1:{}", free_port()?));
            raft.push(format!("127.0.0.1:{}", free_port()?));
        }
        for i in 0..masters {
            let env = c.master_env(i, &raft)?;
            let daemon = c.daemon("mooseng-master", &format!("master-{}", i + 1), env)?;
            c.masters.push(daemon);
        }
        for i in 0..chunkservers {
            let env = c.chunkserver_env(i)?;
            let daemon = c.daemon("mooseng-chunkserver", &format!("chunkserver-{}", i + 1), env)?;
            c.chunkservers.push(daemon);
        }
        c.start_all()?;
        Ok(c)
    }

    /// Starts every daemon and waits until all are ready.
    pub fn start_all(&mut self) -> Result<()> {
        for d in self.masters.iter_mut().chain(&mut self.chunkservers) {
            d.start()?;
        }
        self.masters.iter_mut().chain(&mut self.chunkservers).try_for_each(Daemon::wait_ready)
    }

    /// Kills every daemon with -9.
    pub fn kill9_all(&mut self) -> Result<()> {
        self.masters.iter_mut().chain(&mut self.chunkservers).try_for_each(Daemon::kill9)
    }

    /// Directory of a node's certificate: `admin`, `client-1`, `master-2`, ….
    pub fn identity(&self, name: &str) -> PathBuf {
        self.dir.join("identities").join(name)
    }

    /// A mount at `at`, not yet started.
    pub fn mount(&self, name: &str, at: &Path) -> Result<Daemon> {
        fs::create_dir_all(at)?;
        let env = vec![
            ("MOOSENG_MASTER_ADDRS".into(), self.master_addrs.join(",")),
            ("MOOSENG_MOUNT_POINT".into(), at.display().to_string()),
        ];
        self.daemon("mooseng-mount", name, self.with_identity(env, "client-1"))
    }

    /// Position of the leading master, as the masters' health tells.
    pub fn leader(&self) -> Result<usize> {
        wait_for("a master leads", PATIENCE, || {
            self.masters.iter().position(|m| {
                m.child.is_some()
                    && http_get(m.metrics_port, "/metrics").is_ok_and(|(_, body)| {
                        body.lines().any(|l| l.starts_with("mooseng_raft_is_leader") && l.ends_with(" 1"))
                    })
            })
        })
    }

    fn with_identity(&self, mut env: Vec<(String, String)>, name: &str) -> Vec<(String, String)> {
        env.push(("MOOSENG_IDENTITY_DIR".into(), self.identity(name).display().to_string()));
        env
    }

    fn master_env(&self, i: usize, raft: &[String]) -> Result<Vec<(String, String)>> {
        let port = |addr: &str| addr.rsplit(':').next().map(str::to_owned).context("an address has a port");
        let name = format!("master-{}", i + 1);
        let env = vec![
            ("MOOSENG_NODE_ID".into(), (i + 1).to_string()),
            ("MOOSENG_RAFT_PEERS".into(), raft.join(",")),
            ("MOOSENG_MASTER_ADDRS".into(), self.master_addrs.join(",")),
            ("MOOSENG_LISTEN_ADDR".into(), "127.0.0.1".into()),
            ("MOOSENG_LISTEN_PORT".into(), port(&self.master_addrs[i])?),
            ("MOOSENG_RAFT_PORT".into(), port(&raft[i])?),
            ("MOOSENG_DATA_DIR".into(), self.dir.join(&name).display().to_string()),
        ];
        Ok(self.with_identity(env, &name))
    }

    fn chunkserver_env(&self, i: usize) -> Result<Vec<(String, String)>> {
        let name = format!("chunkserver-{}", i + 1);
        let disk = |d: u32| self.dir.join(&name).join(format!("disk{d}")).display().to_string();
        let env = vec![
            ("MOOSENG_SERVER_ID".into(), (i + 1).to_string()),
            ("MOOSENG_MASTER_ADDRS".into(), self.master_addrs.join(",")),
            ("MOOSENG_DATA_DIRS".into(), format!("{},{}", disk(1), disk(2))),
            ("MOOSENG_LISTEN_ADDR".into(), "127.0.0.1".into()),
            ("MOOSENG_LISTEN_PORT".into(), free_port()?.to_string()),
        ];
        Ok(self.with_identity(env, &name))
    }

    fn daemon(&self, program: &str, name: &str, mut env: Vec<(String, String)>) -> Result<Daemon> {
        let metrics_port = free_port()?;
        env.push(("MOOSENG_METRICS_PORT".into(), metrics_port.to_string()));
        Ok(Daemon {
            name: name.into(),
            metrics_port,
            program: self.bin.join(program),
            env,
            log: self.dir.join(format!("{name}.log")),
            child: None,
        })
    }
}
