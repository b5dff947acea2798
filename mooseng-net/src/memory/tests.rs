//! What the memory transport promises beyond `tests/testkit`: pointers, faults, times to the
//! millisecond.

use super::*;
use bytes::Bytes;
use futures::StreamExt as _;
use mooseng_core::{
    context::CallContext,
    ids::ClusterId,
    limits::BODY_BYTES_MAX,
    net::{Body, CertHash, Message, Method, Piece, Role},
};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

const ECHO: Method = Method(1);
const HANG: Method = Method(2);
const PUSH: Method = Method(3);
const COUNT: Method = Method(5);

#[derive(Default)]
struct Probe {
    begun: AtomicUsize,
    ended: Notify,
    pushed: Arc<AtomicUsize>,
    peer: Mutex<Option<PeerIdentity>>,
}

/// Tells when the handler's future is gone.
struct Ended<'a>(&'a Notify);
impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Handler for Probe {
    async fn handle(
        &self,
        peer: &PeerIdentity,
        _: CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        *self.peer.lock() = Some(peer.clone());
        let _ended = Ended(&self.ended);
        match method {
            ECHO => Ok(msg),
            HANG => std::future::pending().await,
            PUSH => {
                let pushed = self.pushed.clone();
                let pieces = futures::stream::repeat_with(move || {
                    pushed.fetch_add(1, Ordering::Relaxed);
                    Ok(piece(b"x"))
                });
                Ok(Message { head: Bytes::new(), body: Body::Stream(pieces.boxed()) })
            }
            COUNT => {
                let Body::Stream(mut pieces) = msg.body else { panic!("a stream was sent") };
                let mut bytes = 0;
                while let Some(piece) = pieces.next().await {
                    bytes += piece?.data.len();
                }
                Ok(Message::of_head(bytes.to_string().into()))
            }
            Method(n) => Err(NetError::UnknownMethod(n)),
        }
    }
}

fn piece(data: &'static [u8]) -> Piece {
    Piece { head: Bytes::new(), data: Bytes::from_static(data) }
}

fn who(name: &str, cluster: u128) -> PeerIdentity {
    PeerIdentity {
        cluster: ClusterId(uuid::Uuid::from_u128(cluster)),
        role: Role::Client,
        node: 0,
        name: name.into(),
        cert_hash: CertHash::default(),
    }
}

struct Pair {
    network: MemoryNetwork,
    listening: Box<dyn Listening>,
    connection: Arc<dyn Connection>,
    probe: Arc<Probe>,
}

async fn pair(network: MemoryNetwork) -> Pair {
    let probe = Arc::new(Probe::default());
    let listening = network.transport(who("server", 1)).listen("at", probe.clone()).await.unwrap();
    let connection = network.transport(who("client", 1)).connect("at").await.unwrap();
    Pair { network, listening, connection, probe }
}

fn secs(n: u64) -> CallContext {
    CallContext::internal(Duration::from_secs(n))
}

fn stream(pieces: Vec<Piece>) -> Message {
    let body = Body::Stream(futures::stream::iter(pieces.into_iter().map(Ok)).boxed());
    Message { head: Bytes::new(), body }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_handed_over_by_pointer_and_both_sides_know_each_other() {
    let p = pair(MemoryNetwork::new()).await;
    let sent = Bytes::from(vec![7; BODY_BYTES_MAX]);
    let msg = Message { head: Bytes::new(), body: Body::Whole(sent.clone()) };
    let reply = p.connection.call(&secs(1), ECHO, msg).await.unwrap();
    let Body::Whole(got) = reply.body else { panic!("a whole body comes back") };
    assert_eq!((got.as_ptr(), got.len()), (sent.as_ptr(), sent.len()));
    assert_eq!(p.connection.peer(), &who("server", 1));
    assert_eq!(p.probe.peer.lock().clone(), Some(who("client", 1)));

    let reply = p.connection.call(&secs(1), ECHO, stream(vec![piece(b"a"), piece(b"b")])).await.unwrap();
    let Body::Stream(pieces) = reply.body else { panic!("a stream comes back") };
    let got: Vec<_> = pieces.map(|p| p.unwrap().data).collect().await;
    assert_eq!(got, [&b"a"[..], b"b"]);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_bounds_head_and_silence_and_ends_the_handler() {
    let p = pair(MemoryNetwork::new()).await;
    let start = tokio::time::Instant::now();
    let e = p.connection.call(&secs(3), HANG, Message::of_head(Bytes::new())).await.unwrap_err();
    assert_eq!(e, NetError::Deadline { peer: "at".into(), millis: 3000 });
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    p.probe.ended.notified().await;

    let silent = Message { head: Bytes::new(), body: Body::Stream(futures::stream::pending().boxed()) };
    let Body::Stream(mut back) = p.connection.call(&secs(3), ECHO, silent).await.unwrap().body else {
        panic!("a stream comes back")
    };
    assert!(matches!(back.next().await, Some(Err(NetError::Deadline { .. }))));
    assert_eq!(back.next().await, None, "nothing follows an error");
}

#[tokio::test(start_paused = true)]
async fn a_push_that_nobody_polls_stands_still() {
    let p = pair(MemoryNetwork::new()).await;
    let reply = p.connection.call(&secs(9), PUSH, Message::of_head(Bytes::new())).await.unwrap();
    // Paused time only passes once every task is waiting.
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(p.probe.pushed.load(Ordering::Relaxed) <= 3);
    let Body::Stream(pieces) = reply.body else { panic!("a stream comes back") };
    assert_eq!(pieces.take(100).count().await, 100);
}

#[tokio::test(start_paused = true)]
async fn a_cut_node_is_gone_at_both_ends() {
    let p = pair(MemoryNetwork::new()).await;
    p.network.cut("client");
    assert!(p.connection.is_closed());
    let client = p.network.transport(who("client", 1));
    let again = client.connect("at").await.unwrap();
    p.network.cut("server");
    assert!(again.is_closed() && client.connect("at").await.is_err());
}

/// One planned fate for one kind of event.
#[derive(Debug)]
struct Planned(Event, Fate);
impl Faults for Planned {
    fn fate(&self, _: &str, _: &str, event: Event) -> Fate {
        if event == self.0 { self.1 } else { Fate::Deliver(Duration::ZERO) }
    }
}

async fn faulty(event: Event, fate: Fate) -> (Pair, Result<Message, NetError>, Duration) {
    let p = pair(MemoryNetwork::with_faults(Arc::new(Planned(event, fate)))).await;
    let start = tokio::time::Instant::now();
    let result = p.connection.call(&secs(5), ECHO, stream(vec![piece(b"x")])).await;
    (p, result, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn lost_late_and_reset_messages_look_as_on_a_real_network() {
    let (p, lost, took) = faulty(Event::Request(ECHO), Fate::Drop).await;
    assert!(matches!(lost, Err(NetError::Deadline { .. })));
    assert_eq!((took, p.probe.begun.load(Ordering::Relaxed)), (Duration::from_secs(5), 0));

    let (p, lost, _) = faulty(Event::Reply(ECHO), Fate::Drop).await;
    assert!(matches!(lost, Err(NetError::Deadline { .. })));
    assert_eq!(p.probe.begun.load(Ordering::Relaxed), 1, "the handler ran, its answer was lost");

    let (_p, late, took) = faulty(Event::Reply(ECHO), Fate::Deliver(Duration::from_secs(2))).await;
    assert!(late.is_ok() && took == Duration::from_secs(2));

    let (p, reset, _) = faulty(Event::Reply(ECHO), Fate::Reset).await;
    assert!(matches!(reset, Err(NetError::Closed { sent: true, .. })) && p.connection.is_closed());

    let (_p, stalled, _) = faulty(Event::Piece(ECHO), Fate::Drop).await;
    let Body::Stream(mut pieces) = stalled.unwrap().body else { panic!("a stream comes back") };
    assert!(matches!(pieces.next().await, Some(Err(NetError::Deadline { .. }))));
}

#[tokio::test(start_paused = true)]
async fn a_partitioned_connect_waits_and_fails() {
    let network = MemoryNetwork::with_faults(Arc::new(Planned(Event::Connect, Fate::Drop)));
    let probe = Arc::new(Probe::default());
    let _l = network.transport(who("server", 1)).listen("at", probe).await.unwrap();
    let start = tokio::time::Instant::now();
    let result = network.transport(who("client", 1)).connect("at").await;
    assert!(matches!(result, Err(NetError::Connect { .. })));
    assert_eq!(start.elapsed(), CONNECT_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_lost_cancellation_leaves_the_handler_running() {
    let network = MemoryNetwork::with_faults(Arc::new(Planned(Event::Cancel(HANG), Fate::Drop)));
    let p = pair(network).await;
    p.connection.call(&secs(1), HANG, Message::of_head(Bytes::new())).await.unwrap_err();
    let ended = tokio::time::timeout(Duration::from_secs(60), p.probe.ended.notified()).await;
    assert!(ended.is_err(), "the handler runs on");
    p.listening.close().await;
    p.probe.ended.notified().await;
}

/// Requests come once more after 2 s.
#[derive(Debug)]
struct Echoes;
impl Faults for Echoes {
    fn fate(&self, _: &str, _: &str, event: Event) -> Fate {
        let (at_once, later) = (Duration::ZERO, Duration::from_secs(2));
        if matches!(event, Event::Connect) { Fate::Deliver(at_once) } else { Fate::Twice(at_once, later) }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_may_come_twice_and_is_answered_once() {
    let p = pair(MemoryNetwork::with_faults(Arc::new(Echoes))).await;
    let begun = || p.probe.begun.load(Ordering::Relaxed);
    p.connection.call(&secs(1), ECHO, Message::of_head(Bytes::new())).await.unwrap();
    assert_eq!(begun(), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(begun(), 2);
    // Streams come once, and nothing comes after the connection.
    drop(p.connection.call(&secs(1), ECHO, stream(vec![])).await.unwrap());
    p.connection.call(&secs(1), ECHO, Message::of_head(Bytes::new())).await.unwrap();
    p.connection.close();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(begun(), 4);
}
