//! unlink, rmdir, and what is open without a name.

use crate::{
    rows::{Do::*, See, act, run},
    world::{OTHER, SESSION, User::*, World},
};
use mooseng_core::{
    error::{Errno::*, MetaError},
    ids::*,
    meta::{self, *},
    name::Name,
};

/// Everybody may write, but only owners remove: Ann has a file and a directory, Bob the directory.
const STICKY: [(crate::world::User, crate::rows::Do); 6] = [
    (Root, Chmod("/", 0o777)),
    (Root, Mkdir("/t", 0o777)),
    (Ann, File("/f", 0o666)),
    (Root, Chmod("/t", 0o1777)),
    (Root, Chown("/t", Some(2), None)),
    (Ann, File("/t/f", 0o666)),
];

#[test]
fn unlink() {
    let tree = [(Root, Mkdir("/d", 0o755)), (Root, File("/d/f", 0o777)), (Root, Mkdir("/d/e", 0o777))];
    let links = [(Root, File("/f", 0o644)), (Root, Link("/f", "/g")), (Root, Size("/f", 10))];
    run(&[
        (
            "the last name",
            &tree,
            Root,
            Unlink("/d/f"),
            Ok(()),
            &[See::Gone("/d/f"), See::Size("/d", 1), See::Totals("/d", 2, 2, 0)],
        ),
        (
            "one of two",
            &links,
            Root,
            Unlink("/f"),
            Ok(()),
            &[See::Links("/g", 1), See::Totals("/", 2, 1, 10)],
        ),
        ("a directory", &tree, Root, Unlink("/d/e"), Err(EISDIR), &[See::Links("/d", 3)]),
        ("nothing", &tree, Root, Unlink("/d/x"), Err(ENOENT), &[]),
        ("nothing, without right", &tree, Ann, Unlink("/d/x"), Err(ENOENT), &[]),
        ("no right", &tree, Ann, Unlink("/d/f"), Err(EACCES), &[]),
        ("no search", &[(Root, Mkdir("/d", 0o766))], Ann, Unlink("/d/x"), Err(EACCES), &[]),
        ("the file's own mode is no matter", &STICKY, Bob, Unlink("/f"), Ok(()), &[]),
        ("sticky: another's", &STICKY, Cid, Unlink("/t/f"), Err(EPERM), &[See::Links("/t/f", 1)]),
        ("sticky: one's own", &STICKY, Ann, Unlink("/t/f"), Ok(()), &[]),
        ("sticky: in one's directory", &STICKY, Bob, Unlink("/t/f"), Ok(()), &[]),
        ("sticky: as the superuser", &STICKY, Root, Unlink("/t/f"), Ok(()), &[]),
        ("in a file", &tree, Root, Unlink("/d/f/x"), Err(ENOTDIR), &[]),
        ("a dot", &tree, Root, Unlink("/d/."), Err(EINVAL), &[]),
    ]);
}

#[test]
fn rmdir() {
    let tree = [(Root, Mkdir("/d", 0o755)), (Root, Mkdir("/d/e", 0o777)), (Root, File("/f", 0o777))];
    let sticky = [
        (Root, Chmod("/", 0o1777)),
        (Ann, Mkdir("/d", 0o755)),
        (Root, Mkdir("/e", 0o777)),
        (Ann, File("/d/f", 0)),
    ];
    run(&[
        (
            "an empty one",
            &tree,
            Root,
            Rmdir("/d/e"),
            Ok(()),
            &[See::Gone("/d/e"), See::Links("/d", 2), See::Totals("/d", 1, 1, 0)],
        ),
        ("one with a directory", &tree, Root, Rmdir("/d"), Err(ENOTEMPTY), &[]),
        ("one with a file", &sticky, Root, Rmdir("/d"), Err(ENOTEMPTY), &[]),
        ("a file", &tree, Root, Rmdir("/f"), Err(ENOTDIR), &[]),
        ("nothing", &tree, Ann, Rmdir("/d/x"), Err(ENOENT), &[]),
        ("no right", &tree, Ann, Rmdir("/d/e"), Err(EACCES), &[]),
        ("sticky: another's", &sticky, Ann, Rmdir("/e"), Err(EPERM), &[]),
        ("sticky comes before what is inside", &sticky, Bob, Rmdir("/d"), Err(EPERM), &[]),
        ("..", &tree, Root, Rmdir("/d/.."), Err(EINVAL), &[]),
    ]);
}

fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

#[test]
fn what_is_open_outlives_its_name() {
    let mut w = World::new();
    act(&mut w, Root, &File("/f", 0o644)).unwrap();
    act(&mut w, Root, &Write("/f", 0, "abc")).unwrap();
    let (inode, parent) = (w.at("/f").unwrap(), InodeId::ROOT);
    w.opened.extend([(inode, SESSION.id), (inode, OTHER.id)]);
    let removed = act(&mut w, Root, &Unlink("/f")).unwrap();
    assert_eq!(removed, MetaReply::Unlink(Removed { inode, links_left: 0 }));
    assert_eq!(w.totals(parent), Totals { inodes: 1, dirs: 1, bytes: 0 }, "it does not count any more");
    // It can be read, written and cut, and gets no name again.
    let truncates = w.rec(inode).unwrap().truncates;
    let parts = vec![(Offset(1), "xyz".into())];
    w.ask(Root, WriteInline { inode, truncates, parts }).unwrap();
    w.ask(Root, Truncate { inode, size: 3 }).unwrap();
    assert_eq!(w.rec(inode).unwrap().inline.as_deref(), Some(&b"axy"[..]));
    let link = w.ask(Root, meta::Link { inode, parent, name: name("g") });
    assert_eq!(link, Err(MetaError::Posix(ENOENT)));
    w.release(inode, SESSION.id);
    assert!(w.rec(inode).is_some(), "another has it open");
    w.release(inode, OTHER.id);
    assert!(w.rec(inode).is_none());
}

#[test]
fn a_directory_without_a_name_takes_none() {
    let mut w = World::new();
    act(&mut w, Root, &Mkdir("/d", 0o755)).unwrap();
    act(&mut w, Root, &Mkdir("/e", 0o755)).unwrap();
    act(&mut w, Root, &File("/f", 0o755)).unwrap();
    let (parent, f) = (w.at("/d").unwrap(), w.at("/f").unwrap());
    w.opened.insert((parent, SESSION.id));
    act(&mut w, Root, &Rmdir("/d")).unwrap();
    let (root, x) = (InodeId::ROOT, name("x"));
    let to = |old: &str| meta::Rename {
        parent: root,
        name: name(old),
        new_parent: parent,
        new_name: x.clone(),
        mode: RenameMode::Replace,
    };
    for req in [
        MetaRequest::from(MkDir { parent, name: x.clone(), mode: 0o755, id: None }),
        meta::Link { inode: f, parent, name: x.clone() }.into(),
        to("e").into(),
        to("f").into(),
    ] {
        assert_eq!(w.ask(Root, req.clone()), Err(MetaError::Posix(ENOENT)), "{req:?}");
    }
    assert_eq!(w.names(parent), [""; 0]);
    w.release(parent, SESSION.id);
    assert!(w.rec(parent).is_none());
}

#[test]
fn a_session_that_ends_lets_go_of_what_it_held() {
    let mut w = World::new();
    act(&mut w, Root, &File("/f", 0o644)).unwrap();
    let inode = w.at("/f").unwrap();
    w.opened.insert((inode, OTHER.id));
    act(&mut w, Root, &Unlink("/f")).unwrap();
    w.put(Command::SessionEnd { session: OTHER, unfenced: vec![] });
    assert!(w.rec(inode).is_none());
    // One that ended before the unlink was applied holds nothing.
    act(&mut w, Root, &File("/g", 0o644)).unwrap();
    let inode = w.at("/g").unwrap();
    w.opened.insert((inode, OTHER.id));
    act(&mut w, Root, &Unlink("/g")).unwrap();
    assert!(w.rec(inode).is_none());
}
