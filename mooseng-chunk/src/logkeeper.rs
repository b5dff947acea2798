//! Keeps room in the disks' redo logs: what a full segment holds is made durable in the chunk files.

use crate::{
    chunk_file::FlushFailed,
    disk::DataDisk,
    shared::Shared,
    slot::{Inside, stopped},
};
use mooseng_core::{ids::ChunkId, seam::on_lane};
use std::{io, sync::Arc, time::Duration};

/// Pause before another try when the disk had no room.
const AGAIN: Duration = Duration::from_secs(1);

/// Empties full segments of a disk's log, for ever.
pub(crate) async fn keep_room(shared: Arc<Shared>, disk: Arc<DataDisk>) {
    loop {
        disk.redo.wanted.notified().await;
        while let Err(e) = empty(&shared, &disk, false).await {
            if e.kind() != io::ErrorKind::StorageFull {
                disk.failed(&e);
                disk.redo.give_up(&e);
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Makes what is in the full segment durable in the chunk files, or what is in any when `all`.
pub(crate) async fn empty(shared: &Shared, disk: &Arc<DataDisk>, all: bool) -> io::Result<()> {
    while let Some((segment, chunks)) = disk.redo.to_empty(all) {
        for id in chunks {
            catch_up(shared, id).await?;
        }
        let d = disk.clone();
        on_lane(&disk.commit, move || d.redo.emptied(segment)).await.ok_or_else(stopped)?;
    }
    Ok(())
}

async fn catch_up(shared: &Shared, id: ChunkId) -> io::Result<()> {
    // One that is gone needs nothing of the log.
    let Ok(slot) = shared.slot(id) else { return Ok(()) };
    let Some(guard) = slot.open(None).await? else { return Ok(()) };
    let catch_up = move |inside: &mut Inside, disk: &DataDisk| {
        inside.file.as_mut().map_or(Ok(()), |f| f.catch_up(&disk.redo))
    };
    let (_guard, done) = slot.with(true, guard, catch_up).await?;
    if let Err(e) = &done
        && FlushFailed::is(e)
    {
        shared.disbelieve(&slot, e);
    }
    done
}
