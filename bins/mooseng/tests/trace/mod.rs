//! A trace over all processes, from the command to the disks; slow calls in the logs, of a mount, too.

use super::{join::Trio, *};
use serde_json::Value;
use std::io::Write as _;

/// What a traced verb told.
struct Told {
    code: Option<i32>,
    /// The waterfall, and whatever else it said on the standard error.
    text: String,
    spans: Vec<Value>,
}

impl Told {
    fn of(mut command: Command) -> Self {
        let out = command.output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        let line = text.lines().find(|l| l.starts_with('{'));
        let json: Value = line.map(|l| serde_json::from_str(l).unwrap()).unwrap_or_default();
        let spans = json["spans"].as_array().cloned().unwrap_or_default();
        Self { code: out.status.code(), text, spans }
    }

    /// A span and what is above it, up to the command.
    fn path(&self, of: &Value) -> Vec<String> {
        let above = |s: &&Value| self.spans.iter().find(|p| p["id"] == s["parent"]);
        let up = std::iter::successors(Some(of), above);
        up.map(|s| format!("{}: {}", s["node"].as_str().unwrap(), s["name"].as_str().unwrap())).collect()
    }

    /// Whether below the command a span has the others above it, in this order, maybe with more between.
    fn has(&self, steps: &[String]) {
        let typed = self.path(&self.spans[0]).pop().unwrap();
        let is_there = |s| {
            let path = self.path(s);
            let mut up = path.iter();
            path.last() == Some(&typed) && steps.iter().all(|step| up.any(|at| at.contains(step)))
        };
        assert!(self.spans.iter().any(is_there), "{steps:?} is not in\n{}", self.text);
    }
}

fn steps<const N: usize>(steps: [&str; N]) -> [String; N] {
    steps.map(String::from)
}

fn issue(trio: &Trio, role: &str, node: &str, name: &str) -> String {
    let out = trio.path(name);
    let mut c = mooseng(&["cluster", "issue", "--ca", &trio.path("c/ca"), "--role", role, "--node", node]);
    assert!(c.args(["--name", name, "--out", &out]).output().unwrap().status.success());
    out
}

#[test]
fn a_put_is_one_trace_from_the_command_to_the_disks_of_all_nodes() {
    let trio = Trio::new(&[]);
    let mut masters = trio.masters();
    let admin = trio.path("c/admin");
    let second = issue(&trio, "chunkserver", "2", "chunkserver-2");
    let first = trio.chunkserver(&trio.path("c/chunkserver-1"), "d1");
    let second = trio.chunkserver(&second, "d2");
    let source = trio.path("traced");
    fs::write(&source, vec![7; 3 << 20]).unwrap();

    let told = Told::of(trio.verb(&admin, &["trace", "-o", "jsonl", "--", "put", &source, "/"]));
    assert_eq!(told.code, Some(0), "{}", told.text);
    assert_eq!(told.path(&told.spans[0]), [format!("here: put {source} /")]);
    let leads = |n: &usize| {
        let (step, call) = (format!("master {n}: log, quorum, apply"), format!("call Create of master {n}"));
        told.spans.iter().map(|s| told.path(s)).any(|p| p[0] == step && p.iter().any(|s| s.contains(&call)))
    };
    let leader = (1..=3).find(leads).unwrap_or_else(|| panic!("nobody logged the Create: {}", told.text));
    let create = format!("master {leader}: Create for admin");
    for step in ["the log's disk", "apply"] {
        told.has(&[
            format!("master {leader}: {step}"),
            format!("master {leader}: log, quorum, apply"),
            create.clone(),
        ]);
    }
    let followers: Vec<_> = (1..=3).filter(|n| *n != leader).collect();
    let stored = |n: &&usize| {
        let step = format!("master {n}: the log's disk");
        told.spans.iter().map(|s| told.path(s)).any(|p| {
            p[0] == step && p.iter().any(|s| *s == format!("master {leader}: call raft of master {n}"))
        })
    };
    // A quorum may be there before the other one was asked with this entry alone.
    assert!(followers.iter().any(|n| stored(&n)), "no follower stored anything: {}", told.text);
    let head = match told.text.contains("call chunk_write of chunkserver 1\",\"node\":\"here") {
        true => (1, 2),
        false => (2, 1),
    };
    let (head, next) = head;
    for call in ["chunk_write", "chunk_sync"] {
        let at_head = [
            format!("chunkserver {head}: {call} for admin"),
            format!("here: call {call} of chunkserver {head}"),
        ];
        let at_next = [
            format!("chunkserver {next}: {call} for chunkserver"),
            format!("chunkserver {head}: call {call} of chunkserver {next}"),
        ];
        for (node, above) in [(head, at_head.to_vec()), (next, [at_next.to_vec(), at_head.to_vec()].concat())]
        {
            told.has(
                &[
                    vec![format!("chunkserver {node}: disk at work"), format!("chunkserver {node}: disk")],
                    above,
                ]
                .concat(),
            );
        }
    }
    told.has(&steps(["chunkserver 1: a frame of chunk_write"]));
    told.has(&steps(["chunkserver 2: a frame of chunk_write"]));

    let told =
        Told::of(trio.verb(&admin, &["trace", "-o", "jsonl", "--", "get", "/traced", &trio.path("back")]));
    assert_eq!(told.code, Some(0), "{}", told.text);
    told.has(&steps([
        ": disk at work",
        ": disk",
        ": chunk_read for admin",
        "here: call chunk_read of chunkserver",
    ]));

    what_cannot_be_traced_is_refused(&trio);
    assert_eq!(second.stop(), Some(0));
    let told = Told::of(trio.verb(&admin, &["trace", "--", "ls", "/"]));
    let says = |told: &Told, part: &str| assert!(told.text.contains(part), "no {part} in\n{}", told.text);
    assert_eq!(told.code, Some(0), "{}", told.text);
    says(&told, "missing: chunkserver 2: ");
    assert!(!told.text.contains("missing: chunkserver 1") && told.text.contains("here"), "{}", told.text);

    drop(masters.drain(..2));
    let told = Told::of(trio.verb(&admin, &["trace", "--", "ls", "/", "--timeout", "2s"]));
    assert_eq!(told.code, Some(6), "{}", told.text);
    says(&told, "ls / --timeout 2s");
    says(&told, "missing: chunkservers: which there are is not known");
    drop(first);
}

fn what_cannot_be_traced_is_refused(trio: &Trio) {
    let traced = |args: &[&str]| fails(trio.verb(&trio.path("c/admin"), &[&["trace"], args].concat()));
    let (code, said) = traced(&["--", "cat", "/none"]);
    assert!(code == Some(3) && said.contains("│ here") && said.contains("cat /none"), "{code:?} {said}");
    let (code, said) = traced(&["--", "version"]);
    assert!(code == Some(2) && said.contains("asks a cluster"), "{code:?} {said}");
    let (code, said) = traced(&["--", "putt", "x"]);
    assert!(code == Some(2) && said.contains("unrecognized subcommand 'putt'"), "{code:?} {said}");
    for nothing in [&[][..], &["--"]] {
        let (code, said) = traced(nothing);
        assert!(code == Some(2) && said.contains("<VERB>"), "{nothing:?}: {code:?} {said}");
    }
    let client = issue(trio, "client", "0", "laptop");
    let (code, said) = fails(trio.verb(&client, &["trace", "--", "ls", "/"]));
    assert!(code == Some(2) && said.contains("told to an admin"), "{code:?} {said}");
}

/// From then on something is slow here: any disk's flush is.
const SLOW: &str = "200us";

/// The number in a line of a slow call.
fn trace_of(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("trace=")?;
    rest.get(..16).map(String::from)
}

#[test]
fn slow_requests_of_a_mount_are_followed_by_their_trace_in_all_logs() {
    if let Err(e) = fs::File::options().read(true).write(true).open("/dev/fuse") {
        println!("skipped: /dev/fuse cannot be opened: {e}");
        return;
    }
    let site = Site::new("quic");
    let start = |mut c: Command, log: &str, port: u16| {
        c.env("MOOSENG_SLOW_CALL", SLOW).env("NO_COLOR", "1");
        let mut daemon = Daemon::start(c, site.path(log).into());
        daemon.wait_ready(port);
        daemon
    };
    let master = start(site.master_command(&site.path("m")), "m.log", site.master[2]);
    let chunkserver = start(site.chunkserver_command(&site.path("d1")), "c.log", site.chunkserver[1]);
    let (port, at) = (free_port(), site.dir.path().join("mnt"));
    fs::create_dir(&at).unwrap();
    let mount = start(site.mount_command(&at, port), "mount.log", port);

    let its = |daemon: &Daemon, trace: &str, part: &str| {
        daemon.log().lines().any(|l| l.contains(trace) && l.contains(part))
    };
    let everywhere = |trace: &String| {
        its(&mount, trace, "call chunk_sync of chunkserver 1")
            && its(&chunkserver, trace, "chunk_sync for client")
            && its(&chunkserver, trace, "disk at work")
            && its(&master, trace, "for client")
    };
    // Each node tells of some slow calls at a time only, and everything is slow here: one of several is told everywhere.
    let mut n = 0;
    wait_for("an fsync is told in all logs", || {
        n += 1;
        let mut file = fs::File::create(at.join(format!("slow-{n}"))).unwrap();
        file.write_all(&vec![7; 2 << 20]).unwrap();
        file.sync_all().unwrap();
        let log = mount.log();
        let fsyncs = log.lines().filter(|l| l.contains("fsync of the kernel")).filter_map(trace_of);
        fsyncs.collect::<Vec<_>>().iter().any(everywhere).then_some(())
    });
    assert_eq!(mount.stop(), Some(0));
}
