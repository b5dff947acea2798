//! Tells browsers, by server-sent events, that there is something new to look at.

use crate::{Shared, feed::Seen, guard};
use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::Stream;
use serde_json::json;
use std::{convert::Infallible, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Browsers that watch at a time.
pub(crate) const VIEWERS_MAX: usize = 64;

pub(crate) async fn live(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(place) = shared.viewers.clone().try_acquire_owned() else {
        let why = "too many pages are open: close some, or reload by hand";
        return guard::error(StatusCode::SERVICE_UNAVAILABLE, "busy", why);
    };
    Sse::new(looks(shared.feed.follow(), place)).keep_alive(KeepAlive::default()).into_response()
}

/// An event for each look.
fn looks(
    mut seen: watch::Receiver<Arc<Seen>>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    async_stream::stream! {
        // Held while the browser watches.
        let _place = place;
        loop {
            let (number, health) = {
                let now = seen.borrow_and_update();
                (now.number, now.health())
            };
            let text = json!({ "number": number, "health": health }).to_string();
            yield Ok(Event::default().event("look").data(text));
            if seen.changed().await.is_err() {
                return;
            }
        }
    }
}
