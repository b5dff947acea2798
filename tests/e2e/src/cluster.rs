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
    net::{TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
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

/// Directory of the binaries as users run them; builds them once. Who has built them already names
/// their directory in `MOOSENG_E2E_BINARIES`.
pub fn binaries() -> Result<PathBuf> {
    static DONE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = DONE.get_or_init(|| build().map_err(|e| format!("{e:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build() -> Result<PathBuf> {
    if let Some(built) = std::env::var_os("MOOSENG_E2E_BINARIES") {
        return Ok(built.into());
    }
    // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM.
    let exe = std::env::current_exe()?;
    let profile = exe.ancestors().find(|p| p.ends_with("deps")).unwrap_or(&exe).parent();
    let target = profile.and_then(Path::parent).context("the test is not below target/PROFILE/")?;
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

/// Ports below those that Linux gives to whom asks for any: nobody takes one before its daemon does.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A port that nobody uses, for TCP and UDP, and that this process was not given before.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes beside each other begin at different ones.
    let begin = std::process::id().wrapping_mul(97);
    for _ in PORTS {
        let nth = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)).wrapping_add(begin);
        let port = PORTS.start + u16::try_from(nth % u32::from(PORTS.end - PORTS.start))?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// `GET path` of a daemon's HTTP port: status and body.
pub fn http_get(host: &str, port: u16, path: &str) -> Result<(u16, String)> {
    let at = std::net::SocketAddr::new(host.parse()?, port);
    let mut s = TcpStream::connect_timeout(&at, Duration::from_secs(10))?;
    s.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(s, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    s.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|c| c.parse().ok()).context("no HTTP status")?;
    Ok((status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

/// Where a daemon runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Address it listens on.
    pub addr: String,
    /// Network namespace it runs in, when it is not this program's.
    pub namespace: Option<String>,
}

impl Host {
    /// This program's own network.
    pub fn local() -> Self {
        Self { addr: "127.0.0.1".into(), namespace: None }
    }
}

/// One daemon: how it is started, and whether it runs.
pub struct Daemon {
    /// For messages and the log file.
    pub name: String,
    /// Where it listens.
    pub host: Host,
    /// HTTP port of metrics and health.
    pub metrics_port: u16,
    program: PathBuf,
    args: Vec<&'static str>,
    env: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// Starts it; its output goes to its log file.
    pub fn start(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = match &self.host.namespace {
            None => Command::new(&self.program),
            Some(name) => {
                // `ip netns exec` would hide a mount from everybody else.
                let mut inside = Command::new("nsenter");
                inside.arg(format!("--net=/run/netns/{name}")).arg(&self.program);
                inside
            }
        };
        command.args(&self.args);
        command.envs(self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// With another setting, which counts instead of one of the same name.
    #[must_use]
    pub fn with_env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
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

    /// Process id, while it was started and not ended by us.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(|c| Pid::from_raw(c.id() as i32))
    }

    fn send(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid().with_context(|| format!("{} does not run", self.name))?, signal)?)
    }

    /// Stops its threads where they are.
    pub fn pause(&self) -> Result<()> {
        self.send(Signal::SIGSTOP)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<()> {
        self.send(Signal::SIGCONT)
    }

    /// Whether it ended by itself; it can be started again then.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// `GET path` of its HTTP port.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        http_get(&self.host.addr, self.metrics_port, path)
    }

    /// Sum of a metric's points, as it tells them now.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let (_, body) = self.http("/metrics")?;
        let of = |l: &str| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let values = body.lines().filter(|l| of(l)).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// The last lines of its log.
    pub fn log_end(&self, lines: usize) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last: Vec<_> = log.lines().rev().take(lines).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Stops it with SIGTERM and waits for its end.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        all_ready(&mut [self])
    }

    /// Fails when it has ended.
    fn is_ready(&mut self) -> Result<bool> {
        if self.http("/readyz").is_ok_and(|(status, _)| status == 200) {
            return Ok(true);
        }
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        match child.try_wait()? {
            None => Ok(false),
            Some(how) => bail!("{} has ended ({how}); its log ends:\n{}", self.name, self.log_end(20)),
        }
    }
}

/// Waits until all are ready: one that ended tells more than one that waits for it.
fn all_ready(daemons: &mut [&mut Daemon]) -> Result<()> {
    let begin = Instant::now();
    loop {
        let mut waiting = None;
        for d in &mut *daemons {
            if !d.is_ready()? {
                waiting.get_or_insert((d.name.clone(), d.log_end(20)));
            }
        }
        let Some((name, log)) = waiting else { return Ok(()) };
        ensure!(begin.elapsed() < PATIENCE, "{name} is not ready; its log ends:\n{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            let _ = self.kill9();
        }
    }
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Masters.
    pub masters: usize,
    /// Chunkservers, with two disks each.
    pub chunkservers: usize,
    /// Settings for every daemon.
    pub env: Vec<(String, String)>,
    /// Where each daemon runs, masters first; on this program's network where there is none.
    pub hosts: Vec<Host>,
}

impl Plan {
    /// Daemons with their defaults on this program's network.
    pub fn new(masters: usize, chunkservers: usize) -> Self {
        Self { masters, chunkservers, env: vec![], hosts: vec![] }
    }

    /// With a setting for every daemon.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    fn host(&self, at: usize) -> Host {
        self.hosts.get(at).cloned().unwrap_or_else(Host::local)
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
    plan: Plan,
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
        Self::start_plan(dir, Plan::new(masters, chunkservers))
    }

    /// As [`ProcessCluster::start`], as planned.
    pub fn start_plan(dir: &Path, plan: Plan) -> Result<Self> {
        let mut c = Self::make(dir, plan)?;
        c.start_all()?;
        Ok(c)
    }

    fn make(dir: &Path, plan: Plan) -> Result<Self> {
        let bin = binaries()?;
        let (masters, chunkservers) = (plan.masters, plan.chunkservers);
        fs::create_dir_all(dir)?;
        let identities = dir.join("identities");
        let (m, s, at) = (masters.to_string(), chunkservers.to_string(), identities.display().to_string());
        let args = ["cluster", "init", "--dir", &at, "--masters", &m, "--chunkservers", &s];
        run(&bin.join("mooseng"), &args)?;
        let mut c =
            Self { masters: vec![], chunkservers: vec![], master_addrs: vec![], dir: dir.into(), bin, plan };
        let mut raft = Vec::new();
        for i in 0..masters {
            let host = c.plan.host(i).addr;
            c.master_addrs.push(format!("{host}:{}", free_port()?));
            raft.push(format!("{host}:{}", free_port()?));
        }
        for i in 0..masters {
            let env = c.master_env(i, &raft)?;
            let host = c.plan.host(i);
            let daemon = c.daemon("mooseng-master", &format!("master-{}", i + 1), &host, env)?;
            c.masters.push(daemon);
        }
        for i in 0..chunkservers {
            let env = c.chunkserver_env(i)?;
            let host = c.plan.host(masters + i);
            let daemon = c.daemon("mooseng-chunkserver", &format!("chunkserver-{}", i + 1), &host, env)?;
            c.chunkservers.push(daemon);
        }
        Ok(c)
    }

    /// Starts every daemon and waits until all are ready.
    pub fn start_all(&mut self) -> Result<()> {
        for d in self.masters.iter_mut().chain(&mut self.chunkservers) {
            d.start()?;
        }
        all_ready(&mut self.masters.iter_mut().chain(&mut self.chunkservers).collect::<Vec<_>>())
    }

    /// Kills every daemon with -9.
    pub fn kill9_all(&mut self) -> Result<()> {
        self.masters.iter_mut().chain(&mut self.chunkservers).try_for_each(Daemon::kill9)
    }

    /// Directory of a node's certificate: `admin`, `client-1`, `master-2`, ….
    pub fn identity(&self, name: &str) -> PathBuf {
        self.dir.join("identities").join(name)
    }

    /// Directory of a daemon's data: `master-1`, `chunkserver-2`, ….
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A mount at `at`, not yet started.
    pub fn mount(&self, name: &str, at: &Path) -> Result<Daemon> {
        self.mount_on(name, at, &Host::local())
    }

    /// As [`ProcessCluster::mount`], with its network at `host`.
    pub fn mount_on(&self, name: &str, at: &Path, host: &Host) -> Result<Daemon> {
        fs::create_dir_all(at)?;
        let env = vec![
            ("MOOSENG_MASTER_ADDRS".into(), self.master_addrs.join(",")),
            ("MOOSENG_MOUNT_POINT".into(), at.display().to_string()),
            ("MOOSENG_LISTEN_ADDR".into(), host.addr.clone()),
        ];
        self.daemon("mooseng-mount", name, host, self.with_identity(env, "client-1"))
    }

    /// A web dashboard on this program's network with its pages at `port`, not yet started.
    pub fn dashboard(&self, name: &str, port: u16, token: Option<&Path>) -> Result<Daemon> {
        let mut env = vec![
            ("MOOSENG_MASTER_ADDRS".into(), self.master_addrs.join(",")),
            ("MOOSENG_LISTEN_PORT".into(), port.to_string()),
        ];
        let file = token.map(|t| ("MOOSENG_DASHBOARD_TOKEN_FILE".into(), t.display().to_string()));
        env.extend(file);
        let mut daemon = self.daemon("mooseng", name, &Host::local(), self.with_identity(env, "client-1"))?;
        daemon.args = vec!["dashboard"];
        Ok(daemon)
    }

    /// Position of the leading master, as the masters' health tells.
    pub fn leader(&self) -> Result<usize> {
        wait_for("a master leads", PATIENCE, || self.leads(None))
    }

    /// Position of a master that says it leads, other than `not`.
    pub fn leads(&self, not: Option<usize>) -> Option<usize> {
        let leads =
            |m: &Daemon| m.child.is_some() && m.metric("mooseng_raft_is_leader").is_ok_and(|v| v == 1.0);
        (0..self.masters.len()).find(|i| Some(*i) != not && leads(&self.masters[*i]))
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
            ("MOOSENG_LISTEN_ADDR".into(), self.plan.host(i).addr),
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
            ("MOOSENG_LISTEN_ADDR".into(), self.plan.host(self.plan.masters + i).addr),
            ("MOOSENG_LISTEN_PORT".into(), free_port()?.to_string()),
        ];
        Ok(self.with_identity(env, &name))
    }

    fn daemon(
        &self,
        program: &str,
        name: &str,
        host: &Host,
        mut env: Vec<(String, String)>,
    ) -> Result<Daemon> {
        let metrics_port = free_port()?;
        env.extend(self.plan.env.iter().cloned());
        env.push(("MOOSENG_METRICS_PORT".into(), metrics_port.to_string()));
        Ok(Daemon {
            name: name.into(),
            host: host.clone(),
            metrics_port,
            program: self.bin.join(program),
            args: vec![],
            env,
            log: self.dir.join(format!("{name}.log")),
            child: None,
        })
    }
}
