//! One task asks the cluster, for all who look: viewers cost it nothing.

use crate::history::History;
use futures::future;
use mooseng_client::{Client, Error, Result, report};
use mooseng_core::{
    error::MetaError,
    health::{Problem, problems},
    meta::{Care, ClusterEvent, ClusterStatus, EventMark, OpCounts, ServerLoad, ServerScrub},
};
use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::Instant,
};

/// Between two looks, at least.
const EVERY: Duration = Duration::from_secs(2);
/// The leader goes through all chunks for a look: the pause is so many times what it took.
const PAUSE: u32 = 10;
/// Longest wait for a look's answers.
const PATIENCE: Duration = Duration::from_secs(8);
/// Events that are remembered, those of former leaders too.
const EVENTS_MAX: usize = 256;

/// The cluster at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub status: ClusterStatus,
    pub care: Care,
    pub scrubs: Vec<ServerScrub>,
    pub problems: Vec<Problem>,
    /// The oldest first.
    pub events: VecDeque<ClusterEvent>,
    pub history: History,
}

/// What is known now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Rises with each look.
    pub number: u64,
    /// The last look that had answers.
    pub picture: Option<Arc<Picture>>,
    /// Why the last look had none.
    pub failed: Option<String>,
    /// When that picture was taken.
    taken: Option<Instant>,
}

impl Seen {
    /// One word for the cluster.
    pub fn health(&self) -> &'static str {
        match (&self.failed, &self.picture) {
            (Some(_), _) => "unreachable",
            (None, Some(p)) => report::health_word(&p.problems),
            (None, None) => "unknown",
        }
    }

    /// How old the picture is.
    pub fn age(&self) -> Duration {
        self.taken.map_or(Duration::ZERO, |t| t.elapsed())
    }
}

/// The task, and what it has seen.
pub(crate) struct Feed {
    seen: watch::Receiver<Arc<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feed {
    /// Begins to look.
    pub fn start(client: Client) -> Self {
        let (told, seen) = watch::channel(Arc::default());
        let task = tokio::spawn(look_for_ever(client, told));
        Self { seen, task }
    }

    /// What was seen last; before the first look is done, waits for it.
    pub async fn now(&self) -> Arc<Seen> {
        let mut seen = self.seen.clone();
        let first = seen.wait_for(|s| s.number > 0).await.map(|s| s.clone());
        first.unwrap_or_else(|_| self.seen.borrow().clone())
    }

    /// The same, without waiting.
    pub fn last(&self) -> Arc<Seen> {
        self.seen.borrow().clone()
    }

    /// Hears of each look from now on.
    pub fn follow(&self) -> watch::Receiver<Arc<Seen>> {
        self.seen.clone()
    }
}

async fn look_for_ever(client: Client, told: watch::Sender<Arc<Seen>>) {
    let (begin, mut history, mut mark) = (Instant::now(), History::default(), None);
    let (mut events, mut seen) = (VecDeque::new(), Seen::default());
    loop {
        let asked = Instant::now();
        let mut pause = EVERY;
        let looked = tokio::time::timeout(PATIENCE, look(&client, &mut mark)).await;
        seen.number += 1;
        match looked {
            Ok(Ok(l)) => {
                events.extend(l.events);
                let old = events.len().saturating_sub(EVENTS_MAX);
                events.drain(..old);
                history.add(begin.elapsed(), l.ops, &l.loads);
                seen.picture = Some(Arc::new(Picture {
                    problems: problems(&l.status, &l.care),
                    status: l.status,
                    care: l.care,
                    scrubs: l.scrubs,
                    events: events.clone(),
                    history: history.clone(),
                }));
                (seen.failed, seen.taken) = (None, Some(Instant::now()));
                pause = EVERY.max(asked.elapsed() * PAUSE);
            }
            Ok(Err(e)) => seen.failed = Some(e.to_string()),
            Err(_) => seen.failed = Some(format!("no leading master answered within {PATIENCE:?}")),
        }
        if let Some(why) = &seen.failed {
            tracing::debug!(why, "the cluster was not seen");
        }
        told.send_replace(Arc::new(seen.clone()));
        tokio::time::sleep(pause).await;
    }
}

/// What one look answers.
struct Look {
    status: ClusterStatus,
    care: Care,
    scrubs: Vec<ServerScrub>,
    ops: OpCounts,
    loads: Vec<ServerLoad>,
    events: Vec<ClusterEvent>,
}

async fn look(client: &Client, mark: &mut Option<EventMark>) -> Result<Look> {
    let whole = future::try_join5(
        client.status(),
        client.care(),
        client.scrubs(),
        client.op_counts(),
        client.loads(),
    );
    let ((status, care, scrubs, ops, loads), page) = future::try_join(whole, client.events(*mark)).await?;
    *mark = Some(page.next);
    Ok(Look { status, care, scrubs, ops, loads, events: page.events })
}

/// An answer that is asked for when somebody wants it, and good for a while: many viewers are one question.
#[derive(Debug)]
pub(crate) struct Fresh<T>(Mutex<Option<(Instant, Arc<T>)>>);

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Fresh<T> {
    /// The answer, asked for anew when it is too old.
    pub async fn get(&self, ask: impl Future<Output = Result<T>>) -> Result<Arc<T>> {
        let mut kept = self.0.lock().await;
        if let Some((until, answer)) = &*kept
            && *until > Instant::now()
        {
            return Ok(answer.clone());
        }
        let asked = Instant::now();
        let late =
            |_| Error::from(MetaError::Deadline(format!("no leading master answered within {PATIENCE:?}")));
        let answer = Arc::new(tokio::time::timeout(PATIENCE, ask).await.map_err(late)??);
        *kept = Some((Instant::now() + EVERY.max(asked.elapsed() * PAUSE), answer.clone()));
        Ok(answer)
    }
}
