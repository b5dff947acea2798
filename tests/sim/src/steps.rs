//! One call of the SDK at a time: bounded, noted, its end sorted into what the oracle knows.

use crate::{cast::Stage, oracle::Ended};
use anyhow::{Context as _, Result, ensure};
use mooseng_client::Error;
use mooseng_core::{
    error::{Errno, MetaError, Outcome},
    seam::Rng as _,
};
use mooseng_host::SeededRng;
use std::{
    fmt::Display,
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// No call takes longer, whatever happens. A path has up to five calls to the masters in it, each of
/// which may take the client's deadline of 30 s; a flush has data and size to bring away.
const STEP_MAX: Duration = Duration::from_secs(130);

/// How a step ended.
#[derive(Debug)]
pub enum Step<T> {
    /// It was acknowledged.
    Done(T),
    /// The filesystem said no.
    Refused(Error),
    /// A fault kept it from ending well: nobody can tell.
    Failed,
}

impl<T> Step<T> {
    /// The same with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Step<U> {
        match self {
            Self::Done(t) => Step::Done(f(t)),
            Self::Refused(e) => Step::Refused(e),
            Self::Failed => Step::Failed,
        }
    }

    /// In the oracle's words.
    pub fn ended(&self) -> Ended {
        match self {
            Self::Done(_) => Ended::Done,
            Self::Refused(_) => Ended::Refused,
            Self::Failed => Ended::Unknown,
        }
    }
}

/// A client's hands: what it does with the SDK.
#[derive(Debug)]
pub struct Hands {
    /// Who does it.
    pub name: String,
    /// What is shared.
    pub stage: Arc<Stage>,
    rng: SeededRng,
}

/// Whether the filesystem itself said no, for what the namespace holds.
fn is_refusal(e: &Error) -> bool {
    matches!(e, Error::Meta(MetaError::Posix(_))) && e.outcome() == Outcome::NotApplied
}

impl Hands {
    /// Hands of a client.
    pub fn new(name: &str, stage: Arc<Stage>, seed: u64) -> Self {
        Self { name: name.into(), stage, rng: SeededRng::new(seed) }
    }

    /// The next random number of this client.
    pub fn random(&self) -> u64 {
        self.rng.next_u64()
    }

    /// Notes something.
    pub fn note(&self, what: impl Display) {
        self.stage.journal.note(&self.name, what);
    }

    /// The state of the weather, for [`Hands::still`].
    pub fn calm(&self) -> u64 {
        self.stage.calm.now()
    }

    /// Whether it was calm then and ever since.
    pub fn still(&self, then: u64) -> bool {
        self.stage.calm.since(then)
    }

    /// A step failed. Errors: in calm weather it must not.
    pub fn failed(&self, e: &Error, calm: u64) -> Result<()> {
        self.stage.failed.fetch_add(1, Ordering::Relaxed);
        ensure!(!self.still(calm), "{}: failed without any fault: {e}", self.name);
        Ok(())
    }

    /// One step with the SDK's own error. Errors: it took longer than anything may.
    pub async fn try_step<T>(
        &self,
        what: &str,
        work: impl Future<Output = mooseng_client::Result<T>>,
    ) -> Result<mooseng_client::Result<T>> {
        let begin = Instant::now();
        let done = tokio::time::timeout(STEP_MAX, work).await;
        let took = begin.elapsed().as_millis() as u64;
        let result = done.ok().with_context(|| format!("{}: {what}: hangs", self.name))?;
        self.stage.longest_ms.fetch_max(took, Ordering::Relaxed);
        match &result {
            Ok(_) => {
                self.stage.acknowledged.fetch_add(1, Ordering::Relaxed);
                self.note(format_args!("{what}: done in {took} ms"));
            }
            Err(e) => self.note(format_args!("{what}: {e} ({:?}, after {took} ms)", e.outcome())),
        }
        Ok(result)
    }

    /// One step. Errors: it failed in calm weather, or hangs.
    pub async fn step<T>(
        &self,
        what: &str,
        work: impl Future<Output = mooseng_client::Result<T>>,
    ) -> Result<Step<T>> {
        self.step_on(what, false, work).await
    }

    /// One step on a file of which a power failure may have taken data: it may fail for that at any
    /// time.
    pub async fn step_on<T>(
        &self,
        what: &str,
        lossy: bool,
        work: impl Future<Output = mooseng_client::Result<T>>,
    ) -> Result<Step<T>> {
        let calm = self.calm();
        match self.try_step(what, work).await? {
            Ok(t) => Ok(Step::Done(t)),
            Err(e) if is_refusal(&e) => Ok(Step::Refused(e)),
            Err(e) if lossy && e.errno() == Errno::EIO => Ok(Step::Failed),
            Err(e) => {
                self.failed(&e, calm).with_context(|| what.to_owned())?;
                Ok(Step::Failed)
            }
        }
    }
}
