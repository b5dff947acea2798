//! Going on after the session that data was written under is over (PROTOCOL §2).

use super::*;
use std::time::Duration;
use tokio::time::Instant;

/// Until a commit of this client's that is under way is looked for again.
const RETRY: Duration = Duration::from_millis(20);

impl Node {
    /// Before anything that is held goes out under a session: when it was written under another, nobody
    /// may have changed the file since. Otherwise all of it is given up, and told once to each handle:
    /// it would undo what others have synced. Errors: [`Error::Overtaken`].
    pub(crate) async fn take_up(&self, session: SessionStamp) -> Result<()> {
        let until = Instant::now() + self.cx.masters.deadline();
        loop {
            let known = {
                let s = self.state.lock();
                if s.session == Some(session) {
                    return Ok(());
                }
                s.change
            };
            let now = self.layout(&Credentials::root(), ChunkIndex(0), 0).await?.attr.change;
            {
                let mut s = self.state.lock();
                if s.session == Some(session) {
                    return Ok(());
                }
                if now == s.change {
                    s.session = Some(session);
                    return Ok(());
                }
                let own = s.commits > 0 || s.change != known;
                if !own || Instant::now() >= until {
                    s.session = Some(session);
                    break;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
        let e = Error::Overtaken { inode: self.cx.inode };
        tracing::error!(inode = %self.cx.inode, error = %e, "written data is lost");
        self.lose(&e);
        Err(e)
    }

    /// All that is held is given up.
    pub(super) fn lose(&self, e: &Error) {
        self.shared.losses.note(e.clone());
        let mut s = self.state.lock();
        std::mem::take(&mut s.queues).into_values().for_each(|w| w.lose(e));
        s.written_to = None;
        (s.dirty, s.since_flush) = Default::default();
        s.buffer = Buffer::default();
        s.change = 0;
        s.forget_places();
    }
}

/// A commit under way.
pub(super) struct Committing<'a>(&'a Node);

impl<'a> Committing<'a> {
    pub(super) fn begin(node: &'a Node) -> Self {
        node.state.lock().commits += 1;
        Self(node)
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().commits -= 1;
    }
}
