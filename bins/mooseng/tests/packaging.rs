//! What `packaging/` has is what the program takes: units that systemd accepts, commands that start.
#![allow(clippy::unwrap_used, reason = "tests may panic")]
#![allow(clippy::print_stdout, reason = "a test that cannot run says so")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mooseng");
/// Where the units expect the program.
const INSTALLED: &str = "/usr/bin/mooseng";

/// Name, text and role of each unit.
fn units() -> Vec<(String, String, &'static str)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
    let of = |(name, role): (&str, &'static str)| {
        (name.to_owned(), fs::read_to_string(dir.join(name)).unwrap(), role)
    };
    let all = [
        ("mooseng-master.service", "master"),
        ("mooseng-chunkserver.service", "chunkserver"),
        ("mooseng-mount@.service", "mount"),
        ("mooseng-dashboard.service", "dashboard"),
    ];
    let there = fs::read_dir(&dir)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "service"));
    assert_eq!(there.count(), all.len(), "a unit is not tested");
    all.map(of).into()
}

/// Values by section and key; a key that comes again has another value beside the first.
fn parsed(text: &str) -> BTreeMap<(String, String), Vec<String>> {
    let (mut all, mut section) = (BTreeMap::<_, Vec<_>>::new(), None);
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            assert!(["Unit", "Service", "Install"].contains(&name), "{line}");
            section = Some(name.to_owned());
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no key and value: {line}"));
        assert!(key.chars().all(|c| c.is_ascii_alphanumeric()), "{line}");
        all.entry((section.clone().unwrap(), key.to_owned())).or_default().push(value.to_owned());
    }
    all
}

#[test]
fn units_say_when_they_are_ready_and_may_do_little() {
    for (name, text, _) in units() {
        let unit = parsed(&text);
        let value = |section: &str, key: &str| {
            let values = unit.get(&(section.into(), key.into()));
            values.unwrap_or_else(|| panic!("{name} has no {key}=")).join(" ")
        };
        assert_eq!(value("Service", "Type"), "notify", "{name}");
        assert_eq!(value("Service", "NoNewPrivileges"), "yes", "{name}");
        assert_eq!(value("Service", "Restart"), "on-failure", "{name}");
        assert!(value("Service", "SystemCallFilter").contains("@system-service"), "{name}");
        assert!(value("Unit", "After").contains("network-online.target"), "{name}");
        assert_eq!(value("Install", "WantedBy"), "multi-user.target", "{name}");
        let own_mounts = ["ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectProc"];
        for key in own_mounts {
            let has = unit.contains_key(&("Service".into(), key.into()));
            assert_eq!(
                has,
                !name.contains("mount"),
                "{name}: a mount in a namespace of its own is seen by nobody: {key}"
            );
        }
        let capabilities = value("Service", "CapabilityBoundingSet");
        if name.contains("mount") {
            assert_eq!(capabilities, "CAP_SYS_ADMIN CAP_DAC_READ_SEARCH");
        } else {
            assert_eq!((value("Service", "User").as_str(), capabilities.as_str()), ("mooseng", ""));
        }
    }
}

/// The program and the arguments of a unit's command, with its file of settings replaced by `config`.
fn command(text: &str, config: &Path) -> Command {
    let unit = parsed(text);
    let line = &unit[&("Service".into(), "ExecStart".into())][0];
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some(INSTALLED));
    let mut command = Command::new(PROGRAM);
    for word in words {
        let word = if word.starts_with("/etc/mooseng/") { config.as_os_str() } else { word.as_ref() };
        command.arg(word);
    }
    command.env_clear().stdin(Stdio::null());
    command
}

/// What `mooseng config example` prints, with its keys set and not as comments.
fn example(role: &str) -> String {
    let example = Command::new(PROGRAM).args(["config", "example", role]).output().unwrap();
    assert!(example.status.success());
    let text = String::from_utf8(example.stdout).unwrap();
    let set = |l: &'_ str| l.strip_prefix('#').filter(|l| !l.starts_with(' ')).map(str::to_owned);
    text.lines().filter_map(set).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_start_takes_the_settings_of_the_examples() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("cluster");
    let init = ["cluster", "init", "--masters", "3", "--chunkservers", "1", "--clients", "1", "--dir"];
    let made = Command::new(PROGRAM).args(init).arg(&cluster).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (role, node) in [
        ("master", "master-1"),
        ("chunkserver", "chunkserver-1"),
        ("mount", "client-1"),
        ("dashboard", "client-1"),
    ] {
        // Those of a cluster and a token that are not these.
        let others = |l: &&str| !l.starts_with("cluster_id") && !l.starts_with("token_file");
        let text = example(role).lines().filter(others).collect::<Vec<_>>().join("\n");
        let config = dir.path().join(format!("{role}.toml"));
        fs::write(&config, text).unwrap();
        let mut check = Command::new(PROGRAM);
        check.env_clear().args(["config", "check", role, "--config"]).arg(&config);
        let done = check.arg("--identity").arg(cluster.join(node)).output().unwrap();
        assert!(done.status.success(), "{role}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn the_program_takes_their_commands_with_the_settings_that_it_prints_as_an_example() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text, role) in units() {
        let config = dir.path().join(format!("{role}.toml"));
        fs::write(&config, example(role)).unwrap();
        let done = command(&text, &config).arg("--print-config").output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{name}: {said}");
        let wanted = format!("# from the file {}", config.display());
        assert!(String::from_utf8_lossy(&done.stdout).contains(&wanted), "{name}");
    }
}

#[test]
fn systemd_takes_the_units() {
    let is_there = Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status();
    if !is_there.is_ok_and(|s| s.success()) {
        println!("skipped: there is no systemd-analyze");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let write = |(name, text, _): &(String, String, &str)| -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, text.replace(INSTALLED, PROGRAM)).unwrap();
        path
    };
    let paths: Vec<_> = units().iter().map(write).collect();
    let done = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&paths).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    // It tells of unknown keys and values without failing.
    let ours: Vec<_> = said.lines().filter(|l| l.contains("mooseng")).collect();
    assert!(done.status.success() && ours.is_empty(), "{said}");
    for path in &paths {
        // Of 100; a mount has a capability, and no namespace of its own.
        let exposed =
            if path.to_string_lossy().contains("mount") { "--threshold=50" } else { "--threshold=20" };
        let mut judge = Command::new("systemd-analyze");
        let done =
            judge.args(["security", "--offline=yes", "--no-pager", exposed]).arg(path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    }
}
