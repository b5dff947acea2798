//! lookup, getattr, check_access, open, readdir, readlink, totals.

use crate::{
    rows::{Do::*, See, act, run},
    world::{User::*, World},
};
use mooseng_core::{
    attr::{Access as Right, FileKind},
    error::{Errno::*, MetaError},
    ids::*,
    meta::{self, *},
    name::{Name, NameError},
};

const R: Right = Right::READ;
const W: Right = Right::WRITE;
const X: Right = Right::EXEC;

/// 255 and 256 bytes.
const LONG: &str = concat!(
    "/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234",
);
const TOO_LONG: &str = concat!(
    "/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    "01234567890123456789012345678901234567890123456789012345",
);

#[test]
fn lookup() {
    run(&[
        ("it is there", &[(Root, File("/f", 0o600))], Ann, Lookup("/f"), Ok(()), &[]),
        ("it is not", &[], Ann, Lookup("/f"), Err(ENOENT), &[]),
        ("in a file", &[(Root, File("/f", 0o777))], Root, Lookup("/f/x"), Err(ENOTDIR), &[]),
        ("without search", &[(Root, Mkdir("/d", 0o766))], Ann, Lookup("/d/x"), Err(EACCES), &[]),
        ("with search only", &[(Root, Mkdir("/d", 0o711))], Ann, Lookup("/d/x"), Err(ENOENT), &[]),
        ("the longest name", &[(Root, File(LONG, 0o644))], Ann, Lookup(LONG), Ok(()), &[]),
        ("one byte more", &[], Ann, Lookup(TOO_LONG), Err(ENAMETOOLONG), &[]),
        ("NUL", &[], Ann, Lookup("/a\0b"), Err(EINVAL), &[]),
        (".", &[], Ann, Lookup("/."), Err(EINVAL), &[]),
        ("..", &[], Ann, Lookup("/.."), Err(EINVAL), &[]),
        ("no name", &[], Ann, Lookup("/"), Err(EINVAL), &[]),
    ]);
    assert_eq!((LONG.len(), TOO_LONG.len()), (256, 257), "with the slash");
    assert_eq!(Name::new("a/b"), Err(NameError::Forbidden));
    // What no name can be does not come in from the wire either.
    let bad = mooseng_core::wire::encode(&(0u8, InodeId::ROOT, bytes::Bytes::from_static(b"..")));
    assert!(mooseng_core::wire::decode::<MetaRequest>(&bad).is_err());
}

#[test]
fn getattr_of_what_is_gone_is_stale() {
    let mut w = World::new();
    act(&mut w, Root, &File("/f", 0o640)).unwrap();
    let inode = w.at("/f").unwrap();
    let Ok(MetaReply::GetAttr(attr)) = w.look(Bob, GetAttr { inode }) else { panic!("anybody may look") };
    assert_eq!((attr.mode, attr.nlink, attr.size, attr.kind), (0o640, 1, 0, FileKind::File));
    act(&mut w, Root, &Unlink("/f")).unwrap();
    for req in [
        MetaRequest::from(GetAttr { inode }),
        SetAttrs { inode, set: Default::default() }.into(),
        ReadLink { inode }.into(),
        GetTotals { inode }.into(),
        CheckAccess { inode, access: R }.into(),
        meta::Link { inode, parent: InodeId::ROOT, name: Name::new("g").unwrap() }.into(),
        Truncate { inode, size: 0 }.into(),
    ] {
        assert_eq!(w.ask(Root, req.clone()), Err(MetaError::Posix(ESTALE)), "{req:?}");
    }
}

#[test]
fn check_access_and_open() {
    let file = |mode| [(Root, File("/f", mode)), (Root, Chown("/f", Some(1), Some(50)))];
    run(&[
        ("the owner's bits", &file(0o600), Ann, Access("/f", R.and(W)), Ok(()), &[]),
        ("the owner has no others", &file(0o077), Ann, Access("/f", R), Err(EACCES), &[]),
        ("a supplementary group's", &file(0o040), Cid, Access("/f", R), Ok(()), &[]),
        ("the group has no others", &file(0o604), Cid, Access("/f", R), Err(EACCES), &[]),
        ("others'", &file(0o604), Bob, Access("/f", R), Ok(()), &[]),
        ("all of them", &file(0o604), Bob, Access("/f", R.and(W)), Err(EACCES), &[]),
        ("the superuser reads and writes", &file(0), Root, Access("/f", R.and(W)), Ok(()), &[]),
        ("but executes nothing", &file(0o666), Root, Access("/f", X), Err(EACCES), &[]),
        ("unless somebody may", &file(0o010), Root, Access("/f", X), Ok(()), &[]),
        ("that there is one", &file(0), Bob, Access("/f", Right(0)), Ok(()), &[]),
        ("any directory", &[(Root, Mkdir("/d", 0))], Root, Access("/d", X), Ok(()), &[]),
        ("to open by the bits", &file(0o640), Cid, Open("/f", R), Ok(()), &[]),
        ("to open without", &file(0o640), Cid, Open("/f", W), Err(EACCES), &[]),
        ("a directory to write", &[], Root, Open("/", W), Err(EISDIR), &[]),
        ("a directory to read", &[], Bob, Open("/", R), Ok(()), &[]),
    ]);
}

#[test]
fn readdir_and_readlink() {
    run(&[
        ("by its right", &[(Root, Mkdir("/d", 0o744))], Ann, Readdir("/d"), Ok(()), &[]),
        ("without", &[(Root, Mkdir("/d", 0o711))], Ann, Readdir("/d"), Err(EACCES), &[]),
        ("of a file", &[(Root, File("/f", 0o644))], Ann, Readdir("/f"), Err(ENOTDIR), &[]),
        ("a link's target", &[(Root, Symlink("a/b", "/l"))], Bob, Readlink("/l"), Ok(()), &[]),
        ("of a file", &[(Root, File("/f", 0o644))], Bob, Readlink("/f"), Err(EINVAL), &[]),
        ("of a directory", &[], Bob, Readlink("/"), Err(EINVAL), &[]),
    ]);
    let mut w = World::new();
    act(&mut w, Root, &Symlink("some/where", "/l")).unwrap();
    let inode = w.at("/l").unwrap();
    assert_eq!(w.look(Bob, ReadLink { inode }), Ok(MetaReply::ReadLink("some/where".into())));
}

#[test]
fn attributes_in_a_page_want_search() {
    let mut w = World::new();
    act(&mut w, Root, &Mkdir("/d", 0o754)).unwrap();
    act(&mut w, Root, &Chown("/d", None, Some(50))).unwrap();
    act(&mut w, Root, &File("/d/f", 0o600)).unwrap();
    let inode = w.at("/d").unwrap();
    for (who, told) in [(Ann, true), (Bob, false), (Root, true)] {
        let op = ReadDir { inode, after: DirCookie(0), max_entries: 10, with_attrs: true };
        let Ok(MetaReply::ReadDir(page)) = w.look(who, op) else { panic!("{who:?} may read") };
        assert_eq!(page.entries[0].attr.is_some(), told, "{who:?}");
    }
}

#[test]
fn cookies_stay_while_names_come_and_go() {
    let mut w = World::new();
    for f in ["/a", "/b", "/c", "/d"] {
        act(&mut w, Root, &File(f, 0o644)).unwrap();
    }
    let page = |w: &World, after, max_entries| {
        let op = ReadDir { inode: InodeId::ROOT, after, max_entries, with_attrs: false };
        match w.look(Root, op) {
            Ok(MetaReply::ReadDir(p)) => p,
            other => panic!("{other:?}"),
        }
    };
    let names = |p: &DirPage| p.entries.iter().map(|e| e.name.to_string()).collect::<Vec<_>>();
    let first = page(&w, DirCookie(0), 2);
    assert_eq!((names(&first), first.eof), (vec!["a".into(), "b".into()], false));
    let after = first.entries[1].cookie;
    // What was passed may go, what comes new comes last, a rename makes a new entry.
    act(&mut w, Root, &Unlink("/b")).unwrap();
    act(&mut w, Root, &File("/e", 0o644)).unwrap();
    act(&mut w, Root, &Rename("/a", "/z")).unwrap();
    act(&mut w, Root, &File("/b", 0o644)).unwrap();
    let rest = page(&w, after, 100);
    assert_eq!((names(&rest).concat(), rest.eof), ("cdezb".into(), true));
    // An exchange leaves both entries where they are.
    act(&mut w, Root, &Exchange("/c", "/z")).unwrap();
    assert_eq!(names(&page(&w, after, 100)), names(&rest));
    let whole = page(&w, DirCookie(0), 5);
    assert_eq!((whole.entries.len(), whole.eof), (5, true), "a page that is just full ends it");
    let last = page(&w, DirCookie(u64::MAX), 5);
    assert!(last.entries.is_empty() && last.eof);
    assert_eq!(page(&w, DirCookie(0), 0).entries.len(), 1, "a page has one entry at least");
}

#[test]
fn totals() {
    let tree = [
        (Root, Mkdir("/d", 0o755)),
        (Root, Mkdir("/d/e", 0o755)),
        (Root, File("/d/e/f", 0o644)),
        (Root, Size("/d/e/f", 1000)),
        (Root, Symlink("12345", "/d/l")),
        (Root, Link("/d/e/f", "/g")),
    ];
    let sums = [
        See::Totals("/", 5, 3, 1005),
        See::Totals("/d", 4, 2, 1005),
        See::Totals("/d/e", 2, 1, 1000),
        See::Totals("/d/e/f", 1, 0, 1000),
    ];
    run(&[
        ("a link counts once", &tree, Root, Chmod("/g", 0o600), Ok(()), &sums),
        (
            "the bytes follow the name that is left",
            &tree,
            Root,
            Unlink("/d/e/f"),
            Ok(()),
            &[See::Totals("/", 5, 3, 1005), See::Totals("/d/e", 1, 1, 0), See::Totals("/d", 3, 2, 5)],
        ),
        (
            "a tree moves with all it counts",
            &tree,
            Root,
            Rename("/d/e", "/e"),
            Ok(()),
            &[See::Totals("/", 5, 3, 1005), See::Totals("/d", 2, 1, 5), See::Totals("/e", 2, 1, 1000)],
        ),
    ]);
    let mut w = World::new();
    act(&mut w, Root, &Mkdir("/d", 0o711)).unwrap();
    let inode = w.at("/d").unwrap();
    assert_eq!(w.look(Ann, GetTotals { inode }), Err(MetaError::Posix(EACCES)), "it tells what is inside");
}
