//! rename: replace, refuse to replace, exchange.

use crate::{
    rows::{Do::*, See, run},
    world::User::*,
};
use mooseng_core::{attr::FileKind, error::Errno::*};

/// /d with a file, /e empty, /f and /g files; everything is everybody's to write.
const TREE: [(crate::world::User, crate::rows::Do); 10] = [
    (Root, Chmod("/", 0o777)),
    (Root, Mkdir("/d", 0o777)),
    (Root, File("/d/in", 0o644)),
    (Root, Size("/d/in", 50)),
    (Root, Mkdir("/d/sub", 0o777)),
    (Root, Mkdir("/e", 0o777)),
    (Root, File("/f", 0o644)),
    (Root, Size("/f", 7)),
    (Root, File("/g", 0o644)),
    (Root, Size("/g", 200)),
];

#[test]
fn replace() {
    run(&[
        (
            "a new name",
            &TREE,
            Ann,
            Rename("/f", "/h"),
            Ok(()),
            &[See::Gone("/f"), See::Size("/h", 7), See::Names("/", &["d", "e", "g", "h"])],
        ),
        (
            "into a directory",
            &TREE,
            Ann,
            Rename("/f", "/d/h"),
            Ok(()),
            &[See::Totals("/d", 4, 2, 57), See::Totals("/", 7, 4, 257)],
        ),
        (
            "over a file",
            &TREE,
            Ann,
            Rename("/f", "/g"),
            Ok(()),
            &[See::Gone("/f"), See::Size("/g", 7), See::Totals("/", 6, 4, 57)],
        ),
        (
            "over an empty directory",
            &TREE,
            Root,
            Rename("/d", "/e"),
            Ok(()),
            &[See::Gone("/d"), See::Names("/e", &["in", "sub"]), See::Links("/", 3)],
        ),
        ("over one with a file", &TREE, Root, Rename("/e", "/d"), Err(ENOTEMPTY), &[See::Names("/e", &[])]),
        ("a directory over a file", &TREE, Root, Rename("/e", "/f"), Err(ENOTDIR), &[]),
        ("a file over a directory", &TREE, Root, Rename("/f", "/e"), Err(EISDIR), &[]),
        ("to itself", &TREE, Ann, Rename("/f", "/f"), Ok(()), &[See::Links("/f", 1), See::Size("/f", 7)]),
        ("a directory to itself", &TREE, Ann, Rename("/d", "/d"), Ok(()), &[See::Links("/", 4)]),
        ("what is not there", &TREE, Ann, Rename("/x", "/h"), Err(ENOENT), &[]),
        (
            "a directory moves between others",
            &TREE,
            Root,
            Rename("/d/sub", "/e/sub"),
            Ok(()),
            &[See::Links("/d", 2), See::Links("/e", 3), See::Totals("/e", 2, 2, 0)],
        ),
        ("below itself", &TREE, Root, Rename("/d", "/d/sub/x"), Err(EINVAL), &[]),
        ("into itself", &TREE, Root, Rename("/d", "/d/x"), Err(EINVAL), &[]),
        ("over what it is in", &TREE, Root, Rename("/d/sub", "/d"), Err(ENOTEMPTY), &[]),
        ("in a file", &TREE, Root, Rename("/e", "/f/x"), Err(ENOTDIR), &[]),
        ("from a file", &TREE, Root, Rename("/f/x", "/h"), Err(ENOTDIR), &[]),
        ("a dot", &TREE, Root, Rename("/d/.", "/h"), Err(EINVAL), &[]),
        ("to dots", &TREE, Root, Rename("/d", "/d/.."), Err(EINVAL), &[]),
    ]);
}

#[test]
fn two_names_of_one_inode() {
    let two = [(Root, File("/f", 0o644)), (Root, Link("/f", "/g")), (Root, File("/h", 0o644))];
    run(&[
        (
            "nothing happens",
            &two,
            Root,
            Rename("/f", "/g"),
            Ok(()),
            &[See::Same("/f", "/g"), See::Links("/f", 2)],
        ),
        ("whoever asks", &two, Ann, Rename("/f", "/g"), Ok(()), &[See::Links("/f", 2)]),
        ("not when nothing may be there", &two, Root, RenameNew("/f", "/g"), Err(EEXIST), &[]),
        ("exchanged", &two, Root, Exchange("/f", "/g"), Ok(()), &[See::Links("/f", 2)]),
        (
            "one of them over another file",
            &two,
            Root,
            Rename("/f", "/h"),
            Ok(()),
            &[See::Same("/g", "/h"), See::Links("/h", 2), See::Gone("/f")],
        ),
        (
            "another file over one of them",
            &two,
            Root,
            Rename("/h", "/f"),
            Ok(()),
            &[See::Links("/g", 1), See::Links("/f", 1), See::Gone("/h")],
        ),
    ]);
}

#[test]
fn no_replace() {
    run(&[
        ("a free name", &TREE, Ann, RenameNew("/f", "/h"), Ok(()), &[See::Size("/h", 7), See::Gone("/f")]),
        ("one that is taken", &TREE, Ann, RenameNew("/f", "/g"), Err(EEXIST), &[See::Size("/g", 200)]),
        ("by itself", &TREE, Ann, RenameNew("/f", "/f"), Err(EEXIST), &[]),
        ("by a directory", &TREE, Ann, RenameNew("/f", "/d"), Err(EEXIST), &[]),
        ("nothing to rename", &TREE, Ann, RenameNew("/x", "/g"), Err(ENOENT), &[]),
    ]);
}

#[test]
fn exchange() {
    run(&[
        (
            "two files",
            &TREE,
            Ann,
            Exchange("/f", "/d/in"),
            Ok(()),
            &[
                See::Size("/f", 50),
                See::Size("/d/in", 7),
                See::Totals("/d", 3, 2, 7),
                See::Totals("/", 7, 4, 257),
            ],
        ),
        (
            "a file and a directory",
            &TREE,
            Root,
            Exchange("/d/in", "/e"),
            Ok(()),
            &[
                See::Kind("/e", FileKind::File),
                See::Kind("/d/in", FileKind::Dir),
                See::Links("/", 3),
                See::Links("/d", 4),
                See::Totals("/d", 3, 3, 0),
            ],
        ),
        ("a directory and what is in it", &TREE, Root, Exchange("/d", "/d/sub"), Err(EINVAL), &[]),
        ("the other way", &TREE, Root, Exchange("/d/sub", "/d"), Err(EINVAL), &[]),
        ("with nothing", &TREE, Ann, Exchange("/f", "/x"), Err(ENOENT), &[]),
        ("nothing with it", &TREE, Ann, Exchange("/x", "/f"), Err(ENOENT), &[]),
        (
            "one that is full is no matter",
            &TREE,
            Root,
            Exchange("/e", "/d"),
            Ok(()),
            &[See::Names("/d", &[])],
        ),
    ]);
}

#[test]
fn rights() {
    let shut = [
        (Root, Chmod("/", 0o777)),
        (Root, Mkdir("/d", 0o755)),
        (Root, File("/d/f", 0o644)),
        (Root, Mkdir("/o", 0o777)),
        (Root, File("/o/g", 0o644)),
        (Root, Mkdir("/o/mine", 0o755)),
        (Ann, Mkdir("/a", 0o755)),
        (Ann, Mkdir("/a/sub", 0o755)),
    ];
    let sticky = [
        (Root, Mkdir("/t", 0)),
        (Root, Chmod("/t", 0o1777)),
        (Ann, File("/t/ann", 0o666)),
        (Bob, File("/t/bob", 0o666)),
        (Root, Mkdir("/o", 0o777)),
        (Bob, File("/o/bob", 0o666)),
    ];
    run(&[
        ("from where one may not write", &shut, Bob, Rename("/d/f", "/o/x"), Err(EACCES), &[]),
        ("to where one may not write", &shut, Bob, Rename("/o/g", "/d/x"), Err(EACCES), &[]),
        ("nothing is there, first of all", &shut, Bob, Rename("/d/x", "/o/x"), Err(ENOENT), &[]),
        ("a name that is taken comes before rights", &shut, Bob, RenameNew("/o/g", "/d/f"), Err(EEXIST), &[]),
        ("below itself comes before rights", &shut, Bob, Rename("/d", "/d/x"), Err(EINVAL), &[]),
        ("a directory whose .. one may not write", &shut, Bob, Rename("/o/mine", "/x"), Err(EACCES), &[]),
        ("it stays where it is", &shut, Bob, Rename("/o/mine", "/o/yours"), Ok(()), &[]),
        ("one's own", &shut, Ann, Rename("/a/sub", "/o/sub"), Ok(()), &[]),
        ("an exchange wants both", &shut, Ann, Exchange("/a/sub", "/o/mine"), Err(EACCES), &[]),
        ("sticky: another's", &sticky, Bob, Rename("/t/ann", "/t/x"), Err(EPERM), &[]),
        ("sticky: over another's", &sticky, Bob, Rename("/t/bob", "/t/ann"), Err(EPERM), &[]),
        ("sticky: over another's from elsewhere", &sticky, Bob, Rename("/o/bob", "/t/ann"), Err(EPERM), &[]),
        ("sticky: one's own", &sticky, Ann, Rename("/t/ann", "/o/x"), Ok(()), &[]),
        ("sticky: an exchange takes both", &sticky, Bob, Exchange("/t/bob", "/t/ann"), Err(EPERM), &[]),
    ]);
}
