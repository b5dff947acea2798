//! What the requests do to the model.

use crate::model::*;
use mooseng_core::{
    attr::{FileKind, SetTime},
    context::Credentials,
    error::Errno::*,
    limits::{FILE_BYTES_MAX, INLINE_BYTES_MAX},
    meta::*,
    name::Name,
};

/// What is told of a success.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Out {
    Nothing,
    Stat(Stat),
    /// Names with what they name, and whether attributes come with them.
    Names(Vec<(String, u64)>, bool),
    Bytes(Vec<u8>),
    /// An inode that lost a name, and its links.
    Removed(u64, u32),
    /// What was renamed, and what was in its way.
    Renamed(u64, Option<(u64, u32)>),
    Totals(u64, u64, u64),
}

fn text(n: &Name) -> String {
    n.to_string()
}

fn xattr(n: &bytes::Bytes) -> String {
    String::from_utf8_lossy(n).into_owned()
}

/// What is to be made.
struct New {
    kind: FileKind,
    mode: u32,
    body: Body,
}

impl Model {
    pub fn ask(&mut self, who: &Credentials, req: &MetaRequest) -> Res<Out> {
        match req {
            MetaRequest::Lookup(r) => {
                let id = self.find(who, r.parent.get(), &text(&r.name))?.ok_or(ENOENT)?;
                self.stat(id).map(Out::Stat)
            }
            MetaRequest::GetAttr(r) => self.stat(r.inode.get()).map(Out::Stat),
            MetaRequest::CheckAccess(r) => {
                self.may(who, r.inode.get(), u32::from(r.access.0)).map(|()| Out::Nothing)
            }
            MetaRequest::ReadDir(r) => {
                let names = self.entries(r.inode.get())?.clone();
                self.may(who, r.inode.get(), READ)?;
                let told = r.with_attrs && self.may(who, r.inode.get(), EXEC).is_ok();
                Ok(Out::Names(names, told))
            }
            MetaRequest::ReadLink(r) => match &self.node(r.inode.get())?.body {
                Body::Symlink(target) => Ok(Out::Bytes(target.clone().into())),
                _ => Err(EINVAL.into()),
            },
            MetaRequest::GetTotals(r) => self.count(who, r.inode.get()),
            MetaRequest::Create(r) => self.create(who, r),
            MetaRequest::MkDir(r) => {
                let new = New { kind: FileKind::Dir, mode: r.mode, body: Body::Dir(vec![]) };
                self.make(who, r.parent.get(), &r.name, new)
            }
            MetaRequest::MkNod(r) => {
                let device = matches!(r.kind, FileKind::CharDev | FileKind::BlockDev);
                if device && who.uid != 0 {
                    return Err(EPERM.into());
                }
                let body = if r.kind == FileKind::File { Body::File(vec![]) } else { Body::Other };
                self.make(who, r.parent.get(), &r.name, New { kind: r.kind, mode: r.mode, body })
            }
            MetaRequest::SymLink(r) => {
                let body = Body::Symlink(xattr(&r.target));
                self.make(who, r.parent.get(), &r.name, New { kind: FileKind::Symlink, mode: 0o777, body })
            }
            MetaRequest::Link(r) => self.link(who, r),
            MetaRequest::Unlink(r) => self.remove(who, r.parent.get(), &text(&r.name), false),
            MetaRequest::RmDir(r) => self.remove(who, r.parent.get(), &text(&r.name), true),
            MetaRequest::Rename(r) => self.rename(who, r),
            MetaRequest::SetAttrs(r) => self.set(who, r),
            MetaRequest::Truncate(r) => {
                self.may_cut(r.inode.get(), r.size)?;
                self.resize(who, r.inode.get(), r.size)?;
                self.stat(r.inode.get()).map(Out::Stat)
            }
            MetaRequest::WriteInline(r) => self.write(who, r),
            MetaRequest::SetClass(r) => {
                self.node(r.inode.get())?;
                self.owns(who, r.inode.get())?;
                self.node_mut(r.inode.get())?.copies = r.class.copies;
                Ok(Out::Nothing)
            }
            other => self.xattrs(who, other),
        }
    }

    fn count(&self, who: &Credentials, id: u64) -> Res<Out> {
        let n = self.node(id)?;
        Ok(match &n.body {
            Body::Dir(_) => {
                self.may(who, id, READ)?;
                let (inodes, dirs, bytes) = self.totals(id);
                Out::Totals(inodes, dirs, bytes)
            }
            Body::File(content) => Out::Totals(1, 0, content.len() as u64),
            Body::Symlink(target) => Out::Totals(1, 0, target.len() as u64),
            Body::Other => Out::Totals(1, 0, 0),
        })
    }

    fn make(&mut self, who: &Credentials, dir: u64, name: &Name, new: New) -> Res<Out> {
        if self.find(who, dir, &text(name))?.is_some() {
            return Err(EEXIST.into());
        }
        self.may_make(who, dir)?;
        if new.kind == FileKind::Dir {
            self.has_room(dir)?;
        }
        let above = self.node(dir)?;
        let inherits = above.mode & 0o2000 != 0;
        let gid = if inherits { above.gid } else { who.gid };
        let mut mode = new.mode & 0o7777;
        if new.kind == FileKind::Dir {
            mode = mode & 0o1777 | above.mode & 0o2000;
        } else if mode & 0o2010 == 0o2010 && who.uid != 0 && who.gid != gid && !who.groups.contains(&gid) {
            mode &= !0o2000;
        }
        let (id, copies) = (self.next, above.copies);
        self.next += 1;
        let node = Node {
            kind: new.kind,
            mode,
            uid: who.uid,
            gid,
            body: new.body,
            names: Default::default(),
            home: dir,
            xattrs: Default::default(),
            copies,
            cuts: 0,
        };
        self.nodes.insert(id, node);
        self.name(dir, &text(name), id)?;
        self.stat(id).map(Out::Stat)
    }

    fn create(&mut self, who: &Credentials, r: &Create) -> Res<Out> {
        let Some(id) = self.find(who, r.parent.get(), &text(&r.name))? else {
            let new = New { kind: FileKind::File, mode: r.mode, body: Body::File(vec![]) };
            return self.make(who, r.parent.get(), &r.name, new);
        };
        match self.node(id)?.kind {
            _ if r.exclusive => return Err(EEXIST.into()),
            FileKind::Dir => return Err(EISDIR.into()),
            FileKind::Symlink => return Err(ELOOP.into()),
            _ => {}
        }
        self.may(who, id, u32::from(r.open.0))?;
        if r.truncate && self.node(id)?.kind == FileKind::File {
            self.may(who, id, WRITE)?;
            self.resize(who, id, 0)?;
        }
        self.stat(id).map(Out::Stat)
    }

    fn link(&mut self, who: &Credentials, r: &Link) -> Res<Out> {
        let (id, dir) = (r.inode.get(), r.parent.get());
        let kind = self.node(id)?.kind;
        if self.find(who, dir, &text(&r.name))?.is_some() {
            return Err(EEXIST.into());
        }
        self.may_make(who, dir)?;
        if kind == FileKind::Dir {
            return Err(EPERM.into());
        }
        if self.links(id) == 0 {
            return Err(ENOENT.into());
        }
        self.name(dir, &text(&r.name), id)?;
        self.stat(id).map(Out::Stat)
    }

    fn remove(&mut self, who: &Credentials, dir: u64, name: &str, is_dir: bool) -> Res<Out> {
        let id = self.find(who, dir, name)?.ok_or(ENOENT)?;
        self.may_take(who, dir, id)?;
        match (is_dir, self.is_dir(id)) {
            (true, false) => return Err(ENOTDIR.into()),
            (false, true) => return Err(EISDIR.into()),
            (true, true) if !self.entries(id)?.is_empty() => return Err(ENOTEMPTY.into()),
            _ => {}
        }
        self.take(dir, name)?;
        let links = self.links(id);
        self.sweep(id);
        Ok(Out::Removed(id, links))
    }

    fn rename(&mut self, who: &Credentials, r: &Rename) -> Res<Out> {
        let (from, to) = (r.parent.get(), r.new_parent.get());
        let (name, new) = (text(&r.name), text(&r.new_name));
        let exchange = r.mode == RenameMode::Exchange;
        for dir in [from, to] {
            self.entries(dir)?;
            self.may(who, dir, EXEC)?;
            if !self.is_live(dir) {
                return Err(ENOENT.into());
            }
        }
        let source = self.find(who, from, &name)?.ok_or(ENOENT)?;
        let target = self.find(who, to, &new)?;
        if r.mode == RenameMode::NoReplace && target.is_some() {
            return Err(EEXIST.into());
        }
        if exchange && target.is_none() {
            return Err(ENOENT.into());
        }
        if self.is_dir(source) && self.is_within(to, source) {
            return Err(EINVAL.into());
        }
        if target.is_some_and(|t| self.is_dir(t) && self.is_within(from, t)) {
            return Err(if exchange { EINVAL } else { ENOTEMPTY }.into());
        }
        if target == Some(source) {
            return Ok(Out::Renamed(source, None));
        }
        self.may_rename(who, (from, source), (to, target), exchange)?;
        match target {
            Some(target) if exchange => self.swap((from, &name, source), (to, &new, target)),
            target => self.shift((from, &name, source), (to, &new, target)),
        }
    }

    fn may_rename(
        &self,
        who: &Credentials,
        (from, source): (u64, u64),
        (to, target): (u64, Option<u64>),
        exchange: bool,
    ) -> Res<()> {
        self.may_take(who, from, source)?;
        match target {
            Some(t) => self.may_take(who, to, t)?,
            None => self.may_make(who, to)?,
        }
        let replaced = target.filter(|_| !exchange);
        match replaced.map(|t| (self.is_dir(source), self.is_dir(t))) {
            Some((true, false)) => return Err(ENOTDIR.into()),
            Some((false, true)) => return Err(EISDIR.into()),
            _ => {}
        }
        // A directory that moves has its ".." written.
        for id in [Some(source), target.filter(|_| exchange)].into_iter().flatten() {
            if from != to && self.is_dir(id) {
                self.may(who, id, WRITE)?;
            }
        }
        match replaced {
            Some(t) if self.is_dir(t) && !self.entries(t)?.is_empty() => Err(ENOTEMPTY.into()),
            _ => Ok(()),
        }
    }

    fn shift(&mut self, from: (u64, &str, u64), to: (u64, &str, Option<u64>)) -> Res<Out> {
        let mut other = None;
        if let Some(victim) = to.2 {
            self.take(to.0, to.1)?;
            other = Some((victim, self.links(victim)));
            self.sweep(victim);
        }
        // The new name is there before the old one goes.
        self.name(to.0, to.1, from.2)?;
        let entries = self.entries_mut(from.0)?;
        let at = entries.iter().position(|(n, id)| n == from.1 && *id == from.2).ok_or(EIO)?;
        entries.remove(at);
        self.unnamed(from.0, from.2)?;
        Ok(Out::Renamed(from.2, other))
    }

    fn swap(&mut self, a: (u64, &str, u64), b: (u64, &str, u64)) -> Res<Out> {
        for (dir, name, becomes) in [(a.0, a.1, b.2), (b.0, b.1, a.2)] {
            let entry = self.entries_mut(dir)?.iter_mut().find(|(n, _)| n == name).ok_or(EIO)?;
            entry.1 = becomes;
        }
        for (id, from, to) in [(a.2, a.0, b.0), (b.2, b.0, a.0)] {
            self.named(to, id)?;
            self.unnamed(from, id)?;
        }
        Ok(Out::Renamed(a.2, Some((b.2, self.links(b.2)))))
    }

    fn set(&mut self, who: &Credentials, r: &SetAttrs) -> Res<Out> {
        let (id, set) = (r.inode.get(), &r.set);
        let n = self.node(id)?.clone();
        let owns = self.owns(who, id);
        let in_group = |gid| who.uid == 0 || who.gid == gid || who.groups.contains(&gid);
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
            owns?;
        }
        if set.uid.is_some_and(|u| u != n.uid && who.uid != 0) {
            return Err(EPERM.into());
        }
        if set.gid.is_some_and(|g| g != n.gid && !in_group(g)) {
            return Err(EPERM.into());
        }
        match set.mtime {
            Some(SetTime::At(_)) => owns?,
            Some(SetTime::Now) if owns.is_err() => self.may(who, id, WRITE)?,
            _ => {}
        }
        if let Some(size) = set.size {
            self.may_cut(id, 0)?;
            self.may(who, id, WRITE)?;
            self.may_cut(id, size)?;
            self.resize(who, id, size)?;
        }
        if let Some(mode) = set.mode {
            let lost = if in_group(n.gid) { 0 } else { 0o2000 };
            self.node_mut(id)?.mode = mode & 0o7777 & !lost;
        }
        if set.uid.is_some() || set.gid.is_some() {
            let n = self.node_mut(id)?;
            (n.uid, n.gid) = (set.uid.unwrap_or(n.uid), set.gid.unwrap_or(n.gid));
            self.lower(id)?;
        }
        self.stat(id).map(Out::Stat)
    }

    fn may_cut(&self, id: u64, size: u64) -> Res<()> {
        match self.node(id)?.kind {
            FileKind::Dir => Err(EISDIR.into()),
            FileKind::File if size > FILE_BYTES_MAX => Err(EFBIG.into()),
            FileKind::File => Ok(()),
            _ => Err(EINVAL.into()),
        }
    }

    fn resize(&mut self, who: &Credentials, id: u64, size: u64) -> Res<()> {
        let n = self.node_mut(id)?;
        if let Body::File(content) = &mut n.body {
            n.cuts += u64::from((size as usize) < content.len());
            content.resize(size as usize, 0);
        }
        if who.uid != 0 { self.lower(id) } else { Ok(()) }
    }

    fn write(&mut self, who: &Credentials, r: &WriteInline) -> Res<Out> {
        let id = r.inode.get();
        self.may_cut(id, 0)?;
        let n = self.node_mut(id)?;
        let Body::File(content) = &mut n.body else { return Err(EINVAL.into()) };
        let ends = r.parts.iter().map(|(at, data)| at.get() as usize + data.len());
        let size = ends.max().unwrap_or(0).max(content.len());
        if r.truncates.get() != n.cuts || size > INLINE_BYTES_MAX {
            return Err(No::Stale);
        }
        content.resize(size, 0);
        for (at, data) in &r.parts {
            content.splice(at.get() as usize..at.get() as usize + data.len(), data.iter().copied());
        }
        if who.uid != 0 {
            self.lower(id)?;
        }
        self.stat(id).map(Out::Stat)
    }

    fn xattrs(&mut self, who: &Credentials, req: &MetaRequest) -> Res<Out> {
        match req {
            MetaRequest::GetXattr(r) => {
                let n = self.may_xattr(who, r.inode.get(), READ)?;
                Ok(Out::Bytes(n.xattrs.get(&xattr(&r.name)).ok_or(ENODATA)?.clone()))
            }
            MetaRequest::SetXattr(r) => {
                let n = self.may_xattr(who, r.inode.get(), WRITE)?;
                match (r.mode, n.xattrs.contains_key(&xattr(&r.name))) {
                    (XattrMode::Create, true) => return Err(EEXIST.into()),
                    (XattrMode::Replace, false) => return Err(ENODATA.into()),
                    _ => {}
                }
                n.xattrs.insert(xattr(&r.name), r.value.to_vec());
                Ok(Out::Nothing)
            }
            MetaRequest::RemoveXattr(r) => {
                let n = self.may_xattr(who, r.inode.get(), WRITE)?;
                n.xattrs.remove(&xattr(&r.name)).ok_or(ENODATA)?;
                Ok(Out::Nothing)
            }
            _ => Err(No::Invalid),
        }
    }

    /// Only the `user.` kind is asked for here.
    fn may_xattr(&mut self, who: &Credentials, id: u64, want: u32) -> Res<&mut Node> {
        let n = self.node(id)?;
        match n.kind {
            FileKind::Dir if want == WRITE && n.mode & 0o1000 != 0 => self.owns(who, id)?,
            FileKind::File | FileKind::Dir => {}
            _ if want == READ => return Err(ENODATA.into()),
            _ => return Err(EPERM.into()),
        }
        self.may(who, id, want)?;
        self.node_mut(id)
    }
}
