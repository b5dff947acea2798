//! Names that several clients make, change, remove and look at, all at the same time: each name's history
//! must be linearizable.

use crate::{
    cast::Stage,
    oracle::{Answer, Ask, History},
    steps::{Hands, Step},
};
use anyhow::{Context as _, Result, anyhow};
use mooseng_client::{Client, Filesystem, OpenFlags};
use mooseng_core::error::Errno;
use std::{sync::Arc, time::Duration};

/// Calls of one client in a run.
const CALLS: u64 = 50;
/// Longest pause between two.
const PAUSE_MS: u64 = 900;
/// Names that are in use at a time.
const NAMES: u64 = 3;
/// Calls after which a name is left alone, and another is used.
const ENOUGH: usize = 48;

/// What was seen of each name.
#[derive(Debug, Default)]
pub struct Names {
    histories: Vec<History>,
    /// Which histories are those of the names in use.
    used: Vec<usize>,
    /// Rises with each beginning and each end.
    moment: u64,
}

impl Names {
    fn now(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A name in use: its number.
    fn pick(&mut self, r: u64) -> usize {
        while self.used.len() < NAMES as usize {
            self.used.push(self.histories.len());
            self.histories.push(History::default());
        }
        let at = (r % NAMES) as usize;
        if self.histories[self.used[at]].len() >= ENOUGH {
            self.used[at] = self.histories.len();
            self.histories.push(History::default());
        }
        self.used[at]
    }

    /// Calls so far. Errors: what was seen of one name has no explanation.
    pub fn explain(&self) -> Result<u64> {
        for (n, h) in self.histories.iter().enumerate() {
            h.explain().map_err(|e| anyhow!("/name-{n}: {e}"))?;
        }
        Ok(self.histories.iter().map(|h| h.len() as u64).sum())
    }
}

/// One of the clients.
pub struct Namer {
    hands: Hands,
    who: u32,
    fs: Filesystem,
}

impl Namer {
    /// One that works as this client.
    pub fn new(name: &str, who: u32, client: &Client, stage: Arc<Stage>, seed: u64) -> Self {
        Self { hands: Hands::new(name, stage, seed), who, fs: client.filesystem() }
    }

    /// Works until the day is done.
    pub async fn work(self) -> Result<Self> {
        for _ in 0..CALLS {
            tokio::time::sleep(Duration::from_millis(self.hands.random() % PAUSE_MS)).await;
            let r = self.hands.random();
            let name = self.hands.stage.names.lock().pick(r);
            let mode = 0o600 | ((r >> 16) % 64) as u32;
            let ask = match (r >> 8) % 8 {
                0 | 1 => Ask::Make(mode),
                2 => Ask::Remove,
                3 | 4 => Ask::Mode(mode),
                _ => Ask::Look,
            };
            self.call(name, ask).await?;
        }
        Ok(self)
    }

    /// Looks at all names in use a last time.
    pub async fn look(&self) -> Result<()> {
        for r in 0..NAMES {
            let name = self.hands.stage.names.lock().pick(r);
            self.call(name, Ask::Look).await?;
        }
        Ok(())
    }

    async fn call(&self, name: usize, ask: Ask) -> Result<()> {
        let stage = &self.hands.stage;
        let pending = {
            let mut names = stage.names.lock();
            let now = names.now();
            names.histories[name].begin(self.who, ask, now)
        };
        let Some(pending) = pending else { return Ok(()) };
        let answer = self.ask(&format!("/name-{name}"), ask).await?;
        let mut names = stage.names.lock();
        let now = names.now();
        names.histories[name].end(pending, answer, now);
        Ok(())
    }

    async fn ask(&self, path: &str, ask: Ask) -> Result<Answer> {
        let what = format!("{ask:?} {path}");
        let step = match ask {
            Ask::Make(mode) => {
                let flags = OpenFlags { write: true, create: true, exclusive: true, ..OpenFlags::default() };
                let step = self.hands.step(&what, self.fs.open_with(path, flags, mode)).await?;
                if let Step::Done(file) = step {
                    let inode = file.attr().inode.get();
                    let _ = self.hands.try_step(&format!("close {path}"), file.close()).await?;
                    return Ok(Answer::Done(Some(inode)));
                }
                step.map(|_| Answer::Unknown)
            }
            Ask::Remove => {
                self.hands.step(&what, self.fs.remove_file(path)).await?.map(|()| Answer::Done(None))
            }
            Ask::Mode(mode) => {
                let set = self.fs.set_permissions(path, mode);
                self.hands.step(&what, set).await?.map(|()| Answer::Done(None))
            }
            Ask::Look => {
                let look = self.hands.step(&what, self.fs.metadata(path)).await?;
                look.map(|a| Answer::Is(a.inode.get(), a.mode))
            }
        };
        match step {
            Step::Done(answer) => Ok(answer),
            Step::Failed => Ok(Answer::Unknown),
            Step::Refused(e) => match e.errno() {
                Errno::EEXIST => Ok(Answer::There),
                // It was made, its answer was lost, and another removed it before it was asked for again.
                Errno::ESTALE if matches!(ask, Ask::Make(_)) => Ok(Answer::Unknown),
                // It went between the look for its inode and the change of that.
                Errno::ENOENT | Errno::ESTALE => Ok(Answer::Missing),
                _ => Err(e).context(what),
            },
        }
    }
}
