//! Frames that no honest peer sends.

use super::*;
use crate::{
    frame::Frame,
    mux::{
        caller::{Caller, Calls},
        server::{Service, serve},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use mooseng_core::{
    context::CallContext,
    ids::ClusterId,
    limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, PIECE_BYTES_MAX},
    net::{Body, CertHash, Handler, Message, Method, PeerIdentity, Role},
    wire::{FLAG_STREAM, FrameHeader, FrameKind, HEADER_BYTES, encode},
};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::task::TaskTracker;

struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn handle(
        &self,
        _: &PeerIdentity,
        _: CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        match method.0 {
            1 => Ok(msg),
            _ => std::future::pending().await,
        }
    }
}

/// A server behind one end of a pipe; the other end is the attacker's.
fn server() -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let cluster = ClusterId(uuid::Uuid::nil());
    let peer = PeerIdentity {
        cluster,
        role: Role::Client,
        node: 0,
        name: "peer".into(),
        cert_hash: CertHash::default(),
    };
    let (read, write) = tokio::io::split(ours);
    let link = Link::new(write, CancellationToken::new(), "peer");
    let service = Service {
        handler: Arc::new(Echo),
        peer,
        door: Arc::default(),
        share: None,
        tasks: TaskTracker::new(),
    };
    tokio::spawn(async move { serve(link, FrameReader::new(read, "peer"), Arc::new(service), None).await });
    theirs
}

fn header(kind: FrameKind, head_len: usize, body_len: usize) -> FrameHeader {
    let (flags, request, method) = (0, 9, 2);
    FrameHeader { kind, flags, request, method, head_len: head_len as u32, body_len: body_len as u32 }
}

fn frame(kind: FrameKind, flags: u16, head: &[u8]) -> Vec<u8> {
    let mut bytes = FrameHeader { flags, ..header(kind, head.len(), 0) }.encode().to_vec();
    bytes.extend_from_slice(head);
    bytes
}

async fn next(pipe: &mut DuplexStream) -> Option<Frame> {
    let next = async { FrameReader::new(pipe, "server").next().await.unwrap() };
    tokio::time::timeout(Duration::from_secs(10), next).await.expect("an answer or the end")
}

fn context() -> Bytes {
    encode(&CallContext::default())
}

#[tokio::test]
async fn malformed_frames_end_the_connection() {
    let mut flipped = frame(FrameKind::Request, 0, &context());
    flipped[9] ^= 1;
    let mut foreign = frame(FrameKind::Request, 0, &context());
    foreign[..4].copy_from_slice(b"HTTP");
    let mut twice = frame(FrameKind::Request, 0, &context());
    twice.extend(frame(FrameKind::Request, 0, &context()));
    let mut window = frame(FrameKind::Request, 0, &context());
    window.extend(frame(FrameKind::Window, 0, b""));
    let bad: [(&str, Vec<u8>); 9] = [
        ("a flipped bit", flipped),
        ("another protocol", foreign),
        ("a head over its limit", header(FrameKind::Request, HEAD_BYTES_MAX + 1, 0).encode().into()),
        ("a body over its limit", header(FrameKind::Request, 0, BODY_BYTES_MAX + 1).encode().into()),
        ("a piece over its limit", header(FrameKind::Piece, 0, PIECE_BYTES_MAX + 1).encode().into()),
        ("a reply to a server", frame(FrameKind::Reply, 0, b"")),
        ("a second hello", frame(FrameKind::Hello, 0, b"")),
        ("one number for two calls", twice),
        ("room that does not decode", window),
    ];
    for (what, bytes) in bad {
        let mut pipe = server();
        pipe.write_all(&bytes).await.unwrap();
        assert!(next(&mut pipe).await.is_none(), "{what}");
    }
}

#[tokio::test]
async fn a_request_whose_context_does_not_decode_is_refused_alone() {
    let mut pipe = server();
    pipe.write_all(&frame(FrameKind::Request, 0, &[0xff; 11])).await.unwrap();
    let refused = next(&mut pipe).await.unwrap();
    assert_eq!(refused.header.kind, FrameKind::Error);
    assert!(matches!(refused.error(), NetError::Refused { .. }));
    let mut good = frame(FrameKind::Request, 0, &context());
    good[16] = 1;
    let crc = mooseng_core::checksum::crc32c(&good[..28]);
    good[28..32].copy_from_slice(&crc.to_le_bytes());
    pipe.write_all(&good).await.unwrap();
    assert_eq!(next(&mut pipe).await.unwrap().header.kind, FrameKind::Reply);
}

#[tokio::test]
async fn frames_of_calls_that_are_over_are_ignored() {
    let mut pipe = server();
    for kind in [FrameKind::Cancel, FrameKind::Piece, FrameKind::End, FrameKind::Error, FrameKind::Window] {
        pipe.write_all(&frame(kind, 0, b"")).await.unwrap();
    }
    pipe.write_all(&frame(FrameKind::Request, 0, &[0xff])).await.unwrap();
    assert_eq!(next(&mut pipe).await.unwrap().header.kind, FrameKind::Error, "the connection goes on");
}

#[tokio::test]
async fn a_sender_that_ignores_its_window_is_cut_off() {
    let mut pipe = server();
    let mut bytes = frame(FrameKind::Request, FLAG_STREAM, &context());
    let mut piece = header(FrameKind::Piece, 0, 1 << 20).encode().to_vec();
    piece.resize(HEADER_BYTES + (1 << 20), 0);
    for _ in 0..4 {
        bytes.extend_from_slice(&piece);
    }
    let (mut read, mut write) = tokio::io::split(&mut pipe);
    let mut rest = Vec::new();
    let (sent, received) = tokio::join!(write.write_all(&bytes), read.read_to_end(&mut rest));
    assert!(sent.is_err() || received.is_ok(), "the connection ended");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_server_that_lies_ends_its_connection_and_every_call() {
    let replies: [(&str, Vec<u8>); 4] = [
        ("garbage", vec![7; 64]),
        ("a request to a caller", frame(FrameKind::Request, 0, b"")),
        (
            "a piece without a stream",
            [&header(FrameKind::Piece, 0, 0)][..]
                .iter()
                .flat_map(|h| FrameHeader { request: 1, ..**h }.encode())
                .collect(),
        ),
        ("half a frame", frame(FrameKind::Reply, 0, b"0123456789")[..35].to_vec()),
    ];
    for (what, bytes) in replies {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (read, write) = tokio::io::split(ours);
        let link = Link::new(write, CancellationToken::new(), "server");
        let caller = Caller::start(link, FrameReader::new(read, "server"), Arc::new(Calls::default()));
        let lie = async {
            let mut request = [0; HEADER_BYTES];
            theirs.read_exact(&mut request).await.unwrap();
            theirs.write_all(&bytes).await.unwrap();
            theirs.shutdown().await.unwrap();
        };
        let cx = CallContext::default();
        let call = caller.call(&cx, Method(1), Message { head: Bytes::new(), body: Body::Empty });
        let (reply, ()) = tokio::join!(call, lie);
        assert!(matches!(reply, Err(NetError::Closed { sent: true, .. })), "{what}: {reply:?}");
        assert!(caller.link().ended.is_cancelled(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_request_is_read_when_its_client_has_room() {
    let peer = PeerIdentity {
        cluster: ClusterId(uuid::Uuid::nil()),
        role: Role::Client,
        node: 0,
        name: "peer".into(),
        cert_hash: CertHash::default(),
    };
    let inside = Arc::new(crate::door::Door::default()).enter(&peer).unwrap();
    let share = inside.share().unwrap();
    let taken = share.room(mooseng_core::limits::PEER_BYTES_MAX).await;
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let mut reader = FrameReader::new(ours, "peer").within(Some(share.clone()));
    let body = vec![7; 100_000];
    for kind in [FrameKind::Piece, FrameKind::Request] {
        theirs.write_all(&header(kind, 0, body.len()).encode()).await.unwrap();
        theirs.write_all(&body).await.unwrap();
    }
    let piece = reader.next().await.unwrap().unwrap();
    assert_eq!((piece.header.kind, piece.body.len()), (FrameKind::Piece, body.len()), "streams have windows");
    let early = tokio::time::timeout(std::time::Duration::from_secs(60), reader.next()).await;
    assert!(early.is_err(), "there is no room");
    drop(taken);
    let request = reader.next().await.unwrap().unwrap();
    assert_eq!((request.header.kind, request.body.len()), (FrameKind::Request, body.len()));
    let all = mooseng_core::limits::PEER_BYTES_MAX;
    let more = tokio::time::timeout(std::time::Duration::from_secs(60), share.room(all)).await;
    assert!(more.is_err(), "it has its room as long as it is answered");
    drop(request);
    assert!(share.room(all).await.is_some());
}
