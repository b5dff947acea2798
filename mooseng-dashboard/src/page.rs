//! The frame of all pages, and those that say that something went wrong.

use crate::{Shared, feed::Seen, status_of};
use askama::Template;
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use mooseng_client::report;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

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
    /// Why what is shown may be old.
    pub stale: Option<String>,
    pub nav: &'static [(&'static str, &'static str)],
    pub version: &'static str,
}

impl Shell {
    pub fn new(shared: &Shared, seen: &Seen, here: &'static str, title: impl Into<String>) -> Self {
        let old = seen.failed.as_ref().map(|why| match seen.picture {
            Some(_) => format!("{why}. What follows was seen {} ago.", report::secs(seen.age().as_secs())),
            None => why.clone(),
        });
        Self {
            title: title.into(),
            health: seen.health(),
            here,
            live: true,
            has_token: shared.token.is_some(),
            stale: old,
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
