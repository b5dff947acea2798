//! A handler that shows what happens to it, and waiting for that.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use mooseng_core::{
    context::CallContext,
    error::NetError,
    net::{Body, Handler, Message, Method, PeerIdentity, Piece, Role, Transport},
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Answers with the request.
pub(crate) const ECHO: Method = Method(1);
/// Never answers.
pub(crate) const HANG: Method = Method(2);
/// Pushes pieces of 64 KiB without end.
pub(crate) const PUSH: Method = Method(3);
/// Panics.
pub(crate) const PANIC: Method = Method(4);
/// Answers how many bytes its stream had.
pub(crate) const COUNT: Method = Method(5);
/// Answers without reading its stream.
pub(crate) const IGNORE: Method = Method(6);
/// Bytes of a pushed piece.
pub(crate) const PUSHED_BYTES: usize = 64 << 10;

/// A network of one kind, on which nodes of any cluster can be.
pub trait Network: Sync {
    /// A node's transport.
    fn transport(&self, cluster: u128, role: Role, name: &str) -> Arc<dyn Transport>;
    /// Where to listen; each address can be had once.
    fn address(&self) -> String;
}

/// Waits until `done`, with a generous end.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within 30 s"));
}

#[derive(Default)]
pub(crate) struct Probe {
    pub(crate) begun: AtomicUsize,
    ended: Arc<AtomicUsize>,
    pub(crate) pushed: Arc<AtomicUsize>,
    pub(crate) peer: Mutex<Option<PeerIdentity>>,
    pub(crate) contexts: Mutex<Vec<CallContext>>,
}

/// Counts when a handler's future or stream is gone.
struct Ended(Arc<AtomicUsize>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Probe {
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Handlers whose future, with the stream that it pushed, is gone.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Handler for Probe {
    async fn handle(
        &self,
        peer: &PeerIdentity,
        cx: CallContext,
        method: Method,
        msg: Message,
    ) -> Result<Message, NetError> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        *self.peer.lock() = Some(peer.clone());
        self.contexts.lock().push(cx);
        let ended = Ended(self.ended.clone());
        match method {
            ECHO => Ok(msg),
            HANG => std::future::pending().await,
            PUSH => {
                let (pushed, data) = (self.pushed.clone(), Bytes::from(vec![7; PUSHED_BYTES]));
                let pieces = futures::stream::repeat_with(move || {
                    let _held = &ended;
                    pushed.fetch_add(1, Ordering::Relaxed);
                    Ok(Piece { head: Bytes::from_static(b"p"), data: data.clone() })
                });
                Ok(Message { head: Bytes::new(), body: Body::Stream(pieces.boxed()) })
            }
            PANIC => panic!("planted"),
            COUNT => {
                let Body::Stream(mut pieces) = msg.body else { panic!("a stream was sent") };
                let mut bytes = 0;
                while let Some(piece) = pieces.next().await {
                    bytes += piece?.data.len();
                }
                Ok(Message::of_head(bytes.to_string().into()))
            }
            IGNORE => Ok(Message::of_head("ignored".into())),
            Method(n) => Err(NetError::UnknownMethod(n)),
        }
    }
}
