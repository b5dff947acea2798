use super::*;
use crate::{
    meter::Metered,
    metrics::{Metrics, tests::node},
};
use mooseng_core::{
    ids::SpanId,
    trace::{carry, step},
};
use mooseng_net::memory::MemoryNetwork;
use std::time::Duration;

/// Answers after it has asked another, if there is one.
struct Asks(Option<Arc<dyn Connection>>);

#[async_trait]
impl Handler for Asks {
    async fn handle(
        &self,
        _: &PeerIdentity,
        _: CallContext,
        m: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        match &self.0 {
            // As between servers: the call that is made knows nothing of the one that is answered.
            Some(next) => {
                let cx = CallContext::internal(Duration::from_secs(5));
                let next = next.clone();
                let ask = async move { next.call(&cx, m, Message::of_head(Default::default())).await };
                let ask = tokio::spawn(carry(ask));
                ask.await.map_err(|e| NetError::Refused { cause: e.to_string() })?
            }
            None => {
                step("disk", tokio::time::sleep(Duration::from_millis(1))).await;
                Ok(msg)
            }
        }
    }
}

fn peer(role: Role, number: u64) -> PeerIdentity {
    PeerIdentity { role, node: number, name: format!("{role}-{number}"), ..node() }
}

async fn told(connection: &Arc<dyn Connection>, trace: TraceId) -> Result<Vec<SpanRecord>, NetError> {
    let cx = CallContext::internal(Duration::from_secs(5));
    let reply = connection.call(&cx, method::TRACE, Message::of_head(wire::encode(&trace))).await?;
    wire::decode(&reply.head)
}

/// As a daemon's.
fn transport(network: &MemoryNetwork, me: PeerIdentity) -> Arc<Traced> {
    Traced::new(Metered::new(network.transport(me.clone()), &Metrics::new(&me).unwrap()))
}

/// Two servers, of which the first asks the second, and a connection of an admin to the first.
async fn chain(network: &MemoryNetwork) -> (Arc<dyn Connection>, Vec<Box<dyn Listening>>) {
    begin(None);
    let last = transport(network, peer(Role::Chunkserver, 2));
    let last = last.listen("last", Arc::new(Asks(None))).await.unwrap();
    let first = transport(network, peer(Role::Chunkserver, 1));
    let next = first.connect("last").await.unwrap();
    let first = first.listen("first", Arc::new(Asks(Some(next)))).await.unwrap();
    let to = transport(network, peer(Role::Admin, 0)).connect("first").await.unwrap();
    (to, vec![last, first])
}

fn sync_of(to: &Arc<dyn Connection>) -> impl Future<Output = Result<Message, NetError>> {
    let to = to.clone();
    async move {
        let cx = CallContext::internal(Duration::from_secs(5));
        to.call(&cx, method::CHUNK_SYNC, Message::of_head(Default::default())).await
    }
}

#[tokio::test]
async fn a_kept_trace_goes_through_all_nodes_and_others_leave_nothing() {
    let network = MemoryNetwork::new();
    let (to, _servers) = chain(&network).await;
    let passing = Here { trace: TraceId::passing(Process.random()), ..Here::NOWHERE };
    trace::within(passing, sync_of(&to)).await.unwrap();
    assert_eq!(told(&to, passing.trace).await.unwrap(), [], "a trace that is not kept leaves nothing");

    let trace = fresh_trace();
    let place = Here { trace, ..Here::NOWHERE };
    trace::within(place, step("the command", sync_of(&to))).await.unwrap();
    let spans = told(&to, trace).await.unwrap();
    let path: Vec<_> = {
        // From the innermost up.
        let mut at = spans.iter().find(|s| s.name == "disk").unwrap();
        let mut path = vec![at.name.as_str()];
        while let Some(above) = spans.iter().find(|s| s.id == at.parent) {
            assert!(above.micros >= at.micros, "{above:?} has {at:?} in it");
            path.push(above.name.as_str());
            at = above;
        }
        path
    };
    assert_eq!(
        path,
        [
            "disk",
            "chunk_sync for chunkserver chunkserver-1",
            "call chunk_sync of chunkserver 2",
            "chunk_sync for admin admin-0",
            "call chunk_sync of chunkserver 1",
            "the command",
        ]
    );
    assert_eq!(spans.len(), path.len(), "{spans:?}");
}

#[tokio::test]
async fn traces_are_told_to_an_admin_and_a_client_has_none_kept() {
    let network = MemoryNetwork::new();
    let (admin, _servers) = chain(&network).await;
    let client = transport(&network, peer(Role::Client, 0)).connect("first").await.unwrap();
    let trace = fresh_trace();
    let refused = told(&client, trace).await.unwrap_err();
    assert!(refused.to_string().contains("to an admin"), "{refused}");
    let place = Here { trace, ..Here::NOWHERE };
    trace::within(place, step("a client", sync_of(&client))).await.unwrap();
    let spans = told(&admin, trace).await.unwrap();
    let names: Vec<_> = spans.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a client", "call chunk_sync of chunkserver 1"], "its own process's only");
}

#[test]
fn calls_are_given_the_place_of_their_caller_but_no_other_trace() {
    let (kept, passing) = (TraceId::kept(40), TraceId::passing(40));
    let cx = |trace| CallContext { trace, ..CallContext::internal(Duration::from_secs(5)) };
    let at = |trace, given| {
        let (context, here) = (cx(given), Here { trace, span: SpanId(7) });
        let placed = placed(&context, here);
        (placed.trace, placed.span)
    };
    assert_eq!(at(kept, TraceId(0)), (kept, SpanId(7)));
    assert_eq!(at(kept, kept), (kept, SpanId(7)));
    assert_eq!(at(passing, TraceId(0)), (passing, SpanId(0)));
    let own = TraceId::passing(80);
    assert_eq!([at(kept, own), at(passing, own)], [(own, SpanId(0)); 2], "as of a session's opening");
}

#[test]
fn memory_is_bounded_and_so_are_names() {
    let trace = TraceId::kept(40);
    let at = Here { trace, span: SpanId(1) };
    let ended = |whole, name: &dyn Fn() -> String| {
        let (parent, begin, is_asked) = (SpanId(0), Duration::ZERO, false);
        record(&Ended { at, parent, begin, whole, is_asked, name }, Duration::ZERO)
    };
    // Not the process's: other tests are in that.
    let ring = Ring::new(KEPT_MAX);
    for _ in 0..KEPT_MAX + SPANS_MAX {
        ring.keep(trace, ended(false, &|| "ü".repeat(1000)));
    }
    assert_eq!(ring.spans.lock().len(), KEPT_MAX);
    let told = ring.of(trace);
    assert_eq!(told.len(), SPANS_MAX);
    assert_eq!(told[0].name, format!("{}…", "ü".repeat(NAME_MAX / 2)));
    let bytes = wire::encode(&told).len();
    assert!(bytes < mooseng_core::limits::HEAD_BYTES_MAX, "{bytes} bytes fit one answer");

    // What ends last is above what has ended before.
    ring.keep(trace, ended(true, &|| "the first step".into()));
    let told = ring.of(trace);
    assert!(told.len() == SPANS_MAX && told.iter().any(|s| s.name == "the first step"));
}
