//! Who may look, and what every answer says to a browser.

use crate::{Shared, page, token::Token};
use axum::{
    Form,
    body::to_bytes,
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use parking_lot::Mutex;
use serde::Deserialize;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::time::Instant;

/// The cookie's name.
const COOKIE: &str = "mooseng_dashboard";
/// How long a browser keeps it.
const COOKIE_SECS: u32 = 12 * 3600;
/// What anybody gets: the way in, and whether it lives.
const OPEN: &[&str] = &["/login", "/assets/style.css", "/assets/icon.svg", "/livez", "/readyz"];
/// Requests that are answered at a time; more are turned away.
pub(crate) const REQUESTS_MAX: usize = 64;
/// Longest wait for a request's body, which is a form of one line.
const BODY: Duration = Duration::from_secs(5);
/// Bytes of a form at most.
const FORM_BYTES_MAX: usize = 16 << 10;

/// By these a proxy tells for whom it asks.
const FORWARDED: &[&str] = &["forwarded", "x-forwarded-for", "x-real-ip", "via"];
/// Wrong tokens are told of once in this time.
const TELL: Duration = Duration::from_secs(10);

/// Nothing from elsewhere, nothing written inside a page, in nobody's frame.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

/// Lets in who may look, and adds the headers.
pub(crate) async fn keep(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut answer = match refusal(&shared, &request) {
        Some(refused) => refused,
        None => answer(&shared, request, next).await,
    };
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// Whoever sends no body holds nobody else's place, and whether it lives is told also when there is none.
async fn answer(shared: &Shared, request: Request, next: Next) -> Response {
    if request.uri().path() == "/livez" {
        return next.run(request).await;
    }
    let whole = match with_body(request).await {
        Ok(whole) => whole,
        Err(refused) => return refused,
    };
    match shared.requests.try_acquire() {
        Ok(_permit) => next.run(whole).await,
        Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests at a time: try again"),
    }
}

/// The request with all of its body; only a form is read.
async fn with_body(request: Request) -> Result<Request, Response> {
    if request.method() != Method::POST {
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY, to_bytes(body, FORM_BYTES_MAX)).await {
        Ok(Ok(whole)) => Ok(Request::from_parts(head, whole.into())),
        Ok(Err(_)) => {
            let why = format!("the body ended early, or has more than {FORM_BYTES_MAX} bytes");
            Err(error(StatusCode::PAYLOAD_TOO_LARGE, "invalid", &why))
        }
        Err(_) => {
            let why = format!("the body did not come within {} s", BODY.as_secs());
            Err(error(StatusCode::REQUEST_TIMEOUT, "timeout", &why))
        }
    }
}

/// Whether a page of elsewhere asks, by itself, a form or a script. A link that leads here is none of these.
fn is_of_elsewhere(request: &Request) -> bool {
    let text = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
    let is_link = request.method() == Method::GET && text("sec-fetch-mode") == Some("navigate");
    // Of the same site are pages at other ports of the same host, too.
    matches!(text("sec-fetch-site"), Some("cross-site" | "same-site")) && !is_link
}

fn refusal(shared: &Shared, request: &Request) -> Option<Response> {
    if is_of_elsewhere(request) {
        return Some(error(
            StatusCode::FORBIDDEN,
            "elsewhere",
            "a page of elsewhere asks: open the dashboard itself",
        ));
    }
    let Some(token) = &shared.token else {
        // Without a token it is for this machine. A page of somewhere else whose name was made to lead here (DNS
        // rebinding) is not, nor is whom a proxy on this machine lets in.
        let headers = request.headers();
        let is_here =
            host_of(headers).is_none_or(is_loopback) && !FORWARDED.iter().any(|h| headers.contains_key(*h));
        let why = "without a token this dashboard answers on this machine's own names only (localhost), and no proxy";
        return (!is_here).then(|| error(StatusCode::MISDIRECTED_REQUEST, "host", why));
    };
    let path = request.uri().path();
    if OPEN.contains(&path) || is_known(token, request.headers()) {
        return None;
    }
    let wants_page = request.method() == Method::GET && !path.starts_with("/api/") && path != "/live";
    if wants_page && !request.headers().contains_key(header::AUTHORIZATION) {
        let next = request.uri().path_and_query().map_or("/", |p| p.as_str());
        return Some(Redirect::to(&format!("/login?next={}", page::encoded(next))).into_response());
    }
    let mut refused = error(
        StatusCode::UNAUTHORIZED,
        "token",
        "the token is missing or wrong: send it as `Authorization: Bearer TOKEN`",
    );
    refused
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mooseng\""));
    Some(refused)
}

fn is_known(token: &Token, headers: &HeaderMap) -> bool {
    let text = |name| headers.get_all(name).iter().filter_map(|v: &HeaderValue| v.to_str().ok());
    let bearer = |v: &str| {
        let (scheme, rest) = v.split_once(' ').unwrap_or(("", ""));
        scheme.eq_ignore_ascii_case("bearer") && token.accepts(rest)
    };
    let cookie = |v: &str| {
        let all = v.split(';').filter_map(|c| c.trim().split_once('='));
        all.filter(|(name, _)| *name == COOKIE).any(|(_, value)| token.accepts_cookie(value))
    };
    text(header::AUTHORIZATION).any(bearer) || text(header::COOKIE).any(cookie)
}

fn host_of(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

/// Whether a `Host` header names this machine to itself.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// There is nothing at this path.
pub(crate) async fn nothing(request: Request) -> Response {
    match request.uri().path() {
        "/api" | "/api/" => no_call().await,
        _ => page::not_found(),
    }
}

/// There is no such call.
pub(crate) async fn no_call() -> Response {
    error(StatusCode::NOT_FOUND, "not_found", "there is no such call: docs/dashboard.md lists them")
}

/// An error for programs.
pub(crate) fn error(status: StatusCode, kind: &str, text: &str) -> Response {
    let whole = serde_json::json!({ "schema": "mooseng.error/1", "kind": kind, "error": text });
    (status, axum::Json(whole)).into_response()
}

#[derive(Deserialize)]
pub(crate) struct LoginQuery {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(crate) struct LoginForm {
    token: String,
    #[serde(default)]
    next: String,
}

/// Where a login leads: a path of this server, whatever was asked for. Browsers read a backslash as a slash, and leave
/// out tabs and line ends before they read what is left.
fn next_of(text: &str) -> &str {
    let is_ours = text.starts_with('/')
        && !text.starts_with("//")
        && !text.contains(|c: char| c == '\\' || c.is_control());
    if is_ours && !text.starts_with("/login") { text } else { "/" }
}

pub(crate) async fn login_page(State(shared): State<Arc<Shared>>, Query(q): Query<LoginQuery>) -> Response {
    match shared.token {
        None => Redirect::to("/").into_response(),
        Some(_) => page::login(StatusCode::OK, next_of(&q.next), false),
    }
}

pub(crate) async fn login(State(shared): State<Arc<Shared>>, Form(form): Form<LoginForm>) -> Response {
    let next = next_of(&form.next);
    let Some(token) = &shared.token else { return Redirect::to("/").into_response() };
    if !token.accepts(&form.token) {
        tell_of_wrong_token();
        return page::login(StatusCode::UNAUTHORIZED, next, true);
    }
    let cookie =
        format!("{COOKIE}={}; Path=/; Max-Age={COOKIE_SECS}; HttpOnly; SameSite=Strict", token.cookie());
    ([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response()
}

fn tell_of_wrong_token() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock();
    if last.is_none_or(|at| at.elapsed() >= TELL) {
        *last = Some(Instant::now());
        tracing::warn!("somebody came with a wrong token");
    }
}

pub(crate) async fn logout() -> Response {
    let cookie = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
    ([(header::SET_COOKIE, cookie)], Redirect::to("/login")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_names_are_loopback() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["", "example.org", "localhost.example.org:8080", "10.0.0.1:8080", "[::2]:80", "127.0.0.1.x"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_login_leads_nowhere_else() {
        for ours in ["/", "/chunks/2/1?from=5", "/files?path=/a"] {
            assert_eq!(next_of(ours), ours);
        }
        for other in [
            "",
            "//evil.example",
            "https://evil.example",
            "evil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/\t/evil.example",
            "\t//evil.example",
            "/\n/evil.example",
            "/\r/evil.example",
            "/\t\\evil.example",
            "/\0/evil.example",
            "/\u{7f}/evil.example",
            "/login",
            "/a\r\nb",
        ] {
            assert_eq!(next_of(other), "/", "{other:?}");
        }
    }

    #[test]
    fn a_token_comes_as_bearer_or_cookie() {
        let token = Token::new("0123456789abcdef").unwrap();
        let known = |name: header::HeaderName, value: String| {
            is_known(&token, &HeaderMap::from_iter([(name, value.parse().unwrap())]))
        };
        assert!(known(header::AUTHORIZATION, "bearer 0123456789abcdef".into()));
        assert!(!known(header::AUTHORIZATION, "Basic 0123456789abcdef".into()));
        assert!(!known(header::AUTHORIZATION, "0123456789abcdef".into()));
        assert!(known(header::COOKIE, format!("a=b; {COOKIE}={}", token.cookie())));
        assert!(!known(header::COOKIE, format!("{COOKIE}=0123456789abcdef")));
        assert!(!known(header::COOKIE, format!("x{COOKIE}={}", token.cookie())));
    }
}
