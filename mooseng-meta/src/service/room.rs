//! Room on the masters' own disks. What is left below the reserve is for what makes room again: removing,
//! cutting, and telling of what is written already. Without it, masters whose disks are full end, and with
//! a quorum of them everything does, removing included.

use super::{Inner, Lead, fs::elements};
use mooseng_core::{
    error::{Errno, MetaError},
    meta::*,
};
use std::{sync::atomic::Ordering::Relaxed, time::Duration};

/// Between two looks at the disks.
const LOOK: Duration = Duration::from_secs(1);
/// More than the reserve is to be free again before anything is taken, in percent.
const AGAIN: u64 = 110;

/// Looks after which a master that does not answer is no part of the quorum: it may have ended for lack of room.
const UNSURE_MAX: u32 = 3;

/// What of a disk is for removing only: a small one keeps an eighth of itself.
pub fn reserve_of(total: u64, reserve: u64) -> u64 {
    reserve.min(total / 8)
}

/// Looks at the disks of all masters while this one leads.
pub(super) async fn keep(inner: &Inner, lead: &Lead) {
    if inner.reserve == 0 {
        return std::future::pending().await;
    }
    let mut unsure = 0;
    loop {
        let disks = inner.raft.room(LOOK).await;
        let cramped = lead.cramped.load(Relaxed);
        let short = is_short(&disks, (inner.reserve, cramped), unsure >= UNSURE_MAX);
        unsure = if disks.contains(&None) { unsure + 1 } else { 0 };
        if let Some(now) = short.filter(|now| *now != cramped) {
            lead.cramped.store(now, Relaxed);
            let reserve = inner.reserve >> 20;
            match now {
                false => tracing::info!("the masters' disks have room again"),
                true => tracing::error!(
                    reserve,
                    ?disks,
                    "too many masters have less free than the reserve (MiB): nothing is made or written any more; remove files of the filesystem, or give the masters' directories more room"
                ),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether too few voters for a quorum have the reserve free, or once they had not, more than it: `None`
/// when too few answered to tell. `gone`: those that do not answer have not for a while.
fn is_short(disks: &[Option<(u64, u64)>], (reserve, cramped): (u64, bool), gone: bool) -> Option<bool> {
    let quorum = disks.len() / 2 + 1;
    let has_room = |&(total, free): &(u64, u64)| {
        let reserve = reserve_of(total, reserve);
        free >= if cramped { reserve / 100 * AGAIN } else { reserve }
    };
    let answered = disks.iter().flatten();
    let (roomy, silent) = (answered.clone().filter(|d| has_room(d)).count(), disks.len() - answered.count());
    if roomy >= quorum {
        return Some(false);
    }
    let all_answered_have_room = roomy + silent == disks.len();
    let may_have_room = if gone && !all_answered_have_room { roomy } else { roomy + silent };
    (may_have_room < quorum).then_some(true)
}

/// Errors: ENOSPC for what needs room, when there is none.
pub(super) fn is_there_for(lead: &Lead, req: &MetaRequest) -> Result<(), MetaError> {
    if lead.cramped.load(Relaxed) && needs_room(req) {
        return Err(MetaError::Posix(Errno::ENOSPC));
    }
    Ok(())
}

fn needs_room(req: &MetaRequest) -> bool {
    match req {
        MetaRequest::Create(_)
        | MetaRequest::MkNod(_)
        | MetaRequest::MkDir(_)
        | MetaRequest::SymLink(_)
        | MetaRequest::Link(_)
        | MetaRequest::SetXattr(_)
        | MetaRequest::WriteInline(_)
        | MetaRequest::Allocate(_) => true,
        MetaRequest::Batch(b) => elements(b).any(|op| needs_room(&op)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_with_room_is_enough_and_less_is_not() {
        const ROOMY: Option<(u64, u64)> = Some((10_000, 1000));
        const FULL: Option<(u64, u64)> = Some((10_000, 999));
        let short = |disks: &[_]| is_short(disks, (1000, false), false);
        assert_eq!(short(&[ROOMY, ROOMY, FULL]), Some(false));
        assert_eq!(short(&[ROOMY, FULL, FULL]), Some(true));
        assert_eq!(short(&[ROOMY, ROOMY, None]), Some(false));
        assert_eq!(short(&[FULL, FULL, None]), Some(true));
        assert_eq!(short(&[ROOMY, FULL, None]), None, "the silent one decides");
        let gone = |disks: &[_]| is_short(disks, (1000, false), true);
        assert_eq!(gone(&[ROOMY, FULL, None]), Some(true), "it has ended, and the full one is needed");
        assert_eq!(gone(&[ROOMY, None, None]), None, "nobody says that a disk is full");
        assert_eq!(short(&[FULL]), Some(true));
        assert_eq!(
            is_short(&[ROOMY], (1000, true), false),
            Some(true),
            "more than the reserve is wanted again"
        );
        assert_eq!(is_short(&[Some((10_000, 1100))], (1000, true), false), Some(false));
        assert_eq!(short(&[Some((800, 100))]), Some(false), "a small disk keeps an eighth");
    }
}
