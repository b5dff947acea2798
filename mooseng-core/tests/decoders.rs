//! Every decoder of the wire against mutated and random input: an error or a value, never a panic,
//! never more memory than a small multiple of the input, never without an end. Seeded: a failure names its input.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod watched;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use mooseng_core::{
    capability::{Capability, Claims},
    chunk::*,
    context::CallContext,
    error::*,
    ids::*,
    join::{CaHash, Invite, JoinError, JoinRequest, JoinToken, Joined, TokenSeed, sha256},
    meta::*,
    name::Name,
    net::Role,
    wire::{self, FrameHeader, HEADER_BYTES},
};

use watched::watched;

/// Memory for each byte of an input: a value of which many fit into few bytes takes so much, e.g. an empty operation
/// of a batch, which is one byte, in a vector that grows.
const GROWTH: usize = 128;
/// What an error's words and the like take.
const ROOM: usize = 2048;

/// A decoder under test, with its name.
type Target = (&'static str, fn(&[u8]));

/// One fuzz target per decoder.
const TARGETS: &[Target] = &[
    ("frame header", |b| {
        if let Some(h) = b.first_chunk::<HEADER_BYTES>() {
            let _ = FrameHeader::decode(h);
        }
    }),
    ("call context", |b| drop(wire::decode::<CallContext>(b))),
    ("meta request", |b| drop(wire::decode::<MetaRequest>(b))),
    ("meta reply", |b| drop(wire::decode::<Result<MetaReply, MetaError>>(b))),
    ("event", |b| drop(wire::decode::<Result<(EventSeq, SessionEvent), MetaError>>(b))),
    ("log entry", |b| drop(wire::decode::<LogEntry>(b))),
    ("applied", |b| drop(wire::decode::<Applied>(b))),
    ("read request", |b| drop(wire::decode::<ReadRequest>(b))),
    ("write request", |b| drop(wire::decode::<WriteRequest>(b))),
    ("sync request", |b| drop(wire::decode::<SyncRequest>(b))),
    ("frame head", |b| drop(wire::decode::<Result<FrameHead, ChunkError>>(b))),
    ("ack", |b| drop(wire::decode::<Result<Ack, ChunkError>>(b))),
    ("control", |b| drop(wire::decode::<Control>(b))),
    ("control reply", |b| drop(wire::decode::<Result<ControlReply, ChunkError>>(b))),
    ("chunk page", |b| drop(wire::decode::<Result<ChunkPage, ChunkError>>(b))),
    ("list request", |b| drop(wire::decode::<(Option<ChunkId>, u32)>(b))),
    ("sync reply", |b| drop(wire::decode::<Result<SyncDone, ChunkError>>(b))),
    ("chunk stream's head", |b| drop(wire::decode::<Result<(), ChunkError>>(b))),
    ("event stream's head", |b| drop(wire::decode::<Result<(), MetaError>>(b))),
    ("place in the events", |b| drop(wire::decode::<EventSeq>(b))),
    ("window", |b| drop(wire::decode::<u32>(b))),
    ("capability", |b| drop(wire::decode::<Capability>(b))),
    ("claims", |b| drop(wire::decode::<Claims>(b))),
    ("join token", |b| drop(JoinToken::parse(&String::from_utf8_lossy(b)))),
    ("join request", |b| drop(JoinRequest::decode(b))),
    ("join reply", |b| drop(wire::decode::<Result<Joined, JoinError>>(b))),
    ("net error", |b| drop(wire::decode::<NetError>(b))),
];

fn token() -> JoinToken {
    JoinToken {
        cluster: "018f0000-0000-7000-8000-000000000001".parse().unwrap(),
        ca: CaHash([1; 32]),
        seed: TokenSeed([2; 32]),
        invite: Invite { role: Role::Client, node: 0, name: "laptop".into() },
        masters: vec!["m1:9421".into(), "m2:9421".into()],
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let chunk = ChunkRef { id: ChunkId(8), version: ChunkVersion(2) };
    let rename = Rename {
        parent: InodeId(1),
        name: Name::new("abc").unwrap(),
        new_parent: InodeId(2),
        new_name: Name::new("def").unwrap(),
        mode: RenameMode::Exchange,
    };
    let report = ChunkReport { chunk, length: 4096, state: ReplicaState::Good };
    let header = FrameHeader {
        kind: wire::FrameKind::Piece,
        flags: 0,
        request: 1,
        method: 0,
        head_len: 9,
        body_len: 1 << 20,
    };
    vec![
        header.encode().to_vec(),
        wire::encode(&MetaRequest::from(rename)).to_vec(),
        wire::encode(&CallContext::default()).to_vec(),
        wire::encode(&Ok::<_, ChunkError>(FrameHead {
            number: WriteNumber(1),
            at: Offset(1),
            crcs: vec![7; 256],
            hole: 0,
        }))
        .to_vec(),
        wire::encode(&Control::Table { chunk }).to_vec(),
        wire::encode(&Control::Numbers { chunk, head: None }).to_vec(),
        wire::encode(&Ok::<_, ChunkError>(ControlReply::Numbers(vec![(SessionId(1), WriteNumber(2))])))
            .to_vec(),
        wire::encode(&Ok::<_, ChunkError>(ControlReply::Table(ChecksumTable {
            length: 8192,
            blocks: vec![None, Some(1)],
        })))
        .to_vec(),
        wire::encode(&Err::<MetaReply, _>(MetaError::Invalid("x".repeat(100)))).to_vec(),
        wire::encode(&MetaRequest::from(Batch { after: None, ops: vec![Bytes::new(); 60] })).to_vec(),
        wire::encode(&Ok::<_, ChunkError>(ChunkPage { chunks: vec![report; 20], last: true })).to_vec(),
        token().to_text().into_bytes(),
        wire::encode(&JoinRequest::new(&token(), vec![7; 60].into())).to_vec(),
    ]
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn mutate(seed: &mut u64, base: &[u8]) -> Vec<u8> {
    let mut b = base.to_vec();
    for _ in 0..1 + next(seed) % 4 {
        let r = next(seed);
        let at = if b.is_empty() { 0 } else { (r >> 8) as usize % b.len() };
        match r % 6 {
            0 if !b.is_empty() => b[at] ^= 1 << ((r >> 40) % 8),
            1 if !b.is_empty() => b[at] = (r >> 40) as u8,
            2 => b.insert(at, (r >> 40) as u8),
            3 if !b.is_empty() => drop(b.remove(at)),
            4 => b.truncate(at),
            _ => b.splice(at..at, [0xff; 9]).for_each(drop),
        }
    }
    b
}

#[test]
fn no_input_breaks_a_decoder() {
    let rounds: u64 =
        std::env::var("MOOSENG_FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(1_000_000);
    let corpus = corpus();
    for (target, run) in TARGETS {
        let mut seed = 1;
        for _ in 0..rounds {
            let base = &corpus[next(&mut seed) as usize % corpus.len()];
            let input = mutate(&mut seed, base);
            watched(target, &input, ROOM + GROWTH * input.len(), run);
        }
    }
}

/// A token has a check over its bytes: it is made right again, so that what is behind it is reached.
#[test]
fn no_token_line_breaks_its_reader() {
    let rounds: u64 =
        std::env::var("MOOSENG_FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(1_000_000);
    let whole = token().to_text();
    assert_eq!(JoinToken::parse(&whole).unwrap(), token());
    let bytes = wire::encode(&token());
    // Without padding, four letters are three bytes.
    let prefix = &whole[..whole.rfind(&URL_SAFE_NO_PAD.encode(&bytes)[..8]).unwrap()];
    let check_len = URL_SAFE_NO_PAD.decode(&whole[prefix.len()..]).unwrap().len() - bytes.len();
    let (mut seed, mut understood) = (1, 0);
    for round in 0..rounds {
        let mut input = mutate(&mut seed, &bytes);
        let check = sha256(&input);
        input.extend_from_slice(&check[..check_len]);
        let mut line = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(&input));
        if round % 4 == 0 {
            line = String::from_utf8_lossy(&mutate(&mut seed, line.as_bytes())).into_owned();
        }
        watched("token line", line.as_bytes(), ROOM + GROWTH * line.len(), |_| {
            understood += u64::from(JoinToken::parse(&line).is_ok());
        });
    }
    assert!(understood > rounds / 100, "the loop is not in vain: {understood} lines were tokens");
}

#[test]
fn deep_nesting_cannot_exhaust_the_stack() {
    let deep = vec![OP_NAMES.iter().position(|n| *n == "Batch").unwrap() as u8; 1 << 20];
    assert!(wire::decode::<MetaRequest>(&deep).is_err());
}

/// The watch is worth something: it sees what grows.
#[test]
#[should_panic(expected = "bytes of memory on 3 bytes: [01, 02, ff]")]
fn a_decoder_that_takes_too_much_memory_is_told_with_its_input() {
    watched("one that grows", &[1, 2, 0xff], 1 << 20, |b| {
        let before = std::hint::black_box(vec![0u8; 1 << 19]);
        drop(std::hint::black_box(vec![0u8; (1 << 19) + b.len()]));
        drop(before);
    });
}

/// The watch is worth something: it ends what hangs. It ends the process, so that is another one.
#[test]
fn a_decoder_without_an_end_is_told_with_its_input() {
    const HANG: &str = "MOOSENG_FUZZ_HANG";
    if std::env::var_os(HANG).is_some() {
        watched("one that hangs", &[1, 2, 0xff], 1 << 20, |_| {
            loop {
                std::thread::park();
            }
        });
    }
    let mut this = std::process::Command::new(std::env::current_exe().unwrap());
    this.args(["--exact", "a_decoder_without_an_end_is_told_with_its_input"]).env(HANG, "1");
    let ended = this.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        !ended.status.success() && said.contains("one that hangs does not end on [01, 02, ff]"),
        "{said}"
    );
}
