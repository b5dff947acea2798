//! Who may ask what: each role's certificate against each port.

use super::{members::*, *};
use Role::{Admin, Chunkserver, Client, Master};
use mooseng_core::{
    attr::Timestamp,
    chunk::{ChunkStore as _, Control, ReadRequest, WriteRequest},
    error::{ChunkError, MetaError, NetError},
    ids::*,
    join::{Invite, TokenId},
    meta::*,
    name::Name,
    net::{Message, Method, Role},
    rpc::RemoteChunks,
};
use mooseng_net::identity::Identity;

/// A request of each kind, and who may make it.
fn requests() -> Vec<(MetaRequest, &'static [Role])> {
    let name = Name::new("n").unwrap();
    let (server, incarnation, clock) = (ServerId(1), Incarnation(1), Timestamp::default());
    let (disks, damaged, broken, chunks) = (vec![], vec![], vec![], vec![]);
    let text = String::new;
    let clients: &[Role] = &[Client, Admin];
    vec![
        (GetAttr { inode: InodeId::ROOT }.into(), clients),
        (MkDir { parent: InodeId::ROOT, name, mode: 0o755, id: None }.into(), clients),
        (KeepAlive {}.into(), clients),
        (OpenSession { client: text(), host: text(), version: text() }.into(), clients),
        (
            Register { server, incarnation, addr: text(), disks: disks.clone(), version: text() }.into(),
            &[Chunkserver],
        ),
        (Heartbeat { server, incarnation, clock, disks, damaged, broken }.into(), &[Chunkserver]),
        (Report { server, incarnation, after: None, chunks, last: true }.into(), &[Chunkserver]),
        (GetStatus {}.into(), &[Master, Chunkserver, Client, Admin]),
        (RemoveMaster { id: MasterId(9) }.into(), &[Admin]),
        (AddMaster { id: MasterId(9), raft_addr: text(), client_addr: text() }.into(), &[Admin]),
        (TransferLeadership { to: MasterId(9) }.into(), &[Admin]),
        (Drain { server: ServerId(9), on: true }.into(), &[Admin]),
        (DrainDisk { server: ServerId(9), disk: DiskId(9), on: true }.into(), &[Admin]),
        (AllowRemovals { server: ServerId(9) }.into(), &[Admin]),
        (ScrubNow {}.into(), &[Admin]),
        (TellScrub { server, incarnation, disks: vec![], served: Served::default() }.into(), &[Chunkserver]),
        (GetCare {}.into(), &[Master, Chunkserver, Client, Admin]),
        (ListEvents { after: None, count: 1 }.into(), &[Master, Chunkserver, Client, Admin]),
        (
            ListCell { wanted: 2, copies: 0, from: ChunkId(0), count: 1 }.into(),
            &[Master, Chunkserver, Client, Admin],
        ),
        (token_for_a_stranger().into(), &[Admin]),
    ]
}

fn token_for_a_stranger() -> CreateToken {
    let token = TokenId([7; 32]);
    let invite = Invite { role: Role::Admin, node: 0, name: "stranger".into() };
    CreateToken { token, invite, lifetime_secs: 60, validity_secs: 60, replace: false }
}

fn commands() -> Vec<(Control, &'static [Role])> {
    let (id, term) = (ChunkId(1), Term(u64::MAX));
    let chunk = ChunkRef { id, version: ChunkVersion(1) };
    let session = SessionStamp { id: SessionId(1), epoch: SessionEpoch(u64::MAX) };
    let (to, members) = (ChunkVersion(2), vec![]);
    vec![
        (Control::Stat { chunk: id }, &[Master, Chunkserver]),
        (Control::Table { chunk }, &[Master, Chunkserver]),
        (Control::Numbers { chunk, head: None }, &[Master, Chunkserver]),
        (
            Control::SetVersion { chunk: id, to, members, cut_to: Some(0), create: true, settle: true, term },
            &[Master],
        ),
        (Control::Pull { chunk, from: vec![], ahead: false, member_of: None, term }, &[Master]),
        (Control::Pull { chunk, from: vec![], ahead: true, member_of: None, term }, &[Master]),
        (Control::Delete { chunk, term }, &[Master]),
        (Control::Fence { session, term }, &[Master]),
    ]
}

#[test]
fn each_role_asks_only_for_what_is_its_own() {
    for transport in TRANSPORTS {
        let (site, master, chunkserver) = Site::serving(transport);
        let who = [
            (Master, site.issue("master", 5, "m-5")),
            (Chunkserver, site.issue("chunkserver", 5, "s-5")),
            (Client, site.issue("client", 0, "c-5")),
            (Admin, site.issue("admin", 0, "a-5")),
        ];
        run(async {
            for (role, me) in &who {
                let meta = site.meta(me).await;
                for (request, may) in requests() {
                    let name = request.name();
                    // What it may is tried where it changes nothing.
                    if may.contains(role) && request.kind() != OpKind::Look {
                        continue;
                    }
                    let got = meta.call(&cx(), request).await;
                    match may.contains(role) {
                        true => assert!(got.is_ok(), "{name} by a {role}: {got:?}"),
                        false => assert!(
                            matches!(&got, Err(MetaError::Role { request, role: r }) if request == name && r == role.as_str()),
                            "{name} by a {role}: {got:?}"
                        ),
                    }
                }
                if matches!(role, Master | Chunkserver) {
                    let got = meta.events(&cx(), EventSeq(0)).await.map(drop);
                    assert!(matches!(got, Err(MetaError::Net(NetError::Refused { .. }))), "{role}: {got:?}");
                }
                let chunks = RemoteChunks::new(site.connect(me, site.chunkserver[0]).await.unwrap());
                for (command, may) in commands().into_iter().filter(|(_, may)| !may.contains(role)) {
                    let text = format!("{command:?} by a {role}, which {may:?} may");
                    let got = chunks.control(&cx(), command).await;
                    assert!(matches!(got, Err(ChunkError::Net(NetError::Refused { .. }))), "{text}: {got:?}");
                }
                if matches!(role, Client | Chunkserver) {
                    let got = chunks.list(&cx(), None, 10).await;
                    assert!(matches!(got, Err(ChunkError::Net(NetError::Refused { .. }))), "{role}: {got:?}");
                }
                touches_no_chunk(&chunks, *role).await;
                not_on_the_raft_port(&site, *role, me).await;
                no_method_of_another_service(&site, me).await;
            }
        });
        for name in ["m-5", "s-5", "c-5", "a-5"] {
            logged(&master, &["a call was refused", &format!("peer={name} ")]);
        }
        for name in ["s-5", "c-5", "a-5"] {
            logged(&chunkserver, &["a call was refused", &format!("peer={name} ")]);
            logged(&master, &["Raft is spoken among masters", name]);
        }
        site.serves();
    }
}

/// Without a capability nobody but servers touches a chunk.
async fn touches_no_chunk(chunks: &RemoteChunks, role: Role) {
    if !matches!(role, Client | Admin) {
        return;
    }
    let chunk = ChunkRef { id: ChunkId(1), version: ChunkVersion(1) };
    let read = ReadRequest { chunk, at: Offset(0), len: 4096, capability: None };
    let got = chunks.read(&cx(), read).await.map(drop);
    assert!(matches!(&got, Err(ChunkError::Forbidden(why)) if why.contains("needs a capability")), "{got:?}");
    let session = SessionStamp { id: SessionId(1), epoch: SessionEpoch(1) };
    let chain = vec![Replica { server: ServerId(1), addr: String::new() }];
    let write = WriteRequest {
        chunk,
        chain,
        makers: vec![(ServerId(1), Incarnation(1))],
        head: None,
        session,
        capability: None,
    };
    let got = chunks.write(&cx(), write, Box::pin(futures::stream::empty())).await.map(drop);
    assert!(matches!(&got, Err(ChunkError::Forbidden(why)) if why.contains("needs a capability")), "{got:?}");
}

/// Raft's methods have the numbers from 0x100 on: a vote, entries, a snapshot.
async fn not_on_the_raft_port(site: &Site, role: Role, me: &Identity) {
    if role == Master {
        return;
    }
    let line = site.connect(me, site.master[1]).await.unwrap();
    for method in 0x100..0x108 {
        let got = line.call(&cx(), Method(method), Message::of_head(vec![0; 40].into())).await.map(drop);
        assert!(
            matches!(&got, Err(NetError::Refused { cause }) if cause.contains("Raft is spoken among masters")),
            "{method:x} by a {role}: {got:?}"
        );
    }
}

async fn no_method_of_another_service(site: &Site, me: &Identity) {
    for (port, methods) in [(site.master[0], [16, 19, 0x100, 999]), (site.chunkserver[0], [1, 2, 0x100, 999])]
    {
        let line = site.connect(me, port).await.unwrap();
        for method in methods {
            let got = line.call(&cx(), Method(method), Message::of_head(Default::default())).await.map(drop);
            assert_eq!(got, Err(NetError::UnknownMethod(method)));
        }
    }
}

/// A chunkserver speaks for itself only, and a session is used by whom it was opened for.
#[test]
fn nobody_speaks_for_another() {
    let (site, master, _chunkserver) = Site::serving("quic");
    run(async {
        let other = site.issue("chunkserver", 2, "s-2");
        let meta = site.meta(&other).await;
        let (server, incarnation, clock) = (ServerId(1), Incarnation(1), Timestamp::default());
        let (addr, version, disks) = (String::new(), String::new(), vec![]);
        let (damaged, broken, chunks) = (vec![], vec![], vec![]);
        for forged in [
            MetaRequest::from(Register { server, incarnation, addr, disks: disks.clone(), version }),
            Heartbeat { server, incarnation, clock, disks, damaged, broken }.into(),
            Report { server, incarnation, after: None, chunks, last: true }.into(),
        ] {
            let got = meta.call(&cx(), forged).await;
            let told = matches!(&got, Err(MetaError::Invalid(why)) if why.contains("chunkserver 2"));
            assert!(told, "{got:?}");
        }

        let mut owner = Member::open(&site, &site.issue("client", 0, "owner")).await;
        let thief = site.meta(&site.issue("client", 0, "thief")).await;
        let name = Name::new("stolen").unwrap();
        let make: MetaRequest = MkDir { parent: InodeId::ROOT, name, mode: 0o755, id: None }.into();
        for request in [make, KeepAlive {}.into(), Reassert { opens: vec![] }.into(), CloseSession {}.into()]
        {
            let got = thief.call(&owner.cx(), request).await;
            assert!(
                matches!(&got, Err(MetaError::Invalid(why)) if why.contains("another certificate")),
                "{got:?}"
            );
        }
        let got = thief.events(&owner.cx(), EventSeq(0)).await.map(drop);
        assert!(matches!(got, Err(MetaError::Invalid(_))), "{got:?}");
        owner.ask(KeepAlive {}).await.unwrap();
        owner.ask(GetAttr { inode: InodeId::ROOT }).await.unwrap();
    });
    logged(&master, &["a call was refused", "peer=s-2 ", "the certificate is of chunkserver 2"]);
    logged(&master, &["a call was refused", "peer=thief ", "belongs to another certificate"]);
    assert_eq!(site.ok(&["ls"]), "", "nothing was made in another's name");
    site.serves();
}
