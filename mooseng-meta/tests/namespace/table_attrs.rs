//! setattr, extended attributes, storage class.

use crate::{
    rows::{Do::*, MOMENT, See, act, run},
    world::{User, User::*, World},
};
use bytes::Bytes;
use mooseng_core::{
    attr::{FileKind, SetAttr, SetTime, Timestamp},
    error::{Errno::*, MetaError},
    limits::{COPIES_MAX, FILE_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_MAX},
    meta::{self, *},
};

/// Ann's file, of her group.
fn anns(mode: u32) -> [(User, crate::rows::Do); 3] {
    [(Root, File("/f", 0)), (Root, Chown("/f", Some(1), Some(1))), (Root, Chmod("/f", mode))]
}

#[test]
fn chmod() {
    run(&[
        ("the owner", &anns(0o644), Ann, Chmod("/f", 0o4711), Ok(()), &[See::Mode("/f", 0o4711)]),
        ("nobody else", &anns(0o666), Bob, Chmod("/f", 0o600), Err(EPERM), &[]),
        ("not the group", &anns(0o666), Cid, Chmod("/f", 0o600), Err(EPERM), &[]),
        ("the superuser", &anns(0), Root, Chmod("/f", 0o7777), Ok(()), &[See::Mode("/f", 0o7777)]),
        ("bits that are none", &anns(0), Ann, Chmod("/f", 0o170_644), Ok(()), &[See::Mode("/f", 0o644)]),
        (
            "set-group-id of one's group",
            &anns(0),
            Ann,
            Chmod("/f", 0o2755),
            Ok(()),
            &[See::Mode("/f", 0o2755)],
        ),
    ]);
    let mut other = anns(0).to_vec();
    other.push((Root, Chown("/f", None, Some(2))));
    run(&[("of another's", &other, Ann, Chmod("/f", 0o2755), Ok(()), &[See::Mode("/f", 0o755)])]);
}

#[test]
fn chown() {
    let full = anns(0o6755);
    run(&[
        (
            "the superuser",
            &anns(0o644),
            Root,
            Chown("/f", Some(2), Some(9)),
            Ok(()),
            &[See::Owner("/f", 2, 9)],
        ),
        ("not the owner", &anns(0o644), Ann, Chown("/f", Some(2), None), Err(EPERM), &[]),
        ("to oneself", &anns(0o644), Ann, Chown("/f", Some(1), None), Ok(()), &[See::Owner("/f", 1, 1)]),
        (
            "to a group one is in",
            &anns(0o644),
            Ann,
            Chown("/f", None, Some(50)),
            Ok(()),
            &[See::Owner("/f", 1, 50)],
        ),
        ("to one that one is not in", &anns(0o644), Ann, Chown("/f", None, Some(9)), Err(EPERM), &[]),
        ("another's to the same", &anns(0o644), Bob, Chown("/f", Some(1), Some(1)), Err(EPERM), &[]),
        ("another's to one's own group", &anns(0o644), Bob, Chown("/f", None, Some(2)), Err(EPERM), &[]),
        ("takes privileges", &full, Ann, Chown("/f", None, Some(50)), Ok(()), &[See::Mode("/f", 0o755)]),
        ("also by the superuser", &full, Root, Chown("/f", Some(2), None), Ok(()), &[See::Mode("/f", 0o755)]),
        ("not a lock's", &anns(0o2745), Ann, Chown("/f", None, Some(50)), Ok(()), &[See::Mode("/f", 0o2745)]),
        (
            "nor a directory's",
            &[(Root, Mkdir("/d", 0)), (Root, Chmod("/d", 0o2755))],
            Root,
            Chown("/d", Some(1), Some(1)),
            Ok(()),
            &[See::Mode("/d", 0o2755)],
        ),
        ("nothing is changed", &full, Bob, Set("/f", SetAttr::default()), Ok(()), &[See::Mode("/f", 0o6755)]),
    ]);
}

#[test]
fn times() {
    run(&[
        ("the owner sets any", &anns(0), Ann, Touch("/f", MOMENT), Ok(()), &[]),
        ("another none", &anns(0o666), Bob, Touch("/f", MOMENT), Err(EPERM), &[]),
        ("but now, with the right to write", &anns(0o666), Bob, Touch("/f", SetTime::Now), Ok(()), &[]),
        ("not without", &anns(0o644), Bob, Touch("/f", SetTime::Now), Err(EACCES), &[]),
    ]);
    let mut w = World::new();
    act(&mut w, Root, &File("/f", 0o644)).unwrap();
    let before = w.attr("/f");
    act(&mut w, Root, &Touch("/f", MOMENT)).unwrap();
    let attr = w.attr("/f");
    assert_eq!((attr.mtime, attr.atime), (Timestamp(5), before.atime));
    assert!(attr.ctime > before.ctime && attr.change > before.change);
    act(&mut w, Root, &Size("/f", 1)).unwrap();
    assert_eq!((w.attr("/f").mtime, w.attr("/f").crtime), (w.attr("/f").ctime, before.crtime));
}

#[test]
fn size() {
    let set = |size| SetAttr { size: Some(size), mode: Some(0o777), ..SetAttr::default() };
    let pipe = [(Root, Node("/p", FileKind::Fifo, 0o666))];
    run(&[
        ("with the right to write", &anns(0o662), Bob, Size("/f", 9), Ok(()), &[See::Size("/f", 9)]),
        ("without", &anns(0o664), Bob, Size("/f", 9), Err(EACCES), &[]),
        ("the owner without", &anns(0o466), Ann, Size("/f", 9), Err(EACCES), &[]),
        ("through a handle", &anns(0o444), Ann, Cut("/f", 9), Ok(()), &[See::Size("/f", 9)]),
        ("all or nothing", &anns(0o666), Bob, Set("/f", set(9)), Err(EPERM), &[See::Size("/f", 0)]),
        (
            "the largest",
            &anns(0o666),
            Bob,
            Size("/f", FILE_BYTES_MAX),
            Ok(()),
            &[See::Size("/f", FILE_BYTES_MAX)],
        ),
        ("one byte more", &anns(0o666), Bob, Size("/f", FILE_BYTES_MAX + 1), Err(EFBIG), &[]),
        ("the largest through a handle", &anns(0), Bob, Cut("/f", FILE_BYTES_MAX), Ok(()), &[]),
        ("one byte more", &anns(0), Bob, Cut("/f", FILE_BYTES_MAX + 1), Err(EFBIG), &[]),
        ("a directory's", &[], Root, Size("/", 0), Err(EISDIR), &[]),
        ("a directory's through a handle", &[], Root, Cut("/", 0), Err(EISDIR), &[]),
        ("a pipe's", &pipe, Root, Size("/p", 0), Err(EINVAL), &[]),
        ("a pipe's through a handle", &pipe, Root, Cut("/p", 0), Err(EINVAL), &[]),
        ("another takes privileges", &anns(0o6777), Bob, Size("/f", 0), Ok(()), &[See::Mode("/f", 0o777)]),
        ("also through a handle", &anns(0o6777), Bob, Cut("/f", 9), Ok(()), &[See::Mode("/f", 0o777)]),
        ("the superuser does not", &anns(0o6777), Root, Size("/f", 9), Ok(()), &[See::Mode("/f", 0o6777)]),
    ]);
}

#[test]
fn xattrs() {
    use XattrMode::*;
    let long = |n: usize| -> &'static str { format!("user.{}", "n".repeat(n - 5)).leak() };
    let mut one = anns(0o644).to_vec();
    one.push((Ann, SetXattr("/f", "user.a", Set)));
    let mut hidden = one.clone();
    hidden.push((Root, SetXattr("/f", "trusted.t", Set)));
    hidden.push((Root, SetXattr("/f", "security.s", Set)));
    let mut sticky =
        vec![(Root, Mkdir("/t", 0)), (Root, Chmod("/t", 0o1777)), (Root, Chown("/t", Some(1), None))];
    sticky.push((Root, Node("/p", FileKind::Fifo, 0o666)));
    run(&[
        ("set", &anns(0o644), Ann, SetXattr("/f", "user.a", Set), Ok(()), &[See::Xattrs("/f", &["user.a"])]),
        (
            "no right",
            &anns(0o644),
            Bob,
            SetXattr("/f", "user.a", Set),
            Err(EACCES),
            &[See::Xattrs("/f", &[])],
        ),
        ("make", &one, Ann, SetXattr("/f", "user.a", Create), Err(EEXIST), &[]),
        ("make a new one", &one, Ann, SetXattr("/f", "user.b", Create), Ok(()), &[]),
        ("replace", &one, Ann, SetXattr("/f", "user.a", Replace), Ok(()), &[]),
        ("replace nothing", &one, Ann, SetXattr("/f", "user.b", Replace), Err(ENODATA), &[]),
        ("get", &one, Bob, GetXattr("/f", "user.a"), Ok(()), &[]),
        ("get nothing", &one, Bob, GetXattr("/f", "user.b"), Err(ENODATA), &[]),
        ("get without right", &anns(0o600), Bob, GetXattr("/f", "user.a"), Err(EACCES), &[]),
        ("remove", &one, Ann, RemoveXattr("/f", "user.a"), Ok(()), &[See::Xattrs("/f", &[])]),
        ("remove nothing", &one, Ann, RemoveXattr("/f", "user.b"), Err(ENODATA), &[]),
        ("remove without right", &one, Bob, RemoveXattr("/f", "user.a"), Err(EACCES), &[]),
        ("the longest name", &anns(0o644), Ann, SetXattr("/f", long(XATTR_NAME_BYTES_MAX), Set), Ok(()), &[]),
        (
            "one byte more",
            &anns(0o644),
            Ann,
            SetXattr("/f", long(XATTR_NAME_BYTES_MAX + 1), Set),
            Err(ERANGE),
            &[],
        ),
        ("no name", &one, Ann, SetXattr("/f", "", Set), Err(EINVAL), &[]),
        ("no name in its kind", &one, Ann, SetXattr("/f", "user.", Set), Err(EINVAL), &[]),
        ("no name to get", &one, Ann, GetXattr("/f", "trusted."), Err(EINVAL), &[]),
        ("NUL", &one, Ann, SetXattr("/f", "user.\0", Set), Err(EINVAL), &[]),
        ("another kind", &one, Root, SetXattr("/f", "system.x", Set), Err(EOPNOTSUPP), &[]),
        ("the superuser's are hidden", &hidden, Ann, GetXattr("/f", "trusted.t"), Err(ENODATA), &[]),
        ("and not to be set", &hidden, Ann, SetXattr("/f", "trusted.t", Set), Err(EPERM), &[]),
        ("security's are seen", &hidden, Bob, GetXattr("/f", "security.s"), Ok(()), &[]),
        ("and not to be set", &hidden, Ann, SetXattr("/f", "security.s", Set), Err(EPERM), &[]),
        ("nor removed", &hidden, Ann, RemoveXattr("/f", "security.s"), Err(EPERM), &[]),
        ("sticky: not the owner", &sticky, Bob, SetXattr("/t", "user.a", Set), Err(EPERM), &[]),
        ("sticky: the owner", &sticky, Ann, SetXattr("/t", "user.a", Set), Ok(()), &[]),
        ("a pipe has none", &sticky, Root, SetXattr("/p", "user.a", Set), Err(EPERM), &[]),
        ("none to get", &sticky, Root, GetXattr("/p", "user.a"), Err(ENODATA), &[]),
    ]);
}

#[test]
fn limits_of_xattrs() {
    let mut w = World::new();
    act(&mut w, Root, &File("/f", 0o644)).unwrap();
    let inode = w.at("/f").unwrap();
    let set = |name: String, len: usize| {
        let value = Bytes::from(vec![1; len]);
        meta::SetXattr { inode, name: name.into(), value, mode: XattrMode::Set }
    };
    w.ask(Root, set("user.v".into(), XATTR_VALUE_BYTES_MAX)).unwrap();
    let long = w.ask(Root, set("user.v".into(), XATTR_VALUE_BYTES_MAX + 1));
    assert_eq!(long, Err(MetaError::Posix(E2BIG)));
    (1..XATTRS_MAX).for_each(|n| drop(w.ask(Root, set(format!("user.{n}"), 1)).unwrap()));
    assert_eq!(w.ask(Root, set("user.more".into(), 1)), Err(MetaError::Posix(ENOSPC)));
    w.ask(Root, set("user.7".into(), 2)).unwrap();
    act(&mut w, Root, &Unlink("/f")).unwrap();
    assert!(w.rec(inode).is_none(), "they go with it");
}

#[test]
fn class() {
    let dir = [(Root, Mkdir("/d", 0o777)), (Root, Chown("/d", Some(1), None)), (Ann, Class("/d", 3))];
    run(&[
        ("what is made in it has it", &dir, Bob, File("/d/f", 0o644), Ok(()), &[See::Copies("/d/f", 3)]),
        ("directories as well", &dir, Bob, Mkdir("/d/e", 0o755), Ok(()), &[See::Copies("/d/e", 3)]),
        (
            "what comes from elsewhere keeps its own",
            &[(Root, File("/f", 0o644)), (Root, Mkdir("/d", 0o755)), (Root, Class("/d", 3))],
            Root,
            Rename("/f", "/d/f"),
            Ok(()),
            &[See::Copies("/d/f", 2)],
        ),
        ("nobody else sets it", &dir, Bob, Class("/d", 2), Err(EPERM), &[See::Copies("/d", 3)]),
        ("one copy", &dir, Ann, Class("/d", 1), Ok(()), &[]),
        ("no copy", &dir, Ann, Class("/d", 0), Err(EINVAL), &[]),
        ("the most", &dir, Ann, Class("/d", COPIES_MAX), Ok(()), &[]),
        ("one more", &dir, Ann, Class("/d", COPIES_MAX + 1), Err(EINVAL), &[]),
    ]);
}
