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

/// What is there, and whether it can be at all, is looked at before rights are asked, as Linux does.
pub(super) fn rename(op: &mut Op<'_>, r: &Rename) -> Res<Renamed> {
    let (from, to) = (r.parent, r.new_parent);
    for dir in [from, to] {
        let dir = directory(op.tx, dir)?;
        may(op.creds, &dir, Access::EXEC)?;
        if dir.nlink == 0 {
            return Err(Errno::ENOENT.into());
        }
    }
    let source = entry(op.tx, from, r.name.as_bytes())?.ok_or(Errno::ENOENT)?;
    let target = entry(op.tx, to, r.new_name.as_bytes())?;
    match (r.mode, &target) {
        (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST.into()),
        (RenameMode::Exchange, None) => return Err(Errno::ENOENT.into()),
        _ => {}
    }
    if source.kind == FileKind::Dir && is_below(op, to, source.inode)? {
        return Err(Errno::EINVAL.into());
    }
    if let Some(t) = target.filter(|t| t.kind == FileKind::Dir)
        && is_below(op, from, t.inode)?
    {
        let exchanged = r.mode == RenameMode::Exchange;
        return Err(if exchanged { Errno::EINVAL } else { Errno::ENOTEMPTY }.into());
    }
    // Two names of one inode: POSIX says that nothing happens.
    if target.is_some_and(|t| t.inode == source.inode) {
        return Ok(Renamed { inode: source.inode, other: None });
    }
    let source_rec = inode(op.tx, source.inode)?;
    let victim = match target {
        Some(t) => Some((t, inode(op.tx, t.inode)?)),
        None => None,
    };
    may_rename(op, r, (&source, &source_rec), victim.as_ref())?;
    match victim {
        Some(victim) if r.mode == RenameMode::Exchange => exchange(op, r, (source, source_rec), victim),
        victim => replace(op, r, source, source_rec, victim),
    }
}

/// Rights and kinds.
fn may_rename(
    op: &Op<'_>,
    r: &Rename,
    (source, source_rec): (&EntryRec, &InodeRec),
    victim: Option<&(EntryRec, InodeRec)>,
) -> Res<()> {
    perm::sticky(op.creds, &op.writable_dir(r.parent)?, source_rec)?;
    let to_dir = op.writable_dir(r.new_parent)?;
    let replaced = victim.filter(|_| r.mode != RenameMode::Exchange);
    if let Some((_, rec)) = victim {
        perm::sticky(op.creds, &to_dir, rec)?;
    }
    match replaced.map(|(t, _)| (source.kind == FileKind::Dir, t.kind == FileKind::Dir)) {
        Some((true, false)) => return Err(Errno::ENOTDIR.into()),
        Some((false, true)) => return Err(Errno::EISDIR.into()),
        _ => {}
    }
    may_move(op, source_rec, r.parent, r.new_parent)?;
    match (victim, replaced) {
        (Some((_, rec)), None) => may_move(op, rec, r.new_parent, r.parent),
        (_, Some((t, rec))) if t.kind == FileKind::Dir && rec.size > 0 => Err(Errno::ENOTEMPTY.into()),
        _ => Ok(()),
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

fn exchange(
    op: &mut Op<'_>,
    r: &Rename,
    (source, mut source_rec): (EntryRec, InodeRec),
    (target, mut target_rec): (EntryRec, InodeRec),
) -> Res<Renamed> {
    let (from, to) = (r.parent, r.new_parent);
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
