use super::*;
use crate::{Cli, Verb, run_local, tests::looks::pinned};
use clap::Parser as _;
use mooseng_core::{ids::ClusterId, net::Role};
use mooseng_net::identity::ClusterCa;
use std::{fs, net::UdpSocket, os::unix::fs::PermissionsExt as _, time::Duration};

const DAY: Duration = Duration::from_secs(86_400);

/// A machine with an identity.
struct Place(tempfile::TempDir);

impl Place {
    fn new(role: Role, validity: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = dir.path().join("identity");
        fs::create_dir(&identity).unwrap();
        let ca = ClusterCa::create(ClusterId(uuid::Uuid::from_u128(7))).unwrap();
        ca.issue(role, 1, "n1", validity).unwrap().save(&identity).unwrap();
        Self(dir)
    }

    /// Exit code and what was told; `@` stands for the place.
    fn told(&self, line: &str) -> (u8, Value) {
        let at = self.0.path().to_str().unwrap();
        let line = format!("mooseng doctor {line} --identity @/identity -o json").replace('@', at);
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Verb::Doctor(_) = &cli.verb else { panic!("{line}") };
        let mut out = Vec::new();
        let done = run_local(&cli.verb, &mut out).unwrap();
        (done.map_or_else(|e| exit::code(&e), |()| 0), serde_json::from_slice(&out).unwrap())
    }
}

/// All checks of a name.
fn of<'a>(told: &'a Value, name: &str) -> Vec<&'a Value> {
    told["checks"].as_array().unwrap().iter().filter(|c| c["check"] == name).collect()
}

const MASTER: &str = "master --data-dir @/data --listen-port 0 --raft-port 0 --metrics-port 0 \
                      --raft-peers 127.0.0.1:1 --master-addrs 127.0.0.1:1";

#[test]
fn a_machine_that_is_fit_has_no_problems() {
    let place = Place::new(Role::Master, 90 * DAY);
    let (code, told) = place.told(MASTER);
    // Nobody answers yet where the first master is to start.
    assert_eq!((code, &told["verdict"]), (8, &"warning".into()), "{told:#}");
    assert_eq!((&told["schema"], &told["role"]), (&"mooseng.doctor/1".into(), &"master".into()));
    let identity = of(&told, "identity")[0];
    assert_eq!(identity["verdict"], "ok", "{identity}");
    assert!(identity["found"].as_str().unwrap().contains("n1 (master 1 of cluster"), "{identity}");
    assert_eq!(of(&told, "settings")[0]["verdict"], "ok");
    assert_eq!(of(&told, "port").len(), 4, "UDP and TCP of clients, Raft, metrics");
    assert!(of(&told, "data directory")[0]["found"].as_str().unwrap().contains("is not there yet"));
    assert!(of(&told, "sync speed")[0]["found"].as_str().unwrap().contains("ms for 4 KiB"));
    assert_eq!(of(&told, "masters")[0]["found"], "0 of 1 answer");
    let source = told["settings"].as_array().unwrap().iter().find(|s| s["key"] == "data_dir").unwrap();
    assert_eq!(source["source"], "flag");
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 1, "it left something behind");
}

#[test]
fn what_keeps_a_daemon_from_running_is_told_with_its_cure() {
    let place = Place::new(Role::Master, 5 * DAY);
    let used = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = used.local_addr().unwrap().port();
    let line = MASTER.replace("--listen-port 0", &format!("--listen-port {port} --listen-addr 0.0.0.0"));
    let (code, told) = place.told(&line);
    assert_eq!((code, &told["verdict"]), (1, &"problem".into()), "{told:#}");
    let taken = of(&told, "port").into_iter().find(|p| p["verdict"] == "problem").unwrap();
    let wanted = format!("UDP {port} is in use by process {}", std::process::id());
    assert!(taken["found"].as_str().unwrap().contains(&wanted), "{taken}");
    assert!(taken["cure"].as_str().unwrap().contains("--listen-port"), "{taken}");
    assert_eq!(of(&told, "identity")[0]["verdict"], "warning", "it ends within days");

    let (_, told) = place.told(
        &MASTER
            .replace("master --", "chunkserver --")
            .replace("--data-dir @/data", "--data-dirs @/data")
            .replace("--raft-port 0", "")
            .replace("--raft-peers 127.0.0.1:1", "")
            .replace("  ", " "),
    );
    let settings = of(&told, "settings")[0];
    assert!(settings["found"].as_str().unwrap().contains("its certificate is a master's"), "{settings}");
    assert_eq!(of(&told, "masters")[0]["verdict"], "problem", "a chunkserver needs one");

    let key = place.0.path().join("identity/node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, told) = place.told(MASTER);
    let identity = of(&told, "identity")[0];
    assert_eq!((code, &identity["verdict"]), (1, &"problem".into()));
    assert!(identity["found"].as_str().unwrap().contains("chmod 600"), "{identity}");
}

#[test]
fn mount_points_disks_and_limits_are_judged() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(place::mount_point(dir.path()).verdict, Verdict::Ok);
    fs::write(dir.path().join("x"), "x").unwrap();
    assert_eq!(place::mount_point(dir.path()).verdict, Verdict::Problem);
    let none = place::mount_point(&dir.path().join("none"));
    assert!(none.cure.unwrap().starts_with("mkdir -p "));
    for (limit, verdict) in [
        (1023, Verdict::Problem),
        (1024, Verdict::Warning),
        (16_383, Verdict::Warning),
        (16_384, Verdict::Ok),
        (u64::MAX, Verdict::Ok),
    ] {
        assert_eq!(place::judge_open_files(limit).verdict, verdict, "{limit}");
    }
    let sync = |ms| disks::judge_sync(dir.path(), Duration::from_millis(ms), disks::MASTER_SYNC).verdict;
    assert_eq!((sync(10), sync(11)), (Verdict::Ok, Verdict::Warning));
    let place = Place::new(Role::Client, 90 * DAY);
    let (code, told) = place.told("mount --mount-point @/none --metrics-port 0 --master-addrs 127.0.0.1:1");
    assert_eq!((code, &of(&told, "mount point")[0]["verdict"]), (1, &"problem".into()));
    assert!(!of(&told, "fuse").is_empty());
}

#[test]
fn the_schema_stays() {
    let place = Place::new(Role::Master, 90 * DAY);
    fs::write(place.0.path().join("m.toml"), "copies = 3\n").unwrap();
    let (_, mut told) = place.told(&format!("{MASTER} --config @/m.toml"));
    // What is found differs between machines, its form does not.
    told["checks"] = json!([Check::ok("a", "b"), Check::warning("a", "b", "c")]);
    pinned("doctor", &told);
}
