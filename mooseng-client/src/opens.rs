//! Which inodes this client has open, as the masters are told: opened with each handle (the rights
//! of all handles add up), released once, after the last. Opens and releases of one inode go out one
//! after the other, so that a release never overtakes an open.

use crate::{
    error::{Error, Result},
    masters::Masters,
};
use mooseng_core::{
    attr::Access,
    context::Credentials,
    error::Outcome,
    ids::InodeId,
    meta::{Create, Created, Open, Opened, Release},
    trace,
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Pause before masters that could not be told of a release are told again.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// An inode that handles have open.
#[derive(Default)]
struct Inode {
    handles: usize,
    gate: Arc<tokio::sync::Mutex<()>>,
}

struct Inner {
    masters: Arc<Masters>,
    inodes: Mutex<BTreeMap<InodeId, Inode>>,
    /// Releases begun, and ended.
    begun: AtomicU64,
    ended: AtomicU64,
}

/// The inodes that are open.
#[derive(Clone)]
pub(crate) struct Opens(Arc<Inner>);

/// One handle's part in an inode being open. Dropped without [`Opens::release`], it is released in
/// the background.
pub(crate) struct Held {
    opens: Opens,
    inode: InodeId,
    released: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let (opens, inode) = (self.opens.clone(), self.inode);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { opens.let_go(inode).await });
        }
    }
}

impl Opens {
    pub(crate) fn new(masters: Arc<Masters>) -> Self {
        let (inodes, begun, ended) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Inner { masters, inodes, begun, ended }))
    }

    fn hold(&self, inode: InodeId) -> (Held, Arc<tokio::sync::Mutex<()>>) {
        let mut inodes = self.0.inodes.lock();
        let known = inodes.entry(inode).or_default();
        known.handles += 1;
        (Held { opens: self.clone(), inode, released: false }, known.gate.clone())
    }

    /// Opens an inode for one more handle.
    pub(crate) async fn open(
        &self,
        creds: &Credentials,
        inode: InodeId,
        access: Access,
    ) -> Result<(Opened, Held)> {
        let masters = &self.0.masters;
        let (mut held, gate) = self.hold(inode);
        let one = gate.lock().await;
        // Noted before it is asked for: a new leader is told of it in any case.
        masters.note_open(inode, Access(0));
        let settling = masters.settling().await;
        let opened = masters.call(creds, Open { inode, access, layout_chunks: 0 }).await;
        drop((settling, one));
        match opened {
            Ok(opened) => {
                masters.note_open(inode, access);
                Ok((opened, held))
            }
            Err(e) => {
                if e.outcome() == Outcome::NotApplied {
                    held.released = true;
                    self.undo(inode);
                }
                Err(e)
            }
        }
    }

    /// Makes or opens a file by name, for one more handle.
    pub(crate) async fn create(&self, creds: &Credentials, op: Create) -> Result<(Created, Held)> {
        let (masters, access) = (&self.0.masters, op.open);
        let ended = self.0.ended.load(Ordering::Acquire);
        let settling = masters.settling().await;
        let created = masters.call(creds, op).await?;
        let inode = created.attr.inode;
        let (held, gate) = self.hold(inode);
        masters.note_open(inode, access);
        drop(settling);
        if !created.created && self.0.begun.load(Ordering::Acquire) != ended {
            // A release of an older handle may have come after it.
            let _one = gate.lock().await;
            masters.call(&Credentials::root(), Open { inode, access, layout_chunks: 0 }).await?;
        }
        Ok((created, held))
    }

    /// Ends one handle's part. That the masters could not be told is no loss: they are told again in
    /// the background, and a new leader hears only of what is open.
    pub(crate) async fn release(&self, mut held: Held) {
        held.released = true;
        let (opens, inode) = (self.clone(), held.inode);
        drop(held);
        // Carried out also when the caller gives up.
        let done = tokio::spawn(trace::carry(async move { opens.let_go(inode).await })).await;
        if let Err(e) = done {
            tracing::debug!(error = %e, "a release was cut short");
        }
    }

    async fn let_go(&self, inode: InodeId) {
        let gate = self.0.inodes.lock().get(&inode).map(|i| i.gate.clone());
        let Some(gate) = gate else { return };
        let one = gate.lock().await;
        if self.undo_one(inode) && !self.tell(inode).await {
            drop(one);
            let opens = self.clone();
            tokio::spawn(async move { opens.tell_later(inode, gate).await });
        }
    }

    /// A leader that did not hear of a release keeps the inode, once it is unlinked, for as long as
    /// the session lives: it is told until it has heard.
    async fn tell_later(&self, inode: InodeId, gate: Arc<tokio::sync::Mutex<()>>) {
        loop {
            tokio::time::sleep(TELL_AGAIN).await;
            let _one = gate.lock().await;
            // Opened again meanwhile, it is released by that handle.
            let unused = self.0.inodes.lock().get(&inode).is_some_and(|i| i.handles == 0);
            if !unused || self.tell(inode).await {
                return;
            }
        }
    }

    /// Tells the masters that an inode is not open any more; whether there is nothing left to tell.
    async fn tell(&self, inode: InodeId) -> bool {
        self.0.begun.fetch_add(1, Ordering::AcqRel);
        let told = {
            let _settling = self.0.masters.settling().await;
            self.0.masters.call(&Credentials::root(), Release { inode }).await
        };
        self.0.ended.fetch_add(1, Ordering::AcqRel);
        if let Err(e) = &told
            && !matches!(e, Error::Closed)
        {
            tracing::warn!(%inode, error = %e, "the masters could not be told that a file is closed");
            if e.is_retryable() {
                return false;
            }
        }
        let mut inodes = self.0.inodes.lock();
        if inodes.get(&inode).is_some_and(|i| i.handles == 0) {
            inodes.remove(&inode);
        }
        true
    }

    /// Takes one handle off; whether it was the last. The entry stays, with its gate.
    fn undo_one(&self, inode: InodeId) -> bool {
        let mut inodes = self.0.inodes.lock();
        let Some(known) = inodes.get_mut(&inode) else { return false };
        known.handles = known.handles.saturating_sub(1);
        let last = known.handles == 0;
        if last {
            self.0.masters.note_closed(inode);
        }
        last
    }

    /// The masters refused: there is nothing to release.
    fn undo(&self, inode: InodeId) {
        if self.undo_one(inode) {
            self.0.inodes.lock().remove(&inode);
        }
    }
}
