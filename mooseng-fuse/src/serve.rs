//! From a callback of the FUSE thread to an answer: how much may be under way, where it runs, and
//! that it is always answered.

use crate::{
    convert::errno,
    observe::{Observer, RequestKind},
};
use fuser::Errno;
use mooseng_client::Result;
use mooseng_core::{
    error,
    trace::{self, Here},
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Requests under way at most. The kernel lets every process have one, and background requests
/// besides; past this the FUSE thread waits, and the kernel queues.
const REQUESTS_MAX: u32 = 512;
/// Unit in which written bytes are counted.
const UNIT: usize = 4096;
/// Written bytes under way at most, in units: 64 MiB.
const UNITS_MAX: u32 = (64 << 20) / UNIT as u32;

/// A reply that can say no.
pub(crate) trait Answer: Send + 'static {
    fn error(self, e: Errno);
}

macro_rules! answers {
    ($($t:ident),*) => { $(impl Answer for fuser::$t { fn error(self, e: Errno) { fuser::$t::error(self, e) } })* };
}

answers!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyEmpty,
    ReplyEntry,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

/// Runs requests.
///
/// Waiting for room happens on the FUSE thread. That cannot lock up: what is under way ends by
/// itself, within its deadline, without another request of the kernel being taken.
#[derive(Debug)]
pub(crate) struct Server {
    runtime: Handle,
    requests: Arc<Semaphore>,
    units: Arc<Semaphore>,
    deadline: Duration,
    observer: Arc<dyn Observer>,
}

/// Tells of a request when it is over. One that panics, or is dropped with the runtime, is answered with EIO by its
/// reply, and told of as such.
struct Told {
    observer: Arc<dyn Observer>,
    kind: RequestKind,
    begin: Instant,
    failed: Option<error::Errno>,
    /// Free again when that is done.
    _room: Room,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.observer.answered(self.kind, self.begin.elapsed(), self.failed);
    }
}

/// A request's room, free again when it is dropped.
type Room = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

impl Server {
    pub(crate) fn new(runtime: Handle, deadline: Duration, observer: Arc<dyn Observer>) -> Self {
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX as usize));
        let units = Arc::new(Semaphore::new(UNITS_MAX as usize));
        Self { runtime, requests, units, deadline, observer }
    }

    /// Who hears what is done.
    pub(crate) fn observer(&self) -> &Arc<dyn Observer> {
        &self.observer
    }

    /// Requests under way.
    pub(crate) fn under_way(&self) -> usize {
        REQUESTS_MAX as usize - self.requests.available_permits()
    }

    /// Waits until nothing is under way. `false` when it took longer than a request may.
    pub(crate) async fn drained(&self) -> bool {
        let all = self.requests.acquire_many(REQUESTS_MAX);
        tokio::time::timeout(self.deadline, all).await.is_ok()
    }

    fn take(&self, from: &Arc<Semaphore>, n: u32) -> Option<OwnedSemaphorePermit> {
        match from.clone().try_acquire_many_owned(n) {
            Ok(room) => Some(room),
            // It is never closed, so waiting always ends with room.
            Err(_) => self.runtime.block_on(from.clone().acquire_many_owned(n)).ok(),
        }
    }

    fn room(&self, bytes: usize) -> Room {
        let units = (bytes.div_ceil(UNIT) as u32).min(UNITS_MAX);
        (self.take(&self.requests, 1), (units > 0).then(|| self.take(&self.units, units)).flatten())
    }

    /// Answers a request by what `work` comes to.
    pub(crate) fn serve<R: Answer, T: Send + 'static>(
        &self,
        kind: RequestKind,
        reply: R,
        work: impl Future<Output = Result<T>> + Send + 'static,
        done: impl FnOnce(R, T) + Send + 'static,
    ) {
        self.serve_bytes(kind, reply, 0, work, done);
    }

    /// The same for a request that carries so many bytes.
    pub(crate) fn serve_bytes<R: Answer, T: Send + 'static>(
        &self,
        kind: RequestKind,
        reply: R,
        bytes: usize,
        work: impl Future<Output = Result<T>> + Send + 'static,
        done: impl FnOnce(R, T) + Send + 'static,
    ) {
        let begin = Instant::now();
        let (observer, failed) = (self.observer.clone(), Some(error::Errno::EIO));
        // Each request has a trace of its own; a slow one is told.
        let work = trace::asked(Here::NOWHERE, move || format!("{} of the kernel", kind.name()), work);
        let mut told = Told { observer, kind, begin, failed, _room: self.room(bytes) };
        let deadline = self.deadline;
        self.drive(Box::pin(async move {
            told.failed = match tokio::time::timeout(deadline, work).await {
                Ok(Ok(value)) => {
                    done(reply, value);
                    None
                }
                Ok(Err(e)) => {
                    let n = errno(&e);
                    if matches!(n, Errno::EIO | Errno::ETIMEDOUT) {
                        tracing::warn!(error = %e, "a request failed");
                    }
                    reply.error(n);
                    Some(e.errno())
                }
                Err(_) => {
                    tracing::error!(?deadline, "a request was not done in time");
                    reply.error(Errno::ETIMEDOUT);
                    Some(error::Errno::ETIMEDOUT)
                }
            };
            drop(told);
        }));
    }

    /// Polls once here: what is answered from memory needs no other thread, and what has to ask has
    /// asked when this returns. The rest is a task's. A panic ends the one request, whose reply
    /// answers EIO when it is dropped, and nothing else.
    fn drive(&self, mut work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let _inside = self.runtime.enter();
        let mut cx = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut cx))) {
            // The task polls it again at once, so that its own waker is the one that is kept.
            Ok(Poll::Pending) => drop(self.runtime.spawn(work)),
            Ok(Poll::Ready(())) => {}
            Err(_) => {
                tracing::error!("a request's handler panicked; it is answered with EIO");
                if catch_unwind(AssertUnwindSafe(|| drop(work))).is_err() {
                    tracing::error!("and so did its end");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Tells what it was answered, as fuser's replies do: EIO when it is dropped without.
    struct Reply(Option<Sender<i32>>);

    impl Reply {
        fn new() -> (Self, Receiver<i32>) {
            let (tell, told) = channel();
            (Self(Some(tell)), told)
        }
        fn ok(mut self) {
            self.0.take().unwrap().send(0).unwrap();
        }
    }

    impl Answer for Reply {
        fn error(mut self, e: Errno) {
            self.0.take().unwrap().send(e.code()).unwrap();
        }
    }

    impl Drop for Reply {
        fn drop(&mut self) {
            if let Some(tell) = self.0.take() {
                tell.send(Errno::EIO.code()).ok();
            }
        }
    }

    const ANY: RequestKind = RequestKind::Lookup;

    /// Remembers what was answered.
    #[derive(Debug, Default)]
    struct Heard(parking_lot::Mutex<Vec<(RequestKind, Option<error::Errno>)>>);

    impl Observer for Heard {
        fn answered(&self, kind: RequestKind, _: Duration, error: Option<error::Errno>) {
            self.0.lock().push((kind, error));
        }
        fn read(&self, _: usize) {}
        fn written(&self, _: usize) {}
    }

    fn server(rt: &tokio::runtime::Runtime, deadline: Duration) -> (Server, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        (Server::new(rt.handle().clone(), deadline, heard.clone()), heard)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    #[test]
    fn a_panic_ends_one_request_with_eio() {
        let rt = runtime();
        let (server, heard) = server(&rt, Duration::from_secs(30));
        let (reply, told) = Reply::new();
        server.serve(ANY, reply, async { panic!("at once, on the FUSE thread") }, |r: Reply, ()| r.ok());
        assert_eq!(told.recv(), Ok(Errno::EIO.code()));
        let (reply, told) = Reply::new();
        let later = async {
            tokio::task::yield_now().await;
            panic!("later, in a task")
        };
        server.serve(ANY, reply, later, |r: Reply, ()| r.ok());
        assert_eq!(told.recv(), Ok(Errno::EIO.code()));
        let (reply, told) = Reply::new();
        server.serve(ANY, reply, async { Ok(()) }, |r: Reply, ()| r.ok());
        assert_eq!(told.recv(), Ok(0), "the next one is served");
        assert!(rt.block_on(server.drained()), "the room of those that panicked is free again");
        let eio = (ANY, Some(error::Errno::EIO));
        assert_eq!(*heard.0.lock(), [eio, eio, (ANY, None)], "they are counted as what they were answered");
    }

    #[test]
    fn what_never_ends_is_answered_at_its_deadline() {
        let rt = runtime();
        let (server, heard) = server(&rt, Duration::from_millis(1));
        let (reply, told) = Reply::new();
        server.serve(ANY, reply, std::future::pending(), |r: Reply, ()| r.ok());
        assert_eq!(told.recv(), Ok(Errno::ETIMEDOUT.code()));
        rt.block_on(server.drained());
        assert_eq!(*heard.0.lock(), [(ANY, Some(error::Errno::ETIMEDOUT))]);
    }

    #[test]
    fn the_thread_waits_while_too_much_is_under_way() {
        let rt = runtime();
        let server = Arc::new(server(&rt, Duration::from_secs(60)).0);
        let (open, gate) = tokio::sync::watch::channel(false);
        let mut answers = Vec::new();
        let mut put = |bytes: usize| {
            let mut gate = gate.clone();
            let (reply, told) = Reply::new();
            let wait = async move {
                gate.wait_for(|open| *open).await.unwrap();
                Ok(())
            };
            server.serve_bytes(ANY, reply, bytes, wait, |r: Reply, ()| r.ok());
            answers.push(told);
        };
        for _ in 0..64 {
            put(1 << 20);
        }
        assert_eq!(server.under_way(), 64);
        assert_eq!(server.units.available_permits(), 0, "the bytes are used up");
        let behind = server.clone();
        let (reply, told) = Reply::new();
        let thread = std::thread::spawn(move || {
            behind.serve_bytes(ANY, reply, 1, async { Ok(()) }, |r: Reply, ()| r.ok());
        });
        assert!(told.try_recv().is_err());
        open.send(true).unwrap();
        assert_eq!(told.recv(), Ok(0));
        thread.join().unwrap();
        assert!(answers.iter().all(|a| a.recv() == Ok(0)));
        assert!(rt.block_on(server.drained()));
        assert_eq!(server.under_way(), 0);
    }
}
