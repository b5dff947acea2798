use super::*;
use crate::{
    ids::*,
    meta::{ChunkHealth, DiskReport, Draining, FsStat, MasterInfo, Repairs, ServerCare},
};

fn master(id: u64, silent_ms: u64, lag: Option<u64>) -> MasterInfo {
    let addr = format!("m{id}:1");
    let (raft_addr, client_addr) = (addr.clone(), addr);
    MasterInfo { id: MasterId(id), raft_addr, client_addr, voter: true, leader: id == 1, lag, silent_ms }
}

fn server(id: u64) -> ServerInfo {
    let disk = DiskReport {
        disk: DiskId(id),
        path: "/d".into(),
        total_bytes: 100 << 30,
        free_bytes: 50 << 30,
        chunks: 1,
        errors: 0,
        error: None,
        drains: false,
    };
    let (id, addr) = (ServerId(id), format!("s{id}:1"));
    ServerInfo { id, addr, alive: true, silent_ms: 10, clock_ms: -3, disks: vec![disk], silent: false }
}

fn healthy() -> (ClusterStatus, Care) {
    let status = ClusterStatus {
        cluster: ClusterId(Default::default()),
        term: Term(1),
        revision: Revision(1),
        masters: vec![master(1, 0, Some(0)), master(2, 90, Some(0)), master(3, 90, Some(1))],
        servers: vec![server(1), server(2)],
        chunks: ChunkHealth { total: 10, healthy: 10, ..ChunkHealth::default() },
        sessions: 1,
        fs: FsStat { total_bytes: 200 << 30, free_bytes: 100 << 30, inodes: 1, used_bytes: 1 },
    };
    let care = Care {
        quarantine_secs: 1,
        servers: vec![],
        drains: vec![],
        repairs: Repairs::default(),
        disks: vec![],
    };
    (status, care)
}

/// What is told once a healthy cluster was changed.
fn told(change: impl FnOnce(&mut ClusterStatus, &mut Care)) -> Vec<(HealthCode, String)> {
    let (mut status, mut care) = healthy();
    change(&mut status, &mut care);
    problems(&status, &care).into_iter().map(|p| (p.code, p.cause)).collect()
}

fn codes(change: impl FnOnce(&mut ClusterStatus, &mut Care)) -> Vec<HealthCode> {
    told(change).into_iter().map(|(code, _)| code).collect()
}

#[test]
fn a_healthy_cluster_has_no_problems() {
    assert_eq!(told(|_, _| ()), []);
}

#[test]
fn each_problem_is_told_by_its_name() {
    use HealthCode::*;
    let care = |change: fn(&mut ServerCare)| {
        move |_: &mut ClusterStatus, care: &mut Care| {
            let mut c = ServerCare {
                server: ServerId(1),
                unknown: 0,
                due: 0,
                ahead: 0,
                surplus: 0,
                removed: 0,
                held: false,
            };
            change(&mut c);
            care.servers.push(c);
        }
    };
    assert_eq!(codes(|s, _| s.chunks.missing = 1), [ChunkMissing]);
    assert_eq!(codes(|s, _| s.chunks.endangered = 1), [ChunkEndangered]);
    assert_eq!(codes(|s, _| s.chunks.undergoal = 1), [ChunkUndergoal]);
    assert_eq!(codes(|s, _| (s.chunks.overgoal, s.chunks.deleting) = (1, 1)), [], "that is no problem");
    assert_eq!(codes(|s, _| s.servers[0].silent = true), [ChunkserverSilent]);
    assert_eq!(codes(|s, _| s.servers.clear()), [NoChunkserver]);
    assert_eq!(codes(|s, _| s.masters[1].silent_ms = MASTER_SILENT.as_millis() as u64), [MasterSilent]);
    assert_eq!(codes(|s, _| s.masters[1].lag = Some(MASTER_LAG)), [MasterBehind]);
    assert_eq!(codes(|s, _| s.masters[1].lag = None), [], "it answers, and its lag is not known yet");
    assert_eq!(codes(|s, _| s.servers[1].disks[0].error = Some("EIO".into())), [DiskError]);
    assert_eq!(codes(|s, _| s.servers[1].disks[0].errors = 2), [], "it is used still");
    assert_eq!(codes(|s, _| s.servers[1].disks[0].free_bytes = 4 << 30), [DiskNearfull]);
    assert_eq!(codes(|s, _| s.servers[1].clock_ms = CLOCK_SKEW.as_millis() as i64), [ClockSkew]);
    assert_eq!(codes(|s, _| s.fs.free_bytes = 9 << 30), [SpaceNearfull]);
    assert_eq!(codes(|s, _| s.fs.free_bytes = 10 << 30), [], "five hundredths are enough");
    assert_eq!(codes(care(|c| c.ahead = 1)), [MastersBehind]);
    assert_eq!(codes(care(|c| (c.held, c.due) = (true, 17))), [RemovalsHeld]);
}

#[test]
fn what_an_operator_did_on_purpose_is_no_problem() {
    let drained = Draining { server: ServerId(1), since: Default::default(), left: 0 };
    let gone = |s: &mut ClusterStatus, care: &mut Care| {
        (s.servers[0].silent, s.servers[0].alive) = (true, false);
        care.drains.push(drained);
    };
    assert_eq!(codes(gone), []);
    let half = |s: &mut ClusterStatus, care: &mut Care| {
        gone(s, care);
        care.drains[0].left = 1;
    };
    assert_eq!(codes(half), [HealthCode::ChunkserverSilent]);
}

#[test]
fn a_disk_that_is_being_emptied_is_not_nearly_full() {
    let drains = |s: &mut ClusterStatus, _: &mut Care| {
        let disk = &mut s.servers[0].disks[0];
        (disk.drains, disk.free_bytes) = (true, 0);
    };
    assert_eq!(codes(drains), []);
}

#[test]
fn a_clock_is_told_of_that_is_ahead_or_behind_and_of_a_server_that_is_heard() {
    let told_at = |ms| told(|s, _| s.servers[1].clock_ms = ms);
    let says = |how: &str| {
        let cause = format!("the clock of chunkserver 2 (s2:1) is {how} the leading master's");
        [(HealthCode::ClockSkew, cause)]
    };
    assert_eq!(told_at(1000), says("1.0 s ahead of"));
    assert_eq!(told_at(-90_300), says("90.3 s behind"));
    assert_eq!((told_at(999), told_at(-999)), (vec![], vec![]), "a network may take as long");
    let silent = |s: &mut ClusterStatus, _: &mut Care| {
        let server = &mut s.servers[1];
        (server.alive, server.silent, server.clock_ms) = (false, true, 5000);
    };
    assert_eq!(codes(silent), [HealthCode::ChunkserverSilent], "what it told once is over");
}

#[test]
fn the_worst_comes_first_and_says_what_was_seen() {
    let all = told(|s, _| {
        s.masters[2].silent_ms = 5000;
        s.chunks.undergoal = 2;
        s.chunks.missing = 3;
    });
    let wanted = [
        (HealthCode::ChunkMissing, "3 of 10 chunks have no copy that can be read".to_owned()),
        (HealthCode::ChunkUndergoal, "2 of 10 chunks have fewer copies than wanted".to_owned()),
        (
            HealthCode::MasterSilent,
            "master 3 (m3:1) has not answered the leader for 5 s; when one more fails, the cluster stops"
                .to_owned(),
        ),
    ];
    assert_eq!(all, wanted);
}

/// Names are what others rely on; a change of this test is a change of what they see.
#[test]
fn names_stay_and_the_worst_are_listed_first() {
    let names: Vec<_> = HealthCode::ALL.iter().map(|c| c.name()).collect();
    let wanted = "MASTER_NO_QUORUM CHUNK_MISSING NO_CHUNKSERVER CHUNK_ENDANGERED MASTER_UNREACHABLE CHUNK_UNDERGOAL \
                  CHUNKSERVER_SILENT MASTER_SILENT MASTER_BEHIND DISK_ERROR SPACE_NEARFULL DISK_NEARFULL CLOCK_SKEW MASTERS_BEHIND \
                  REMOVALS_HELD";
    assert_eq!(names.join(" "), wanted);
    assert!(HealthCode::ALL.is_sorted_by_key(|c| std::cmp::Reverse(c.severity())));
    assert!(HealthCode::ALL.iter().all(|c| !c.cure().is_empty()));
}

#[test]
fn one_word_tells_how_bad_it_is() {
    let problem = |code| Problem::new(code, "x".into());
    assert_eq!(word(&[]), "healthy");
    assert_eq!(word(&[problem(HealthCode::DiskError)]), "degraded");
    assert_eq!(word(&[problem(HealthCode::DiskError), problem(HealthCode::ChunkMissing)]), "critical");
    let alone = no_quorum(3);
    assert_eq!((alone.code, alone.severity), (HealthCode::MasterNoQuorum, Severity::Critical));
    assert!(alone.cause.contains("2 of 3 masters"), "{}", alone.cause);
    assert!(no_quorum(0).cause.contains("no cluster yet"));
}
