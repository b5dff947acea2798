//! What a client writes out by itself: old data now and then, the oldest when it holds too much.

use crate::{
    masters::Masters,
    node::Node,
    pool::Pool,
    writer::{Context, LEFT_AT_ONCE, sync_chunk_left},
};
use futures::{StreamExt as _, stream, stream::FuturesUnordered};
use mooseng_core::context::Credentials;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Between two rounds of writing out; data is written out when it is older than this.
const WRITE_BACK: Duration = Duration::from_secs(5);
/// Files written out at the same time.
const FILES_AT_ONCE: usize = 8;
/// Wait before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Syncs what is old: of open files, and what closed files left unsynced. What was lost stays
/// remembered for the fsync that asks. Ends when it is dropped.
pub(crate) async fn write_back(masters: Arc<Masters>, pool: Arc<Pool>) {
    loop {
        tokio::time::sleep(WRITE_BACK).await;
        let before = Instant::now() - WRITE_BACK;
        let old = pool.dirty_before(before);
        let sync = |(age, node): (u64, Arc<Node>)| {
            let pool = pool.clone();
            async move {
                if let Err(e) = node.write_out().await {
                    tracing::warn!(inode = %node.cx.inode, error = %e, "an open file's data could not be written out yet");
                }
                if node.is_settled() {
                    pool.forget_dirty(age);
                }
            }
        };
        stream::iter(old).for_each_concurrent(FILES_AT_ONCE, sync).await;
        let sync = |(inode, index, left)| {
            let (masters, pool) = (masters.clone(), pool.clone());
            async move {
                let cx = Context { masters, pool, inode, creds: Credentials::root() };
                match sync_chunk_left(&cx, index, &left).await {
                    Ok(_) => cx.pool.synced_as(inode, index, &left),
                    Err(e) => tracing::warn!(%inode, error = %e, "a closed file's data could not be synced"),
                }
            }
        };
        stream::iter(pool.all_unsynced()).for_each_concurrent(LEFT_AT_ONCE, sync).await;
    }
}

/// Writes the oldest data out whenever more than half of the bound is used. Ends when it is dropped.
pub(crate) async fn relieve(pool: Arc<Pool>) {
    let mut busy = BTreeSet::new();
    let mut working = FuturesUnordered::new();
    loop {
        if pool.budget.is_pressed() {
            for (age, node) in pool.dirty_before(Instant::now()) {
                if working.len() >= FILES_AT_ONCE {
                    break;
                }
                if busy.insert(age) {
                    working.push(relieve_one(pool.clone(), age, node));
                }
            }
        }
        tokio::select! {
            biased;
            Some(age) = working.next() => drop(busy.remove(&age)),
            () = pool.budget.pressed.notified() => {}
        }
    }
}

async fn relieve_one(pool: Arc<Pool>, age: u64, node: Arc<Node>) -> u64 {
    if !node.relieve().await {
        if node.is_settled() {
            pool.forget_dirty(age);
        } else {
            tokio::time::sleep(RETRY).await;
        }
    }
    age
}
