//! create, mkdir, mknod, symlink, link.

use crate::{
    rows::{Do::*, See, act, run},
    world::{User::*, World},
};
use mooseng_core::{
    attr::{Access as Right, FileKind},
    error::Errno::*,
    limits::{LINKS_MAX, SYMLINK_BYTES_MAX},
};

const OPEN: [(crate::world::User, crate::rows::Do); 1] = [(Root, Chmod("/", 0o777))];

fn create(at: &'static str, exclusive: bool, truncate: bool, open: Right) -> crate::rows::Do {
    Create { at, mode: 0o644, exclusive, truncate, open }
}

#[test]
fn mkdir() {
    let set_gid = [(Root, Mkdir("/d", 0)), (Root, Chown("/d", None, Some(50))), (Root, Chmod("/d", 0o2777))];
    run(&[
        (
            "by its right",
            &OPEN,
            Ann,
            Mkdir("/d", 0o7751),
            Ok(()),
            &[
                See::Kind("/d", FileKind::Dir),
                See::Mode("/d", 0o1751),
                See::Owner("/d", 1, 1),
                See::Links("/d", 2),
                See::Links("/", 3),
                See::Size("/d", 0),
                See::Size("/", 1),
                See::Totals("/", 2, 2, 0),
            ],
        ),
        ("without", &[], Ann, Mkdir("/d", 0o755), Err(EACCES), &[See::Gone("/d")]),
        ("it is there, first of all", &[(Root, File("/d", 0))], Ann, Mkdir("/d", 0o755), Err(EEXIST), &[]),
        ("in a file", &[(Root, File("/f", 0o777))], Root, Mkdir("/f/d", 0o755), Err(ENOTDIR), &[]),
        ("write without search", &[(Root, Mkdir("/d", 0o776))], Ann, Mkdir("/d/e", 0o755), Err(EACCES), &[]),
        (
            "the directory hands its group and the bit down",
            &set_gid,
            Ann,
            Mkdir("/d/e", 0o755),
            Ok(()),
            &[See::Mode("/d/e", 0o2755), See::Owner("/d/e", 1, 50)],
        ),
        ("a dot", &OPEN, Ann, Mkdir("/.", 0o755), Err(EINVAL), &[]),
    ]);
}

#[test]
fn mknod() {
    let set_gid = [(Root, Mkdir("/d", 0)), (Root, Chown("/d", None, Some(50))), (Root, Chmod("/d", 0o2777))];
    run(&[
        ("a file", &OPEN, Ann, File("/f", 0o4640), Ok(()), &[See::Mode("/f", 0o4640), See::Links("/f", 1)]),
        ("a pipe", &OPEN, Ann, Node("/p", FileKind::Fifo, 0o600), Ok(()), &[See::Kind("/p", FileKind::Fifo)]),
        ("a socket", &OPEN, Ann, Node("/s", FileKind::Socket, 0o600), Ok(()), &[]),
        ("a device", &OPEN, Root, Node("/c", FileKind::CharDev, 0o600), Ok(()), &[]),
        ("a user's device", &OPEN, Ann, Node("/c", FileKind::CharDev, 0o600), Err(EPERM), &[See::Gone("/c")]),
        ("a user's block device", &OPEN, Ann, Node("/b", FileKind::BlockDev, 0o600), Err(EPERM), &[]),
        ("a directory", &OPEN, Root, Node("/d", FileKind::Dir, 0o755), Err(EINVAL), &[]),
        ("a symbolic link", &OPEN, Root, Node("/l", FileKind::Symlink, 0o755), Err(EINVAL), &[]),
        ("it is there", &[(Root, File("/f", 0))], Ann, File("/f", 0o644), Err(EEXIST), &[]),
        ("no right", &[], Ann, File("/f", 0o644), Err(EACCES), &[]),
        (
            "a group that is not the caller's takes the bit",
            &set_gid,
            Bob,
            File("/d/f", 0o2755),
            Ok(()),
            &[See::Mode("/d/f", 0o755), See::Owner("/d/f", 2, 50)],
        ),
        ("one that is leaves it", &set_gid, Cid, File("/d/f", 0o2755), Ok(()), &[See::Mode("/d/f", 0o2755)]),
        ("and mandatory locks'", &set_gid, Bob, File("/d/f", 0o2745), Ok(()), &[See::Mode("/d/f", 0o2745)]),
    ]);
}

#[test]
fn open_or_create() {
    let (rw, r, none) = (Right::READ.and(Right::WRITE), Right::READ, Right(0));
    let file = |mode| [(Root, File("/f", 0o666)), (Root, Write("/f", 0, "abc")), (Root, Chmod("/f", mode))];
    run(&[
        ("a new one", &OPEN, Ann, create("/f", true, false, rw), Ok(()), &[See::Owner("/f", 1, 1)]),
        ("its mode does not bind its maker", &OPEN, Ann, create("/f", false, true, rw), Ok(()), &[]),
        ("no right", &[], Ann, create("/f", false, false, r), Err(EACCES), &[See::Gone("/f")]),
        ("exclusive", &file(0o666), Ann, create("/f", true, false, rw), Err(EEXIST), &[]),
        (
            "the one that is there",
            &file(0o644),
            Ann,
            create("/f", false, false, r),
            Ok(()),
            &[See::Content("/f", "abc")],
        ),
        ("without its right", &file(0o644), Ann, create("/f", false, false, rw), Err(EACCES), &[]),
        ("cut", &file(0o666), Ann, create("/f", false, true, rw), Ok(()), &[See::Size("/f", 0)]),
        ("cut without right", &file(0o644), Ann, create("/f", false, true, r), Err(EACCES), &[]),
        ("cut through no handle", &file(0o644), Ann, create("/f", false, true, none), Err(EACCES), &[]),
        ("a directory", &[(Root, Mkdir("/d", 0o777))], Root, create("/d", false, false, r), Err(EISDIR), &[]),
        (
            "a symbolic link",
            &[(Root, Symlink("x", "/l"))],
            Root,
            create("/l", false, false, r),
            Err(ELOOP),
            &[],
        ),
        ("exclusively", &[(Root, Symlink("x", "/l"))], Root, create("/l", true, false, r), Err(EEXIST), &[]),
        ("in a file", &file(0o777), Root, create("/f/x", false, false, r), Err(ENOTDIR), &[]),
    ]);
}

#[test]
fn symlink() {
    let target = |n: usize| -> &'static str { "t".repeat(n).leak() };
    run(&[
        (
            "any text",
            &OPEN,
            Ann,
            Symlink("../no/where", "/l"),
            Ok(()),
            &[See::Mode("/l", 0o777), See::Size("/l", 11), See::Kind("/l", FileKind::Symlink)],
        ),
        ("the longest", &OPEN, Ann, Symlink(target(SYMLINK_BYTES_MAX), "/l"), Ok(()), &[]),
        ("one byte more", &OPEN, Ann, Symlink(target(SYMLINK_BYTES_MAX + 1), "/l"), Err(ENAMETOOLONG), &[]),
        ("nothing", &OPEN, Ann, Symlink("", "/l"), Err(ENOENT), &[]),
        ("NUL", &OPEN, Ann, Symlink("a\0", "/l"), Err(EINVAL), &[]),
        ("it is there", &[(Root, File("/l", 0))], Ann, Symlink("x", "/l"), Err(EEXIST), &[]),
        ("no right", &[], Ann, Symlink("x", "/l"), Err(EACCES), &[]),
    ]);
}

#[test]
fn link() {
    let file = [(Root, Chmod("/", 0o777)), (Root, File("/f", 0o600)), (Root, Mkdir("/d", 0o755))];
    run(&[
        (
            "another name",
            &file,
            Root,
            Link("/f", "/d/g"),
            Ok(()),
            &[See::Same("/f", "/d/g"), See::Links("/f", 2), See::Totals("/", 3, 2, 0)],
        ),
        ("of a symbolic link itself", &[(Root, Symlink("x", "/l"))], Root, Link("/l", "/m"), Ok(()), &[]),
        ("to a directory", &file, Root, Link("/d", "/e"), Err(EPERM), &[See::Gone("/e")]),
        ("no right", &file, Ann, Link("/f", "/d/g"), Err(EACCES), &[See::Links("/f", 1)]),
        ("it is there", &file, Ann, Link("/f", "/d"), Err(EEXIST), &[]),
        ("before all else", &file, Root, Link("/d", "/f"), Err(EEXIST), &[]),
        ("in a file", &file, Root, Link("/f", "/f/g"), Err(ENOTDIR), &[]),
    ]);
}

#[test]
fn links_have_a_limit() {
    let mut w = World::new();
    for op in [File("/f", 0o644), Mkdir("/d", 0o755), Mkdir("/e", 0o755), Mkdir("/e/s", 0o755)] {
        act(&mut w, Root, &op).unwrap();
    }
    let (f, d) = (w.at("/f").unwrap(), w.at("/d").unwrap());
    let errno = |w: &World, op| act(&mut unchecked(w), Root, &op).map(drop).map_err(|e| e.errno());
    for (links, answer) in [(LINKS_MAX - 1, Ok(())), (LINKS_MAX, Err(EMLINK))] {
        w.set_rec(f, |rec| rec.nlink = links);
        w.set_rec(d, |rec| rec.nlink = links);
        for op in [Link("/f", "/g"), Mkdir("/d/x", 0o755), Rename("/e/s", "/d/s"), Exchange("/e/s", "/d/y")] {
            let mut w = unchecked(&w);
            act(&mut w, Root, &File("/d/y", 0o644)).unwrap();
            assert_eq!(errno(&w, op.clone()), answer, "{op:?} at {links} links");
        }
        let same = errno(&w, File("/d/x", 0o644));
        assert_eq!(same, Ok(()), "only directories count in a directory's links");
    }
}

/// A filesystem whose numbers of links were made up.
fn unchecked(w: &World) -> World {
    let mut w = w.clone();
    w.checked = false;
    w
}
