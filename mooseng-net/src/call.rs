//! What every transport enforces alike: lengths, deadlines, silence.

use futures::StreamExt as _;
use mooseng_core::{
    error::NetError,
    limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, PIECE_BYTES_MAX},
    net::{Body, Message, Piece, Pieces},
    wire::bounded,
};
use std::{future::Future, time::Duration};

/// Room in a request's head for its encoded context: 1,024 groups take 5 KiB.
pub(crate) const CONTEXT_BYTES_MAX: usize = 16 << 10;
/// Bytes of a message's head on every transport.
pub const MESSAGE_HEAD_BYTES_MAX: usize = HEAD_BYTES_MAX - CONTEXT_BYTES_MAX;

/// Refuses a message over its limits before anything leaves.
pub(crate) fn check_message(msg: &Message) -> Result<(), NetError> {
    bounded("head", msg.head.len(), MESSAGE_HEAD_BYTES_MAX)?;
    match &msg.body {
        Body::Whole(bytes) => bounded("body", bytes.len(), BODY_BYTES_MAX),
        Body::Empty | Body::Stream(_) => Ok(()),
    }
}

/// The same for a reply: its handler has run, so the error must not say "not applied".
pub(crate) fn check_reply(msg: &Message) -> Result<(), NetError> {
    check_message(msg).map_err(|e| NetError::Malformed { what: format!("the reply: {e}") })
}

/// Refuses a piece over its limits.
pub(crate) fn check_piece(piece: &Piece) -> Result<(), NetError> {
    bounded("piece's head", piece.head.len(), HEAD_BYTES_MAX)?;
    bounded("piece", piece.data.len(), PIECE_BYTES_MAX)
}

/// Waits for `answer` no longer than `budget`.
pub(crate) async fn within<T>(
    budget: Duration,
    peer: &str,
    answer: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NetError> {
    match tokio::time::timeout(budget, answer).await {
        Ok(result) => result,
        Err(_) => Err(deadline(peer, budget)),
    }
}

pub(crate) fn deadline(peer: &str, budget: Duration) -> NetError {
    NetError::Deadline { peer: peer.into(), millis: budget.as_millis().try_into().unwrap_or(u64::MAX) }
}

/// Ends a stream with an error when a polled piece does not come within `budget`, or is too large;
/// nothing follows an error.
pub(crate) fn bounded_silence(pieces: Pieces, budget: Duration, peer: String) -> Pieces {
    let state = (Some(pieces), peer);
    futures::stream::unfold(state, move |(pieces, peer)| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(budget, pieces.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => match check_piece(&piece) {
                Ok(()) => Some((Ok(piece), (Some(pieces), peer))),
                Err(e) => Some((Err(e), (None, peer))),
            },
            Ok(Some(Err(e))) => Some((Err(e), (None, peer))),
            Err(_) => Some((Err(deadline(&peer, budget)), (None, peer))),
        }
    })
    .boxed()
}

/// Bounds the silence of a message's body, if it has one that streams.
pub(crate) fn bound_body(body: Body, budget: Duration, peer: &str) -> Body {
    match body {
        Body::Stream(pieces) => Body::Stream(bounded_silence(pieces, budget, peer.into())),
        other => other,
    }
}
