//! Every verb, from its help to its failure: what it says of itself, and how it ends when it cannot do what was asked.

use super::{fails, free_port, mooseng};
use std::{collections::BTreeSet, process::Command};

/// Arguments with which a verb fails, its exit code, and what it says. `@` is a directory with a cluster's identities, of
/// which nothing runs.
const FAILURES: &[(&str, i32, &str)] = &[
    ("mini --masters 2", 2, "use 1, 3 or 5"),
    ("mini --tree @/none", 3, "cannot list @/none"),
    ("cluster init --dir @/c", 1, "choose another directory"),
    ("cluster issue --ca @/none --role client --name x --out @/x", 2, "no authority is in @/none"),
    ("cluster issue --ca @/c/ca --role client --name x --out @/c", 1, "is there already"),
    ("cluster token --role client --name x --timeout 300ms", 6, "no answer from the masters"),
    ("cluster join --out @/x", 2, "give the whole line that `mooseng cluster token` printed"),
    ("cluster add-master --node 4 --raft-addr a:1 --client-addr a:2 --timeout 300ms", 6, "check --masters"),
    ("cluster remove-master 2 --timeout 300ms", 6, "check --masters"),
    ("cluster transfer-leadership 2 --timeout 300ms", 6, "check --masters"),
    ("master", 2, "role master is needed"),
    ("chunkserver", 2, "role chunkserver is needed"),
    ("mount --identity @/c/master-1", 2, "role client or admin is needed"),
    ("umount @/none", 3, "nothing is mounted"),
    ("doctor master --raft-peers x", 1, "it would not run"),
    ("doctor chunkserver --data-dirs @/none", 1, "it would not run"),
    ("doctor mount --mount-point @/none", 1, "it would not run"),
    ("doctor dashboard --listen-addr 0.0.0.0", 1, "it would not run"),
    ("dashboard --listen-addr 0.0.0.0", 2, "there is no token"),
    ("config show master --config @/none", 2, "@/none cannot be used"),
    ("config show chunkserver --config @/none", 2, "@/none cannot be used"),
    ("config show mount --config @/none", 2, "@/none cannot be used"),
    ("config show dashboard --config @/none", 2, "@/none cannot be used"),
    ("config check master --identity @/c/master-1", 2, "raft_peers is not set"),
    (
        "config check chunkserver --identity @/c/chunkserver-1 --reserve-mb x",
        2,
        "reserve_mb = \"x\" (from a flag) is wrong",
    ),
    (
        "config check chunkserver --identity @/c/chunkserver-1 --data-dirs @/a,@/b,@/a",
        2,
        "@/a is named twice",
    ),
    ("config check mount --transport pigeon", 2, "pigeon"),
    ("config check mount --log-level mooseng=loud", 2, "log_level = \"mooseng=loud\""),
    (
        "config check chunkserver --identity @/c/chunkserver-1 --data-dirs @/a --listen-port 0 --advertise-addr a:1",
        2,
        "others must find it again",
    ),
    ("config check dashboard --listen-addr 0.0.0.0", 2, "there is no token"),
    ("config example potato", 2, "possible values: master"),
    ("completions potato", 2, "possible values: bash"),
    ("man --dir @/c/admin/ca.pem", 1, "ca.pem"),
    ("trace -- nonsense", 2, "nonsense"),
    ("version --short", 2, "unexpected argument"),
];

/// Verbs that need a cluster, with what they want beside it.
const OF_A_CLUSTER: &[&str] = &[
    "status",
    "health",
    "df",
    "disks",
    "sessions",
    "events",
    "stats",
    "top",
    "info /f",
    "ls /",
    "cat /f",
    "put @/c/admin/ca.pem /f",
    "get /f @/f",
    "cp /f /g",
    "mv /f /g",
    "rm /f",
    "mkdir /d",
    "stat /f",
    "du /",
    "fsck",
    "gc",
    "scrub",
    "drain 1",
    "bench",
];

fn help(path: &[String]) -> String {
    let args: Vec<_> = path.iter().map(String::as_str).chain(["--help"]).collect();
    let out = mooseng(&args).output().unwrap();
    assert!(out.status.success(), "{args:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// Verbs without verbs of their own, as `--help` lists them.
fn leaves(path: &[String], found: &mut BTreeSet<String>) {
    let text = help(path);
    let (about, rest) = text.split_once("\n\nUsage: mooseng ").unwrap_or_else(|| panic!("{path:?}: {text}"));
    assert!(!about.trim().is_empty(), "{path:?} says nothing of itself");
    let Some((_, listed)) = rest.split_once("\nCommands:\n") else {
        found.insert(path.join(" "));
        return;
    };
    for line in listed.lines().take_while(|l| !l.is_empty()) {
        let name = line.split_whitespace().next().unwrap();
        if name != "help" {
            leaves(&[path, &[name.to_owned()]].concat(), found);
        }
    }
}

#[test]
fn every_verb_explains_itself_and_fails_with_cause_and_cure() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let made = mooseng(&["cluster", "init", "--dir", &format!("{at}/c")]).output().unwrap();
    assert!(made.status.success());
    let masters = format!("127.0.0.1:{}", free_port());
    let run = |line: &str| -> Command {
        let line = line.replace('@', at);
        let mut command = mooseng(&line.split(' ').collect::<Vec<_>>());
        command.env("MOOSENG_MASTER_ADDRS", &masters).env("MOOSENG_IDENTITY_DIR", format!("{at}/c/admin"));
        command
    };
    let mut verbs = BTreeSet::new();
    leaves(&[], &mut verbs);
    let begun = |verb: &str, line: &str| {
        line.strip_prefix(verb).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    for verb in &verbs {
        let fails_with = FAILURES.iter().any(|(line, ..)| begun(verb, line));
        assert!(fails_with || OF_A_CLUSTER.iter().any(|line| begun(verb, line)), "nobody saw `{verb}` fail");
        let (code, said) = fails(run(&format!("{verb} --no-such-flag")));
        assert!(code == Some(2) && said.contains("--help"), "{verb}: {code:?} {said}");
    }
    for (line, code, part) in FAILURES {
        let (got, said) = fails(run(line));
        assert!(got == Some(*code) && said.contains(&part.replace('@', at)), "{line}: {got:?} {said}");
    }
    for line in OF_A_CLUSTER {
        let (got, said) = fails(run(&format!("{line} --timeout 300ms")));
        assert!(
            got == Some(6) && said.contains(&masters) && said.contains("check --masters"),
            "{line}: {got:?} {said}"
        );
    }
    let (got, said) = fails(run("stauts"));
    assert!(got == Some(2) && said.contains("status"), "{got:?} {said}");
}
