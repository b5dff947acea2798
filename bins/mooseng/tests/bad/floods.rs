//! One client asks for all there is of something, while another one works.

use super::{members::*, raw, *};
use mooseng_core::{
    context::CallContext,
    error::{MetaError, NetError},
    ids::*,
    limits::{
        ADDRESS_HANDSHAKES_MAX, CALLS_IN_FLIGHT_MAX, PEER_CALLS_MAX, PEER_CONNECTIONS_MAX, PEER_SESSIONS_MAX,
        PEER_STREAMS_MAX,
    },
    meta::*,
    net::Connection,
    wire::{FrameHeader, FrameKind, HEADER_BYTES, decode, encode},
};
use mooseng_net::identity::{Identity, client_config};
use socket2::{Domain, Socket, Type};
use std::{any::Any, net::SocketAddr, sync::Arc};

/// Tries until one more is refused; what was had, and the refusal.
async fn until_refused<T>(
    at_most: usize,
    mut one_more: impl AsyncFnMut() -> Result<T, NetError>,
) -> (Vec<T>, NetError) {
    let mut had = Vec::new();
    while had.len() <= at_most {
        match one_more().await {
            Ok(t) => had.push(t),
            Err(e) => return (had, e),
        }
    }
    panic!("{} and no refusal", had.len());
}

/// Asks for streams of events, more than there may be: what the first one too many is told, and the
/// connection that has all the others.
async fn too_many_calls(
    site: &Site,
    me: &Identity,
    session: SessionStamp,
    calls: usize,
) -> (NetError, Box<dyn Any>) {
    let head = [encode(&CallContext { session: Some(session), ..cx() }), encode(&EventSeq(0))].concat();
    let ask = |id: u64| {
        let header = FrameHeader { method: 2, ..raw::fields(FrameKind::Request, id, head.len()) };
        [&header.encode()[..], &head].concat()
    };
    let all: Vec<u8> = (1..=calls as u64).flat_map(ask).collect();
    let config = client_config(me).unwrap();
    let (mut got, mut buf) = (Vec::new(), vec![0; 64 << 10]);
    if site.transport == "tcp" {
        let mut s = raw::tls(site.master[0], config);
        s.write_all(&[raw::hello(), all].concat()).unwrap();
        loop {
            let n = s.read(&mut buf).unwrap();
            got.extend_from_slice(&buf[..n]);
            if let Some(e) = error_in(&got) {
                return (e, Box::new(s));
            }
        }
    }
    let (endpoint, connection) = raw::quic(site.master[0], config).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&[raw::hello(), all].concat()).await.unwrap();
    loop {
        let n = tokio::time::timeout(PATIENCE, receive.read(&mut buf)).await.unwrap().unwrap().unwrap();
        got.extend_from_slice(&buf[..n]);
        if let Some(e) = error_in(&got) {
            return (e, Box::new((endpoint, connection, send, receive)));
        }
    }
}

/// The first error among the frames of a stream.
fn error_in(mut bytes: &[u8]) -> Option<NetError> {
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let header = FrameHeader::decode(header).unwrap();
        let (head_at, body_at) = (HEADER_BYTES, HEADER_BYTES + header.head_len as usize);
        let head = bytes.get(head_at..body_at)?;
        if header.kind == FrameKind::Error {
            return Some(decode(head).unwrap());
        }
        bytes = bytes.get(body_at + header.body_len as usize..)?;
    }
    None
}

#[test]
fn a_client_has_its_share_of_connections_and_of_calls_and_no_more() {
    for transport in TRANSPORTS {
        let (site, master, chunkserver) = Site::serving(transport);
        run(async {
            let me = site.issue("client", 0, "flood");
            for (port, daemon) in [(site.master[0], &master), (site.chunkserver[0], &chunkserver)] {
                let transport = site.transport_of(&me);
                let to = loopback(port);
                let (had, e) =
                    until_refused(PEER_CONNECTIONS_MAX, async || transport.connect(&to).await).await;
                assert_eq!(had.len(), PEER_CONNECTIONS_MAX);
                assert!(
                    matches!(&e, NetError::Limit { limit, .. } if *limit == PEER_CONNECTIONS_MAX as u64)
                        && e.is_retryable(),
                    "{e}"
                );
                logged(daemon, &["a connection was refused", "connections of one certificate"]);
                site.serves();
                // With one less, one more may come.
                drop(had);
                let again = async {
                    while let Err(e) = transport.connect(&to).await {
                        assert!(matches!(e, NetError::Limit { .. }), "{e}");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                tokio::time::timeout(PATIENCE, again).await.expect("a connection that ended makes room");
            }

            // Events last as long as their session: calls that stay in flight. Our own client would hold
            // back before it asks for too many.
            let who = Member::open(&site, &me).await;
            // Each connection has all it may, for one more was refused; then the client has all it may.
            let mut held = Vec::new();
            let with_all = PEER_CALLS_MAX / CALLS_IN_FLIGHT_MAX;
            for n in 0..=with_all {
                let (calls, most) = match n == with_all {
                    true => (1, PEER_CALLS_MAX),
                    false => (CALLS_IN_FLIGHT_MAX + 1, CALLS_IN_FLIGHT_MAX),
                };
                let (e, connection) = too_many_calls(&site, &me, who.stamp, calls).await;
                assert!(matches!(&e, NetError::Limit { limit, .. } if *limit == most as u64), "{n}: {e}");
                held.push(connection);
            }
            logged(&master, &["a call was refused", "peer=flood ", "calls are in flight"]);
            site.serves();
            drop(held);
        });
    }
}

/// A stream of its own with a request for events, which last; the answer's first byte, and what keeps it open.
async fn own_stream(connection: &quinn::Connection, head: &[u8]) -> (Vec<u8>, Box<dyn Any>) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let header = FrameHeader { method: 2, ..raw::fields(FrameKind::Request, 0, head.len()) };
    send.write_all(&[&header.encode()[..], head].concat()).await.unwrap();
    let mut buf = vec![0; 4 << 10];
    let n = tokio::time::timeout(PATIENCE, receive.read(&mut buf)).await.unwrap().unwrap().unwrap();
    (buf[..n].to_vec(), Box::new((send, receive)))
}

#[test]
fn a_client_has_its_share_of_streams_over_all_its_connections() {
    let (site, master, _chunkserver) = Site::serving("quic");
    run(async {
        let me = site.issue("client", 0, "flood");
        let who = Member::open(&site, &me).await;
        let head = [encode(&CallContext { session: Some(who.stamp), ..cx() }), encode(&EventSeq(0))].concat();
        let (mut held, mut had): (Vec<Box<dyn Any>>, usize) = (Vec::new(), 0);
        // One connection may not have all of them.
        let each = PEER_STREAMS_MAX / 8;
        let e = loop {
            let (endpoint, connection) =
                raw::quic(site.master[0], client_config(&me).unwrap()).await.unwrap();
            let (mut send, receive) = connection.open_bi().await.unwrap();
            send.write_all(&raw::hello()).await.unwrap();
            let mut refused = None;
            for _ in 0..each {
                let (answer, stream) = own_stream(&connection, &head).await;
                refused = error_in(&answer);
                if refused.is_some() {
                    break;
                }
                had += 1;
                held.push(stream);
            }
            held.push(Box::new((endpoint, connection, send, receive)));
            if let Some(e) = refused {
                break e;
            }
            assert!(had <= PEER_STREAMS_MAX, "{had} and no refusal");
        };
        assert_eq!(had, PEER_STREAMS_MAX);
        assert!(matches!(&e, NetError::Limit { limit, .. } if *limit == PEER_STREAMS_MAX as u64), "{e}");
        logged(&master, &["a call was refused", "peer=flood ", "streams of one certificate"]);
        site.serves();
    });
}

/// Who begins long requests and ends none holds itself back, and nobody else.
#[test]
fn requests_that_do_not_end_hold_their_client_back() {
    for transport in TRANSPORTS {
        let (site, master, chunkserver) = Site::serving(transport);
        run(async {
            let me = site.issue("client", 0, "flood");
            for (port, daemon) in [(site.master[0], &master), (site.chunkserver[0], &chunkserver)] {
                let header =
                    FrameHeader { body_len: 64 << 20, ..raw::fields(FrameKind::Request, 1, 4 << 20) };
                let mut held: Vec<Box<dyn Any>> = Vec::new();
                for _ in 0..5 {
                    let config = client_config(&me).unwrap();
                    if transport == "tcp" {
                        let mut s = raw::tls(port, config);
                        s.write_all(&[raw::hello(), header.encode().to_vec()].concat()).unwrap();
                        held.push(Box::new(s));
                        continue;
                    }
                    let (endpoint, connection) = raw::quic(port, config).await.unwrap();
                    let (mut hello, answer) = connection.open_bi().await.unwrap();
                    hello.write_all(&raw::hello()).await.unwrap();
                    let (mut send, receive) = connection.open_bi().await.unwrap();
                    send.write_all(&header.encode()).await.unwrap();
                    held.push(Box::new((endpoint, connection, hello, answer, send, receive)));
                }
                logged(daemon, &["long requests are held back", "peer=flood "]);
                site.serves();
            }
        });
    }
}

#[test]
fn sessions_without_end_leave_others_theirs() {
    let (site, master, _chunkserver) = Site::serving("quic");
    run(async {
        let me = site.issue("client", 0, "flood");
        let line: Arc<dyn Connection> = site.connect(&me, site.master[0]).await.unwrap();
        let meta = mooseng_core::rpc::RemoteMeta::new(line);
        let flood = async |text: String, trace: u64| {
            let open = OpenSession { client: text, host: String::new(), version: String::new() };
            let cx = CallContext { trace: TraceId(trace), ..cx() };
            meta.open_session(&cx, open).await
        };
        let (mut had, mut refused) = (0, Vec::new());
        for round in 0..PEER_SESSIONS_MAX as u64 / 10 {
            let all = (0..100).map(|n| flood("f".into(), 1 + round * 100 + n));
            for opened in futures::future::join_all(all).await {
                match opened {
                    Ok(_) => had += 1,
                    Err(e) => refused.push(e),
                }
            }
            // Before the limit, and with all that there may be.
            if round == 3 || !refused.is_empty() {
                site.serves();
            }
            if !refused.is_empty() {
                break;
            }
        }
        // Those that nobody keeps alive end, and make room.
        assert!(!refused.is_empty() && had >= PEER_SESSIONS_MAX / 2, "{had}");
        let limit =
            |e: &MetaError| matches!(e, MetaError::Limit { limit, .. } if *limit == PEER_SESSIONS_MAX as u64);
        assert!(refused.iter().all(limit), "{refused:?}");
        assert!(refused[0].to_string().contains("close some of them"), "{}", refused[0]);
        logged(&master, &["a call was refused", "peer=flood ", "sessions of one certificate"]);
        site.serves();
        // What a session calls itself is kept by the masters.
        let got = flood("x".repeat(1 << 20), 9999).await;
        assert!(matches!(&got, Err(MetaError::Invalid(why)) if why.contains("at most")), "{got:?}");
    });
    logged(&master, &["a call was refused", "peer=flood ", "OpenSession"]);
    site.serves();
}

/// From an address of its own on this machine.
fn begin_a_handshake(from: [u8; 4], port: u16) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).ok()?;
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    Some(socket.into())
}

/// Who connects and says nothing keeps nobody from another address out.
#[test]
fn handshakes_that_do_not_go_on_are_bounded_by_address() {
    let (site, master, _chunkserver) = Site::serving("tcp");
    let mut silent = Vec::new();
    for _ in 0..ADDRESS_HANDSHAKES_MAX + 8 {
        let Some(s) = begin_a_handshake([127, 0, 0, 2], site.master[0]) else {
            println!("skipped: this machine has no address 127.0.0.2");
            return;
        };
        silent.push(s);
    }
    logged(&master, &["a connection was turned away", "from=127.0.0.2", "from its address"]);
    let ended = silent.iter().filter(|s| {
        s.set_nonblocking(true).unwrap();
        matches!((&**s).read(&mut [0; 1]), Ok(0))
    });
    assert!(ended.count() >= 1, "those past the limit are closed at once");
    site.serves();
    // The others are given up after a while, and the address may come again.
    wait_for("a handshake that begins is gone on with", || {
        let s = begin_a_handshake([127, 0, 0, 2], site.master[0]).unwrap();
        s.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let ended = matches!((&s).read(&mut [0; 1]), Ok(0));
        (!ended).then_some(())
    });
    site.serves();
}
