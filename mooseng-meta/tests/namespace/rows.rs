//! The language of the tables: operations by path, and what is to be seen after them.

use crate::world::{User, World};
use bytes::Bytes;
use mooseng_core::{
    attr::{Access, FileKind, SetAttr, SetTime, Timestamp},
    error::{Errno, MetaError},
    ids::*,
    meta::*,
    name::Name,
};

/// An operation by path. The directory is found as the superuser, so that only the operation itself
/// is judged.
#[derive(Clone, Debug)]
pub enum Do {
    Mkdir(&'static str, u32),
    File(&'static str, u32),
    Node(&'static str, FileKind, u32),
    Create { at: &'static str, mode: u32, exclusive: bool, truncate: bool, open: Access },
    Symlink(&'static str, &'static str),
    Link(&'static str, &'static str),
    Unlink(&'static str),
    Rmdir(&'static str),
    Rename(&'static str, &'static str),
    RenameNew(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    Chmod(&'static str, u32),
    Chown(&'static str, Option<u32>, Option<u32>),
    Set(&'static str, SetAttr),
    Size(&'static str, u64),
    Cut(&'static str, u64),
    Touch(&'static str, SetTime),
    Write(&'static str, u64, &'static str),
    Class(&'static str, u8),
    Lookup(&'static str),
    Access(&'static str, Access),
    Open(&'static str, Access),
    Readdir(&'static str),
    Readlink(&'static str),
    SetXattr(&'static str, &'static str, XattrMode),
    GetXattr(&'static str, &'static str),
    RemoveXattr(&'static str, &'static str),
}

/// What is to be seen, as the superuser sees it.
#[derive(Clone, Debug)]
pub enum See {
    Gone(&'static str),
    Same(&'static str, &'static str),
    Kind(&'static str, FileKind),
    Mode(&'static str, u32),
    Owner(&'static str, u32, u32),
    Links(&'static str, u32),
    Size(&'static str, u64),
    Content(&'static str, &'static str),
    Names(&'static str, &'static [&'static str]),
    /// Inodes, directories, bytes; the directory itself is counted.
    Totals(&'static str, u64, u64, u64),
    Copies(&'static str, u8),
    Xattrs(&'static str, &'static [&'static str]),
}

pub type Setup<'a> = &'a [(User, Do)];

/// What it is about; what was before; who does what; whether it is done, or why not; what is seen then.
pub type Row<'a> = (&'a str, Setup<'a>, User, Do, Result<(), Errno>, &'a [See]);

fn set(inode: InodeId, set: SetAttr) -> MetaRequest {
    SetAttrs { inode, set }.into()
}

/// Directory and name of a path; a bad name is the answer that a caller gets.
fn place(w: &World, path: &str) -> Result<(InodeId, Name), MetaError> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = w.at(dir).unwrap_or_else(|| panic!("the directory of {path} is there"));
    Ok((parent, Name::new(name)?))
}

fn named(w: &World, op: &Do) -> Result<MetaRequest, MetaError> {
    let (Do::Mkdir(path, _)
    | Do::File(path, _)
    | Do::Node(path, ..)
    | Do::Create { at: path, .. }
    | Do::Symlink(_, path)
    | Do::Link(_, path)
    | Do::Unlink(path)
    | Do::Rmdir(path)
    | Do::Lookup(path)) = op
    else {
        return renamed(w, op);
    };
    let (parent, name) = place(w, path)?;
    Ok(match op.clone() {
        Do::Mkdir(_, mode) => MkDir { parent, name, mode, id: None }.into(),
        Do::File(_, mode) => MkNod { parent, name, mode, kind: FileKind::File, rdev: 0, id: None }.into(),
        Do::Node(_, kind, mode) => MkNod { parent, name, mode, kind, rdev: 7, id: None }.into(),
        Do::Create { mode, exclusive, truncate, open, .. } => {
            Create { parent, name, mode, exclusive, open, truncate, id: None }.into()
        }
        Do::Symlink(target, _) => SymLink { parent, name, target: target.into(), id: None }.into(),
        Do::Link(old, _) => Link { inode: w.at(old).unwrap(), parent, name }.into(),
        Do::Unlink(_) => Unlink { parent, name }.into(),
        Do::Rmdir(_) => RmDir { parent, name }.into(),
        _ => Lookup { parent, name }.into(),
    })
}

fn renamed(w: &World, op: &Do) -> Result<MetaRequest, MetaError> {
    let (from, to, mode) = match op {
        Do::Rename(from, to) => (from, to, RenameMode::Replace),
        Do::RenameNew(from, to) => (from, to, RenameMode::NoReplace),
        Do::Exchange(from, to) => (from, to, RenameMode::Exchange),
        _ => return Ok(of_inode(w, op)),
    };
    let ((parent, name), (new_parent, new_name)) = (place(w, from)?, place(w, to)?);
    Ok(Rename { parent, name, new_parent, new_name, mode }.into())
}

fn of_inode(w: &World, op: &Do) -> MetaRequest {
    let at = |path: &str| w.at(path).unwrap_or_else(|| panic!("{path} is there"));
    let none = SetAttr::default;
    match op.clone() {
        Do::Chmod(path, mode) => set(at(path), SetAttr { mode: Some(mode), ..none() }),
        Do::Chown(path, uid, gid) => set(at(path), SetAttr { uid, gid, ..none() }),
        Do::Set(path, what) => set(at(path), what),
        Do::Size(path, size) => set(at(path), SetAttr { size: Some(size), ..none() }),
        Do::Cut(path, size) => Truncate { inode: at(path), size }.into(),
        Do::Touch(path, time) => set(at(path), SetAttr { mtime: Some(time), ..none() }),
        Do::Write(path, from, text) => {
            let inode = at(path);
            let truncates = w.rec(inode).unwrap().truncates;
            WriteInline { inode, truncates, parts: vec![(Offset(from), text.into())] }.into()
        }
        Do::Class(path, copies) => SetClass { inode: at(path), class: StorageClass { copies } }.into(),
        Do::Access(path, access) => CheckAccess { inode: at(path), access }.into(),
        Do::Open(path, access) => Open { inode: at(path), access, layout_chunks: 0 }.into(),
        Do::Readdir(path) => {
            ReadDir { inode: at(path), after: DirCookie(0), max_entries: 10, with_attrs: true }.into()
        }
        Do::Readlink(path) => ReadLink { inode: at(path) }.into(),
        Do::SetXattr(path, name, mode) => {
            SetXattr { inode: at(path), name: name.into(), value: Bytes::from_static(b"v"), mode }.into()
        }
        Do::GetXattr(path, name) => GetXattr { inode: at(path), name: name.into() }.into(),
        Do::RemoveXattr(path, name) => RemoveXattr { inode: at(path), name: name.into() }.into(),
        other => panic!("{other:?} names its place"),
    }
}

/// Does it.
pub fn act(w: &mut World, who: User, op: &Do) -> Result<MetaReply, MetaError> {
    let req = named(w, op)?;
    w.ask(who, req)
}

fn see(w: &World, what: &See) {
    let at = |path: &str| w.at(path).unwrap_or_else(|| panic!("{path} is there"));
    match what.clone() {
        See::Gone(path) => assert_eq!(w.at(path), None, "{what:?}"),
        See::Same(a, b) => assert_eq!(at(a), at(b), "{what:?}"),
        See::Kind(path, kind) => assert_eq!(w.attr(path).kind, kind, "{what:?}"),
        See::Mode(path, mode) => assert_eq!(w.attr(path).mode, mode, "{what:?}: {:o}", w.attr(path).mode),
        See::Owner(path, uid, gid) => {
            assert_eq!((w.attr(path).uid, w.attr(path).gid), (uid, gid), "{what:?}")
        }
        See::Links(path, n) => assert_eq!(w.attr(path).nlink, n, "{what:?}"),
        See::Size(path, n) => assert_eq!(w.attr(path).size, n, "{what:?}"),
        See::Content(path, text) => {
            let content = w.rec(at(path)).unwrap().inline.unwrap_or_default();
            assert_eq!(content, text.as_bytes(), "{what:?}");
        }
        See::Names(path, names) => assert_eq!(w.names(at(path)), names, "{what:?}"),
        See::Totals(path, inodes, dirs, bytes) => {
            assert_eq!(w.totals(at(path)), Totals { inodes, dirs, bytes }, "{what:?}");
        }
        See::Copies(path, copies) => assert_eq!(w.rec(at(path)).unwrap().class.copies, copies, "{what:?}"),
        See::Xattrs(path, names) => match w.look(User::Root, ListXattrs { inode: at(path) }) {
            Ok(MetaReply::ListXattrs(got)) => assert_eq!(got, names, "{what:?}"),
            other => panic!("{other:?}"),
        },
    }
}

/// Runs a table: each row on a filesystem of its own.
pub fn run(table: &[Row<'_>]) {
    for (about, setup, who, op, expected, seen) in table {
        let mut w = World::new();
        for (who, op) in *setup {
            let done = act(&mut w, *who, op);
            assert!(done.is_ok(), "{about}: {who:?} {op:?} before it: {done:?}");
        }
        let got = act(&mut w, *who, op).map(drop).map_err(|e| e.errno());
        assert_eq!(got, *expected, "{about}: {who:?} {op:?}");
        seen.iter().for_each(|s| see(&w, s));
    }
}

/// A moment to be set.
pub const MOMENT: SetTime = SetTime::At(Timestamp(5));
