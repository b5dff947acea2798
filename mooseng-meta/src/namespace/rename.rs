//! rename: replace, refuse to replace, exchange. Pure.

use super::*;
use mooseng_core::limits::LINKS_MAX;

/// Whether `dir` is `ancestor` or below it.
fn is_below(op: &Op<'_>, dir: InodeId, ancestor: InodeId) -> Res<bool> {
    let mut at = dir;
    loop {
        if at == ancestor {
            return Ok(true);
        }
        if at == InodeId::ROOT {
            return Ok(false);
        }
        at = directory(op.tx, at)?.parent;
    }
}

/// Moving a directory to another parent rewrites its "..": that takes the right to write it.
fn may_move(op: &Op<'_>, rec: &InodeRec, from: InodeId, to: InodeId) -> Res<()> {
    if rec.kind == FileKind::Dir && from != to {
        may(op.creds, rec, Access::WRITE)?;
    }
    Ok(())
}

pub(super) fn rename(op: &mut Op<'_>, r: &Rename) -> Res<Renamed> {
    let (from, to) = (r.parent, r.new_parent);
    let from_dir = op.writable_dir(from)?;
    let to_dir = op.writable_dir(to)?;
    let source = entry(op.tx, from, r.name.as_bytes())?.ok_or(Errno::ENOENT)?;
    let target = entry(op.tx, to, r.new_name.as_bytes())?;
    let source_rec = inode(op.tx, source.inode)?;
    perm::sticky(op.creds, &from_dir, &source_rec)?;
    may_move(op, &source_rec, from, to)?;
    if source.kind == FileKind::Dir && is_below(op, to, source.inode)? {
        return Err(Errno::EINVAL.into());
    }
    match (r.mode, target) {
        (RenameMode::NoReplace, Some(_)) => Err(Errno::EEXIST.into()),
        (RenameMode::Exchange, None) => Err(Errno::ENOENT.into()),
        // Two names of one inode: POSIX says that nothing happens.
        (_, Some(t)) if t.inode == source.inode => Ok(Renamed { inode: source.inode, other: None }),
        (RenameMode::Exchange, Some(t)) => exchange(op, r, (source, source_rec), t),
        (RenameMode::Replace, Some(t)) => {
            let victim = inode(op.tx, t.inode)?;
            perm::sticky(op.creds, &to_dir, &victim)?;
            match (source.kind == FileKind::Dir, t.kind == FileKind::Dir) {
                (true, false) => return Err(Errno::ENOTDIR.into()),
                (false, true) => return Err(Errno::EISDIR.into()),
                (true, true) if victim.size > 0 => return Err(Errno::ENOTEMPTY.into()),
                _ => {}
            }
            replace(op, r, source, source_rec, Some((t, victim)))
        }
        (_, None) => replace(op, r, source, source_rec, None),
    }
}

fn replace(
    op: &mut Op<'_>,
    r: &Rename,
    source: EntryRec,
    mut rec: InodeRec,
    victim: Option<(EntryRec, InodeRec)>,
) -> Res<Renamed> {
    let moves_dir = source.kind == FileKind::Dir && r.parent != r.new_parent;
    if moves_dir && victim.is_none() && directory(op.tx, r.new_parent)?.nlink >= LINKS_MAX {
        return Err(Errno::EMLINK.into());
    }
    if let Some((entry, victim_rec)) = &victim {
        op.may_drop_link(entry.inode, victim_rec)?;
    }
    let mut other = None;
    if let Some((entry, victim_rec)) = victim {
        let mut dir = directory(op.tx, r.new_parent)?;
        op.drop_entry(r.new_parent, &mut dir, &r.new_name, entry)?;
        op.save_inode(r.new_parent, &dir)?;
        other = Some(op.drop_link(entry.inode, victim_rec, r.new_parent)?);
    }
    let mut dir = directory(op.tx, r.parent)?;
    op.drop_entry(r.parent, &mut dir, &r.name, source)?;
    op.save_inode(r.parent, &dir)?;
    let mut dir = directory(op.tx, r.new_parent)?;
    op.add_entry(r.new_parent, &mut dir, &r.new_name, source.inode, source.kind)?;
    op.save_inode(r.new_parent, &dir)?;
    settle_in(op, source.inode, &mut rec, r.parent, r.new_parent)?;
    Ok(Renamed { inode: source.inode, other })
}

/// Notes the new parent of an inode that moved, and moves what it counts.
fn settle_in(op: &mut Op<'_>, id: InodeId, rec: &mut InodeRec, from: InodeId, to: InodeId) -> Res<()> {
    if from != to {
        op.link_moved(id, rec, from, to)?;
    }
    rec.ctime = op.now;
    rec.change += 1;
    op.save_inode(id, rec)
}

fn exchange(op: &mut Op<'_>, r: &Rename, source: (EntryRec, InodeRec), target: EntryRec) -> Res<Renamed> {
    let (from, to) = (r.parent, r.new_parent);
    let (source, mut source_rec) = source;
    let mut target_rec = inode(op.tx, target.inode)?;
    perm::sticky(op.creds, &directory(op.tx, to)?, &target_rec)?;
    may_move(op, &target_rec, to, from)?;
    if target.kind == FileKind::Dir && is_below(op, from, target.inode)? {
        return Err(Errno::EINVAL.into());
    }
    let subdirs = i32::from(target.kind == FileKind::Dir) - i32::from(source.kind == FileKind::Dir);
    let gains = if subdirs > 0 { from } else { to };
    if from != to && subdirs != 0 && directory(op.tx, gains)?.nlink >= LINKS_MAX {
        return Err(Errno::EMLINK.into());
    }
    // The names and cookies stay, what they name is swapped.
    let at_source = EntryRec { cookie: source.cookie, ..target };
    let at_target = EntryRec { cookie: target.cookie, ..source };
    save(op.tx, Table::Entry, &named(from, r.name.as_bytes()), &at_source)?;
    save(op.tx, Table::Entry, &named(to, r.new_name.as_bytes()), &at_target)?;
    let mut dir = directory(op.tx, from)?;
    op.touch_dir(&mut dir, 0, subdirs);
    op.save_inode(from, &dir)?;
    let mut dir = directory(op.tx, to)?;
    op.touch_dir(&mut dir, 0, -subdirs);
    op.save_inode(to, &dir)?;
    settle_in(op, source.inode, &mut source_rec, from, to)?;
    settle_in(op, target.inode, &mut target_rec, to, from)?;
    Ok(Renamed {
        inode: source.inode,
        other: Some(Removed { inode: target.inode, links_left: target_rec.nlink }),
    })
}
