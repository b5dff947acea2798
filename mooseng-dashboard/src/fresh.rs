//! Answers that are asked for when somebody wants them: many who look are one question.

use futures::FutureExt as _;
use mooseng_client::{Client, Error, Result};
use mooseng_core::{
    error::{MetaError, NetError},
    meta::MetaOp,
};
use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Between two looks, at least; and for how long a failure is remembered.
pub(crate) const EVERY: Duration = Duration::from_secs(2);
/// A look may go through all chunks: the pause after it is so many times what it took.
const PAUSE: u32 = 10;
/// Longest time of one look: through some ten million chunks, and again where a first try was cut.
pub(crate) const LOOK: Duration = Duration::from_secs(120);
/// Longest wait of a page, which then says so or shows what was known before.
pub(crate) const WAIT: Duration = Duration::from_secs(9);

/// The pause after a look that took so long.
pub(crate) fn pause_after(took: Duration, is_answered: bool) -> Duration {
    EVERY.max(if is_answered { took * PAUSE } else { took })
}

/// A look that is given as long as it takes.
pub(crate) async fn look<O: MetaOp + Clone>(client: Client, op: O) -> Result<O::Reply> {
    client.request_within(op, LOOK).await
}

/// What a page asks for itself, with the longest wait for it.
pub(crate) async fn in_time<T>(ask: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(WAIT, ask).await.unwrap_or_else(|_| Err(late("no leading master answered")))
}

fn late(what: &str) -> Error {
    MetaError::Deadline(format!("{what} within {} s", WAIT.as_secs())).into()
}

/// Of a look that panicked: its panic is in the log.
pub(crate) fn panicked() -> Error {
    let (peer, cause) = ("this dashboard".into(), "it panicked; its log tells where".into());
    MetaError::Net(NetError::Closed { peer, cause, sent: true }).into()
}

/// Why there is no newer answer, and how old the one is that is known.
pub(crate) type Before = Option<(Error, Duration)>;

/// What is known now.
#[derive(Debug)]
pub(crate) struct Told<T> {
    known: Option<(Arc<T>, Duration)>,
    failed: Option<Error>,
}

impl<T> Told<T> {
    /// The last answer there is, for who shows its age.
    pub fn last(self) -> Result<(Arc<T>, Before)> {
        match (self.known, self.failed) {
            (Some((answer, age)), failed) => Ok((answer, failed.map(|e| (e, age)))),
            (None, failed) => Err(failed.unwrap_or_else(|| late("nobody has looked"))),
        }
    }

    /// The answer, when the last look had one.
    pub fn answer(self) -> Result<Arc<T>> {
        match self.last()? {
            (answer, None) => Ok(answer),
            (_, Some((e, _))) => Err(e),
        }
    }
}

/// An answer that is good for a while. One look is under way at a time, and goes on when nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Fresh<T>(Arc<watch::Sender<State<T>>>);

#[derive(Debug)]
struct State<T> {
    is_looking: bool,
    /// Until when there is no other look.
    until: Option<Instant>,
    known: Option<(Arc<T>, Instant)>,
    failed: Option<Error>,
}

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        let state = State { is_looking: false, until: None, known: None, failed: None };
        Self(Arc::new(watch::Sender::new(state)))
    }
}

impl<T: Send + Sync + 'static> Fresh<T> {
    /// What is known; when that is too old, after a look, which all who come meanwhile share.
    pub async fn get<F>(&self, ask: impl FnOnce() -> F) -> Told<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let begins = self.0.send_if_modified(|s| {
            let begins = !s.is_looking && s.until.is_none_or(|until| until <= Instant::now());
            s.is_looking |= begins;
            begins
        });
        if begins {
            tokio::spawn(looked(self.0.clone(), ask()));
        }
        let mut state = self.0.subscribe();
        let is_done = tokio::time::timeout(WAIT, state.wait_for(|s| !s.is_looking)).await.is_ok();
        let s = self.0.borrow();
        let known = s.known.as_ref().map(|(answer, taken)| (answer.clone(), taken.elapsed()));
        let failed =
            if is_done { s.failed.clone() } else { Some(late("the leading master has not answered")) };
        Told { known, failed }
    }
}

async fn looked<T>(state: Arc<watch::Sender<State<T>>>, ask: impl Future<Output = Result<T>>) {
    let asked = Instant::now();
    // Others may ask again.
    let answer = AssertUnwindSafe(ask).catch_unwind().await.unwrap_or_else(|_| Err(panicked()));
    let now = Instant::now();
    state.send_modify(|s| {
        s.is_looking = false;
        s.until = Some(now + pause_after(now - asked, answer.is_ok()));
        match answer {
            Ok(answer) => (s.known, s.failed) = (Some((Arc::new(answer), now)), None),
            Err(e) => s.failed = Some(e),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[derive(Default)]
    struct World {
        fresh: Fresh<u32>,
        asked: Arc<AtomicU32>,
    }

    impl World {
        /// Asks; a look takes so long, and fails or answers its number.
        async fn get(&self, secs: u64, fails: bool) -> Told<u32> {
            let asked = self.asked.clone();
            let ask = move || async move {
                let number = asked.fetch_add(1, Relaxed) + 1;
                tokio::time::sleep(Duration::from_secs(secs)).await;
                if fails { Err(Error::Closed) } else { Ok(number) }
            };
            self.fresh.get(ask).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_share_one_look_and_its_failure() {
        let w = World::default();
        for _ in 0..2 {
            let (a, b) = futures::join!(w.get(1, true), w.get(1, true));
            assert!(a.answer().is_err() && b.answer().is_err());
            assert!(w.get(1, true).await.answer().is_err());
            assert_eq!(w.asked.swap(0, Relaxed), 1, "a failure is remembered, too");
            tokio::time::sleep(EVERY).await;
        }
        let (a, b) = futures::join!(w.get(1, false), w.get(1, false));
        assert_eq!((*a.answer().unwrap(), *b.answer().unwrap()), (1, 1));
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(*w.get(1, false).await.answer().unwrap(), 1, "ten times as long as it took");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(*w.get(1, false).await.answer().unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_panics_is_a_failure_and_there_is_another() {
        let w = World::default();
        let told = w.fresh.get(|| async { panic!("of the test") }).await;
        let e = told.answer().unwrap_err();
        assert!(e.to_string().contains("panicked"), "{e}");
        assert_eq!(crate::status_of(&e).0, axum::http::StatusCode::INTERNAL_SERVER_ERROR);
        tokio::time::sleep(EVERY).await;
        assert_eq!(*w.get(0, false).await.answer().unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_goes_on_when_who_waited_has_gone_and_what_was_known_is_shown_with_its_age() {
        let w = World::default();
        assert_eq!(*w.get(0, false).await.answer().unwrap(), 1);
        tokio::time::sleep(EVERY).await;
        let (known, before) = w.get(20, false).await.last().unwrap();
        assert_eq!((*known, before.unwrap().1), (1, EVERY + WAIT));
        assert!(w.get(20, false).await.answer().is_err(), "for who wants the newest there is none");
        assert_eq!(*w.get(20, false).await.answer().unwrap(), 2);
        assert_eq!(w.asked.load(Relaxed), 2, "one look, whoever asked");
    }
}
