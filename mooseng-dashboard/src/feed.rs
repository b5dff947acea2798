//! Two tasks ask the cluster, for all who look: viewers cost it nothing. The pulse asks what the leader has at hand;
//! the look goes through all chunks, takes as long as it takes, and nothing else waits for it.

use crate::{
    fresh::{EVERY, WAIT, look, panicked, pause_after},
    history::History,
};
use futures::{FutureExt as _, future};
use mooseng_client::{Client, Result, report};
use mooseng_core::{
    health::{HealthCode, Problem, problems},
    meta::{
        Care, ClusterEvent, ClusterStatus, EventMark, GetCare, GetStatus, OpCounts, ServerLoad, ServerScrub,
    },
};
use std::{collections::VecDeque, fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

/// Longest wait for a pulse: masters that need longer are as good as unreachable.
const PULSE: Duration = Duration::from_secs(10);
/// Longest wait for masters that answer and know no leader.
const QUORUM: Duration = Duration::from_secs(15);
/// Events that are remembered, those of former leaders too.
const EVENTS_MAX: usize = 256;
/// Pages of events that one pulse asks for: all that a leader keeps, and the empty one behind.
const EVENT_PAGES_MAX: usize = 6;
/// Why what was seen before the masters were silent is not what is now.
const BEFORE: &str = "the masters were silent, and the first look since then is under way";

/// The cluster at one moment, from a look.
#[derive(Debug)]
pub(crate) struct Picture {
    pub status: ClusterStatus,
    pub care: Care,
    pub problems: Vec<Problem>,
    /// Chunks that this leader had mended when the repair began that is going on.
    pub mended_before: u64,
    taken: Instant,
}

impl Picture {
    /// How old it is.
    pub fn age(&self) -> Duration {
        self.taken.elapsed()
    }
}

/// What pulses have told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse {
    pub scrubs: Vec<ServerScrub>,
    /// The oldest first.
    pub events: VecDeque<ClusterEvent>,
    pub history: History,
}

/// Why a pulse had no answers.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    why: String,
    /// That no master leads, where masters that answer told so.
    pub no_quorum: Option<Problem>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.no_quorum {
            Some(p) => write!(f, "{}: {}", p.code, p.cause),
            None => f.write_str(&self.why),
        }
    }
}

/// What is known now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Rises with each pulse and each look.
    pub number: u64,
    pub pulse: Arc<Pulse>,
    /// Why the last pulse had no answers.
    pub failed: Option<Failed>,
    /// Of the last look that had answers.
    pub picture: Option<Arc<Picture>>,
    /// Why that does not count any more.
    pub late: Option<String>,
}

impl Seen {
    /// One word for the cluster.
    pub fn health(&self) -> &'static str {
        match (&self.failed, &self.late, &self.picture) {
            (Some(_), ..) => "unreachable",
            (None, None, Some(p)) => report::health_word(&p.problems),
            _ => "unknown",
        }
    }

    /// Whether that word is of now.
    pub fn is_seen(&self) -> bool {
        self.failed.is_none() && self.late.is_none() && self.picture.is_some()
    }

    fn is_told(&self) -> bool {
        self.failed.is_some() || self.late.is_some() || self.picture.is_some()
    }

    /// A pulse has ended.
    fn felt(&mut self, pulse: &Pulse, failed: Option<Failed>) {
        self.number += 1;
        self.pulse = Arc::new(pulse.clone());
        if failed.is_some() {
            self.late.get_or_insert_with(|| BEFORE.into());
        }
        self.failed = failed;
    }

    /// A look has ended.
    fn looked(&mut self, looked: Result<(ClusterStatus, Care)>) {
        self.number += 1;
        match looked {
            Ok((status, care)) => {
                let problems = problems(&status, &care);
                let going_on = self.picture.as_ref().filter(|p| {
                    p.care.repairs.chunks > 0 && care.repairs.chunks > 0 && p.status.term == status.term
                });
                let mended_before = going_on.map_or(care.repairs.done, |p| p.mended_before);
                let taken = Instant::now();
                self.picture = Some(Arc::new(Picture { status, care, problems, mended_before, taken }));
                self.late = None;
            }
            Err(e) => self.late = Some(format!("a look at all chunks failed: {e}")),
        }
    }
}

/// The tasks, and what they have seen.
pub(crate) struct Feed {
    seen: watch::Receiver<Arc<Seen>>,
    /// They end with it.
    _tasks: JoinSet<()>,
}

type Teller = Arc<watch::Sender<Arc<Seen>>>;

impl Feed {
    /// Begins to look.
    pub fn start(client: Client) -> Self {
        let (told, seen) = watch::channel(Arc::default());
        let (told, mut tasks) = (Arc::new(told), JoinSet::new());
        tasks.spawn(feel_for_ever(client.clone(), told.clone()));
        tasks.spawn(look_for_ever(client, told));
        Self { seen, _tasks: tasks }
    }

    async fn once(&self, is_enough: impl Fn(&Seen) -> bool) -> Arc<Seen> {
        let mut seen = self.seen.clone();
        // Whether it came or not: what there is now is shown.
        let _ = timeout(WAIT, seen.wait_for(|s| is_enough(s))).await;
        self.last()
    }

    /// What was seen last; before the first look is done, waits for it a while.
    pub async fn now(&self) -> Arc<Seen> {
        self.once(Seen::is_told).await
    }

    /// The same, when the masters were asked at all.
    pub async fn asked(&self) -> Arc<Seen> {
        self.once(|s| s.number > 0).await
    }

    /// The same, without waiting.
    pub fn last(&self) -> Arc<Seen> {
        self.seen.borrow().clone()
    }

    /// Hears of each pulse and each look from now on.
    pub fn follow(&self) -> watch::Receiver<Arc<Seen>> {
        self.seen.clone()
    }
}

fn tell(told: &Teller, change: impl FnOnce(&mut Seen)) {
    told.send_modify(|seen| change(Arc::make_mut(seen)));
}

/// A panic is a failed look, and the next one comes.
async fn look_for_ever(client: Client, told: Teller) {
    loop {
        let asked = Instant::now();
        let round = async {
            let (status, care) = (look(client.clone(), GetStatus {}), look(client.clone(), GetCare {}));
            let looked = future::try_join(status, care).await;
            let is_answered = looked.is_ok();
            tell(&told, |seen| seen.looked(looked));
            is_answered
        };
        let is_answered = AssertUnwindSafe(round).catch_unwind().await.unwrap_or_else(|_| {
            tell(&told, |seen| seen.looked(Err(panicked())));
            false
        });
        tokio::time::sleep(pause_after(asked.elapsed(), is_answered)).await;
    }
}

/// A panic is a failed pulse, and the next one comes.
async fn feel_for_ever(client: Client, told: Teller) {
    let mut feeling = Feeling { begin: Instant::now(), mark: None, pulse: Pulse::default(), quorum: None };
    loop {
        if AssertUnwindSafe(feeling.round(&client, &told)).catch_unwind().await.is_err() {
            let failed = Failed { why: panicked().to_string(), no_quorum: None };
            tell(&told, |seen| seen.felt(&feeling.pulse, Some(failed)));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What is kept from pulse to pulse.
struct Feeling {
    begin: Instant,
    mark: Option<EventMark>,
    pulse: Pulse,
    quorum: Option<Problem>,
}

impl Feeling {
    async fn round(&mut self, client: &Client, told: &Teller) {
        let failed = match timeout(PULSE, feel(client, self.mark)).await {
            Ok(Ok(f)) => {
                self.mark = Some(f.mark);
                self.pulse.scrubs = f.scrubs;
                self.pulse.events.extend(f.events);
                self.pulse.events.drain(..self.pulse.events.len().saturating_sub(EVENTS_MAX));
                self.pulse.history.add(self.begin.elapsed(), f.ops, &f.loads);
                None
            }
            Ok(Err(e)) => Some(e.to_string()),
            Err(_) => Some(format!("no leading master answered within {} s", PULSE.as_secs())),
        };
        let Some(why) = failed else {
            self.quorum = None;
            tell(told, |seen| seen.felt(&self.pulse, None));
            return;
        };
        self.pulse.history.miss(self.begin.elapsed());
        tracing::debug!(why, "the masters do not answer");
        let failed = |no_quorum: &Option<Problem>| Failed { why: why.clone(), no_quorum: no_quorum.clone() };
        tell(told, |seen| seen.felt(&self.pulse, Some(failed(&self.quorum))));
        let missing = no_quorum(client).await;
        if missing != self.quorum {
            self.quorum = missing;
            tell(told, |seen| seen.felt(&self.pulse, Some(failed(&self.quorum))));
        }
    }
}

/// That no master leads, where one answers that knows so.
async fn no_quorum(client: &Client) -> Option<Problem> {
    let problems = timeout(QUORUM, client.health()).await.ok()?.ok()?;
    problems.into_iter().find(|p| p.code == HealthCode::MasterNoQuorum)
}

/// What one pulse answers.
struct Felt {
    scrubs: Vec<ServerScrub>,
    ops: OpCounts,
    loads: Vec<ServerLoad>,
    events: Vec<ClusterEvent>,
    mark: EventMark,
}

async fn feel(client: &Client, mark: Option<EventMark>) -> Result<Felt> {
    let whole = future::try_join4(client.scrubs(), client.op_counts(), client.loads(), client.events(mark));
    let (scrubs, ops, loads, first) = whole.await?;
    let (mut events, mut mark, mut is_more) = (first.events, first.next, mark != Some(first.next));
    for _ in 1..EVENT_PAGES_MAX {
        if !is_more {
            break;
        }
        let page = client.events(Some(mark)).await?;
        is_more = mark != page.next;
        mark = page.next;
        events.extend(page.events);
    }
    Ok(Felt { scrubs, ops, loads, events, mark })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_client::Error;
    use mooseng_core::{ids::*, meta::*};

    fn calm() -> (ClusterStatus, Care) {
        let status = ClusterStatus {
            cluster: ClusterId(Default::default()),
            term: Term(1),
            revision: Revision(1),
            masters: vec![],
            servers: vec![],
            chunks: ChunkHealth::default(),
            sessions: 0,
            fs: FsStat::default(),
        };
        let care = Care {
            quarantine_secs: 1,
            servers: vec![],
            drains: vec![],
            repairs: Repairs::default(),
            disks: vec![],
        };
        (status, care)
    }

    #[test]
    fn progress_is_of_the_repair_that_is_going_on() {
        let mut seen = Seen::default();
        let mut before = |term, chunks, done| {
            let (mut status, mut care) = calm();
            status.term = Term(term);
            care.repairs = Repairs { chunks, done, ..Repairs::default() };
            seen.looked(Ok((status, care)));
            seen.picture.as_ref().unwrap().mended_before
        };
        assert_eq!([before(1, 0, 500), before(1, 10, 500), before(1, 4, 506)], [500; 3]);
        assert_eq!([before(1, 0, 510), before(1, 3, 512), before(1, 1, 514)], [510, 512, 512]);
        assert_eq!(before(2, 1, 7), 7, "another leader counts anew");
    }

    #[tokio::test]
    async fn what_was_seen_before_the_masters_were_silent_is_not_told_as_of_now() {
        let (mut seen, pulse) = (Seen::default(), Pulse::default());
        assert_eq!((seen.health(), seen.is_told()), ("unknown", false));
        seen.felt(&pulse, None);
        assert_eq!((seen.health(), seen.is_told()), ("unknown", false), "no look has ended yet");
        seen.looked(Ok(calm()));
        let word = seen.health();
        assert_eq!(word, report::health_word(&seen.picture.as_ref().unwrap().problems));
        seen.felt(&pulse, Some(Failed { why: "nobody".into(), no_quorum: None }));
        assert_eq!(seen.health(), "unreachable");
        seen.felt(&pulse, None);
        assert_eq!(seen.health(), "unknown", "it was not looked at since");
        seen.looked(Ok(calm()));
        assert_eq!(seen.health(), word);
        seen.looked(Err(Error::Closed));
        assert_eq!((seen.health(), seen.picture.is_some()), ("unknown", true));
        assert!(seen.late.is_some_and(|why| why.contains("shut down")));
    }
}
