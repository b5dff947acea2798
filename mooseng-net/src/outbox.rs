//! Frames on their way into a byte stream that calls share.

use crate::frame::Outgoing;
use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll, Waker, ready},
};
use tokio::{io::AsyncWrite, sync::Notify};

/// Bytes that wait to be written; data past it waits with its sender.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// Frames up to here are written by whoever sends them, when nothing waits before them: one
/// hand-off less.
const INLINE_BYTES_MAX: usize = 16 << 10;
/// Buffers of one vectored write.
const SLICES: usize = 32;

/// The queue of one stream. Frames leave in the order of their `push`; a dropped sender never
/// leaves half a frame behind.
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    /// Bytes in the queue.
    waiting: AtomicUsize,
    /// Told when there is room again.
    room: Notify,
    /// Told when there is something that the sender could not write itself.
    work: Notify,
}

struct Queue {
    to: Pin<Box<dyn AsyncWrite + Send>>,
    parts: VecDeque<Bytes>,
    flushed: bool,
    failed: Option<io::Error>,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.parts.is_empty() && self.flushed
    }

    /// Writes one step; how many bytes left. 0: everything is written and flushed.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.parts.is_empty() {
            if !self.flushed {
                ready!(self.to.as_mut().poll_flush(cx))?;
                self.flushed = true;
            }
            return Poll::Ready(Ok(0));
        }
        let empty: &[u8] = &[];
        let mut slices = [IoSlice::new(empty); SLICES];
        let n = self.parts.len().min(SLICES);
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(part);
        }
        let written = ready!(self.to.as_mut().poll_write_vectored(cx, &slices[..n]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.flushed = false;
        let mut left = written;
        while let Some(part) = self.parts.front_mut().filter(|_| left > 0) {
            let n = part.len().min(left);
            part.advance(n);
            left -= n;
            if part.is_empty() {
                self.parts.pop_front();
            }
        }
        Poll::Ready(Ok(written))
    }
}

impl Outbox {
    pub(crate) fn new(to: impl AsyncWrite + Send + 'static) -> Self {
        let queue = Queue { to: Box::pin(to), parts: VecDeque::new(), flushed: true, failed: None };
        Self {
            queue: Mutex::new(queue),
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
            work: Notify::new(),
        }
    }

    fn written(&self, bytes: usize) {
        let before = self.waiting.fetch_sub(bytes, Ordering::AcqRel);
        if before >= QUEUE_BYTES_MAX && before - bytes < QUEUE_BYTES_MAX {
            self.room.notify_waiters();
        }
    }

    /// Queues a frame at once: for small frames that must not wait.
    pub(crate) fn push(&self, frame: Outgoing) {
        let bytes = frame.len();
        let mut queue = self.queue.lock();
        if queue.failed.is_some() {
            return;
        }
        // The waker below may take the place of the writing task's, so it must not be waiting.
        let write_here = queue.is_idle() && bytes <= INLINE_BYTES_MAX;
        self.waiting.fetch_add(bytes, Ordering::AcqRel);
        queue.parts.extend([frame.first, frame.rest].into_iter().filter(|p| !p.is_empty()));
        if write_here {
            let mut cx = Context::from_waker(Waker::noop());
            loop {
                match queue.step(&mut cx) {
                    Poll::Ready(Ok(0)) => return,
                    Poll::Ready(Ok(n)) => self.written(n),
                    Poll::Ready(Err(e)) => {
                        queue.failed = Some(e);
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
        drop(queue);
        self.work.notify_one();
    }

    /// Queues a frame when there is room.
    pub(crate) async fn send(&self, frame: Outgoing) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.waiting.load(Ordering::Acquire) < QUEUE_BYTES_MAX {
                break;
            }
            room.await;
        }
        self.push(frame);
    }

    /// Drops what waits and whatever comes.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock();
        queue.failed.get_or_insert_with(|| io::ErrorKind::BrokenPipe.into());
        queue.parts.clear();
        // The other side sees the end now, not when the last call lets go.
        queue.to = Box::pin(tokio::io::sink());
        self.waiting.store(0, Ordering::Release);
        drop(queue);
        self.room.notify_waiters();
        self.work.notify_one();
    }

    /// Writes what senders did not; ends when the stream fails.
    pub(crate) async fn write_on(&self) -> io::Error {
        loop {
            // One step at a time, so that the lock is never held for long.
            let step = poll_fn(|cx| {
                let mut queue = self.queue.lock();
                match queue.failed.replace(io::ErrorKind::BrokenPipe.into()) {
                    Some(e) => Poll::Ready(Err(e)),
                    None => {
                        queue.failed = None;
                        queue.step(cx)
                    }
                }
            });
            match step.await {
                Ok(0) => self.work.notified().await,
                Ok(n) => self.written(n),
                Err(e) => {
                    self.close();
                    return e;
                }
            }
        }
    }
}
