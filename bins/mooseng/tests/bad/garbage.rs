//! A port that is in use gets mutated and random frames from a client, on connections that are proven:
//! what is behind TLS is reached. Another client goes on meanwhile. (Servers are trusted: what they say
//! by chance may be obeyed. Their decoders are fuzzed without a port.)

use super::{members::*, wire::a_client_goes_on, *};
use mooseng_core::{
    chunk::{Control, ReadRequest, SyncRequest, WriteRequest},
    context::CallContext,
    ids::*,
    limits::HEAD_BYTES_MAX,
    meta::*,
    name::Name,
    wire::{FrameHeader, FrameKind, HEADER_BYTES, encode},
};
use mooseng_net::identity::{Identity, client_config};
use quinn::VarInt;

/// Connections of each sort to each port, and frames on each.
const CONNECTIONS: u64 = 40;
const FRAMES: u64 = 50;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Heads of requests as clients and servers send them, by method.
fn heads() -> Vec<(u16, Vec<u8>)> {
    let chunk = ChunkRef { id: ChunkId(1), version: ChunkVersion(1) };
    let session = SessionStamp { id: SessionId(1), epoch: SessionEpoch(1) };
    let name = Name::new("name").unwrap();
    let chain = vec![Replica { server: ServerId(1), addr: "127.0.0.1:9".into() }];
    let meta: [MetaRequest; 6] = [
        GetAttr { inode: InodeId::ROOT }.into(),
        Lookup { parent: InodeId::ROOT, name }.into(),
        KeepAlive {}.into(),
        GetStatus {}.into(),
        Batch { after: None, ops: vec![encode(&MetaRequest::from(KeepAlive {}))] }.into(),
        ReadDir { inode: InodeId::ROOT, after: DirCookie(0), max_entries: 9, with_attrs: true }.into(),
    ];
    let mut heads: Vec<_> = meta.iter().map(|r| (1, encode(r).to_vec())).collect();
    heads.push((2, encode(&EventSeq(0)).to_vec()));
    let read = ReadRequest { chunk, at: Offset(0), len: 4096, capability: None };
    let write =
        WriteRequest { chunk, chain: chain.clone(), makers: vec![], head: None, session, capability: None };
    let sync = SyncRequest { chunk, chain, acknowledged_by: vec![], session, capability: None };
    heads.push((16, encode(&read).to_vec()));
    heads.push((17, encode(&write).to_vec()));
    heads.push((18, encode(&sync).to_vec()));
    heads.push((19, encode(&Control::Table { chunk }).to_vec()));
    heads.push((20, encode(&(None::<ChunkId>, 10u32)).to_vec()));
    // Raft's, to whom only masters speak.
    heads.extend((0x100..0x106).map(|m| (m, vec![0; 60])));
    heads
}

fn mutate(r: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..r.below(4) {
        let at = if bytes.is_empty() { 0 } else { r.below(bytes.len()) };
        match r.below(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << r.below(8),
            1 if !bytes.is_empty() => bytes[at] = r.next() as u8,
            2 => bytes.insert(at, r.next() as u8),
            3 => bytes.truncate(at),
            _ => drop(bytes.splice(at..at, [0xff; 9])),
        }
    }
}

/// A frame that is nearly right: its header holds, what is in it may not.
fn frame(r: &mut Random, heads: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let (method, head) = &heads[r.below(heads.len())];
    let mut head = [&encode(&CallContext::default())[..], head].concat();
    mutate(r, &mut head);
    let body = {
        let len = [0, 0, 0, 30, 5000][r.below(5)];
        r.bytes(len)
    };
    const KINDS: [FrameKind; 12] = {
        use FrameKind::{Cancel, End, Error, Hello, Piece, Reply, Request, Window};
        [
            Request,
            Request,
            Request,
            Request,
            Request,
            Piece,
            Piece,
            End,
            Error,
            Cancel,
            Window,
            [Reply, Hello][0],
        ]
    };
    // A reply or a hello ends the connection: those come once in a while.
    let kind = if r.below(40) == 0 { KINDS[11] } else { KINDS[r.below(11)] };
    let (flags, request) = (
        r.below(4) as u16,
        r.below(8) as u64 + if kind == FrameKind::Request { r.next() % 1000 * 8 } else { 0 },
    );
    let (head_len, body_len) = (head.len() as u32, body.len() as u32);
    let header = FrameHeader { kind, flags, request, method: *method, head_len, body_len };
    let mut bytes = [&header.encode()[..], &head, &body].concat();
    match r.below(60) {
        0 => mutate(r, &mut bytes),
        1 => bytes.truncate(r.below(bytes.len())),
        2 => {
            let len = r.below(300);
            bytes = r.bytes(len);
        }
        3 => {
            let long = FrameHeader { head_len: HEAD_BYTES_MAX as u32, ..header };
            bytes[..HEADER_BYTES].copy_from_slice(&long.encode());
        }
        _ => {}
    }
    bytes
}

async fn over_quic(port: u16, me: &Identity, seed: u64) {
    let (mut r, heads) = (Random(seed), heads());
    let (_endpoint, connection) = raw::quic(port, client_config(me).unwrap()).await.unwrap();
    let (mut shared, _answers) = connection.open_bi().await.unwrap();
    if r.below(8) != 0 {
        let _ = shared.write_all(&raw::hello()).await;
    }
    for _ in 0..FRAMES {
        let bytes = frame(&mut r, &heads);
        // Each may be told that the connection or the stream ended.
        match r.below(6) {
            0 => {
                let Ok((mut send, receive)) = connection.open_bi().await else { return };
                let _ = send.write_all(&bytes).await;
                match r.below(3) {
                    0 => drop(send.finish()),
                    1 => drop(send.reset(VarInt::from_u32(r.below(9) as u32))),
                    _ => drop(receive),
                }
            }
            1 => {
                let Ok(mut send) = connection.open_uni().await else { return };
                let _ = send.write_all(&bytes).await;
            }
            2 => drop(connection.send_datagram(bytes.into())),
            _ => drop(shared.write_all(&bytes).await),
        }
    }
    connection.close(VarInt::from_u32(r.below(200) as u32), &r.bytes(20));
}

fn over_tcp(port: u16, me: &Identity, seed: u64) {
    let (mut r, heads) = (Random(seed), heads());
    let mut s = raw::tls(port, client_config(me).unwrap());
    let first = if r.below(8) == 0 { frame(&mut r, &heads) } else { raw::hello() };
    let _ = s.write_all(&first);
    for _ in 0..FRAMES {
        if s.write_all(&frame(&mut r, &heads)).is_err() {
            break;
        }
    }
    // Now and then not even TLS any more.
    if r.below(3) == 0 {
        let _ = s.sock.write_all(&r.bytes(500));
    }
}

#[test]
fn mutated_frames_on_proven_quic_connections_disturb_nobody() {
    let round = std::sync::atomic::AtomicU64::new(0);
    a_client_goes_on("quic", |site| {
        let round = round.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let me = site.identity("client-1");
        run(async {
            for port in [site.master[0], site.master[1], site.chunkserver[0]] {
                for n in 0..CONNECTIONS {
                    over_quic(port, &me, round * CONNECTIONS + n).await;
                }
            }
        });
    });
}

#[test]
fn mutated_frames_on_proven_tls_connections_disturb_nobody() {
    let round = std::sync::atomic::AtomicU64::new(0);
    a_client_goes_on("tcp", |site| {
        let round = round.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let me = site.identity("client-1");
        for port in [site.master[0], site.master[1], site.chunkserver[0]] {
            for n in 0..CONNECTIONS {
                over_tcp(port, &me, round * CONNECTIONS + n);
            }
        }
    });
}
