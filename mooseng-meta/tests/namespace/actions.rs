//! Random requests on few names, so that they meet.

use crate::{
    model::{Model, ROOT},
    world::User,
};
use bytes::Bytes;
use mooseng_core::{
    attr::{Access, FileKind, SetAttr, SetTime, Timestamp},
    ids::*,
    limits::INLINE_BYTES_MAX,
    meta::*,
    name::Name,
};
use proptest::{prelude::*, sample::select};

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    MkDir,
    MkNod,
    Create,
    SymLink,
    Link,
    Unlink,
    RmDir,
    Rename,
    Chmod,
    Chown,
    Touch,
    Size,
    Truncate,
    Write,
    Class,
    Lookup,
    GetAttr,
    Access,
    ReadDir,
    ReadLink,
    Totals,
    SetXattr,
    GetXattr,
    RemoveXattr,
    /// The session opens an inode, or closes it for the last time.
    Open,
    Release,
}

/// How often each is done.
const WEIGHTS: [(u32, Verb); 26] = [
    (8, Verb::MkDir),
    (8, Verb::MkNod),
    (4, Verb::Create),
    (2, Verb::SymLink),
    (8, Verb::Link),
    (5, Verb::Unlink),
    (8, Verb::RmDir),
    (14, Verb::Rename),
    (8, Verb::Chmod),
    (6, Verb::Chown),
    (2, Verb::Touch),
    (4, Verb::Size),
    (3, Verb::Truncate),
    (8, Verb::Write),
    (1, Verb::Class),
    (2, Verb::Lookup),
    (1, Verb::GetAttr),
    (2, Verb::Access),
    (3, Verb::ReadDir),
    (3, Verb::ReadLink),
    (2, Verb::Totals),
    (6, Verb::SetXattr),
    (2, Verb::GetXattr),
    (4, Verb::RemoveXattr),
    (4, Verb::Open),
    (3, Verb::Release),
];

/// One step: what, by whom, and numbers from which the rest is chosen among what is there then.
#[derive(Clone, Debug)]
pub struct Action {
    pub who: User,
    pub verb: Verb,
    places: (u8, u8),
    names: (u8, u8),
    number: u16,
    mode: u32,
}

/// Modes that make a difference.
const MODES: [u32; 12] =
    [0o777, 0o755, 0o700, 0o1777, 0o2775, 0o644, 0o666, 0o6755, 0o770, 0o731, 0o2745, 0o044];

pub fn action() -> impl Strategy<Value = Action> {
    let verbs = WEIGHTS.map(|(weight, verb)| (weight, Just(verb))).to_vec();
    let verb = proptest::strategy::Union::new_weighted(verbs);
    // The superuser is refused little: it comes as often as all others.
    let who = prop_oneof![Just(User::Root), select(&User::ALL[..])];
    let (places, names) = (any::<(u8, u8)>(), (0..3u8, 0..3u8));
    (who, verb, places, names, any::<u16>(), select(&MODES[..])).prop_map(
        |(who, verb, places, names, number, mode)| Action { who, verb, places, names, number, mode },
    )
}

/// From this on, a number stands for any inode that ever was.
const ANY: u8 = 230;

fn pick(among: &[u64], n: u8, model: &Model) -> InodeId {
    let id = if n >= ANY { 1 + u64::from(n - ANY) * 7 % model.next } else { among[n as usize % among.len()] };
    InodeId(id)
}

impl Action {
    pub fn node(&self, model: &Model) -> InodeId {
        // What is for files is done to directories as well, now and then.
        let for_files = matches!(
            self.verb,
            Verb::Link | Verb::Write | Verb::Size | Verb::Truncate | Verb::ReadLink | Verb::Open
        );
        let files_only = for_files && self.number >> 13 != 0;
        let all = model.nodes.keys().copied().filter(|id| !(files_only && model.is_dir(*id)));
        let mut all: Vec<_> = all.collect();
        if all.is_empty() {
            all.push(ROOT);
        }
        pick(&all, self.places.1, model)
    }

    fn dirs(&self, model: &Model) -> (InodeId, InodeId) {
        let dirs: Vec<_> = model.nodes.keys().copied().filter(|id| model.is_dir(*id)).collect();
        (pick(&dirs, self.places.0, model), pick(&dirs, self.places.1, model))
    }

    fn set(&self, set: SetAttr, model: &Model) -> MetaRequest {
        SetAttrs { inode: self.node(model), set }.into()
    }

    /// The request, on what is there now; none for what is no request.
    pub fn request(&self, model: &Model) -> Option<MetaRequest> {
        let name = |n: u8| Name::new([b'a' + n]).unwrap();
        let (inode, (parent, new_parent)) = (self.node(model), self.dirs(model));
        let (a, b, n, mode) = (name(self.names.0), name(self.names.1), self.number, self.mode);
        Some(match self.verb {
            Verb::MkDir => MkDir { parent, name: a, mode, id: None }.into(),
            Verb::MkNod => {
                let kind =
                    [FileKind::File, FileKind::File, FileKind::Fifo, FileKind::CharDev][n as usize % 4];
                MkNod { parent, name: a, mode, kind, rdev: 1, id: None }.into()
            }
            Verb::Create => {
                let (exclusive, truncate, open) = (n % 5 == 0, n % 2 == 0, Access((n >> 8) as u8 & 6));
                Create { parent, name: a, mode, exclusive, open, truncate, id: None }.into()
            }
            Verb::SymLink => {
                let target = "t".repeat(1 + n as usize % 40).into();
                SymLink { parent, name: a, target, id: None }.into()
            }
            Verb::Link => Link { inode, parent, name: a }.into(),
            Verb::Unlink => Unlink { parent, name: a }.into(),
            Verb::RmDir => RmDir { parent, name: a }.into(),
            Verb::Rename => {
                use RenameMode::*;
                let mode = [Replace, Replace, NoReplace, Exchange][n as usize % 4];
                Rename { parent, name: a, new_parent, new_name: b, mode }.into()
            }
            _ => return self.on_inode(model, inode, a),
        })
    }

    fn on_inode(&self, model: &Model, inode: InodeId, name: Name) -> Option<MetaRequest> {
        let (none, n) = (SetAttr::default, self.number);
        let attribute = Bytes::from(["user.a", "user.b"][n as usize % 2]);
        Some(match self.verb {
            Verb::Chmod => self.set(SetAttr { mode: Some(self.mode), ..none() }, model),
            Verb::Chown => {
                let uid = [None, Some(0), Some(1), Some(2), Some(3)][n as usize % 5];
                let gid = [None, Some(50), Some(1), Some(2)][(n >> 4) as usize % 4];
                self.set(SetAttr { uid, gid, ..none() }, model)
            }
            Verb::Touch => {
                let time = if n % 2 == 0 { SetTime::Now } else { SetTime::At(Timestamp(9)) };
                self.set(SetAttr { mtime: Some(time), ..none() }, model)
            }
            Verb::Size => {
                let mode = (n % 4 == 0).then_some(self.mode);
                self.set(SetAttr { size: Some(u64::from(n % 12_000)), mode, ..none() }, model)
            }
            Verb::Truncate => Truncate { inode, size: u64::from(n % 12_000) }.into(),
            Verb::Write => {
                let at = u64::from(n) % (INLINE_BYTES_MAX as u64 + 20);
                let part = |at, len: usize| (Offset(at), Bytes::from(vec![1 + n as u8 % 250; len]));
                let cuts = model.nodes.get(&inode.get()).map_or(0, |node| node.cuts);
                // Now and then by somebody who does not know of a cut.
                let truncates = TruncateCounter(if n % 16 == 0 { 0 } else { cuts });
                WriteInline { inode, truncates, parts: vec![part(at / 2, 9), part(at / 2 + 10, 30)] }.into()
            }
            Verb::Class => SetClass { inode, class: StorageClass { copies: 1 + (n % 9) as u8 } }.into(),
            Verb::Lookup => Lookup { parent: self.dirs(model).0, name }.into(),
            Verb::GetAttr => GetAttr { inode }.into(),
            Verb::Access => CheckAccess { inode, access: Access(n as u8 & 7) }.into(),
            Verb::ReadDir => {
                let inode = self.dirs(model).0;
                ReadDir { inode, after: DirCookie(0), max_entries: 4000, with_attrs: n % 2 == 0 }.into()
            }
            Verb::ReadLink => ReadLink { inode }.into(),
            Verb::Totals => GetTotals { inode }.into(),
            Verb::SetXattr => {
                use XattrMode::*;
                let mode = [Set, Create, Replace][(n >> 1) as usize % 3];
                SetXattr { inode, name: attribute, value: vec![n as u8].into(), mode }.into()
            }
            Verb::GetXattr => GetXattr { inode, name: attribute }.into(),
            Verb::RemoveXattr => RemoveXattr { inode, name: attribute }.into(),
            _ => return None,
        })
    }
}
