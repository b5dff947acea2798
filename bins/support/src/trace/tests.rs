use super::*;
use crate::metrics::tests::node;
use mooseng_core::trace::step;
use mooseng_net::memory::MemoryNetwork;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt as _;

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
                let ask = tokio::spawn({
                    let next = next.clone();
                    async move { next.call(&cx, m, Message::of_head(Default::default())).await }
                        .in_current_span()
                });
                ask.await.map_err(|e| NetError::Refused { cause: e.to_string() })?
            }
            None => {
                tokio::time::sleep(Duration::from_millis(1)).instrument(step("disk")).await;
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

#[tokio::test]
async fn a_kept_trace_goes_through_all_nodes_and_others_leave_nothing() {
    let _subscriber = tracing::subscriber::set_default(Registry::default().with(keeper()));
    let network = MemoryNetwork::new();
    let last = Traced::new(network.transport(peer(Role::Chunkserver, 2)));
    let _last = last.listen("last", Arc::new(Asks(None))).await.unwrap();
    let first = Traced::new(network.transport(peer(Role::Chunkserver, 1)));
    let next = first.connect("last").await.unwrap();
    let _first = first.listen("first", Arc::new(Asks(Some(next)))).await.unwrap();
    let client = Traced::new(network.transport(peer(Role::Admin, 0)));
    let connection = client.connect("first").await.unwrap();

    let cx = CallContext { trace: TraceId::passing(7), ..CallContext::internal(Duration::from_secs(5)) };
    let call = || connection.call(&cx, method::CHUNK_SYNC, Message::of_head(Default::default()));
    call().await.unwrap();
    assert_eq!(told(&connection, cx.trace).await.unwrap(), [], "a trace that is not kept leaves nothing");

    let trace = fresh_trace();
    call().instrument(trace::begin(trace, SpanId(0), "the command")).await.unwrap();
    let spans = told(&connection, trace).await.unwrap();
    let path: Vec<_> = {
        // From the innermost up.
        let mut at = spans.iter().find(|s| s.name == "disk").unwrap();
        let mut path = vec![at.name.as_str()];
        while let Some(above) = spans.iter().find(|s| s.id == at.parent) {
            assert!(above.begin <= at.begin && above.micros >= at.micros, "{above:?} has {at:?} in it");
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

    let other = Traced::new(network.transport(peer(Role::Client, 0))).connect("first").await.unwrap();
    let refused = told(&other, trace).await.unwrap_err();
    assert!(refused.to_string().contains("to an admin"), "{refused}");
}
