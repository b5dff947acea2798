//! Names that cannot be, as no client of ours would send them: in the bytes of each request with a name.

use super::{members::*, *};
use mooseng_core::{
    attr::{Access, FileKind},
    error::{MetaError, NetError},
    ids::*,
    limits::NAME_BYTES_MAX,
    meta::*,
    name::Name,
    net::{Connection, Message},
    rpc::method,
    wire::{decode, encode},
};

/// A name that is no other part of a request, so that another can be put into its place.
const MARK: &str = "@@@@@@@@";

fn requests() -> Vec<MetaRequest> {
    let (parent, mode, id) = (InodeId::ROOT, 0o755, None);
    let mark = || Name::new(MARK).unwrap();
    let good = || Name::new("there").unwrap();
    let rename =
        |name, new_name| Rename { parent, name, new_parent: parent, new_name, mode: RenameMode::Replace };
    vec![
        Lookup { parent, name: mark() }.into(),
        Create { parent, name: mark(), mode, exclusive: false, open: Access::WRITE, truncate: false, id }
            .into(),
        MkDir { parent, name: mark(), mode, id }.into(),
        MkNod { parent, name: mark(), mode, kind: FileKind::Fifo, rdev: 0, id }.into(),
        SymLink { parent, name: mark(), target: "t".into(), id }.into(),
        Link { inode: InodeId(2), parent, name: mark() }.into(),
        Unlink { parent, name: mark() }.into(),
        RmDir { parent, name: mark() }.into(),
        rename(mark(), good()).into(),
        rename(good(), mark()).into(),
    ]
}

/// The request with other bytes in the place of its name.
fn with_name(request: &MetaRequest, name: &[u8]) -> Vec<u8> {
    let (bytes, mark) = (encode(request), encode(&MARK));
    let at = bytes.windows(mark.len()).position(|w| w == &mark[..]).unwrap();
    let name = encode(&bytes::Bytes::copy_from_slice(name));
    [&bytes[..at], &name, &bytes[at + mark.len()..]].concat()
}

async fn ask(line: &dyn Connection, who: &mut Member, head: Vec<u8>) -> Result<MetaReply, MetaError> {
    let reply = line.call(&who.cx(), method::META_CALL, Message::of_head(head.into())).await?;
    decode::<Result<MetaReply, MetaError>>(&reply.head).unwrap()
}

#[test]
fn names_that_cannot_be_are_refused_by_the_master_itself() {
    let (longest, long) = (vec![b'n'; NAME_BYTES_MAX], vec![b'n'; NAME_BYTES_MAX + 1]);
    let bad: [&[u8]; 9] = [b"", b".", b"..", b"/", b"a/b", b"../a", b"\0", b"a\0b", &long];
    for transport in TRANSPORTS {
        let (site, master, _chunkserver) = Site::serving(transport);
        run(async {
            let me = site.issue("client", 0, "names");
            let mut who = Member::open(&site, &me).await;
            // The root is the administrator's: as such all of these would be done with a good name.
            let line = site.connect(&me, site.master[0]).await.unwrap();
            who.ask(MkDir {
                parent: InodeId::ROOT,
                name: Name::new("there").unwrap(),
                mode: 0o755,
                id: None,
            })
            .await
            .unwrap();
            for request in requests() {
                for name in bad {
                    let text = format!("{} of {:?}", request.name(), String::from_utf8_lossy(name));
                    let got = ask(&*line, &mut who, with_name(&request, name)).await;
                    assert!(
                        matches!(&got, Err(MetaError::Net(NetError::Malformed { .. }))),
                        "{text}: {got:?}"
                    );
                    if request.kind() == OpKind::FsWrite {
                        let ops = vec![with_name(&request, name).into()];
                        let batch = encode(&MetaRequest::from(Batch { after: None, ops })).to_vec();
                        let got = ask(&*line, &mut who, batch).await;
                        assert!(got.is_err(), "{text} in a batch: {got:?}");
                    }
                }
            }
            // The same bytes with a name that can be are understood.
            let make = MkDir { parent: InodeId::ROOT, name: Name::new(MARK).unwrap(), mode: 0o755, id: None };
            ask(&*line, &mut who, with_name(&make.into(), &longest)).await.unwrap();
        });
        let listed = site.ok(&["ls"]);
        assert_eq!(listed.lines().collect::<Vec<_>>(), [&"n".repeat(NAME_BYTES_MAX)[..], "there"]);
        logged(&master, &["a call was refused", "peer=names ", "head does not decode"]);
        site.serves();
    }
}
