//! The log on a disk whose power fails at any change: nothing that was acknowledged is lost,
//! nothing else is invented, and what is cut is remembered.

use super::disk::CrashDisk;
use crate::raft::log::{DurableLog, LogOptions, OpenError};
use crate::raft::segment::{Kind, LogPos, Record, TornTail};
use crate::raft::writer::segment_file;
use bytes::Bytes;
use mooseng_core::seam::{Disk, Rng};
use mooseng_host::{SeededRng, sim_seams};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

const OPTIONS: LogOptions = LogOptions { segment_bytes: 1024, cache_bytes: 200 };

async fn open(disk: &CrashDisk) -> Result<DurableLog, OpenError> {
    let lanes = sim_seams(9).lanes;
    let (write, read) = (lanes.lane("w"), lanes.lane("r"));
    DurableLog::open(Arc::new(disk.clone()), write, read, OPTIONS, |v| u64::from(v[0])).await
}

fn record(term: u64, index: u64, data: String) -> Record {
    Record { kind: Kind::Command, pos: LogPos { term, index }, data: data.into() }
}

async fn all(log: &DurableLog) -> BTreeMap<u64, (u64, Bytes)> {
    let entries = log.read(0..u64::MAX, usize::MAX).await.unwrap();
    entries.into_iter().map(|e| (e.pos.index, (e.pos.term, e.data))).collect()
}

/// What the log may hold: what is acknowledged, and what was asked for.
#[derive(Default)]
struct Model {
    acknowledged: BTreeMap<u64, (u64, Bytes)>,
    asked: BTreeMap<u64, (u64, Bytes)>,
    vote: Option<u8>,
    vote_asked: Option<u8>,
    purged: Option<u64>,
}

/// Random appends, truncations, purges and votes until the power fails or `steps` are done.
async fn work(log: &DurableLog, rng: &SeededRng, model: &Arc<Mutex<Model>>, steps: u64) -> bool {
    let before = log.last().map_or(0, |p| p.term);
    for step in 0..steps {
        let term = before + 1 + step / 10;
        let next = log.last().map_or(0, |p| p.index + 1);
        // As under Raft, no entry comes before the first vote.
        let choice = if step == 0 { 2 } else { rng.next_u64() % 10 };
        let outcome = match choice {
            0 if next > 1 => {
                let from = next - 1 - rng.next_u64() % 2;
                let from = from.max(model.lock().purged.map_or(0, |p| p + 1));
                {
                    let mut m = model.lock();
                    m.acknowledged.split_off(&from);
                }
                let outcome = DurableLog::wait(|done| log.truncate_from(from, done)).await;
                if outcome.is_ok() {
                    model.lock().asked.split_off(&from);
                }
                outcome
            }
            1 if next > 3 && log.term_at(next - 3).is_some() => {
                let index = next - 3;
                let term = log.term_at(index).unwrap();
                {
                    let mut m = model.lock();
                    m.acknowledged = m.acknowledged.split_off(&(index + 1));
                    m.purged = m.purged.max(Some(index));
                }
                DurableLog::wait(|done| log.purge(LogPos { term, index }, done)).await
            }
            2 => {
                let vote = term as u8;
                model.lock().vote_asked = Some(vote);
                let outcome =
                    DurableLog::wait(|done| log.save_vote(Bytes::copy_from_slice(&[vote]), done)).await;
                if outcome.is_ok() {
                    model.lock().vote = Some(vote);
                }
                outcome
            }
            _ => {
                // Several appends share batches: only the last is waited for.
                let mut wait = None;
                for i in 0..1 + rng.next_u64() % 3 {
                    let r = record(
                        term,
                        next + i,
                        format!("{step} {i} {}", "x".repeat(rng.next_u64() as usize % 90)),
                    );
                    model.lock().asked.insert(next + i, (term, r.data.clone()));
                    let (tx, rx) = futures::channel::oneshot::channel();
                    let model = Arc::clone(model);
                    log.append(
                        vec![r.clone()],
                        Box::new(move |outcome| {
                            if outcome.is_ok() {
                                model.lock().acknowledged.insert(r.pos.index, (r.pos.term, r.data.clone()));
                            }
                            let _ = tx.send(outcome);
                        }),
                    );
                    wait = Some(rx);
                }
                wait.unwrap().await.unwrap()
            }
        };
        if outcome.is_err() {
            return false;
        }
    }
    true
}

fn check(found: &BTreeMap<u64, (u64, Bytes)>, log: &DurableLog, model: &Model, at: &str) {
    for (index, entry) in &model.acknowledged {
        assert_eq!(found.get(index), Some(entry), "{at}: entry {index} was acknowledged");
    }
    let mut expected = found.keys().next().copied();
    for (index, entry) in found {
        assert_eq!(Some(*index), expected, "{at}: no hole");
        expected = Some(index + 1);
        let asked = model.asked.get(index);
        assert!(asked == Some(entry) || asked.is_none(), "{at}: entry {index} was never asked for");
    }
    let vote = log.vote().map(|v| v[0]);
    assert!(vote == model.vote || vote == model.vote_asked, "{at}: vote {vote:?}");
}

#[tokio::test(start_paused = true)]
async fn crashes_at_every_change_lose_nothing_acknowledged() {
    let mut cuts = 0;
    for fuse in 0..120 {
        for seed in 0..4 {
            let rng = SeededRng::new(fuse * 1000 + seed);
            let mut disk = CrashDisk::default();
            let model = Arc::new(Mutex::new(Model::default()));
            disk.fail_after(fuse);
            for round in 0..4 {
                let at = format!("fuse {fuse} seed {seed} round {round}");
                match open(&disk).await {
                    Ok(log) => {
                        let found = all(&log).await;
                        check(&found, &log, &model.lock(), &at);
                        {
                            let mut m = model.lock();
                            m.acknowledged = found.clone();
                            m.asked = found;
                            m.vote = log.vote().map(|v| v[0]);
                            m.vote_asked = m.vote;
                        }
                        cuts += u32::from(log.torn().is_some());
                        if round == 3 {
                            break;
                        }
                        work(&log, &rng, &model, 40).await;
                        disk.kill();
                    }
                    Err(OpenError::Io(_)) if disk.is_dead() => {}
                    Err(e) => panic!("{at}: {e}"),
                }
                disk = disk.after_crash(&rng);
                disk.fail_after(rng.next_u64() % 100);
            }
        }
    }
    assert!(cuts > 20, "torn tails were among them: {cuts}");
}

#[tokio::test(start_paused = true)]
async fn a_torn_tail_is_remembered_until_it_is_healed() {
    let disk = CrashDisk::default();
    let log = open(&disk).await.unwrap();
    DurableLog::wait(|done| log.save_vote(Bytes::from_static(&[7]), done)).await.unwrap();
    for index in 0..3 {
        DurableLog::wait(|done| log.append(vec![record(7, index, "data".into())], done)).await.unwrap();
    }
    drop(log);
    let name = segment_file(1);
    let last = disk.bytes(&name).iter().rposition(|b| *b != 0).unwrap();
    disk.flip(&name, last * 8);
    for _ in 0..3 {
        let log = open(&disk).await.unwrap();
        assert_eq!(log.last().unwrap().index, 1);
        assert_eq!(log.torn().unwrap().term, 7);
    }
    let log = open(&disk).await.unwrap();
    DurableLog::wait(|done| log.append(vec![record(8, 2, "from a later leader".into())], done))
        .await
        .unwrap();
    let torn = log.torn().unwrap();
    assert!(torn.healed_by(log.last().unwrap()));
    // What was found meanwhile is not healed with it.
    DurableLog::wait(|done| log.heal(TornTail::UNPROVEN, done)).await.unwrap();
    assert_eq!(log.torn(), Some(torn));
    DurableLog::wait(|done| log.heal(torn, done)).await.unwrap();
    assert_eq!(all(&log).await.len(), 3, "that is no entry, and takes the place of none");
    drop(log);
    assert_eq!(open(&disk).await.unwrap().torn(), None);
}

#[tokio::test(start_paused = true)]
async fn damage_refuses_to_start_and_a_lost_vote_too() {
    let disk = CrashDisk::default();
    let log = open(&disk).await.unwrap();
    DurableLog::wait(|done| log.save_vote(Bytes::from_static(&[1]), done)).await.unwrap();
    for index in 0..3 {
        DurableLog::wait(|done| log.append(vec![record(1, index, "data".into())], done)).await.unwrap();
    }
    drop(log);
    let name = segment_file(1);
    let damaged = disk.after_crash(&SeededRng::new(1));
    damaged.flip(&name, (128 + 20) * 8);
    let before = damaged.bytes(&name);
    let error = open(&damaged).await.unwrap_err();
    assert!(matches!(error, OpenError::Damage(_)), "{error}");
    assert_eq!(damaged.bytes(&name), before, "nothing was changed");
    let voteless = disk.after_crash(&SeededRng::new(1));
    voteless.remove("raft/vote").unwrap();
    assert!(matches!(open(&voteless).await.unwrap_err(), OpenError::VoteLost));
}

#[tokio::test(start_paused = true)]
async fn old_entries_come_from_disk_and_a_damaged_one_is_not_served() {
    let disk = CrashDisk::default();
    let log = open(&disk).await.unwrap();
    let records: Vec<_> = (0..50).map(|i| record(1, i, format!("entry number {i}"))).collect();
    DurableLog::wait(|done| log.append(records, done)).await.unwrap();
    let found = all(&log).await;
    assert_eq!(found.len(), 50);
    assert_eq!(found[&3].1, Bytes::from("entry number 3"));
    let some = log.read(10..50, 100).await.unwrap();
    assert!(!some.is_empty() && some.len() < 10 && some[0].pos.index == 10);
    disk.flip(&segment_file(1), (128 + 60) * 8);
    assert!(log.read(0..1, 100).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn purged_segments_are_removed() {
    let disk = CrashDisk::default();
    let log = open(&disk).await.unwrap();
    for index in 0..100 {
        DurableLog::wait(|done| log.append(vec![record(1, index, "x".repeat(60))], done)).await.unwrap();
    }
    DurableLog::wait(|done| log.save_vote(Bytes::from_static(&[1]), done)).await.unwrap();
    let before = disk.list("raft/log").unwrap().len();
    DurableLog::wait(|done| log.purge(LogPos { term: 1, index: 97 }, done)).await.unwrap();
    let after = disk.list("raft/log").unwrap().len();
    assert!(before > 5 && after <= 2, "{before} segments, then {after}");
    drop(log);
    let log = open(&disk).await.unwrap();
    assert_eq!(log.purged(), Some(LogPos { term: 1, index: 97 }));
    assert_eq!(all(&log).await.keys().copied().collect::<Vec<_>>(), vec![98, 99]);
}

#[tokio::test(start_paused = true)]
async fn waiting_writers_share_a_sync() {
    let disk = CrashDisk::default();
    let log = open(&disk).await.unwrap();
    DurableLog::wait(|done| log.append(vec![record(1, 0, "first".into())], done)).await.unwrap();
    // A batch is one write and one sync: 64 entries of writers who wait together need few changes.
    disk.fail_after(10);
    let waits = (1..=8).map(|i| {
        let log = log.clone();
        async move { DurableLog::wait(|done| log.append(vec![record(1, i, String::new())], done)).await }
    });
    for outcome in futures::future::join_all(waits).await {
        outcome.unwrap();
    }
}
