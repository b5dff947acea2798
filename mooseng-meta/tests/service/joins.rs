//! Joins at a leader, with a real authority.

use crate::world::*;
use mooseng_core::{
    error::MetaError,
    ids::*,
    join::{CaHash, Invite, JoinError, JoinRequest, JoinToken, TokenSeed},
    limits::*,
    meta::*,
    net::Role,
    rpc::MetaHandler,
    rpc::RemoteMeta,
};
use mooseng_net::identity::{ClusterCa, Joining};
use std::{sync::Arc, time::Duration};

fn invite(node: u64) -> Invite {
    Invite { role: Role::Chunkserver, node, name: format!("cs-{node}") }
}

fn create(seed: u8, node: u64) -> CreateToken {
    let token = TokenSeed([seed; 32]).id();
    CreateToken { token, invite: invite(node), lifetime_secs: 60, validity_secs: 3600, replace: false }
}

fn text_of(seed: u8, node: u64, ca: CaHash) -> JoinToken {
    JoinToken { cluster: cluster(), ca, seed: TokenSeed([seed; 32]), invite: invite(node), masters: vec![] }
}

async fn world() -> (World, Arc<ClusterCa>) {
    let mut w = World::of(1, quick()).await;
    let ca = Arc::new(ClusterCa::create(cluster()).unwrap());
    w.authority = Some(ca.clone());
    w.restart_master().await;
    (w, ca)
}

async fn make(w: &World, op: CreateToken) -> Result<CreatedToken, JoinError> {
    w.service().create_token(&cx(), op).await.map_err(|e| match e {
        MetaError::Join(e) => e,
        other => panic!("{other}"),
    })
}

async fn ask(w: &World, r: JoinRequest) -> Result<mooseng_core::join::Joined, JoinError> {
    w.master.as_ref().unwrap().join(r).await
}

#[tokio::test(start_paused = true)]
async fn a_token_gives_a_certificate_for_one_key() {
    let (mut w, ca) = world().await;
    let made = make(&w, create(1, 2)).await.unwrap();
    assert_eq!(made.masters, ["master"]);
    assert_eq!(make(&w, create(1, 2)).await, Ok(made), "a repeat answers the same");

    let joining = Joining::new(text_of(1, 2, ca.hash())).unwrap();
    let peer = joining.accept(&ask(&w, joining.request()).await.unwrap()).unwrap().peer();
    assert_eq!((peer.role, peer.node, &peer.name[..]), (Role::Chunkserver, 2, "cs-2"));
    let other = Joining::new(text_of(1, 2, ca.hash())).unwrap();
    let id = TokenSeed([1; 32]).id();
    assert_eq!(ask(&w, other.request()).await, Err(JoinError::Used(id)));
    // The same request again, also at a master that starts anew.
    w.restart_master().await;
    joining.accept(&ask(&w, joining.request()).await.unwrap()).unwrap();
    assert_eq!(ask(&w, other.request()).await, Err(JoinError::Used(id)));
    // Its time over, it is over for everybody.
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(ask(&w, joining.request()).await, Err(JoinError::Expired(id)));
    w.master.take().unwrap().stop().await;
}

#[tokio::test(start_paused = true)]
async fn requests_that_may_not_join_use_nothing_up() {
    let (mut w, ca) = world().await;
    make(&w, create(1, 2)).await.unwrap();
    let joining = Joining::new(text_of(1, 2, ca.hash())).unwrap();
    let (good, id) = (joining.request(), TokenSeed([1; 32]).id());
    let unknown = Joining::new(text_of(9, 2, ca.hash())).unwrap().request();
    let theirs = ClusterId(Default::default());
    let foreign = JoinToken { cluster: theirs, ..text_of(1, 2, ca.hash()) };
    let unsigned =
        JoinRequest { csr: Joining::new(text_of(1, 2, ca.hash())).unwrap().request().csr, ..good.clone() };
    let no_csr = JoinRequest::new(&text_of(1, 2, ca.hash()), "no request".into());
    for (request, error) in [
        (unknown, JoinError::Unknown(TokenSeed([9; 32]).id())),
        (unsigned, JoinError::Signature(id)),
        (JoinRequest::new(&foreign, good.csr.clone()), JoinError::Foreign { token: theirs, here: cluster() }),
    ] {
        assert_eq!(ask(&w, request).await, Err(error));
    }
    assert!(matches!(ask(&w, no_csr).await, Err(JoinError::Csr(_))));
    // A master without the key says so, and where it is to be put.
    w.authority = None;
    w.restart_master().await;
    let said = ask(&w, good.clone()).await.unwrap_err();
    assert_eq!(said, JoinError::NoAuthority(MasterId(1)));
    assert!(said.to_string().contains("holds no CA key") && said.to_string().contains("copy"), "{said}");
    assert_eq!(make(&w, create(2, 3)).await, Err(JoinError::NoAuthority(MasterId(1))));
    w.authority = Some(ca);
    w.restart_master().await;
    joining.accept(&ask(&w, good).await.unwrap()).unwrap();
    w.master.take().unwrap().stop().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_that_cannot_be_are_not_made() {
    let (mut w, _) = world().await;
    let named = |name: &str| Invite { name: name.into(), ..invite(2) };
    for bad in [
        CreateToken { invite: named(""), ..create(1, 2) },
        CreateToken { invite: named("a/b"), ..create(1, 2) },
        CreateToken { invite: Invite { role: Role::Client, ..invite(2) }, ..create(1, 2) },
        create(1, 0),
        CreateToken { lifetime_secs: 0, ..create(1, 2) },
        CreateToken { lifetime_secs: TOKEN_LIFETIME_MAX_SECS + 1, ..create(1, 2) },
        CreateToken { validity_secs: CERT_VALIDITY_MAX_SECS + 1, ..create(1, 2) },
        CreateToken { validity_secs: u64::MAX, ..create(1, 2) },
    ] {
        assert!(matches!(make(&w, bad).await, Err(JoinError::Invalid(_))));
    }
    // Chunkserver 1 is there, and so is master 1.
    for role in [Role::Chunkserver, Role::Master] {
        let mut op = CreateToken { invite: Invite { role, ..invite(1) }, ..create(1, 1) };
        let said = make(&w, op.clone()).await.unwrap_err().to_string();
        assert!(said.contains("of number 1") && said.contains("--replace"), "{said}");
        op.replace = true;
        make(&w, op).await.unwrap();
        // The tokens of this test share a key.
        w.restart_master().await;
        tokio::time::sleep(Duration::from_secs(61)).await;
    }
    let edge = CreateToken { lifetime_secs: TOKEN_LIFETIME_MAX_SECS, ..create(3, 3) };
    make(&w, CreateToken { validity_secs: CERT_VALIDITY_MAX_SECS, ..edge }).await.unwrap();
    w.master.take().unwrap().stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_admins_make_tokens() {
    let (mut w, _) = world().await;
    let handler = Arc::new(MetaHandler::new(w.service()));
    let listening = w.net.transport(identity(Role::Master, 9)).listen("door", handler).await.unwrap();
    for (role, may) in
        [(Role::Client, false), (Role::Chunkserver, false), (Role::Master, false), (Role::Admin, true)]
    {
        let remote = RemoteMeta::new(w.net.transport(identity(role, 1)).connect("door").await.unwrap());
        let made = remote.create_token(&cx(), create(1, 2)).await;
        assert_eq!(made.is_ok(), may, "{role}: {made:?}");
        assert!(may || matches!(made, Err(MetaError::Role { .. })));
    }
    listening.close().await;
    w.master.take().unwrap().stop().await;
}
