//! Masters whose whole directory was restored from an older copy, consistent in itself.

use super::cluster::{Cluster, eventually};
use crate::raft::message::{LAST, VOTE, decode, encode};
use crate::raft::segment::LogPos;
use crate::raft::starts::Seen;
use crate::raft::types::{Types, Vote, log_id};
use futures::FutureExt as _;
use mooseng_core::context::CallContext;
use mooseng_core::net::Message;
use openraft::raft::{VoteRequest, VoteResponse};
use std::time::Duration;

/// Three masters that all have `a`: the leader first.
async fn three(seed: u64) -> (Cluster, [u64; 3]) {
    let c = Cluster::of(seed, 3).await;
    c.set("a", "1").await;
    c.converged().await;
    let leader = c.leader().await;
    let mut all = [1, 2, 3];
    all.sort_by_key(|id| *id != leader);
    (c, all)
}

/// Restarts a master and waits until all others know of it.
async fn restart(c: &mut Cluster, id: u64) {
    let before = c.net.calls(LAST);
    c.start(id).await.unwrap();
    let others = c.running().count() as u64 - 1;
    eventually("the start to be told", async || (c.net.calls(LAST) >= before + others).then_some(())).await;
    c.converged().await;
}

/// Asks master `of` for its vote, as candidate `by` with a log that is longer than any.
async fn vote(c: &Cluster, of: u64, by: u64, term: u64) -> bool {
    let line = c.net.endpoint(by).connect(&format!("raft-{of}")).await.unwrap();
    let long = log_id(LogPos { term: term - 1, index: 1_000_000 });
    let request = VoteRequest::<Types>::new(Vote::new(term, by), Some(long));
    let head = encode(&(Seen::default(), request)).unwrap();
    let cx = CallContext::internal(Duration::from_secs(5));
    let reply = line.call(&cx, VOTE, Message::of_head(head)).await.unwrap();
    decode::<(Seen, VoteResponse<Types>)>(&reply.head).unwrap().1.vote_granted
}

/// Nobody leads while the leader of before is away, everything is there when it is back, and the
/// restored one counts again then.
async fn nothing_is_lost(c: &mut Cluster, leader: u64, restored: u64, seed: u64) {
    tokio::time::sleep(Duration::from_secs(20)).await;
    let leads = c.running().find(|(_, n)| n.leadership().borrow().is_me).map(|(id, _)| id);
    assert_eq!(leads, None, "seed {seed}: nobody can lead without the one that has it");
    assert!(c.node(restored).status().torn, "seed {seed}");
    c.start(leader).await.unwrap();
    c.leader().await;
    c.converged().await;
    assert_eq!(c.masters[&restored].machine.get("b").as_deref(), Some("2"), "seed {seed}");
    eventually("it has made up for its loss", async || (!c.node(restored).status().torn).then_some(())).await;
    c.crash(c.leader().await).await;
    c.set("c", "3").await;
    c.crash(restored).await;
    c.start(restored).await.unwrap();
    c.set("d", "4").await;
    assert!(!c.node(restored).status().torn, "seed {seed}: it is like any other");
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_voter_elects_nobody_who_may_lack_what_it_had() {
    for seed in 0..10 {
        let (mut c, [leader, stale, restored]) = three(800 + seed).await;
        c.crash(restored).await;
        let copy = c.copy_of(restored);
        restart(&mut c, restored).await;
        c.net.isolate(stale, 1..=3);
        c.set("b", "2").await;
        c.crash(leader).await;
        c.crash(restored).await;
        c.restore(restored, copy);
        // A start that nobody hears of does not hide it.
        for _ in 0..seed % 3 {
            c.start(restored).await.unwrap();
            c.crash(restored).await;
        }
        c.net.mend();
        c.start(restored).await.unwrap();
        // One that starts after it asks it first, and does not forget for that what it knew.
        if seed % 2 == 0 {
            c.crash(stale).await;
            c.start(stale).await.unwrap();
        }
        nothing_is_lost(&mut c, leader, restored, seed).await;
    }
}

/// No start tells of a copy that was made since the last one; the leader knows what it had.
#[tokio::test(start_paused = true)]
async fn a_voter_restored_from_a_copy_of_the_same_start_is_known_by_what_it_acknowledged() {
    for seed in 0..10 {
        let (mut c, [leader, stale, restored]) = three(820 + seed).await;
        let copy = c.copy_of(restored);
        c.net.isolate(stale, 1..=3);
        c.set("b", "2").await;
        c.crash(restored).await;
        c.restore(restored, copy);
        c.start(restored).await.unwrap();
        eventually("the leader to tell", async || c.node(restored).status().torn.then_some(())).await;
        c.crash(leader).await;
        c.net.mend();
        nothing_is_lost(&mut c, leader, restored, seed).await;
    }
}

/// The same of a leader, which acknowledges nothing to anybody: what it said was committed, it had.
#[tokio::test(start_paused = true)]
async fn a_leader_restored_from_a_copy_of_the_same_start_is_known_by_what_it_committed() {
    for seed in 0..10 {
        let (mut c, [leader, ..]) = three(830 + seed).await;
        let copy = c.copy_of(leader);
        c.set("b", "2").await;
        c.converged().await;
        c.crash(leader).await;
        c.restore(leader, copy);
        c.start(leader).await.unwrap();
        eventually("the others to tell", async || c.node(leader).status().torn.then_some(())).await;
        c.converged().await;
        assert_eq!(c.masters[&leader].machine.get("b").as_deref(), Some("2"), "seed {seed}");
        eventually("it has made up for its loss", async || (!c.node(leader).status().torn).then_some(()))
            .await;
        c.stop().await;
    }
}

/// The others alone made what it said was committed; it lost nothing that anybody counted on.
#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_before_its_own_disk_has_what_is_committed_is_no_restored_one() {
    for seed in 0..10 {
        let (mut c, [leader, one, other]) = three(860 + seed).await;
        c.masters[&leader].lanes.hold();
        // Neither its log nor its state has what comes now.
        let before = c.copy_of(leader);
        let spread = eventually("the others to apply it", async || {
            let has = |id: &u64| c.masters[id].machine.get("b").as_deref() == Some("2");
            (has(&one) && has(&other)).then_some(())
        });
        let set = c.set("b", "2").then(|()| std::future::pending::<()>());
        tokio::select! {
            () = set => {}
            () = spread => {}
        }
        c.crash(leader).await;
        c.restore(leader, before);
        c.masters[&leader].lanes.go_on();
        c.crash(other).await;
        c.start(leader).await.unwrap();
        // The two are a quorum, and one of them has it.
        c.leader().await;
        c.converged().await;
        assert!(!c.node(leader).status().torn, "seed {seed}");
        assert_eq!(c.masters[&leader].machine.get("b").as_deref(), Some("2"), "seed {seed}");
        c.start(other).await.unwrap();
        c.converged().await;
        c.stop().await;
    }
}

/// That it was restored is not forgotten by another start.
#[tokio::test(start_paused = true)]
async fn a_restored_master_that_starts_again_knows_that_it_was() {
    let (mut c, [leader, stale, restored]) = three(840).await;
    c.crash(restored).await;
    let copy = c.copy_of(restored);
    restart(&mut c, restored).await;
    c.net.isolate(stale, 1..=3);
    c.set("b", "2").await;
    c.crash(leader).await;
    c.crash(restored).await;
    c.restore(restored, copy);
    c.net.mend();
    for _ in 0..3 {
        c.start(restored).await.unwrap();
        eventually("it to be told", async || c.node(restored).status().torn.then_some(())).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        c.crash(restored).await;
    }
    c.start(restored).await.unwrap();
    assert!(c.node(restored).status().torn, "before it has asked anybody");
    nothing_is_lost(&mut c, leader, restored, 840).await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_master_does_not_vote_twice_in_a_term() {
    let (mut c, [leader, witness, restored]) = three(841).await;
    c.crash(restored).await;
    let copy = c.copy_of(restored);
    restart(&mut c, restored).await;
    c.net.isolate(restored, 1..=3);
    // Until it does not hear the leader any more.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(vote(&c, restored, 8, 1000).await, "it has no reason not to");
    assert!(!vote(&c, restored, 9, 1000).await, "it has voted");
    c.crash(restored).await;
    c.crash(leader).await;
    c.restore(restored, copy);
    c.net.mend();
    c.start(restored).await.unwrap();
    assert!(!vote(&c, restored, 9, 1000).await, "its vote is not in its directory any more");
    assert!(c.node(restored).status().torn && !c.node(witness).status().torn);
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_master_that_was_only_restarted_votes_though_all_others_are_silent() {
    let mut c = Cluster::of(842, 3).await;
    c.set("a", "1").await;
    for id in 1..=3 {
        c.crash(id).await;
    }
    c.start(1).await.unwrap();
    let begin = tokio::time::Instant::now();
    assert!(vote(&c, 1, 8, 1000).await);
    assert!(begin.elapsed() < c.timings.election_min, "{:?}", begin.elapsed());
    c.start(2).await.unwrap();
    let begin = tokio::time::Instant::now();
    c.leader().await;
    assert!(begin.elapsed() < c.timings.election_max * 5, "{:?}", begin.elapsed());
    assert!(c.running().all(|(_, n)| !n.status().torn));
    c.start(3).await.unwrap();
    c.converged().await;
    c.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_master_that_lost_the_file_of_its_starts_is_like_one_that_was_restored() {
    let mut c = Cluster::of(843, 3).await;
    c.set("a", "1").await;
    c.converged().await;
    c.crash(1).await;
    mooseng_core::seam::Disk::remove(&c.masters[&1].disk, "raft/starts").unwrap();
    c.start(1).await.unwrap();
    assert!(c.node(1).status().torn);
    eventually("it has made up for its loss", async || (!c.node(1).status().torn).then_some(())).await;
    c.crash(1).await;
    c.start(1).await.unwrap();
    c.converged().await;
    assert!(!c.node(1).status().torn);
    c.stop().await;
}
