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

/// Looks at the disks of all masters while this one leads.
pub(super) async fn keep(inner: &Inner, lead: &Lead) {
    if inner.reserve == 0 {
        return std::future::pending().await;
    }
    loop {
        let disks = inner.raft.room(LOOK).await;
        let cramped = lead.cramped.load(Relaxed);
        if let Some(now) = is_short(&disks, inner.reserve, cramped).filter(|now| *now != cramped) {
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
/// when too few answered to tell. A small disk reserves an eighth of itself.
fn is_short(disks: &[Option<(u64, u64)>], reserve: u64, cramped: bool) -> Option<bool> {
    let quorum = disks.len() / 2 + 1;
    let has_room = |&(total, free): &(u64, u64)| {
        let reserve = reserve.min(total / 8);
        free >= if cramped { reserve / 100 * AGAIN } else { reserve }
    };
    let answered = disks.iter().flatten();
    let (roomy, silent) = (answered.clone().filter(|d| has_room(d)).count(), disks.len() - answered.count());
    if roomy >= quorum {
        return Some(false);
    }
    (roomy + silent < quorum).then_some(true)
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
        let short = |disks: &[_]| is_short(disks, 1000, false);
        assert_eq!(short(&[ROOMY, ROOMY, FULL]), Some(false));
        assert_eq!(short(&[ROOMY, FULL, FULL]), Some(true));
        assert_eq!(short(&[ROOMY, ROOMY, None]), Some(false));
        assert_eq!(short(&[FULL, FULL, None]), Some(true));
        assert_eq!(short(&[ROOMY, FULL, None]), None, "the silent one decides");
        assert_eq!(short(&[FULL]), Some(true));
        assert_eq!(is_short(&[ROOMY], 1000, true), Some(true), "more than the reserve is wanted again");
        assert_eq!(is_short(&[Some((10_000, 1100))], 1000, true), Some(false));
        assert_eq!(short(&[Some((800, 100))]), Some(false), "a small disk keeps an eighth");
    }
}
