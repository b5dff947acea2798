use super::*;
use crate::{Cli, Verb, run_local, tests::looks::pinned};
use clap::Parser as _;
use mooseng_core::{ids::ClusterId, net::Role};
use mooseng_net::identity::ClusterCa;
use std::{
    fs,
    io::Read as _,
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    thread,
    time::Duration,
};

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
    fs::create_dir(place.0.path().join("data")).unwrap();
    let (code, told) = place.told(MASTER);
    // Nobody answers yet where the first master is to start.
    assert_eq!((code, &told["verdict"]), (8, &"warning".into()), "{told:#}");
    assert_eq!((&told["schema"], &told["role"]), (&"mooseng.doctor/1".into(), &"master".into()));
    let identity = of(&told, "identity")[0];
    assert_eq!(identity["verdict"], "ok", "{identity}");
    assert!(identity["found"].as_str().unwrap().contains("n1 (master 1 of cluster"), "{identity}");
    assert_eq!(of(&told, "settings")[0]["verdict"], "ok");
    assert_eq!(of(&told, "port").len(), 4, "UDP and TCP of clients, Raft, metrics");
    assert!(of(&told, "sync speed")[0]["found"].as_str().unwrap().contains("ms for 4 KiB"));
    assert_eq!(of(&told, "masters")[0]["found"], "0 of 1 answer");
    let source = told["settings"].as_array().unwrap().iter().find(|s| s["key"] == "data_dir").unwrap();
    assert_eq!(source["source"], "flag");
    assert_eq!(fs::read_dir(place.0.path().join("data")).unwrap().count(), 0, "it left something behind");
}

#[test]
fn a_new_machine_has_no_problem_and_nothing_is_made_on_it() {
    let place = Place::new(Role::Master, 90 * DAY);
    let before = fs::metadata(place.0.path()).unwrap().modified().unwrap();
    let (code, told) = place.told(MASTER);
    assert_eq!((code, &told["verdict"]), (8, &"warning".into()), "{told:#}");
    let data = of(&told, "data directory")[0];
    assert_eq!(data["verdict"], "ok", "{data}");
    assert!(data["found"].as_str().unwrap().contains("is not there yet, and a start makes it"), "{data}");
    assert!(of(&told, "sync speed").is_empty(), "a directory was made to measure it");
    assert_eq!(
        fs::metadata(place.0.path()).unwrap().modified().unwrap(),
        before,
        "something was written beside it"
    );
    // Where it is left to systemd.
    let (dir, above) = (place.0.path().join("data"), place.0.path());
    let data = disks::judge_missing(&dir, above, Err(rustix::io::Errno::ACCESS));
    assert_eq!(data.verdict, Verdict::Warning, "{data:?}");
    assert!(data.cure.unwrap().contains("StateDirectory="));
}

#[test]
fn the_file_of_the_units_is_read_when_no_other_is_given() {
    let place = Place::new(Role::Master, 90 * DAY);
    let dir = place.0.path();
    let role = |line: &str| {
        let cli = Cli::try_parse_from(format!("mooseng doctor {line}").split(' ')).unwrap();
        let Verb::Doctor(args) = cli.verb else { panic!("{line}") };
        args.role
    };
    let (_, none) = role("master").with_file(dir);
    assert!(none.found.contains("there is no"), "{none:?}");
    fs::write(dir.join("master.toml"), "copies = 5\n").unwrap();
    fs::write(dir.join("other.toml"), "copies = 4\n").unwrap();
    let other = dir.join("other.toml").display().to_string();
    let copies = |role: &RoleFlags| role.load().unwrap().text("copies").map(str::to_owned);
    let (with, check) = role("master").with_file(dir);
    assert_eq!(copies(&with).as_deref(), Some("5"));
    assert!(check.found.contains("master.toml, the file of the systemd units"), "{check:?}");
    let (with, check) = role(&format!("master --config {other}")).with_file(dir);
    assert_eq!((copies(&with).as_deref(), check.found), (Some("4"), format!("{other}, from a flag")));
    let (with, _) = role("chunkserver").with_file(dir);
    assert!(with.load().unwrap().entries().all(|e| e.key != "copies"), "another role's file");
    // Of mounts there may be several, each with a file that has its name.
    let point = |role: &RoleFlags| role.load().unwrap().text("mount_point").map(str::to_owned);
    fs::write(dir.join("mount-home.toml"), "mount_point = \"/home\"\n").unwrap();
    let (with, check) = role("mount").with_file(dir);
    assert_eq!(point(&with).as_deref(), Some("/home"), "{check:?}");
    fs::write(dir.join("mount-srv.toml"), "mount_point = \"/srv\"\n").unwrap();
    let (with, check) = role("mount").with_file(dir);
    assert_eq!((point(&with).as_deref(), check.verdict), (Some("/mnt/mooseng"), Verdict::Warning));
    assert!(
        check.found.contains("mount-home.toml and ") && check.found.contains("mount-srv.toml"),
        "{check:?}"
    );
}

/// Answers as a daemon of a name, until the listener is dropped with the process.
fn daemon_named(listener: TcpListener, name: &str) {
    let cluster = ClusterId(uuid::Uuid::from_u128(7));
    let body = format!(
        "mooseng_build_info{{cluster=\"{cluster}\",node=\"{name}\",role=\"master\",version=\"1\"}} 1\n"
    );
    thread::spawn(move || {
        while let Ok((mut s, _)) = listener.accept() {
            let _ = s.read(&mut [0; 512]);
            let _ = write!(s, "HTTP/1.0 200 OK\r\n\r\n{body}");
        }
    });
}

#[test]
fn the_ports_of_a_daemon_that_runs_are_its_own_and_anothers_are_not() {
    let place = Place::new(Role::Master, 90 * DAY);
    for (name, verdict) in [("n1", "ok"), ("n2", "problem")] {
        let (metrics, raft) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (m, r) = (metrics.local_addr().unwrap().port(), raft.local_addr().unwrap().port());
        daemon_named(metrics, name);
        let line = MASTER
            .replace("--metrics-port 0", &format!("--metrics-port {m} --listen-addr 127.0.0.1"))
            .replace("--raft-port 0", &format!("--raft-port {r}"));
        let (_, told) = place.told(&line);
        for key in ["metrics_port", "raft_port"] {
            let port = of(&told, "port")
                .into_iter()
                .find(|p| p["found"].as_str().unwrap().starts_with(key))
                .unwrap();
            assert_eq!(port["verdict"], verdict, "{name}: {port}");
        }
    }
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
    assert!(settings["found"].as_str().unwrap().contains("its certificate is of role master"), "{settings}");
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
    assert_eq!(place::mount_point(dir.path(), None).verdict, Verdict::Ok);
    fs::write(dir.path().join("x"), "x").unwrap();
    assert_eq!(place::mount_point(dir.path(), None).verdict, Verdict::Problem);
    let none = place::mount_point(&dir.path().join("none"), None);
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
