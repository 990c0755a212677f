//! `notifications`, and `notifications/live`: the same as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use crate::answer::Answer;
use crate::error::ApiError;
use crate::gojson;
use crate::notifications::{Notification, Watcher};
use crate::router::Api;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use http::{StatusCode, header};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often something is sent to those who wait, so that one who is gone without a word gives up its place.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// `/notifications`.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Answer, ApiError> {
    Answer::of(&api.state.notifications.active())
}

/// `/notifications/live`; 204, after which browsers do not try again, where there is no place.
pub(super) async fn live(State(api): State<Arc<Api>>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let Some(watcher) = api.state.notifications.watch() else {
        return (StatusCode::NO_CONTENT, headers).into_response();
    };
    let mut alive = interval(SIGN_OF_LIFE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one is at once.
    alive.reset();
    (headers, Body::from_stream(Events { watcher, alive })).into_response()
}

struct Events {
    watcher: Watcher,
    alive: Interval,
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.watcher.poll_next(context) {
            Poll::Ready(Some(notification)) => return Poll::Ready(Some(Ok(event(&notification)))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        // A line that browsers skip.
        self.alive
            .poll_tick(context)
            .map(|_| Some(Ok(Bytes::from_static(b":\n\n"))))
    }
}

fn event(notification: &Notification) -> Bytes {
    // Texts and a flag can be written.
    let json = gojson::to_string(notification).unwrap_or_default();
    format!("data: {json}\n\n").into()
}
