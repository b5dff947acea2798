//! A leader that is cut off from the other masters, but not from anybody else.

use crate::world::*;
use mooseng_core::{
    attr::{Access, Timestamp},
    error::MetaError,
    ids::*,
    meta::*,
    net::Role,
    rpc::RemoteMeta,
};
use mooseng_host::MemDisk;
use mooseng_meta::{
    raft::{LogOptions, Member, RaftTimings},
    server::{Master, MasterOptions},
};
use mooseng_net::memory::{Event, Fate, Faults, MemoryNetwork};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};

/// Between this master and the other masters nothing passes.
#[derive(Debug, Default)]
struct Cut(Mutex<Option<String>>);

impl Faults for Cut {
    fn fate(&self, from: &str, to: &str, _: Event) -> Fate {
        let of = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
        let (from, to) = (of(from), of(to));
        let masters = from.starts_with("master") && to.starts_with("master") && from != to;
        match &*self.0.lock() {
            Some(cut) if masters && (from == *cut || to == *cut) => Fate::Drop,
            _ => Fate::Deliver(Duration::from_millis(1)),
        }
    }
}

fn member(id: u64) -> Member {
    Member { id: MasterId(id), raft_addr: format!("master-{id}/raft"), client_addr: format!("master-{id}") }
}

async fn trio(net: &MemoryNetwork) -> Vec<Master> {
    let mut masters = Vec::new();
    for id in 1..=3 {
        let m = member(id);
        let options = MasterOptions {
            id: m.id,
            cluster: cluster(),
            listen: m.client_addr,
            raft_listen: m.raft_addr,
            members: (1..=3).map(member).collect(),
            disk: Arc::new(MemDisk::new(&format!("m{id}"))),
            transport: net.transport(identity(Role::Master, id)),
            seams: mooseng_host::sim_seams(id),
            raft_timings: RaftTimings::default(),
            log: LogOptions::default(),
            timings: quick(),
            class: StorageClass { copies: 1 },
            cache_bytes: 4 << 20,
            reserve: 0,
            authority: None,
        };
        masters.push(Master::start(options).await.unwrap());
    }
    masters
}

/// Raft's own memory of a leader outlives the quorum: masters tell by whom they heard.
#[tokio::test(start_paused = true)]
async fn a_master_without_a_quorum_says_so_whether_it_leads_or_follows() {
    let cut = Arc::new(Cut::default());
    let net = MemoryNetwork::with_faults(cut.clone());
    let mut masters = trio(&net).await;
    let leading = async || masters.iter().position(|m| m.status().leading);
    let leader = until_some("one leads", leading).await;
    until("all know it", async || masters.iter().all(|m| m.status().ready())).await;
    let view = async |id: u64| {
        let client = net.transport(identity(Role::Client, 1));
        let meta = RemoteMeta::new(client.connect(&format!("master-{id}")).await.unwrap());
        meta.get_master(&cx(), GetMaster {}).await.unwrap()
    };
    let (old, follower) = (leader as u64 + 1, (leader as u64 + 1) % 3 + 1);
    for id in [old, follower] {
        let told = view(id).await;
        assert_eq!((told.id, told.leader, told.voters), (MasterId(id), Some(MasterId(old)), 3));
    }
    // One goes, and nothing changes; then the leader is cut off from the last, which so is alone as well.
    let gone = (1..=3).find(|id| ![old, follower].contains(id)).unwrap();
    masters.remove(gone as usize - 1).stop().await;
    tokio::time::sleep(RaftTimings::default().election_max * 10).await;
    assert_eq!(view(follower).await.leader, Some(MasterId(old)));
    *cut.0.lock() = Some(format!("master-{old}"));
    let begin = tokio::time::Instant::now();
    until("both know no leader", async || {
        masters.iter().all(|m| !m.status().ready() && !m.status().leading && !m.status().raft.led)
    })
    .await;
    assert!(begin.elapsed() < RaftTimings::default().election_max * 6, "{:?}", begin.elapsed());
    for id in [old, follower] {
        assert_eq!(view(id).await.leader, None, "master {id}");
    }
    *cut.0.lock() = None;
    until("one leads again", async || masters.iter().all(|m| m.status().ready())).await;
    for m in masters {
        m.stop().await;
    }
}

/// Rights come with what the log or a quorum has confirmed: a repeat's, too, whose answer was saved.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_signs_nothing_for_a_repeat() {
    let cut = Arc::new(Cut::default());
    let net = MemoryNetwork::with_faults(cut.clone());
    let masters = trio(&net).await;
    let leading = async || masters.iter().position(|m| m.status().leading);
    let old = until_some("one leads", leading).await;
    let addr = format!("master-{}", old + 1);
    let meta = RemoteMeta::new(net.transport(identity(Role::Client, 1)).connect(&addr).await.unwrap());
    let open = OpenSession { client: "c".into(), host: "h".into(), version: "v".into() };
    let s = meta.open_session(&cx(), open).await.unwrap().stamp;
    let server = net.transport(identity(Role::Chunkserver, 1));
    let of_server = RemoteMeta::new(server.connect(&addr).await.unwrap());
    let r = Register {
        server: ServerId(1),
        incarnation: Incarnation(1),
        addr: "cs-1".into(),
        disks: vec![disk(1)],
        version: "t".into(),
    };
    of_server.register(&cx(), r).await.unwrap();
    let slot = |n| {
        let mut cx = under(s);
        cx.slot = Some(SlotStamp { slot: SlotId(0), seq: SlotSeq(n) });
        cx
    };
    let open = Access::READ.and(Access::WRITE);
    let (parent, name) = (InodeId::ROOT, name("f"));
    let create = Create { parent, name, mode: 0o644, exclusive: true, open, truncate: false, id: None };
    let inode = meta.create(&slot(1), create).await.unwrap().attr.inode;
    let op = Allocate { inode, truncates: TruncateCounter(0), from: ChunkIndex(0), count: 1 };
    let first = meta.allocate(&slot(2), op.clone()).await.unwrap();
    let again = meta.allocate(&slot(2), op.clone()).await.unwrap();
    assert!(first.chunks == again.chunks && again.capability.is_some(), "a repeat is answered");
    *cut.0.lock() = Some(addr);
    // It does not know yet that it is cut off.
    meta.keep_alive(&under(s), KeepAlive {}).await.unwrap();
    let refused = meta.allocate(&slot(2), op).await;
    assert!(refused.is_err(), "{refused:?}");
    for m in masters {
        m.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_answers_nobody_as_a_leader() {
    let cut = Arc::new(Cut::default());
    let net = MemoryNetwork::with_faults(cut.clone());
    let masters = trio(&net).await;
    let leading = async |but: Option<usize>| {
        let mut all = masters.iter().enumerate();
        all.find(|(i, m)| Some(*i) != but && m.status().leading).map(|(i, _)| i)
    };
    let old = until_some("one leads", async || leading(None).await).await;
    let client = net.transport(identity(Role::Client, 1));
    let old_addr = format!("master-{}", old + 1);
    let meta = RemoteMeta::new(client.connect(&old_addr).await.unwrap());
    let server = net.transport(identity(Role::Chunkserver, 1));
    let of_server = RemoteMeta::new(server.connect(&old_addr).await.unwrap());
    let open = OpenSession { client: "c".into(), host: "h".into(), version: "v".into() };
    let s = meta.open_session(&cx(), open).await.unwrap().stamp;
    let r = Register {
        server: ServerId(1),
        incarnation: Incarnation(1),
        addr: "cs-1".into(),
        disks: vec![],
        version: "t".into(),
    };
    of_server.register(&cx(), r).await.unwrap();
    let beat = || Heartbeat {
        server: ServerId(1),
        incarnation: Incarnation(1),
        clock: Timestamp::default(),
        disks: vec![],
        damaged: vec![],
        broken: vec![],
    };
    // Nobody asks anything for long: it stays sure as long as the others answer it.
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        meta.keep_alive(&under(s), KeepAlive {}).await.unwrap();
        of_server.heartbeat(&cx(), beat()).await.unwrap();
    }
    *cut.0.lock() = Some(old_addr.clone());
    let begin = tokio::time::Instant::now();
    until("the old leader does not keep the session alive", async || {
        matches!(meta.keep_alive(&under(s), KeepAlive {}).await, Err(MetaError::NotLeader { .. }))
    })
    .await;
    assert!(begin.elapsed() < 2 * RaftTimings::default().election_max, "{:?}", begin.elapsed());
    let refused = of_server.heartbeat(&cx(), beat()).await;
    assert!(matches!(refused, Err(MetaError::NotLeader { .. })), "{refused:?}");
    let new = until_some("another leads", async || leading(Some(old)).await).await;
    let meta = RemoteMeta::new(client.connect(&format!("master-{}", new + 1)).await.unwrap());
    meta.keep_alive(&under(s), KeepAlive {}).await.unwrap();
    *cut.0.lock() = None;
    until("the old one follows", async || !masters[old].status().leading).await;
    for m in masters {
        m.stop().await;
    }
}
