//! What a master costs: a million inodes, and the far ends of sparse files.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests may panic, and say what they measured")]

use mooseng_core::{
    attr::{FileKind, SetAttr},
    context::CallContext,
    ids::*,
    limits::{BATCH_MAX, CHUNK_BYTES, FILE_BYTES_MAX},
    meta::*,
    name::Name,
    net::{PeerIdentity, Role},
    seam::Disk,
    wire,
};
use mooseng_host::{MemDisk, OsDisk, host_seams};
use mooseng_meta::{
    raft::{LogOptions, Member, RaftTimings},
    server::{CACHE_BYTES, Master, MasterOptions},
    service::ServiceTimings,
};
use mooseng_net::memory::MemoryNetwork;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Resident bytes of this process, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

async fn start(disk: Arc<dyn Disk>) -> Master {
    let cluster: ClusterId = "00000000-0000-7000-8000-000000000009".parse().unwrap();
    let me = PeerIdentity {
        cluster,
        role: Role::Master,
        node: 1,
        name: "m".into(),
        cert_hash: Default::default(),
    };
    let member = Member { id: MasterId(1), raft_addr: "m/raft".into(), client_addr: "m".into() };
    let options = MasterOptions {
        id: member.id,
        cluster,
        listen: member.client_addr.clone(),
        raft_listen: member.raft_addr.clone(),
        members: vec![member],
        disk,
        transport: MemoryNetwork::new().transport(me),
        seams: host_seams(),
        raft_timings: RaftTimings::default(),
        log: LogOptions::default(),
        timings: ServiceTimings { session_lifetime: Duration::from_secs(3600), ..ServiceTimings::default() },
        class: StorageClass { copies: 1 },
        cache_bytes: CACHE_BYTES,
        reserve: 0,
        authority: None,
    };
    let master = Master::start(options).await.unwrap();
    let leads = async {
        while !master.status().leading {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), leads).await.expect("it leads");
    master
}

async fn session(service: &dyn MetadataService) -> SessionStamp {
    let open = OpenSession { client: "c".into(), host: "h".into(), version: "v".into() };
    service.open_session(&CallContext::default(), open).await.unwrap().stamp
}

fn cx(session: SessionStamp, seq: u64) -> CallContext {
    let slot = Some(SlotStamp { slot: SlotId(0), seq: SlotSeq(seq) });
    CallContext { session: Some(session), slot, ..CallContext::default() }
}

/// One directory of files, each batch.
fn batch(parent: InodeId, n: u64) -> Batch {
    let file = |i: u64| {
        let name = Name::new(format!("a-file-of-a-usual-name-{n}-{i}")).unwrap();
        MetaRequest::from(MkNod { parent, name, mode: 0o644, kind: FileKind::File, rdev: 0, id: None })
    };
    Batch { after: None, ops: (0..BATCH_MAX as u64).map(|i| wire::encode(&file(i))).collect() }
}

/// How many inodes: `MOOSENG_INODES=1000000 cargo test -p mooseng-meta --test memory -- --nocapture`
/// takes minutes and is the number of the promise.
fn inodes_wanted() -> u64 {
    std::env::var("MOOSENG_INODES").map_or(30_000, |n| n.parse().expect("MOOSENG_INODES is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_to_a_million_inodes_fit_into_300_megabytes() {
    let dir = std::env::temp_dir().join(format!("mooseng-memory-{}", std::process::id()));
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::open(&dir).unwrap());
    let master = start(disk.clone()).await;
    let service = master.service();
    let s = session(&*service).await;
    let begin = Instant::now();
    let mut seq = 0;
    for n in 0..inodes_wanted() / BATCH_MAX as u64 + 1 {
        let (parent, name) = (InodeId::ROOT, Name::new(format!("d{n}")).unwrap());
        let dir = service.mk_dir_as(s, &mut seq, parent, name).await;
        seq += 1;
        service.batch(&cx(s, seq), batch(dir, n)).await.unwrap();
    }
    let (took, full) = (begin.elapsed(), resident());
    let inodes = service.stat_fs(&cx(s, 0), StatFs {}).await.unwrap().inodes;
    assert!(inodes > inodes_wanted());
    drop(service);
    master.stop().await;
    let begin = Instant::now();
    let master = start(disk).await;
    let restarted = begin.elapsed();
    let again = resident();
    println!(
        "{inodes} inodes in {took:?}, then {full:?} bytes resident; restarted in {restarted:?}, {again:?}"
    );
    let Some(full) = full else {
        println!("skipped: the system does not tell what is resident");
        return;
    };
    assert!(full < 300 << 20, "{full} bytes");
    assert!(restarted < Duration::from_secs(10));
    master.stop().await;
    std::fs::remove_dir_all(dir).unwrap();
}

trait Make {
    async fn mk_dir_as(&self, s: SessionStamp, seq: &mut u64, parent: InodeId, name: Name) -> InodeId;
}

impl Make for Arc<dyn MetadataService> {
    async fn mk_dir_as(&self, s: SessionStamp, seq: &mut u64, parent: InodeId, name: Name) -> InodeId {
        *seq += 1;
        self.mkdir(&cx(s, *seq), MkDir { parent, name, mode: 0o755, id: None }).await.unwrap().inode
    }
}

/// MooseFS's master once made a dense table of 23 GB of one sparse write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_far_end_of_a_file_costs_as_little_as_its_beginning() {
    let master = start(Arc::new(MemDisk::new("m"))).await;
    let service = master.service();
    let s = session(&*service).await;
    let disks = vec![DiskReport {
        disk: DiskId(1),
        path: "d".into(),
        total_bytes: 1 << 40,
        free_bytes: 1 << 40,
        chunks: 0,
        errors: 0,
        error: None,
        drains: false,
    }];
    let (server, incarnation) = (ServerId(1), Incarnation(1));
    let r = Register { server, incarnation, addr: "cs".into(), disks, version: "v".into() };
    service.register(&CallContext::default(), r).await.unwrap();
    let name = Name::new("f").unwrap();
    let op = MkNod { parent: InodeId::ROOT, name, mode: 0o644, kind: FileKind::File, rdev: 0, id: None };
    let inode = service.mknod(&cx(s, 1), op).await.unwrap().inode;
    let Some(before) = resident() else {
        println!("skipped: the system does not tell what is resident");
        return;
    };
    let mut seq = 1;
    let mut size = async |n: u64| {
        seq += 1;
        let set = SetAttr { size: Some(n), ..SetAttr::default() };
        service.set_attrs(&cx(s, seq), SetAttrs { inode, set }).await.unwrap()
    };
    assert_eq!(size(FILE_BYTES_MAX).await.size, FILE_BYTES_MAX);
    let from = ChunkIndex((1 << 60) / CHUNK_BYTES);
    let op = Allocate { inode, truncates: TruncateCounter(0), from, count: 1 };
    let layout = service.allocate(&cx(s, 1000), op).await.unwrap();
    assert_eq!(layout.chunks.len(), 1);
    let whole = GetLayout { inode, from: ChunkIndex(0), count: 64 };
    assert!(service.get_layout(&cx(s, 0), whole).await.unwrap().chunks.is_empty());
    let grown = resident().unwrap().saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes more are resident");
    master.stop().await;
}
