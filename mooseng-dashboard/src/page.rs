//! The frame of all pages, and those that say that something went wrong.

use crate::{
    Shared,
    feed::{Failed, Picture, Seen},
    fresh::Before,
    status_of,
};
use askama::Template;
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use mooseng_client::report;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;

/// What stays as it is in a query's value.
const IN_QUERY: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// Text as a query's value.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, IN_QUERY).to_string()
}

/// The pages in the navigation: where, name.
const NAV: &[(&str, &str)] = &[
    ("/", "Overview"),
    ("/topology", "Topology"),
    ("/chunks", "Chunks"),
    ("/sessions", "Sessions"),
    ("/operations", "Operations"),
    ("/jobs", "Jobs"),
    ("/files", "Files"),
];

/// What is told when it is this old though nothing failed.
const OLD: Duration = Duration::from_secs(30);

const LOOK_AT_MASTERS: &str =
    "Look whether most masters run and reach each other: their logs, and /health on their ports.";
const LOOK_AT_LEADER: &str =
    "The leading master answers otherwise: look at its log, and at the load and the disk of its machine.";
const WAIT_FOR_LOOK: &str =
    "It takes the leading master long where there are many: this page fills by itself when it is done.";

/// Why what is shown is not what is now, and what to do about it.
pub(crate) struct Notice {
    pub class: &'static str,
    pub why: String,
    pub cure: &'static str,
}

/// What to do so that masters answer.
fn cure_of(failed: &Failed) -> &'static str {
    failed.no_quorum.as_ref().map_or(LOOK_AT_MASTERS, |p| p.code.cure())
}

/// What follows a notice.
fn seen_before(age: Duration) -> String {
    format!("What follows was seen {} ago.", report::secs(age.as_secs()))
}

impl Notice {
    fn of(seen: &Seen) -> Option<Self> {
        let age = seen.picture.as_deref().map(Picture::age);
        let with_age =
            |why: &str| age.map_or_else(|| why.into(), |age| format!("{why}. {}", seen_before(age)));
        let (class, why, cure) = match (&seen.failed, &seen.late) {
            (Some(failed), _) => ("unreachable", with_age(&failed.to_string()), cure_of(failed)),
            (None, Some(why)) => ("unknown", with_age(why), LOOK_AT_LEADER),
            (None, None) => match age {
                None => ("unknown", "The first look at all chunks is under way.".into(), WAIT_FOR_LOOK),
                Some(age) if age >= OLD => ("plain", seen_before(age), WAIT_FOR_LOOK),
                Some(_) => return None,
            },
        };
        Some(Self { class, why, cure })
    }
}

/// What the frame shows.
pub(crate) struct Shell {
    pub title: String,
    pub health: &'static str,
    /// Where in the navigation it is.
    pub here: &'static str,
    /// Whether it follows what happens by itself.
    pub live: bool,
    /// Whether one can log out.
    pub has_token: bool,
    /// Why what is shown is not what is now.
    pub notice: Option<Notice>,
    /// Whether the word for the cluster's health is of now.
    pub is_seen: bool,
    pub nav: &'static [(&'static str, &'static str)],
    pub version: &'static str,
}

impl Shell {
    pub fn new(shared: &Shared, seen: &Seen, here: &'static str, title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            health: seen.health(),
            here,
            live: true,
            has_token: shared.token.is_some(),
            notice: Notice::of(seen),
            is_seen: seen.is_seen(),
            nav: NAV,
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Of a page that stays as it is until it is loaded again.
    #[must_use]
    pub fn still(mut self) -> Self {
        self.live = false;
        self
    }

    /// Of a page whose own question failed, and that shows an older answer.
    #[must_use]
    pub fn of_before(mut self, before: &Before) -> Self {
        if let Some((e, age)) = before {
            let class = if self.health == "unreachable" { "unreachable" } else { "unknown" };
            let cure = if class == "unreachable" { LOOK_AT_MASTERS } else { LOOK_AT_LEADER };
            self.notice = Some(Notice { class, why: format!("{e}. {}", seen_before(*age)), cure });
        }
        self
    }
}

/// A template as an answer.
pub(crate) fn html(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response(),
        Err(e) => {
            tracing::error!(error = %e, "a page could not be made");
            (StatusCode::INTERNAL_SERVER_ERROR, "this page could not be made: see the log\n").into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    shell: Shell,
    text: String,
}

/// A page that could not be had from the cluster.
pub(crate) async fn failed(shared: &Shared, here: &'static str, e: &mooseng_client::Error) -> Response {
    let (status, _) = status_of(e);
    refused(shared, here, status, &e.to_string()).await
}

/// A page that says why there is none.
pub(crate) async fn refused(shared: &Shared, here: &'static str, status: StatusCode, why: &str) -> Response {
    let title = if status == StatusCode::NOT_FOUND { "Not found" } else { "Not now" };
    let shell = Shell::new(shared, &*shared.feed.now().await, here, title).still();
    html(status, &ErrorPage { shell, text: why.to_owned() })
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    next: &'a str,
    is_wrong: bool,
    version: &'static str,
}

/// The way in.
pub(crate) fn login(status: StatusCode, next: &str, is_wrong: bool) -> Response {
    html(status, &LoginPage { next, is_wrong, version: env!("CARGO_PKG_VERSION") })
}

/// There is no such page.
pub(crate) fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "there is no such page\n").into_response()
}
