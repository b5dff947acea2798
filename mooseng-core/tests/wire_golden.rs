//! Bytes on the wire of protocol version 1. A change here is a change of the protocol: add variants
//! at the end of enums, never alter a struct.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use bytes::Bytes;
use mooseng_core::{
    attr::*,
    chunk::*,
    context::{CallContext, Credentials},
    error::*,
    ids::*,
    join::*,
    meta::*,
    name::Name,
    net::Role,
    wire::{decode, encode},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, fmt::Write as _, time::Duration};

fn pin<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, golden: &str) {
    let bytes = encode(&value);
    let hex = bytes.iter().fold(String::new(), |mut s, b| {
        write!(s, "{b:02x}").unwrap();
        s
    });
    assert_eq!(hex, golden, "{value:?}");
    assert_eq!(decode::<T>(&bytes).unwrap(), value);
}

fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

#[test]
fn contexts() {
    let cx = CallContext {
        budget: Duration::from_millis(1500),
        fs: FsId(0),
        creds: Credentials { uid: 1000, gid: 100, groups: vec![4, 24] },
        session: Some(SessionStamp { id: SessionId(7), epoch: SessionEpoch(2) }),
        slot: Some(SlotStamp { slot: SlotId(3), seq: SlotSeq(300) }),
        trace: TraceId(9),
        span: SpanId(5),
        peer: None,
    };
    pin(cx, "0180cab5ee0100e807640204180107020103ac020905");
}

#[test]
fn requests() {
    pin(MetaRequest::from(Lookup { parent: InodeId::ROOT, name: name("a") }), "00010161");
    let create = Create {
        parent: InodeId(2),
        name: name("f"),
        mode: 0o644,
        exclusive: true,
        open: Access::READ.and(Access::WRITE),
        truncate: false,
        id: None,
    };
    pin(MetaRequest::from(create), "0c020166a40301060000");
    let commit = CommitWrite {
        inode: InodeId(5),
        truncates: TruncateCounter(1),
        size: 1 << 40,
        chunks: vec![(ChunkIndex(1), ChunkRef { id: ChunkId(8), version: ChunkVersion(2) })],
        drop_inline: true,
    };
    pin(MetaRequest::from(commit), "1705018080808080200101080201");
    let parts = vec![(Offset(0), Bytes::from_static(b"ab")), (Offset(300), Bytes::from_static(b"c"))];
    let inline = WriteInline { inode: InodeId(5), truncates: TruncateCounter(1), parts };
    pin(MetaRequest::from(inline), "1805010200026162ac020163");
    pin(MetaRequest::from(Truncate { inode: InodeId(5), size: 300 }), "2c05ac02");
    pin(
        MetaRequest::from(CreateToken {
            token: TokenId([1; 32]),
            invite: Invite { role: Role::Client, node: 0, name: "n".into() },
            lifetime_secs: 60,
            validity_secs: 300,
            replace: false,
        }),
        "2b01010101010101010101010101010101010101010101010101010101010101010200016e3cac0200",
    );
}

#[test]
fn replies_and_errors() {
    pin(Err::<MetaReply, _>(MetaError::Posix(Errno::ENOENT)), "010001");
    pin(
        Err::<MetaReply, _>(MetaError::NotLeader { leader: Some((MasterId(2), "m2:9421".into())) }),
        "01030102076d323a39343231",
    );
    pin(
        Ok::<_, MetaError>(MetaReply::KeepAlive(KeptAlive { term: Term(3), epoch: SessionEpoch(1) })),
        "001c0301",
    );
    pin(
        Err::<MetaReply, _>(MetaError::Join(JoinError::Used(TokenId([1; 32])))),
        "0111060101010101010101010101010101010101010101010101010101010101010101",
    );
    pin(Err::<(), _>(ChunkError::Lost { chunk: ChunkId(1), server: ServerId(2) }), "01070102");
}

#[test]
fn care() {
    pin(MetaRequest::from(GetCare {}), "2d");
    pin(MetaRequest::from(AllowRemovals { server: ServerId(3) }), "2e03");
    let server =
        ServerCare { server: ServerId(1), unknown: 2, due: 1, ahead: 0, surplus: 3, removed: 4, held: true };
    let repairs = Repairs {
        chunks: 5,
        bytes: 4096,
        stuck: 1,
        running: 2,
        done: 3,
        bytes_per_s: 300,
        waits_secs: 6,
        until_safe_secs: Some(20),
    };
    let drain = Draining { server: ServerId(1), since: Timestamp::new(1, 0), left: 9 };
    pin(MetaRequest::from(Drain { server: ServerId(3), on: true }), "330301");
    pin(Command::Drain { server: ServerId(3), on: true }, "100301");
    pin(MetaRequest::from(DrainDisk { server: ServerId(3), disk: DiskId(5), on: true }), "34030501");
    pin(Command::DrainDisk { server: ServerId(3), disk: DiskId(5), on: true }, "11030501");
    pin(Command::RemoveKeys { unused_secs: 2 * 86_400 }, "1280c60a");
    let report = DiskReport {
        disk: DiskId(5),
        path: "d".into(),
        total_bytes: 9,
        free_bytes: 8,
        chunks: 7,
        errors: 2,
        error: None,
        drains: true,
    };
    pin(report, "050164090807020001");
    let beat = Heartbeat {
        server: ServerId(1),
        incarnation: Incarnation(2),
        clock: Timestamp::new(1, 0),
        disks: vec![],
        damaged: vec![ChunkRef { id: ChunkId(8), version: ChunkVersion(2) }],
        broken: vec![],
    };
    pin(MetaRequest::from(beat), "23010280a8d6b9070001080200");
    let seen = ServerInfo {
        id: ServerId(1),
        addr: "c".into(),
        alive: true,
        silent_ms: 300,
        clock_ms: -1500,
        disks: vec![],
        silent: false,
    };
    pin(seen, "01016301ac02b7170000");
    let orders = ServerOrders { term: Term(3), drains: vec![DiskId(5)], ..Default::default() };
    pin(orders, "03000000000105");
    pin(
        MetaReply::GetCare(Care {
            quarantine_secs: 86_400,
            servers: vec![server],
            drains: vec![drain],
            repairs,
            disks: vec![DrainingDisk {
                server: ServerId(1),
                disk: DiskId(5),
                path: Some("d".into()),
                since: Timestamp::new(1, 0),
                left: Some(9),
            }],
        }),
        "2d80a3050101020100030401010180a8d6b90709058020010203ac0206011401010501016480a8d6b9070109",
    );
    // scrub
    let disk = DiskScrub {
        disk: DiskId(5),
        rounds: 1,
        chunks: 2,
        bytes: 3,
        damages: 4,
        found: 5,
        done: 6,
        total: 7,
        fast: true,
        ended: Some(Timestamp::new(1, 0)),
        answered: None,
    };
    let tell =
        TellScrub { server: ServerId(1), incarnation: Incarnation(2), disks: vec![disk], served: served() };
    pin(MetaRequest::from(tell), "2f0102010501020304050607010180a8d6b9070001020304050607");
    let told = ToldServer { scrub_asked: Some(Timestamp::new(1, 0)), drain_left: Some(9) };
    pin(MetaReply::TellScrub(told), "2f0180a8d6b9070109");
    pin(MetaRequest::from(GetScrub {}), "30");
    pin(MetaRequest::from(ScrubNow {}), "31");
    // fsck
    pin(MetaRequest::from(CheckChunks { from: ChunkId(5), count: 4096 }), "32058020");
    let finding = ChunkFinding {
        chunk: ChunkRef { id: ChunkId(8), version: ChunkVersion(2) },
        wanted: 2,
        good: 1,
        file: Some((InodeId(5), ChunkIndex(1))),
        path: None,
        stray: false,
        faults: vec![(ServerId(3), CopyFault::OtherVersion(ChunkVersion(1)))],
    };
    let check =
        ChunkCheck { records: 1, copies: 2, changing: 0, findings: vec![finding], next: Some(ChunkId(9)) };
    pin(MetaReply::CheckChunks(check), "3201020001080202010105010000010302010109");
}

fn served() -> Served {
    Served { read_bytes: 1, written_bytes: 2, reads: 3, writes: 4, syncs: 5, copies: 6, damages: 7 }
}

#[test]
fn what_operators_watch() {
    let mark = EventMark { term: Term(3), number: 300 };
    pin(MetaRequest::from(ListEvents { after: Some(mark), count: 64 }), "350103ac0240");
    let event = ClusterEvent {
        mark,
        at: Timestamp::new(1, 0),
        code: EventCode::SessionFenced,
        problem: Some("P".into()),
        text: "t".into(),
    };
    let page = EventPage { events: vec![event], next: mark, lost: 2 };
    pin(MetaReply::ListEvents(page), "350103ac0280a8d6b90709010150017403ac0202");
    pin(MetaRequest::from(GetChunkMatrix {}), "36");
    let cell = MatrixCell { wanted: 2, copies: 1, chunks: 300 };
    pin(MetaReply::GetChunkMatrix(ChunkMatrix { cells: vec![cell] }), "36010201ac02");
    pin(MetaRequest::from(ListCell { wanted: 2, copies: 1, from: ChunkId(5), count: 64 }), "3702010540");
    let chunk = CellChunk {
        chunk: ChunkRef { id: ChunkId(8), version: ChunkVersion(2) },
        inode: InodeId(5),
        index: ChunkIndex(1),
        path: Some(Bytes::from_static(b"/a")),
        servers: vec![ServerId(3)],
    };
    pin(
        MetaReply::ListCell(CellPage { chunks: vec![chunk], next: Some(ChunkId(9)) }),
        "37010802050101022f6101030109",
    );
    pin(MetaRequest::from(GetOpCounts {}), "38");
    let op =
        OpCount { op: "GetAttr".into(), calls: 1, failed: 0, micros: 9, latencies: Latencies(vec![(6, 1)]) };
    pin(
        MetaReply::GetOpCounts(OpCounts { term: Term(3), micros: 7, ops: vec![op] }),
        "380307010747657441747472010009010601",
    );
    pin(MetaRequest::from(GetLoad {}), "39");
    let load = ServerLoad {
        server: ServerId(1),
        incarnation: Incarnation(2),
        told: Timestamp::new(1, 0),
        served: served(),
    };
    pin(MetaReply::GetLoad(vec![load]), "3901010280a8d6b90701020304050607");
    pin(MetaRequest::from(GetMaster {}), "3a");
    let view = MasterView { id: MasterId(2), term: Term(3), leader: Some(MasterId(1)), voters: 3 };
    pin(MetaReply::GetMaster(view), "3a0203010103");
}

#[test]
fn chunk_frames() {
    pin(
        FrameHead { number: WriteNumber(1), at: Offset(4096), crcs: vec![1, u32::MAX], hole: 0 },
        "0180200201ffffffff0f00",
    );
    let write = WriteRequest {
        chunk: ChunkRef { id: ChunkId(8), version: ChunkVersion(2) },
        chain: vec![Replica { server: ServerId(1), addr: "c1:9420".into() }],
        makers: vec![(ServerId(1), Incarnation(9))],
        head: None,
        session: SessionStamp { id: SessionId(7), epoch: SessionEpoch(2) },
        capability: None,
    };
    pin(write, "080201010763313a3934323001010900070200");
    pin(
        Control::Delete { chunk: ChunkRef { id: ChunkId(8), version: ChunkVersion(2) }, term: Term(4) },
        "03080204",
    );
    let chunk = ChunkRef { id: ChunkId(8), version: ChunkVersion(2) };
    let from = vec![Replica { server: ServerId(1), addr: "c1:9420".into() }];
    let member_of = Some(ChunkVersion(3));
    pin(
        Control::Pull { chunk, from, ahead: true, member_of, term: Term(4) },
        "02080201010763313a3934323001010304",
    );
}

#[test]
fn log_entries() {
    let entry = LogEntry {
        format: ENTRY_FORMAT,
        time: Timestamp::new(1, 5),
        command: Command::Fs {
            session: SessionStamp { id: SessionId(7), epoch: SessionEpoch(2) },
            slot: SlotStamp { slot: SlotId(0), seq: SlotSeq(1) },
            creds: Credentials::root(),
            decisions: Decisions {
                chains: vec![vec![ServerId(1), ServerId(2)]],
                holders: vec![(InodeId(6), vec![SessionId(9)])],
            },
            request: Unlink { parent: InodeId::ROOT, name: name("x") }.into(),
        },
    };
    pin(entry, "018aa8d6b9070007020001000000010201020106010911010178");
}

#[test]
fn joins() {
    let (cluster, token) = (ClusterId(uuid::Uuid::nil()), TokenId([1; 32]));
    let (csr, signature) = (Bytes::from_static(b"c"), Bytes::from_static(b"s"));
    pin(
        JoinRequest { format: JOIN_FORMAT, cluster, token, csr, signature },
        "011000000000000000000000000000000000010101010101010101010101010101010101010101010101010101010101010101630173",
    );
    let joined = Joined { cert: Bytes::from_static(b"c"), ca: Bytes::from_static(b"a") };
    pin(Ok::<_, JoinError>(joined), "0001630161");
    pin(Err::<Joined, _>(JoinError::NotLeader { leader: Some("m2:9421".into()) }), "010d01076d323a39343231");
    let invite = Invite { role: Role::Chunkserver, node: 4, name: "n".into() };
    pin(
        Command::TokenMade { token, invite, lifetime_secs: 60, validity_secs: 300, replace: true },
        "0d01010101010101010101010101010101010101010101010101010101010101010104016e3cac0201",
    );
    pin(
        Command::TokenUsed { token, csr: [2; 32] },
        "0e01010101010101010101010101010101010101010101010101010101010101010202020202020202020202020202020202020202020202020202020202020202",
    );
}

#[test]
fn numbers_of_operations_stay() {
    assert_eq!(OP_NAMES[0], "Lookup");
    assert_eq!(OP_NAMES[11], "SetAttrs");
    assert_eq!(OP_NAMES[MetaRequest::from(GetLoad {}).number()], "GetLoad");
    assert_eq!(
        encode(&MetaRequest::from(CloseSession {})),
        Bytes::from(vec![OP_NAMES.iter().position(|n| *n == "CloseSession").unwrap() as u8])
    );
}
