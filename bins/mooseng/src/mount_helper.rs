//! `mount.mooseng`: what mount(8) runs for `mount -t mooseng` and for lines of fstab, when this program is started under
//! that name. It begins `mooseng mount` as a daemon and returns when the mount answers.
//!
//! ```text
//! m1:9421,m2:9421,m3:9421:/  /mnt/moose  mooseng  _netdev,nofail,identity=/etc/mooseng/identity  0 0
//! ```

use clap::Parser;
use rustix::process::{Pid, Signal};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::{net::UnixDatagram, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The name under which mount(8) looks for it.
pub(crate) const NAME: &str = "mount.mooseng";

/// Exit codes as mount(8) has them.
const USAGE: u8 = 1;
const SYSTEM: u8 = 2;
const FAILED: u8 = 32;

/// Longest wait for the mount: its first answer has 40 s, its session 30 s.
const READY: Duration = Duration::from_secs(75);
/// Longest wait for the clean end of a mount that was not ready: it may be in the middle of a call of the masters.
const END: Duration = Duration::from_secs(10);
/// Between two looks whether its process has ended.
const LOOK: Duration = Duration::from_millis(100);
/// Where it logs unless the option `log` says otherwise.
const LOG: &str = "/var/log/mooseng-mount.log";
/// Bytes of the log's end that are shown when it fails.
const SHOWN_MAX: u64 = 4096;

/// Options that are mount(8)'s and init's own, or are so in any case.
const IGNORED: &[&str] = &[
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nouser",
    "user",
    "users",
    "nofail",
    "_netdev",
    "nosuid",
    "nodev",
    "async",
    "noatime",
    "relatime",
    "nodiratime",
    "lazytime",
    "strictatime",
    "norelatime",
    "atime",
];
/// Those among [`SETTINGS`] that are paths: the mount runs in another directory than its caller.
const PATHS: [&str; 2] = ["config", "identity"];
/// Options with a value that are settings of a mount.
const SETTINGS: &[&str] = &[
    "config",
    "identity",
    "transport",
    "cluster_id",
    "log_level",
    "metrics_port",
    "listen_addr",
    "stop_timeout",
    "cache_size_mb",
    "slow_call",
    "worker_threads",
];

/// Mounts a MooseNG filesystem and returns when it answers; for mount(8).
#[derive(Parser)]
#[command(name = NAME, version)]
struct Cli {
    /// Client addresses of the masters and the path in the filesystem, which is / now: m1:9421,m2:9421:/
    spec: String,
    /// Where to mount.
    dir: PathBuf,
    /// Options with commas between: ro, noexec, allow_other, log=FILE, config=FILE, and settings of `mooseng mount` such as
    /// identity=DIR, transport=tcp, metrics_port=9428.
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Options that are not known are passed over.
    #[arg(short)]
    sloppy: bool,
    /// Says what would be done.
    #[arg(short)]
    fake: bool,
    /// Says what is done.
    #[arg(short)]
    verbose: bool,
    /// There is no mtab that would be written.
    #[arg(short)]
    #[allow(dead_code, reason = "mount(8) passes it on")]
    no_mtab: bool,
    /// Another mount namespace: cannot be served from here.
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Type, as mount(8) passes it on.
    #[arg(short)]
    #[allow(dead_code, reason = "mount(8) passes it on")]
    type_name: Option<String>,
}

/// What is to be run.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    args: Vec<OsString>,
    log: PathBuf,
}

/// A path as the caller means it. It is not looked at: a dead mount may be there.
fn from_here(path: &Path) -> Result<OsString, String> {
    let full = std::path::absolute(path).map_err(|e| format!("\"{}\" is no path: {e}", path.display()))?;
    Ok(full.into())
}

fn plan(cli: &Cli) -> Result<Plan, String> {
    if let Some(namespace) = &cli.namespace {
        return Err(format!(
            "-N {namespace}: a mount is served in the namespace that it is started in; run `nsenter --mount=FILE \
             mount -t mooseng …` instead, with the program and its identity there"
        ));
    }
    let Some((masters, path)) = cli.spec.rsplit_once(":/") else {
        return Err(format!("\"{}\" does not end in :/ as m1:9421,m2:9421:/ does", cli.spec));
    };
    if !path.is_empty() {
        return Err(format!(
            "/{path} cannot be mounted by itself: write {masters}:/ and use the directory in it"
        ));
    }
    let mut args: Vec<OsString> = vec![
        "mount".into(),
        "--mount-point".into(),
        from_here(&cli.dir)?,
        "--master-addrs".into(),
        masters.into(),
    ];
    let (mut log, mut no_exec) = (PathBuf::from(LOG), false);
    let mut flag = |name: &str, value: &OsStr| {
        args.push(format!("--{}", name.replace('_', "-")).into());
        args.push(value.into());
    };
    for option in cli.options.iter().flat_map(|o| o.split(',')).filter(|o| !o.is_empty()) {
        match option.split_once('=') {
            Some(("log", file)) => log = file.into(),
            Some((name, value)) if PATHS.contains(&name) => flag(name, &from_here(Path::new(value))?),
            Some((name, value)) if SETTINGS.contains(&name) => flag(name, value.as_ref()),
            None if option == "ro" => flag("read_only", "true".as_ref()),
            None if option == "allow_other" => flag("allow_other", "true".as_ref()),
            // The last one counts: `user` has mount(8) say noexec before what the line says.
            None if ["exec", "noexec"].contains(&option) => no_exec = option == "noexec",
            None if IGNORED.contains(&option) => {}
            None if option == "remount" => {
                return Err(
                    "options of a mount cannot be changed: unmount it, and mount it with others".into()
                );
            }
            Some(("user" | "comment", _)) => {}
            _ if option.starts_with("x-") || cli.sloppy => {}
            // A mount is always nosuid and nodev: who asks for the contrary is told.
            _ => {
                return Err(format!(
                    "the option \"{option}\" is not known: ro, noexec, allow_other, log, {}",
                    SETTINGS.join(", ")
                ));
            }
        }
    }
    if no_exec {
        flag("no_exec", "true".as_ref());
    }
    Ok(Plan { args, log })
}

/// As the process that mount(8) has started.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // It is the help that was asked for, or what is wrong.
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, said)) => {
            eprintln!("{NAME}: {said}");
            ExitCode::from(code)
        }
    }
}

type Failed = (u8, String);

fn run(cli: &Cli) -> Result<(), Failed> {
    let plan = plan(cli).map_err(|said| (USAGE, said))?;
    let program = std::env::current_exe().map_err(|e| (SYSTEM, format!("this program is not found: {e}")))?;
    if cli.fake || cli.verbose {
        let args: Vec<_> = plan.args.iter().map(|a| a.to_string_lossy()).collect();
        println!("{} {}", program.display(), args.join(" "));
    }
    if cli.fake {
        return Ok(());
    }
    let log = File::options().create(true).append(true).open(&plan.log);
    let mut log = log.map_err(|e| {
        (SYSTEM, format!("{} cannot be written: {e}; choose another with -o log=FILE", plan.log.display()))
    })?;
    let begin = log.seek(SeekFrom::End(0)).map_err(|e| (SYSTEM, e.to_string()))?;
    let ready = Ready::new().map_err(|e| (SYSTEM, format!("no socket could be made: {e}")))?;
    let output = |log: &File| log.try_clone().map(Stdio::from).map_err(|e| (SYSTEM, e.to_string()));
    let mut daemon = Command::new(&program);
    daemon.args(&plan.args).current_dir("/").env("NOTIFY_SOCKET", ready.path());
    daemon.stdin(Stdio::null()).stdout(output(&log)?).stderr(output(&log)?);
    // Not of the terminal's group: Ctrl-C there is not meant for it.
    let mut child =
        daemon.process_group(0).spawn().map_err(|e| (SYSTEM, format!("it does not start: {e}")))?;
    ready.wait(&mut child).map_err(|said| {
        end(&mut child);
        // Whatever has become of the process: who looks there must not find a mount that nobody serves.
        mooseng_fuse::clear_dead(&cli.dir);
        let end = end_of(&plan.log, begin).unwrap_or_default();
        (FAILED, format!("{said}; its log, {}, ends:\n{end}", plan.log.display()))
    })
}

/// Ends a mount's process: by asking it, so that it unmounts, and by force when that takes too long.
fn end(child: &mut Child) {
    let begin = Instant::now();
    // The number of one that has ended may be another's by now.
    if matches!(child.try_wait(), Ok(None)) {
        let _ = rustix::process::kill_process(Pid::from_child(child), Signal::TERM);
    }
    while begin.elapsed() < END && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// What a log has had added since, the end of it.
fn end_of(log: &Path, since: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(since.max(len.saturating_sub(SHOWN_MAX))))?;
    let mut text = Vec::new();
    file.take(SHOWN_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

/// Where a daemon says that it is ready, as to systemd.
struct Ready {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Ready {
    fn new() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("mooseng-mount-").tempdir()?;
        let socket = UnixDatagram::bind(dir.path().join("ready"))?;
        socket.set_read_timeout(Some(LOOK))?;
        Ok(Self { dir, socket })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("ready")
    }

    /// Until the daemon is ready.
    ///
    /// Errors: it has ended, or is not ready in time and of no use to anybody.
    fn wait(&self, child: &mut Child) -> Result<(), String> {
        let (begin, mut message) = (Instant::now(), [0; 1024]);
        loop {
            if let Ok(n) = self.socket.recv(&mut message)
                && message[..n].split(|b| *b == b'\n').any(|line| line == b"READY=1")
            {
                return Ok(());
            }
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(how)) => return Err(format!("the mount has ended ({how})")),
                Err(e) => return Err(format!("the mount's process cannot be looked at: {e}")),
            }
            if begin.elapsed() > READY {
                return Err(format!("the mount was not ready within {READY:?}, and was ended"));
            }
        }
    }
}

/// Whether a program was started under this name.
pub(crate) fn is_asked_for(argv0: Option<&OsStr>) -> bool {
    argv0.is_some_and(|a| Path::new(a).file_name() == Some(OsStr::new(NAME)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn planned(line: &str) -> Result<(String, PathBuf), String> {
        let cli = Cli::try_parse_from([NAME].into_iter().chain(line.split(' '))).unwrap();
        let args =
            |p: &Plan| p.args.iter().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        plan(&cli).map(|p| (args(&p), p.log))
    }

    #[test]
    fn what_mount_passes_on_becomes_a_mount() {
        let (args, log) =
            planned("m1:9421,m2:9421:/ /mnt/moose -o rw,noexec,user,exec,_netdev,nofail,x-systemd.automount")
                .unwrap();
        assert_eq!(args, "mount --mount-point /mnt/moose --master-addrs m1:9421,m2:9421");
        assert_eq!(log, Path::new(LOG));
        let line = "[fd00::1]:9421:/ /m -n -v -o ro,noexec,nosuid,allow_other,log=/l -o identity=/etc/i,metrics_port=0 \
             -t mooseng";
        let (args, log) = planned(line).unwrap();
        assert_eq!(
            args,
            "mount --mount-point /m --master-addrs [fd00::1]:9421 --read-only true --allow-other true \
             --identity /etc/i --metrics-port 0 --no-exec true"
        );
        assert_eq!(log, Path::new("/l"));
        let (args, _) = planned("m1:9421:/ mnt -o config=c.toml,identity=../i,user=me").unwrap();
        let here = std::env::current_dir().unwrap();
        let here = here.display();
        assert_eq!(
            args,
            format!(
                "mount --mount-point {here}/mnt --master-addrs m1:9421 --config {here}/c.toml --identity {here}/../i"
            )
        );
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (line, said) in [
            ("m1:9421 /m", "does not end in :/"),
            ("m1:9421:/sub /m", "/sub cannot be mounted by itself"),
            ("m1:9421:/ /m -o fast", "\"fast\" is not known"),
            ("m1:9421:/ /m -o suid", "\"suid\" is not known"),
            ("m1:9421:/ /m -o ro,remount", "unmount it"),
            ("m1:9421:/ /m -N /proc/7/ns/mnt", "nsenter --mount="),
            ("m1:9421:/ /m -o master_addrs=m2:1", "is not known"),
        ] {
            assert!(planned(line).unwrap_err().contains(said), "{line}: {:?}", planned(line));
        }
        assert!(planned("m1:9421:/ /m -s -o fast").is_ok());
    }

    #[test]
    fn the_name_decides() {
        for (name, is) in
            [("/sbin/mount.mooseng", true), ("mount.mooseng", true), ("/usr/bin/mooseng", false)]
        {
            assert_eq!(is_asked_for(Some(OsStr::new(name))), is, "{name}");
        }
        assert!(!is_asked_for(None));
    }

    #[test]
    fn a_daemon_is_asked_to_end_first() {
        let dir = tempfile::tempdir().unwrap();
        let (begun, said) = (dir.path().join("begun"), dir.path().join("said"));
        let script = "trap 'echo asked > \"$1\"; exit 0' TERM; echo > \"$0\"; while :; do sleep 0.01; done";
        let mut child = Command::new("sh").args(["-c", script]).args([&begun, &said]).spawn().unwrap();
        let start = Instant::now();
        while !begun.exists() {
            assert!(start.elapsed() < Duration::from_secs(60), "the script does not begin");
            thread::sleep(Duration::from_millis(5));
        }
        end(&mut child);
        assert_eq!(fs::read_to_string(said).unwrap(), "asked\n");
        // And one that has ended already.
        end(&mut child);
    }

    #[test]
    fn a_daemon_that_ends_is_told_of_and_one_that_is_ready_is_let_go() {
        let ready = Ready::new().unwrap();
        let mut child = Command::new("false").spawn().unwrap();
        let said = ready.wait(&mut child).unwrap_err();
        assert!(said.contains("has ended (exit status: 1)"), "{said}");
        let tells = UnixDatagram::unbound().unwrap();
        tells.send_to(b"STATUS=x\nREADY=1\n", ready.path()).unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        ready.wait(&mut child).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let dir = ready.dir.path().to_owned();
        drop(ready);
        assert!(!dir.exists());
    }
}
