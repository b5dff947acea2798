//! Whole clusters of masters.

use super::cluster::{Cluster, eventually, member};
use super::machine::TestMachine;
use super::net::{TestNet, identity};
use crate::raft::message::{APPEND, VOTE};
use crate::raft::{COMMAND_BYTES_MAX, LogOptions, RaftFailure, RaftNode, RaftOptions, RaftTimings};
use bytes::Bytes;
use mooseng_core::context::CallContext;
use mooseng_core::error::{NetError, Outcome};
use mooseng_core::ids::MasterId;
use mooseng_core::net::{Message, Role};
use mooseng_core::seam::Rng;
use mooseng_host::{MemDisk, host_seams};
use std::{sync::Arc, time::Duration};

#[tokio::test(start_paused = true)]
async fn a_single_master_works_and_remembers() {
    let mut c = Cluster::of(1, 1).await;
    let reply = c.node(1).propose(Bytes::from_static(b"a=1")).await.unwrap();
    assert!(reply.is_empty());
    assert_eq!(c.node(1).propose(Bytes::from_static(b"a=2")).await.unwrap(), "1");
    c.node(1).bootstrap(&[member(1)]).await.unwrap();
    c.crash(1).await;
    c.start(1).await.unwrap();
    c.leader().await;
    assert_eq!(c.masters[&1].machine.get("a").unwrap(), "2");
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut c = Cluster::of(2, 3).await;
    let mut expected = Vec::new();
    for round in 0..6 {
        let leader = c.leader().await;
        for i in 0..20 {
            let (name, value) = (format!("r{round}-{i}"), format!("{round}"));
            c.set(&name, &value).await;
            expected.push((name, value));
        }
        c.crash(leader).await;
        let next = c.leader().await;
        assert_ne!(next, leader);
        c.set("after", &format!("{round}")).await;
        for (name, value) in &expected {
            assert_eq!(c.masters[&next].machine.get(name).as_ref(), Some(value), "{name}");
        }
        c.start(leader).await.unwrap();
        c.converged().await;
    }
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn power_failures_of_all_at_random_moments_lose_nothing_acknowledged() {
    for seed in 0..30 {
        let mut c = Cluster::empty(100 + seed);
        if seed % 2 == 1 {
            // Snapshots, purges and installs are under way all the time.
            let flush = Duration::from_millis(50);
            c.timings =
                RaftTimings { snapshot_entries: 20, kept_entries: 3, flush, ..RaftTimings::default() };
        }
        c.form(3).await;
        let mut acknowledged = Vec::new();
        for round in 0..4u64 {
            for id in 1..=3 {
                c.masters[&id].disk.fail_after(20 + c.rng.next_u64() % 150);
            }
            for i in 0..40 {
                let name = format!("{round}-{i}");
                let leader = c.running().find(|(_, n)| n.leadership().borrow().is_me).map(|(_, n)| n.clone());
                let Some(leader) = leader else { break };
                let wait = leader.propose(Bytes::from(format!("{name}=x")));
                match tokio::time::timeout(Duration::from_secs(2), wait).await {
                    Ok(Ok(_)) => acknowledged.push(name),
                    _ => break,
                }
            }
            for id in 1..=3 {
                c.crash(id).await;
            }
            for id in 1..=3 {
                c.start(id).await.unwrap();
            }
            let leader = c.leader().await;
            for name in &acknowledged {
                assert!(c.masters[&leader].machine.get(name).is_some(), "seed {seed} round {round}: {name}");
            }
            c.converged().await;
            assert!(c.running().all(|(_, n)| !n.status().torn), "seed {seed}: everybody has caught up");
        }
        assert!(acknowledged.len() > 10, "seed {seed}");
        c.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_partitioned_leader_acknowledges_nothing_and_follows_later() {
    let c = Cluster::of(3, 3).await;
    let old = c.leader().await;
    c.set("x", "before").await;
    c.net.isolate(old, 1..=3);
    let lonely = c.node(old).clone();
    let doomed = tokio::spawn(async move { lonely.propose(Bytes::from_static(b"x=doomed")).await });
    let new = c.leader_but(&[old]).await;
    let reply = c.node(new).propose(Bytes::from_static(b"x=after")).await.unwrap();
    assert_eq!(reply, "before");
    assert!(c.node(old).read_barrier().await.is_err(), "no quorum confirms a read");
    c.net.mend();
    let outcome = doomed.await.unwrap();
    assert!(
        outcome.is_err_and(|e| e.outcome() == Outcome::Unknown || matches!(e, RaftFailure::NotLeader { .. }))
    );
    c.converged().await;
    assert_eq!(c.masters[&old].machine.get("x").unwrap(), "after");
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_nobody_is_replaced_though_it_is_heard() {
    for seed in 0..20 {
        let c = Cluster::of(40 + seed, 3).await;
        let old = c.leader().await;
        c.set("x", "before").await;
        c.net.deafen(old, 1..=3);
        // What it took and does not hear of any more is no sign of life either.
        let deaf = c.node(old).clone();
        let late = tokio::spawn(async move { deaf.propose(Bytes::from_static(b"y=late")).await });
        let begin = tokio::time::Instant::now();
        let new = c.leader_but(&[old]).await;
        // The lease, an election after it with a second try, in virtual time.
        assert!(begin.elapsed() < c.timings.election_max * 5, "seed {seed}: {:?}", begin.elapsed());
        assert!(!c.node(old).leads_surely());
        assert_eq!(c.node(new).propose(Bytes::from_static(b"x=after")).await.unwrap(), "before");
        c.net.mend();
        // Its successor may have it, and commit it.
        let _ = late.await.unwrap();
        c.converged().await;
        c.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_silent_without_a_quorum_is_heard_again() {
    let mut c = Cluster::of(60, 3).await;
    let leader = c.leader().await;
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    for id in &others {
        c.crash(*id).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!c.node(leader).leads_surely());
    c.start(others[0]).await.unwrap();
    c.set("a", "1").await;
    c.converged().await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn disks_that_stand_still_are_no_reason_to_doubt_the_leader() {
    let c = Cluster::of(61, 3).await;
    let leader = c.leader().await;
    let term = c.node(leader).status().leadership.term;
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    for id in &others {
        c.masters[id].lanes.hold();
    }
    let node = c.node(leader).clone();
    let slow = tokio::spawn(async move { node.propose(Bytes::from_static(b"a=1")).await });
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(c.node(leader).leads_surely());
    }
    assert!(!slow.is_finished(), "what no quorum has is not acknowledged");
    for id in &others {
        c.masters[id].lanes.go_on();
    }
    slow.await.unwrap().unwrap();
    assert_eq!(c.node(leader).status().leadership.term, term);
    c.converged().await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_isolated_follower_does_not_raise_the_term() {
    let c = Cluster::of(4, 3).await;
    let leader = c.leader().await;
    let term = c.node(leader).status().leadership.term;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    c.net.isolate(follower, 1..=3);
    tokio::time::sleep(Duration::from_secs(20)).await;
    c.net.mend();
    c.set("a", "1").await;
    c.converged().await;
    assert_eq!(c.leader().await, leader);
    assert_eq!(c.node(leader).status().leadership.term, term, "pre-vote keeps the term");
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_lags_far_gets_a_snapshot() {
    let mut c = Cluster::empty(5);
    c.timings = RaftTimings { snapshot_entries: 50, kept_entries: 10, ..RaftTimings::default() };
    c.form(3).await;
    let leader = c.leader().await;
    let lagging = (1..=3).find(|id| *id != leader).unwrap();
    c.crash(lagging).await;
    for i in 0..300 {
        c.set(&format!("k{i}"), &"v".repeat(50)).await;
    }
    eventually("the log to be purged", async || {
        let purged = c.node(c.leader().await).status().purged;
        purged.is_some_and(|p| p.get() > 100).then_some(())
    })
    .await;
    c.start(lagging).await.unwrap();
    c.converged().await;
    assert!(c.node(lagging).status().snapshot.is_some());
    assert_eq!(c.masters[&lagging].machine.get("k7").unwrap().len(), 50);
    // It was applied from a snapshot, not entry by entry, and survives a crash at once.
    c.crash(lagging).await;
    c.start(lagging).await.unwrap();
    c.converged().await;
    let status = c.node(leader).status();
    assert!(status.purged <= status.snapshot, "purged is never past the newest snapshot");
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_master_that_cannot_store_a_snapshot_stops_and_says_so() {
    let mut c = Cluster::empty(5);
    c.timings = RaftTimings { snapshot_entries: 50, kept_entries: 10, ..RaftTimings::default() };
    c.form(3).await;
    let leader = c.leader().await;
    let lagging = (1..=3).find(|id| *id != leader).unwrap();
    c.crash(lagging).await;
    for i in 0..300 {
        c.set(&format!("k{i}"), "v").await;
    }
    eventually("the log to be purged", async || {
        let purged = c.node(c.leader().await).status().purged;
        purged.is_some_and(|p| p.get() > 100).then_some(())
    })
    .await;
    c.masters[&lagging].disk.fail_syncs_of("snapshot.");
    c.start(lagging).await.unwrap();
    eventually("the node to stop", async || c.node(lagging).status().failed).await;
    c.set("a", "1").await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn masters_come_and_go_online() {
    let mut c = Cluster::of(6, 3).await;
    for i in 0..50 {
        c.set(&format!("k{i}"), "v").await;
    }
    c.start_new(4).await;
    let leader = c.leader().await;
    c.node(leader).add_master(&member(4)).await.unwrap();
    c.node(leader).add_master(&member(4)).await.unwrap();
    assert_eq!(c.node(leader).status().voters.len(), 4);
    c.converged().await;
    assert_eq!(c.masters[&4].machine.get("k49").unwrap(), "v");
    // The leader itself goes.
    c.node(leader).remove_master(MasterId(leader)).await.unwrap();
    let next = c.leader_but(&[leader]).await;
    c.node(next).remove_master(MasterId(leader)).await.unwrap();
    assert_eq!(c.node(next).status().voters.len(), 3);
    c.crash(leader).await;
    c.set("after", "1").await;
    c.converged().await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_master_cannot_be_removed() {
    let c = Cluster::of(7, 1).await;
    let error = c.node(1).remove_master(MasterId(1)).await.unwrap_err();
    assert!(matches!(error, RaftFailure::Members(_)));
    c.set("a", "1").await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_without_an_election_timeout() {
    let c = Cluster::of(8, 3).await;
    let leader = c.leader().await;
    let to = (1..=3).find(|id| *id != leader).unwrap();
    let start = tokio::time::Instant::now();
    c.node(leader).transfer_leadership(MasterId(to)).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(c.leader().await, to);
    let error = c.node(leader).transfer_leadership(MasterId(leader)).await.unwrap_err();
    assert!(matches!(&error, RaftFailure::NotLeader { leader: Some((id, _)) } if id.get() == to), "{error}");
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_names_the_leader_and_its_client_address() {
    let c = Cluster::of(9, 3).await;
    let leader = c.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    c.set("a", "1").await;
    let error = c.node(follower).propose(Bytes::from_static(b"a=2")).await.unwrap_err();
    let hint = Some((MasterId(leader), format!("client-{leader}")));
    assert_eq!(error, RaftFailure::NotLeader { leader: hint });
    assert_eq!(error.outcome(), Outcome::NotApplied);
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn commands_are_bounded() {
    let c = Cluster::of(10, 1).await;
    let mut largest = b"a=".to_vec();
    largest.resize(COMMAND_BYTES_MAX, b'x');
    c.node(1).propose(Bytes::from(largest.clone())).await.unwrap();
    largest.push(b'x');
    let error = c.node(1).propose(Bytes::from(largest)).await.unwrap_err();
    assert!(matches!(error, RaftFailure::TooLarge { .. }));
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn concurrent_barriers_share_rounds_and_concurrent_commands_share_messages() {
    let c = Cluster::of(11, 3).await;
    let leader = c.node(c.leader().await).clone();
    let before = c.net.calls(APPEND);
    let barriers = (0..500).map(|_| leader.read_barrier());
    for outcome in futures::future::join_all(barriers).await {
        outcome.unwrap();
    }
    let rounds = c.net.calls(APPEND) - before;
    assert!(rounds < 20, "{rounds} messages for 500 barriers");
    let before = c.net.calls(APPEND);
    let commands = (0..500).map(|i| leader.propose(Bytes::from(format!("k{i}=1"))));
    for outcome in futures::future::join_all(commands).await {
        outcome.unwrap();
    }
    let messages = c.net.calls(APPEND) - before;
    assert!(messages < 60, "{messages} messages for 500 commands");
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_barrier_sees_what_was_committed_before_it() {
    let c = Cluster::of(12, 3).await;
    for i in 0..50 {
        c.set("n", &i.to_string()).await;
        let leader = c.leader().await;
        c.node(leader).read_barrier().await.unwrap();
        assert_eq!(c.masters[&leader].machine.get("n").unwrap(), i.to_string());
    }
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_masters_are_answered() {
    let c = Cluster::of(13, 1).await;
    assert_eq!(identity(Role::Client, 5).role, Role::Client);
    for role in [Role::Client, Role::Chunkserver, Role::Admin] {
        let line = c.net.endpoint_of(role, 1).connect("raft-1").await.unwrap();
        let cx = CallContext::internal(Duration::from_secs(1));
        let error = line.call(&cx, VOTE, Message::of_head(Bytes::new())).await.unwrap_err();
        assert!(matches!(error, NetError::Refused { .. }), "{role}: {error}");
    }
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_master_with_a_cut_log_does_not_vote_for_less_than_it_may_have_acknowledged() {
    let mut c = Cluster::of(14, 3).await;
    let leader = c.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (cut, behind) = (others[0], others[1]);
    // `behind` misses the command; leader and `cut` commit it; then `cut` loses its last batch.
    c.net.isolate(behind, 1..=3);
    c.set("precious", "1").await;
    c.crash(cut).await;
    c.crash(leader).await;
    let disk = &c.masters[&cut].disk;
    let name = mooseng_core::seam::Disk::list(disk, "raft/log").unwrap().into_iter().max().unwrap();
    let name = format!("raft/log/{name}");
    let last = disk.bytes(&name).iter().rposition(|b| *b != 0).unwrap();
    disk.flip(&name, last * 8);
    c.net.mend();
    c.start(cut).await.unwrap();
    assert!(c.node(cut).status().torn);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(c.running().all(|(_, n)| !n.leadership().borrow().is_me), "nobody may be elected by the cut one");
    c.start(leader).await.unwrap();
    let now = c.leader().await;
    assert_eq!(c.masters[&now].machine.get("precious").unwrap(), "1");
    c.set("more", "1").await;
    c.converged().await;
    assert!(!c.node(cut).status().torn, "it has caught up");
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    async fn run() -> (u64, u64, Duration) {
        let start = tokio::time::Instant::now();
        let mut c = Cluster::of(77, 3).await;
        let first = c.leader().await;
        c.crash(first).await;
        let second = c.leader().await;
        c.stop().await;
        (first, second, start.elapsed())
    }
    assert_eq!(run().await, run().await);
}

/// The log's callbacks come from its own thread here, as in production.
#[tokio::test]
async fn three_masters_on_real_threads_and_real_time() {
    let net = TestNet::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let options = RaftOptions {
            id: MasterId(id),
            raft_addr: member(id).raft_addr,
            members: (1..=3).map(member).collect(),
            timings: RaftTimings::default(),
            log: LogOptions::default(),
            disk: Arc::new(MemDisk::new(&format!("disk-{id}"))),
            machine: Arc::new(TestMachine::default()),
            transport: net.endpoint(id),
            seams: host_seams(),
        };
        nodes.push(RaftNode::start(options).await.unwrap());
    }
    let members: Vec<_> = (1..=3).map(member).collect();
    for node in &nodes {
        node.bootstrap(&members).await.unwrap();
    }
    let leader = eventually("a leader", async || nodes.iter().find(|n| n.leadership().borrow().is_me)).await;
    let commands = (0..2000).map(|i| leader.propose(Bytes::from(format!("k{i}=1"))));
    for outcome in futures::future::join_all(commands).await {
        outcome.unwrap();
    }
    leader.read_barrier().await.unwrap();
    leader.snapshot_now().await.unwrap();
    eventually("a snapshot", async || leader.status().snapshot).await;
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_disk_stops_its_master_and_the_others_go_on() {
    let mut c = Cluster::of(15, 3).await;
    let broken = c.leader().await;
    c.set("a", "1").await;
    c.masters[&broken].disk.fail_after(0);
    let error = c.node(broken).propose(Bytes::from_static(b"a=2")).await.unwrap_err();
    assert!(matches!(error, RaftFailure::Stopped(_)) && error.outcome() == Outcome::Unknown, "{error}");
    eventually("the node to say so", async || c.node(broken).status().failed).await;
    assert!(!c.node(broken).leadership().borrow().is_me);
    assert!(c.node(broken).read_barrier().await.is_err());
    c.crash(broken).await;
    c.set("a", "3").await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_master_that_cannot_be_reached_never_becomes_a_voter() {
    let mut c = Cluster::of(16, 1).await;
    let waiting = tokio::time::timeout(Duration::from_secs(20), c.node(1).add_master(&member(2))).await;
    assert!(waiting.is_err(), "it waits for the new one to catch up");
    let status = c.node(1).status();
    assert_eq!((status.voters.len(), status.learners.len()), (1, 1));
    c.set("a", "1").await;
    c.start_new(2).await;
    c.node(1).add_master(&member(2)).await.unwrap();
    assert_eq!(c.node(1).status().voters.len(), 2);
    c.converged().await;
    c.stop().await;
}

/// A follower that lost its disk has lost what it acknowledged: with a stale one it would elect a leader
/// without it.
#[tokio::test(start_paused = true)]
async fn a_wiped_voter_elects_nobody_who_may_lack_what_it_had() {
    for seed in 0..10 {
        let mut c = Cluster::of(700 + seed, 3).await;
        c.set("a", "1").await;
        c.converged().await;
        let leader = c.leader().await;
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        let (stale, wiped) = (others[0], others[1]);
        c.net.isolate(stale, 1..=3);
        c.set("b", "2").await;
        c.crash(leader).await;
        c.crash(wiped).await;
        c.start_new(wiped).await;
        let founders: Vec<_> = (1..=3).map(member).collect();
        let node = c.node(wiped).clone();
        let told = tokio::spawn(async move { node.bootstrap(&founders).await });
        c.net.mend();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let leads = |id: u64| c.node(id).leadership().borrow().is_me;
        assert!(!leads(stale) && !leads(wiped), "seed {seed}: nobody can lead without the one that has it");
        c.start(leader).await.unwrap();
        c.leader().await;
        c.converged().await;
        assert_eq!(c.masters[&wiped].machine.get("b").as_deref(), Some("2"), "seed {seed}");
        eventually("it has made up for its loss", async || (!c.node(wiped).status().torn).then_some(()))
            .await;
        told.await.unwrap().unwrap();
        // Now it counts again: with it, the stale one of before does without the leader.
        c.crash(c.leader().await).await;
        c.set("c", "3").await;
        c.stop().await;
    }
}
