use super::*;
use crate::exit;
use bytes::Bytes;
use mooseng_core::{
    attr::Timestamp,
    ids::ClusterId,
    join::{Authority as _, CaHash, Promise},
    limits::JOIN_BYTES_MAX,
    wire,
};
use mooseng_net::identity::{ClusterCa, Identity};
use std::{fs, os::unix::fs::PermissionsExt as _, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

type Answer = dyn Fn(&JoinRequest) -> Result<Joined, JoinError> + Send + Sync;

/// A master of a few lines; its address.
async fn master(answer: Arc<Answer>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; JOIN_BYTES_MAX];
            let mut len = 0;
            let request = loop {
                len += stream.read(&mut bytes[len..]).await.unwrap();
                let body = bytes[..len].windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
                if let Some(request) = body.and_then(|at| JoinRequest::decode(&bytes[at..len]).ok()) {
                    break request;
                }
            };
            let said = [b"HTTP/1.1 200 OK\r\n\r\n", &wire::encode(&answer(&request))[..]].concat();
            stream.write_all(&said).await.unwrap();
        }
    });
    addr
}

struct Fixture {
    home: tempfile::TempDir,
    ca: Arc<ClusterCa>,
    token: JoinToken,
}

impl Fixture {
    fn new() -> Self {
        let ca = Arc::new(ClusterCa::create(ClusterId(uuid::Uuid::from_u128(1))).unwrap());
        let invite = Invite { role: Role::Chunkserver, node: 4, name: "c4".into() };
        let (cluster, seed) = (ca.cluster(), TokenSeed([3; 32]));
        let token = JoinToken { cluster, ca: ca.hash(), seed, invite, masters: vec![] };
        Self { home: tempfile::tempdir().unwrap(), ca, token }
    }

    fn out(&self) -> PathBuf {
        self.home.path().join("id")
    }

    fn signing(&self) -> Arc<Answer> {
        let (ca, invite) = (self.ca.clone(), self.token.invite.clone());
        Arc::new(move |r| {
            r.verify()?;
            let promise = Promise { invite: invite.clone(), expires: Timestamp(0), validity_secs: 3600 };
            ca.sign(&r.csr, &promise)
        })
    }

    async fn join(&self, masters: &[&str], timeout_ms: u64) -> Result<String> {
        self.join_with(&self.token.to_text(), masters, timeout_ms).await
    }

    async fn join_with(&self, text: &str, masters: &[&str], timeout_ms: u64) -> Result<String> {
        let file = self.home.path().join("token");
        fs::write(&file, format!("{text}\n")).unwrap();
        let args = JoinArgs {
            token_file: Some(file.clone()),
            master_addrs: masters.iter().map(|m| (*m).to_owned()).collect(),
            out: self.out(),
            timeout: Duration::from_millis(timeout_ms),
        };
        let mut said = Vec::new();
        let done = join(&args, &mut said).await;
        fs::remove_file(file).unwrap();
        done.map(|()| String::from_utf8(said).unwrap())
    }

    /// Exit code and message of a join that fails, which must leave nothing.
    async fn fails(&self, masters: &[&str], timeout_ms: u64) -> (u8, String) {
        let e = self.join(masters, timeout_ms).await.unwrap_err();
        assert_eq!(fs::read_dir(self.home.path()).unwrap().count(), 0, "something was left: {e:#}");
        (exit::code(&e), format!("{e:#}"))
    }
}

#[tokio::test]
async fn an_identity_is_made_whole_by_way_of_the_leader() {
    let f = Fixture::new();
    let leader = master(f.signing()).await;
    let at = leader.clone();
    let hint = move |_: &_| Err(JoinError::NotLeader { leader: Some(at.clone()) });
    let follower = master(Arc::new(hint)).await;
    let said = f.join(&[&follower], 10_000).await.unwrap();
    assert!(said.contains("the identity of c4, a chunkserver of cluster"), "{said}");
    let peer = Identity::load(&f.out()).unwrap().peer();
    assert_eq!((peer.role, peer.node), (Role::Chunkserver, 4));
    let mode = |name: &str| fs::metadata(f.out().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("node.key"), mode("."), mode("ca.pem")), (0o600, 0o700, 0o644));
    assert_eq!(fs::read_dir(f.home.path()).unwrap().count(), 1, "nothing is left beside it");

    // What is there is never replaced, and no token is used up for it.
    let never = master(Arc::new(|_: &_| panic!("it is not asked"))).await;
    let e = f.join(&[&never], 1_000).await.unwrap_err().to_string();
    assert!(e.contains("is there already"), "{e}");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_with_the_same_request() {
    let f = Fixture::new();
    let (sign, asked) = (f.signing(), Arc::new(parking_lot::Mutex::new(Vec::new())));
    let seen = asked.clone();
    let busy_once = move |r: &JoinRequest| {
        seen.lock().push(r.clone());
        if seen.lock().len() == 1 { Err(JoinError::Busy("an election".into())) } else { sign(r) }
    };
    let m = master(Arc::new(busy_once)).await;
    f.join(&["127.0.0.1:1", &m], 10_000).await.unwrap();
    let asked = asked.lock();
    assert_eq!((asked.len(), &asked[0]), (2, &asked[1]));
}

#[tokio::test]
async fn refusals_and_impostors_leave_nothing() {
    let f = Fixture::new();
    for (error, code) in [
        (JoinError::Used(f.token.seed.id()), 4),
        (JoinError::Expired(f.token.seed.id()), 4),
        (JoinError::Unknown(f.token.seed.id()), 4),
        (JoinError::NoAuthority(mooseng_core::ids::MasterId(1)), 1),
    ] {
        let answer = error.clone();
        let m = master(Arc::new(move |_: &_| Err(answer.clone()))).await;
        assert_eq!(f.fails(&[&m], 10_000).await, (code, error.to_string()));
    }
    // An authority of the same cluster id, but not the one that the token names.
    let other = Fixture::new();
    let m = master(other.signing()).await;
    let (code, said) = f.fails(&[&m], 10_000).await;
    assert!(code == 4 && said.contains("somebody else answered"), "{code} {said}");
    // The right authority's certificate beside a wrong one.
    let (ca, sign) = (f.ca.clone(), other.signing());
    let ours = ca.sign(&Joining::new(f.token.clone()).unwrap().request().csr, &promise(&f)).unwrap().ca;
    let mixed = move |r: &JoinRequest| Ok(Joined { ca: ours.clone(), ..sign(r)? });
    let m = master(Arc::new(mixed)).await;
    let (code, said) = f.fails(&[&m], 10_000).await;
    assert!(code == 4 && said.contains("not signed by the cluster's authority"), "{code} {said}");
    // Nobody, and something that is no master.
    let (code, said) = f.fails(&["127.0.0.1:1"], 300).await;
    assert!(code == 6 && said.contains("127.0.0.1:1") && said.contains("--replace"), "{code} {said}");
    let m = master(Arc::new(|_: &_| Ok(Joined { cert: Bytes::new(), ca: Bytes::new() }))).await;
    assert_eq!(f.fails(&[&m], 10_000).await.0, 4);
}

fn promise(f: &Fixture) -> Promise {
    Promise { invite: f.token.invite.clone(), expires: Timestamp(0), validity_secs: 3600 }
}

#[tokio::test]
async fn what_is_no_token_is_a_usage_error() {
    let f = Fixture::new();
    let other = JoinToken { ca: CaHash([0; 32]), ..f.token.clone() }.to_text();
    let text = f.token.to_text();
    for (text, code) in [
        ("", 2),
        ("token", 2),
        (&text[..text.len() - 1], 2),
        (&"x".repeat(TOKEN_TEXT_BYTES_MAX * 2), 2),
        // Well formed, but it names no masters.
        (&text, 2),
        (&other, 2),
    ] {
        let e = f.join_with(text, &[], 100).await.unwrap_err();
        assert_eq!(exit::code(&e), code, "{e:#}");
        assert_eq!(fs::read_dir(f.home.path()).unwrap().count(), 0);
    }
    let e = f.join_with(&text, &["no-port"], 100).await.unwrap_err();
    assert_eq!(exit::code(&e), 2, "{e:#}");
}
