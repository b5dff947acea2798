//! QUIC and TCP keep the promises, and refuse who cannot prove itself.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use mooseng_core::{
    context::CallContext,
    error::NetError,
    ids::ClusterId,
    net::{Handler, Message, Method, PeerIdentity, Role, Transport},
};
use mooseng_net::{
    identity::{ClusterCa, Identity},
    quic::{QuicOptions, QuicTransport},
    tcp::{TcpOptions, TcpTransport},
};
use mooseng_testkit::Network;
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

const DAY: Duration = Duration::from_secs(86_400);

/// One authority per cluster, for all tests.
static AUTHORITIES: LazyLock<Mutex<BTreeMap<u128, ClusterCa>>> = LazyLock::new(Mutex::default);

fn identity(cluster: u128, role: Role, name: &str, validity: Duration) -> Identity {
    let mut authorities = AUTHORITIES.lock().unwrap();
    let id = ClusterId(uuid::Uuid::from_u128(cluster));
    let ca = authorities.entry(cluster).or_insert_with(|| ClusterCa::create(id).unwrap());
    ca.issue(role, 0, name, validity).unwrap()
}

fn loopback() -> String {
    "127.0.0.1:0".into()
}

fn quic(me: &Identity) -> Arc<dyn Transport> {
    QuicTransport::new(me, QuicOptions::default()).unwrap()
}

fn tcp(me: &Identity) -> Arc<dyn Transport> {
    TcpTransport::new(me, TcpOptions::default()).unwrap()
}

mod over_quic {
    use super::*;
    struct Quic;
    impl Network for Quic {
        fn transport(&self, cluster: u128, role: Role, name: &str) -> Arc<dyn Transport> {
            quic(&identity(cluster, role, name, DAY))
        }
        fn address(&self) -> String {
            loopback()
        }
    }
    mooseng_testkit::transport_suite!(Quic);
}

mod over_tcp {
    use super::*;
    struct Tcp;
    impl Network for Tcp {
        fn transport(&self, cluster: u128, role: Role, name: &str) -> Arc<dyn Transport> {
            tcp(&identity(cluster, role, name, DAY))
        }
        fn address(&self) -> String {
            loopback()
        }
    }
    mooseng_testkit::transport_suite!(Tcp);
}

struct Never;

#[async_trait::async_trait]
impl Handler for Never {
    async fn handle(
        &self,
        peer: &PeerIdentity,
        _: CallContext,
        _: Method,
        _: Message,
    ) -> Result<Message, NetError> {
        panic!("{} was let in", peer.name)
    }
}

/// Runs over both.
async fn over_both(case: impl AsyncFn(fn(&Identity) -> Arc<dyn Transport>)) {
    case(quic).await;
    case(tcp).await;
}

async fn refused(server: Arc<dyn Transport>, client: Arc<dyn Transport>) -> NetError {
    let listening = server.listen(&loopback(), Arc::new(Never)).await.unwrap();
    client.connect(&listening.local_addr()).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn forged_and_expired_certificates_are_refused_with_cause_and_cure() {
    over_both(async |over| {
        let server = identity(1, Role::Master, "server", DAY);
        // An authority that says that it is the same cluster's.
        let forger = ClusterCa::create(server.peer().cluster).unwrap();
        let forged = forger.issue(Role::Admin, 0, "forged", DAY).unwrap();
        let e = refused(over(&server), over(&forged)).await;
        assert!(matches!(e, NetError::Identity { .. }), "{e}");
        let e = refused(over(&forged), over(&server)).await;
        assert!(matches!(e, NetError::Identity { .. }), "{e}");

        let expired = identity(1, Role::Client, "expired", Duration::ZERO);
        // Validity counts whole seconds: wait until this one is over.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let e = refused(over(&server), over(&expired)).await;
        assert!(matches!(&e, NetError::Identity { cause, .. } if cause.contains("expired")), "{e}");
        let e = refused(over(&expired), over(&server)).await;
        assert!(
            matches!(&e, NetError::Identity { cause, .. } if cause.to_lowercase().contains("expired")),
            "{e}"
        );

        let foreign = identity(2, Role::Master, "foreign", DAY);
        let e = refused(over(&foreign), over(&server)).await;
        assert!(e.to_string().contains("its certificate is of cluster"), "{e}");
    })
    .await;
}

#[tokio::test]
async fn addresses_that_cannot_be_reached_or_had_are_errors_with_cause_and_cure() {
    over_both(async |over| {
        let me = over(&identity(1, Role::Master, "server", DAY));
        for to in ["127.0.0.1", "127.0.0.1:x", "", "no such host:1", "127.0.0.1:1"] {
            let Err(e) = me.connect(to).await else { panic!("\"{to}\" was reached") };
            assert!(matches!(&e, NetError::Connect { to: t, .. } if t == to), "{e}");
        }
        for at in ["127.0.0.1", "192.0.2.1:0", "nonsense"] {
            let Err(e) = me.listen(at, Arc::new(Never)).await else { panic!("\"{at}\" was listened on") };
            assert!(matches!(&e, NetError::Listen { at: a, .. } if a == at), "{e}");
        }
        // Every address of this machine, both families.
        let listening = me.listen(":0", Arc::new(Never)).await.unwrap();
        let port = listening.local_addr().rsplit(':').next().unwrap().to_owned();
        for host in ["127.0.0.1", "localhost"] {
            me.connect(&format!("{host}:{port}")).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn what_does_not_begin_with_tls_goes_to_who_asked_for_it() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    let other = Arc::new(move |stream| drop(tx.send(stream)));
    let me = identity(1, Role::Master, "server", DAY);
    let server = TcpTransport::new(&me, TcpOptions { other: Some(other) }).unwrap();
    let listening = server.listen(&loopback(), Arc::new(Never)).await.unwrap();
    let mut raw = tokio::net::TcpStream::connect(listening.local_addr()).await.unwrap();
    raw.write_all(b"GET /health").await.unwrap();
    let mut got = [0; 11];
    rx.recv().await.unwrap().read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"GET /health");
    server.connect(&listening.local_addr()).await.unwrap();
}

struct Echo;

#[async_trait::async_trait]
impl Handler for Echo {
    async fn handle(
        &self,
        _: &PeerIdentity,
        _: CallContext,
        _: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        Ok(msg)
    }
}

/// Listens in a runtime of its own, which can end without a word as a killed process does.
fn process(me: &Identity, at: &str) -> (tokio::runtime::Runtime, String) {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        match rt.block_on(quic(me).listen(at, Arc::new(Echo))) {
            Ok(listening) => {
                let local = listening.local_addr();
                rt.spawn(async move {
                    let _listening = listening;
                    std::future::pending::<()>().await
                });
                return (rt, local);
            }
            Err(e) => assert!(std::time::Instant::now() < until, "{e}"),
        }
    }
}

/// The idle timeout would end it, too, after a while in which callers wait for nothing.
#[test]
fn a_process_that_was_killed_and_started_again_disowns_its_old_connections() {
    let client = tokio::runtime::Runtime::new().unwrap();
    let me = identity(1, Role::Master, "server", DAY);
    let (killed, at) = process(&me, &loopback());
    let c = client.block_on(quic(&identity(1, Role::Client, "client", DAY)).connect(&at)).unwrap();
    let call = || {
        client.block_on(c.call(
            &CallContext::internal(Duration::from_secs(30)),
            Method(1),
            Message::of_head(bytes::Bytes::new()),
        ))
    };
    call().unwrap();
    killed.shutdown_timeout(Duration::from_secs(10));
    let _again = process(&me, &at);
    let Err(e) = call() else { panic!("another process answered") };
    assert!(matches!(&e, NetError::Closed { cause, .. } if cause.contains("reset")), "{e}");
}
