//! What every `Transport` promises.

use crate::probe::{COUNT, ECHO, HANG, IGNORE, Network, PANIC, PUSH, PUSHED_BYTES, Probe, eventually};
use bytes::Bytes;
use futures::StreamExt as _;
use mooseng_core::{
    context::{CallContext, Credentials},
    error::NetError,
    ids::TraceId,
    limits::{BODY_BYTES_MAX, GROUPS_MAX, HEAD_BYTES_MAX, PIECE_BYTES_MAX},
    net::{Body, Connection, Connections, Listening, Message, Method, Piece, Pieces, Role},
};
use std::{sync::Arc, time::Duration};

/// Runs every case as a test of its own over a network.
#[macro_export]
macro_rules! transport_suite {
    ($network:expr) => {
        $crate::transport_suite!($network;
            bodies_of_every_size_come_back
            both_sides_know_each_other_and_the_context_travels
            a_thousand_calls_at_once_get_their_own_replies
            a_reply_begins_before_its_request_ends
            a_conversation_outlives_the_last_holder_of_its_connection
            all_who_connect_at_the_same_time_share_one_connection
            large_streams_go_both_ways
            a_push_that_nobody_polls_stands_still_and_blocks_nobody
            a_request_that_the_handler_does_not_read_is_let_go
            an_error_in_a_stream_reaches_the_other_side
            limits_hold_at_their_edge
            the_deadline_bounds_the_head_and_ends_the_handler
            the_deadline_bounds_the_silence_between_pieces
            a_call_that_is_given_up_ends_its_handler
            a_reply_that_is_given_up_ends_its_stream
            a_panic_ends_its_call_alone
            the_end_of_a_server_ends_calls_and_streams_and_frees_the_address
            the_end_of_a_client_ends_its_handlers
            foreign_clusters_and_taken_addresses_are_refused
            an_unknown_method_is_an_error_of_its_call
        );
    };
    ($network:expr; $($case:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            $crate::transport::$case(&$network).await;
        })*
    };
}

struct Pair {
    at: String,
    listening: Box<dyn Listening>,
    connection: Arc<dyn Connection>,
    probe: Arc<Probe>,
}

async fn pair(network: &dyn Network) -> Pair {
    let probe = Arc::new(Probe::default());
    let server = network.transport(1, Role::Master, "server");
    let listening = server.listen(&network.address(), probe.clone()).await.unwrap();
    let at = listening.local_addr();
    let connection = network.transport(1, Role::Client, "client").connect(&at).await.unwrap();
    Pair { at, listening, connection, probe }
}

fn long() -> CallContext {
    CallContext::internal(Duration::from_secs(60))
}

fn short() -> CallContext {
    CallContext::internal(Duration::from_millis(100))
}

fn piece(data: &'static [u8]) -> Piece {
    Piece { head: Bytes::from_static(b"head"), data: Bytes::from_static(data) }
}

fn stream(pieces: Pieces) -> Message {
    Message { head: Bytes::from_static(b"request"), body: Body::Stream(pieces) }
}

fn streamed(msg: Message) -> Pieces {
    match msg.body {
        Body::Stream(pieces) => pieces,
        other => panic!("a stream comes back, not {other:?}"),
    }
}

/// Bytes that show when they were moved or swapped.
fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect::<Vec<_>>().into()
}

async fn echo(connection: &dyn Connection, head: &[u8]) {
    let reply = connection.call(&long(), ECHO, Message::of_head(head.to_vec().into())).await.unwrap();
    assert_eq!(reply.head, head);
}

/// Bodies of 0 bytes to 64 MiB; none and an empty one are different.
pub async fn bodies_of_every_size_come_back(network: &dyn Network) {
    let p = pair(network).await;
    let reply = p.connection.call(&long(), ECHO, Message::of_head("head".into())).await.unwrap();
    assert!(matches!(reply.body, Body::Empty) && reply.head == "head");
    for len in [0, 1, 31, 4095, 4096, 4097, 65_535, 65_537, 1 << 20, (8 << 20) + 1, BODY_BYTES_MAX] {
        let sent = pattern(len);
        let msg = Message { head: "head".into(), body: Body::Whole(sent.clone()) };
        let reply = p.connection.call(&long(), ECHO, msg).await.unwrap();
        let Body::Whole(got) = reply.body else { panic!("a whole body of {len} bytes comes back") };
        assert!(got == sent, "{len} bytes come back as they were");
        assert_eq!(reply.head, "head");
    }
}

/// Each side has the other's identity, and the handler the caller's context.
pub async fn both_sides_know_each_other_and_the_context_travels(network: &dyn Network) {
    let p = pair(network).await;
    let groups = (0..GROUPS_MAX as u32).map(|g| u32::MAX - g).collect();
    let creds = Credentials { uid: 1000, gid: 1001, groups };
    let cx = CallContext { creds, trace: TraceId(7), ..long() };
    p.connection.call(&cx, ECHO, Message::of_head(Bytes::new())).await.unwrap();
    assert_eq!(p.probe.contexts.lock().pop(), Some(cx));
    let server = p.connection.peer();
    assert_eq!((server.role, &server.name[..]), (Role::Master, "server"));
    let client = p.probe.peer.lock().clone().unwrap();
    assert_eq!((client.role, &client.name[..], client.cluster), (Role::Client, "client", server.cluster));
    assert_ne!(client.cert_hash, server.cert_hash);
}

/// Calls are independent of each other.
pub async fn a_thousand_calls_at_once_get_their_own_replies(network: &dyn Network) {
    let p = pair(network).await;
    let calls = (0..1000u32).map(|n| {
        let connection = p.connection.clone();
        async move {
            let body = Bytes::from(vec![n as u8; n as usize * 7]);
            let msg = Message { head: n.to_le_bytes().to_vec().into(), body: Body::Whole(body.clone()) };
            let reply = connection.call(&long(), ECHO, msg).await.unwrap();
            assert!(matches!(reply.body, Body::Whole(b) if b == body));
            assert_eq!(reply.head, n.to_le_bytes()[..]);
        }
    });
    futures::future::join_all(calls).await;
}

/// A conversation: each answer is awaited before the next question.
pub async fn a_reply_begins_before_its_request_ends(network: &dyn Network) {
    let p = pair(network).await;
    let (tx, rx) = futures::channel::mpsc::unbounded();
    let mut back = streamed(p.connection.call(&long(), ECHO, stream(rx.boxed())).await.unwrap());
    for _ in 0..100 {
        tx.unbounded_send(Ok(piece(b"ping"))).unwrap();
        assert_eq!(back.next().await, Some(Ok(piece(b"ping"))));
    }
    drop(tx);
    assert_eq!(back.next().await, None);
}

/// Who reads a reply keeps its connection, whole.
pub async fn a_conversation_outlives_the_last_holder_of_its_connection(network: &dyn Network) {
    let Pair { connection, listening, .. } = pair(network).await;
    let (tx, rx) = futures::channel::mpsc::unbounded();
    let mut back = streamed(connection.call(&long(), ECHO, stream(rx.boxed())).await.unwrap());
    drop(connection);
    for _ in 0..100 {
        tx.unbounded_send(Ok(piece(b"ping"))).unwrap();
        assert_eq!(back.next().await, Some(Ok(piece(b"ping"))));
    }
    drop(tx);
    assert_eq!(back.next().await, None);
    drop(listening);
}

/// By way of [`Connections`].
pub async fn all_who_connect_at_the_same_time_share_one_connection(network: &dyn Network) {
    let p = pair(network).await;
    let connections = Connections::new(network.transport(1, Role::Client, "another"));
    let all = futures::future::join_all((0..8).map(|_| connections.get(&p.at))).await;
    let first = connections.get(&p.at).await.unwrap();
    assert!(all.into_iter().all(|c| Arc::ptr_eq(&c.unwrap(), &first)));
    echo(&*first, b"open").await;
    first.close();
    let next = connections.get(&p.at).await.unwrap();
    assert!(!Arc::ptr_eq(&next, &first));
    echo(&*next, b"anew").await;
}

/// 64 MiB each way, through windows smaller than that.
pub async fn large_streams_go_both_ways(network: &dyn Network) {
    let p = pair(network).await;
    let data = pattern(1 << 20);
    let pieces =
        futures::stream::iter(0..64u8).map(move |n| Ok(Piece { head: vec![n].into(), data: data.clone() }));
    let back = streamed(p.connection.call(&long(), ECHO, stream(pieces.boxed())).await.unwrap());
    let back: Vec<Piece> = back.map(Result::unwrap).collect().await;
    let expected = pattern(1 << 20);
    assert_eq!(back.len(), 64);
    for (n, piece) in back.into_iter().enumerate() {
        assert!(piece.head == [n as u8][..] && piece.data == expected, "piece {n}");
    }
}

/// Nothing is read much faster than it is polled, and who does not poll harms only himself.
pub async fn a_push_that_nobody_polls_stands_still_and_blocks_nobody(network: &dyn Network) {
    let p = pair(network).await;
    let mut unpolled = Vec::new();
    for _ in 0..20 {
        let reply = p.connection.call(&long(), PUSH, Message::of_head(Bytes::new())).await.unwrap();
        unpolled.push(streamed(reply));
    }
    // It stands still when nothing was pushed during a number of other calls.
    let mut before = usize::MAX;
    while before != p.probe.pushed.load(std::sync::atomic::Ordering::Relaxed) {
        before = p.probe.pushed.load(std::sync::atomic::Ordering::Relaxed);
        for _ in 0..200 {
            echo(&*p.connection, b"meanwhile").await;
        }
    }
    assert!(before * PUSHED_BYTES <= 20 * (16 << 20), "{before} pieces are under way");
    for pieces in unpolled {
        assert_eq!(pieces.take(300).filter(|p| std::future::ready(p.is_ok())).count().await, 300);
    }
}

/// The caller's stream is dropped when the handler has answered without it.
pub async fn a_request_that_the_handler_does_not_read_is_let_go(network: &dyn Network) {
    let p = pair(network).await;
    let held = Arc::new(());
    let endless = {
        let held = held.clone();
        futures::stream::repeat_with(move || {
            let _held = &held;
            Ok(Piece { head: Bytes::new(), data: pattern(1 << 10) })
        })
    };
    let reply = p.connection.call(&long(), IGNORE, stream(endless.boxed())).await.unwrap();
    assert_eq!(reply.head, "ignored");
    eventually("the stream is dropped", || Arc::strong_count(&held) == 1).await;
    echo(&*p.connection, b"goes on").await;
}

/// A stream that fails at its source fails at its receiver, with the same error.
pub async fn an_error_in_a_stream_reaches_the_other_side(network: &dyn Network) {
    let p = pair(network).await;
    let why = NetError::Refused { cause: "the source dried up".into() };
    let pieces = futures::stream::iter([Ok(piece(b"a")), Err(why.clone())]).boxed();
    assert_eq!(p.connection.call(&long(), COUNT, stream(pieces)).await.unwrap_err(), why);
    let pieces = futures::stream::iter([Ok(piece(b"a")), Err(why.clone())]).boxed();
    let mut back = streamed(p.connection.call(&long(), ECHO, stream(pieces)).await.unwrap());
    assert_eq!(back.next().await, Some(Ok(piece(b"a"))));
    assert_eq!(back.next().await, Some(Err(why)));
    assert_eq!(back.next().await, None, "nothing follows an error");
}

/// What is too large is refused before it leaves; what is just not goes through.
pub async fn limits_hold_at_their_edge(network: &dyn Network) {
    let p = pair(network).await;
    let over = Message { head: Bytes::new(), body: Body::Whole(vec![0; BODY_BYTES_MAX + 1].into()) };
    let e = p.connection.call(&long(), ECHO, over).await.unwrap_err();
    assert!(matches!(e, NetError::TooLarge { .. }));
    let head = |bytes: usize| Message::of_head(vec![0; bytes].into());
    let reply = p.connection.call(&long(), ECHO, head(HEAD_BYTES_MAX - (16 << 10))).await.unwrap();
    assert_eq!(reply.head.len(), HEAD_BYTES_MAX - (16 << 10));
    let e = p.connection.call(&long(), ECHO, head(HEAD_BYTES_MAX)).await.unwrap_err();
    assert!(matches!(e, NetError::TooLarge { .. }));
    let of = |bytes: usize| {
        let piece = Piece { head: Bytes::new(), data: vec![0; bytes].into() };
        stream(futures::stream::iter([Ok(piece)]).boxed())
    };
    let reply = p.connection.call(&long(), COUNT, of(PIECE_BYTES_MAX)).await.unwrap();
    assert_eq!(reply.head, PIECE_BYTES_MAX.to_string());
    let e = p.connection.call(&long(), COUNT, of(PIECE_BYTES_MAX + 1)).await.unwrap_err();
    assert!(matches!(e, NetError::TooLarge { .. }));
    echo(&*p.connection, b"goes on").await;
}

/// No answer within the budget: a deadline error, and the handler is ended.
pub async fn the_deadline_bounds_the_head_and_ends_the_handler(network: &dyn Network) {
    let p = pair(network).await;
    let e = p.connection.call(&short(), HANG, Message::of_head(Bytes::new())).await.unwrap_err();
    assert!(matches!(e, NetError::Deadline { millis: 100, .. }), "{e}");
    eventually("the handler ends", || p.probe.ended() == p.probe.begun()).await;
    let silent = stream(futures::stream::pending().boxed());
    let e = p.connection.call(&short(), COUNT, silent).await.unwrap_err();
    assert!(matches!(e, NetError::Deadline { .. }), "{e}");
    eventually("the handler ends", || p.probe.ended() == p.probe.begun()).await;
}

/// A stream that goes silent ends with a deadline error.
pub async fn the_deadline_bounds_the_silence_between_pieces(network: &dyn Network) {
    let p = pair(network).await;
    let silent = futures::stream::iter([Ok(piece(b"a"))]).chain(futures::stream::pending());
    let cx = CallContext::internal(Duration::from_secs(1));
    let mut back = streamed(p.connection.call(&cx, ECHO, stream(silent.boxed())).await.unwrap());
    assert_eq!(back.next().await, Some(Ok(piece(b"a"))));
    assert!(matches!(back.next().await, Some(Err(NetError::Deadline { .. }))));
    assert_eq!(back.next().await, None, "nothing follows an error");
}

/// Dropping the future of a call cancels its handler, with and without a stream.
pub async fn a_call_that_is_given_up_ends_its_handler(network: &dyn Network) {
    let p = pair(network).await;
    for n in 1..=10 {
        let msg = if n % 2 == 0 {
            stream(futures::stream::pending().boxed())
        } else {
            Message::of_head(Bytes::new())
        };
        let connection = p.connection.clone();
        let call = tokio::spawn(async move { connection.call(&long(), HANG, msg).await.map(drop) });
        eventually("the handler begins", || p.probe.begun() == n).await;
        call.abort();
        eventually("the handler ends", || p.probe.ended() == n).await;
    }
    echo(&*p.connection, b"goes on").await;
}

/// Dropping a reply's body cancels what pushes it.
pub async fn a_reply_that_is_given_up_ends_its_stream(network: &dyn Network) {
    let p = pair(network).await;
    let reply = p.connection.call(&long(), PUSH, Message::of_head(Bytes::new())).await.unwrap();
    let mut pieces = streamed(reply);
    assert!(pieces.next().await.is_some_and(|p| p.is_ok_and(|p| p.data.len() == PUSHED_BYTES)));
    drop(pieces);
    eventually("the pushing ends", || p.probe.ended() == 1).await;
    let (tx, rx) = futures::channel::mpsc::unbounded();
    tx.unbounded_send(Ok(piece(b"a"))).unwrap();
    let mut back = streamed(p.connection.call(&long(), ECHO, stream(rx.boxed())).await.unwrap());
    assert!(back.next().await.is_some_and(|p| p.is_ok()));
    drop(back);
    eventually("the request's stream is dropped too", || tx.is_closed()).await;
}

/// The connection and other calls go on.
pub async fn a_panic_ends_its_call_alone(network: &dyn Network) {
    let p = pair(network).await;
    let e = p.connection.call(&long(), PANIC, Message::of_head(Bytes::new())).await.unwrap_err();
    assert!(matches!(e, NetError::Closed { sent: true, .. }), "{e}");
    echo(&*p.connection, b"goes on").await;
}

/// Closing a listener ends everything at once; the address can be had again.
pub async fn the_end_of_a_server_ends_calls_and_streams_and_frees_the_address(network: &dyn Network) {
    let p = pair(network).await;
    let mut pushed =
        streamed(p.connection.call(&long(), PUSH, Message::of_head(Bytes::new())).await.unwrap());
    let connection = p.connection.clone();
    let call = tokio::spawn(async move {
        connection.call(&long(), HANG, Message::of_head(Bytes::new())).await.map(drop)
    });
    eventually("both handlers begin", || p.probe.begun() == 2).await;
    p.listening.close().await;
    assert_eq!(p.probe.ended(), 2, "the handlers are gone when it is closed");
    let e = call.await.unwrap().unwrap_err();
    assert!(matches!(e, NetError::Closed { sent: true, .. }), "{e}");
    let last = loop {
        match pushed.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(last, Some(Err(_))), "a stream that was cut does not end well");
    eventually("the client notices", || p.connection.is_closed()).await;
    let e = p.connection.call(&long(), ECHO, Message::of_head(Bytes::new())).await.unwrap_err();
    assert!(matches!(e, NetError::Closed { sent: false, .. }), "{e}");
    let again = network.transport(1, Role::Master, "server").listen(&p.at, p.probe.clone()).await.unwrap();
    assert_eq!(again.local_addr(), p.at);
    let connection = network.transport(1, Role::Client, "client").connect(&p.at).await.unwrap();
    echo(&*connection, b"again").await;
}

/// Closing or dropping a connection ends what it asked for.
pub async fn the_end_of_a_client_ends_its_handlers(network: &dyn Network) {
    let p = pair(network).await;
    let hang = |connection: Arc<dyn Connection>| async move {
        connection.call(&long(), HANG, Message::of_head(Bytes::new())).await.map(drop)
    };
    let call = tokio::spawn(hang(p.connection.clone()));
    eventually("the handler begins", || p.probe.begun() == 1).await;
    p.connection.close();
    assert!(matches!(call.await.unwrap(), Err(NetError::Closed { .. })));
    assert!(p.connection.is_closed());
    eventually("the handler ends", || p.probe.ended() == 1).await;

    let dropped = network.transport(1, Role::Client, "client").connect(&p.at).await.unwrap();
    let mut pushed = streamed(dropped.call(&long(), PUSH, Message::of_head(Bytes::new())).await.unwrap());
    drop(dropped);
    assert!(pushed.next().await.is_some_and(|p| p.is_ok()), "a body keeps its connection");
    drop(pushed);
    eventually("the pushing ends", || p.probe.ended() == 2).await;
}

/// Certificates of another cluster are refused by both sides; nobody takes an address twice.
pub async fn foreign_clusters_and_taken_addresses_are_refused(network: &dyn Network) {
    let p = pair(network).await;
    let Err(e) = network.transport(2, Role::Client, "spy").connect(&p.at).await else {
        panic!("a foreign cluster was let in")
    };
    assert!(matches!(e, NetError::Identity { .. }), "{e}");
    let taken = network.transport(1, Role::Master, "late").listen(&p.at, p.probe.clone()).await;
    let Err(NetError::Listen { at, cause }) = taken else { panic!("an address was taken twice") };
    assert_eq!(at, p.at);
    assert!(cause.contains("use"), "{cause}");
    echo(&*p.connection, b"goes on").await;
    assert_eq!(p.probe.begun(), 1);
}

/// What a handler refuses is told as it said.
pub async fn an_unknown_method_is_an_error_of_its_call(network: &dyn Network) {
    let p = pair(network).await;
    let e = p.connection.call(&long(), Method(999), Message::of_head(Bytes::new())).await.unwrap_err();
    assert_eq!(e, NetError::UnknownMethod(999));
    echo(&*p.connection, b"goes on").await;
}
