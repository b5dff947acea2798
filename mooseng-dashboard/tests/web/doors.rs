//! Who gets in, and what every answer says to a browser.

use super::world::World;
use mooseng_dashboard::{Dashboard, Options, ServeError, Token};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const TOKEN: &str = "a-token-of-this-test-only";

async fn locked() -> World {
    World::with(Options::default().with_token(Token::new(TOKEN).unwrap())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_nothing_is_shown_without_it() {
    let w = locked().await;
    for path in ["/", "/topology", "/chunks/2/1", "/files?path=/a&after=3", "/assets/live.js"] {
        let a = w.get(path).await;
        assert_eq!(a.status, 303, "{path}: {a:?}");
        assert!(a.header("location").unwrap().starts_with("/login?next=/"), "{path}: {a:?}");
        assert!(!a.body.contains("MooseNG"), "{path}");
    }
    for path in ["/api/status", "/api/nothing", "/live"] {
        let a = w.get(path).await;
        assert_eq!(
            (a.status, a.header("www-authenticate")),
            (401, Some("Bearer realm=\"mooseng\"")),
            "{path}"
        );
    }
    for path in ["/livez", "/readyz", "/login", "/assets/style.css", "/assets/icon.svg"] {
        assert_eq!(w.get(path).await.status, 200, "{path}");
    }
    let with = async |line: &str| {
        w.ask("GET", "/api/status", &format!("Authorization: {line}\r\n"), "").await.status
    };
    assert_eq!(with(&format!("Bearer {TOKEN}")).await, 200);
    for wrong in ["Bearer ", TOKEN, &format!("Bearer {TOKEN}x"), &format!("Basic {TOKEN}")] {
        assert_eq!(with(wrong).await, 401, "{wrong}");
    }
    let page = w.ask("GET", "/", "Authorization: Bearer wrong-wrong-wrong\r\n", "").await;
    assert_eq!(page.status, 401, "a program is not sent to a form");
    w.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_login_form_gives_a_cookie_that_only_the_browser_sees() {
    let w = locked().await;
    let post = async |body: &str| {
        w.ask("POST", "/login", "Content-Type: application/x-www-form-urlencoded\r\n", body).await
    };
    let wrong = post("token=wrong-wrong-wrong&next=/jobs").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None), "{wrong:?}");
    assert!(
        wrong.body.contains("That is not the token") && wrong.body.contains("value=\"/jobs\""),
        "{wrong:?}"
    );

    let done = post(&format!("token={TOKEN}&next=/jobs")).await;
    assert_eq!((done.status, done.header("location")), (303, Some("/jobs")), "{done:?}");
    let cookie = done.header("set-cookie").unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(TOKEN), "{cookie}");
    for next in ["//evil.example/", "/%09/evil.example/", "/%5Cevil.example/", "https://evil.example/"] {
        let elsewhere = post(&format!("token={TOKEN}&next={next}")).await;
        assert_eq!((elsewhere.status, elsewhere.header("location")), (303, Some("/")), "{next}");
    }

    let cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let page = w.ask("GET", "/jobs", &cookie, "").await;
    assert!(page.status == 200 && page.body.contains("Log out"), "{page:?}");
    assert_eq!(w.ask("GET", "/api/status", &cookie, "").await.status, 200);
    let out = w.ask("POST", "/logout", &cookie, "").await;
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"), "{out:?}");
    w.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_elsewhere_get_and_change_nothing() {
    let w = locked().await;
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let login = w.ask("POST", "/login", form, &format!("token={TOKEN}")).await;
    let cookie_line =
        format!("Cookie: {}\r\n", login.header("set-cookie").unwrap().split(';').next().unwrap());
    for site in ["cross-site", "same-site"] {
        let lines = format!("{cookie_line}{form}Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: ");
        for (method, path, mode) in [
            ("POST", "/logout", "navigate"),
            ("POST", "/login", "navigate"),
            ("GET", "/live", "cors"),
            ("GET", "/api/status", "no-cors"),
            ("GET", "/", "no-cors"),
        ] {
            let a = w.ask(method, path, &format!("{lines}{mode}\r\n"), &format!("token={TOKEN}")).await;
            assert_eq!((a.status, a.header("set-cookie")), (403, None), "{site} {method} {path}: {a:?}");
        }
        let link = w.ask("GET", "/jobs", &format!("{lines}navigate\r\n"), "").await;
        assert_eq!(link.status, 200, "a link leads here: {link:?}");
    }
    let strangers = w.ask("POST", "/logout", "", "").await;
    assert_eq!((strangers.status, strangers.header("set-cookie")), (401, None), "{strangers:?}");
    w.cluster.shutdown().await;
}

/// More than are answered at a time.
const IDLE: usize = 80;

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_do_not_come_keep_nobody_out() {
    let w = locked().await;
    let head =
        "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\nConnection: close\r\n\r\ntoken=";
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        let mut s = TcpStream::connect(w.at).await.unwrap();
        s.write_all(head.as_bytes()).await.unwrap();
        idle.push(s);
    }
    for path in ["/livez", "/login"].repeat(10) {
        assert_eq!(w.get(path).await.status, 200, "{path}");
    }
    for mut s in idle {
        let mut told = String::new();
        s.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("mooseng.error/1"), "{told}");
    }
    w.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_headers() {
    let w = locked().await;
    for path in ["/", "/login", "/api/status", "/assets/style.css", "/nowhere", "/livez"] {
        let a = w.ask("GET", path, &format!("Authorization: Bearer {TOKEN}\r\n"), "").await;
        let policy = a.header("content-security-policy").unwrap_or_else(|| panic!("{path}: {a:?}"));
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(a.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(a.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(a.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(a.header("cross-origin-resource-policy"), Some("same-origin"), "{path}");
        assert!(a.header("cache-control").is_some(), "{path}");
    }
    w.cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_it_is_for_this_machine_only() {
    let w = World::new().await;
    for (host, status) in [
        ("localhost:8080", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("rebound.example:8080", 421),
        ("10.0.0.1", 421),
    ] {
        assert_eq!(w.ask("GET", "/", &format!("Host: {host}\r\n"), "").await.status, status, "{host}");
    }
    for proxy in ["Forwarded: for=10.0.0.1", "X-Forwarded-For: 10.0.0.1", "Via: 1.1 proxy"] {
        let lines = format!("Host: localhost\r\n{proxy}\r\n");
        assert_eq!(w.ask("GET", "/", &lines, "").await.status, 421, "{proxy}");
    }
    assert_eq!(w.get("/login").await.status, 303, "there is nothing to log in to");
    let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let open = Dashboard::new(w.cluster.client().await.unwrap(), Options::default());
    let e = open.serve(everywhere).await.unwrap_err();
    assert!(matches!(e, ServeError::NoToken { .. }), "{e}");
    w.cluster.shutdown().await;
}

/// Who watches, and the first line of the answer.
async fn watch(w: &World) -> (TcpStream, String) {
    let mut s = TcpStream::connect(w.at).await.unwrap();
    s.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(s.read_u8().await.unwrap());
    }
    (s, String::from_utf8(line).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_may_watch_and_a_form_has_a_size() {
    const VIEWERS: usize = 64;
    const FORM: usize = 16 << 10;
    let w = World::new().await;
    let mut viewers = Vec::new();
    for n in 1..=VIEWERS {
        let (viewer, line) = watch(&w).await;
        assert!(line.contains("200"), "{n}: {line}");
        viewers.push(viewer);
    }
    let (_, line) = watch(&w).await;
    assert!(line.contains("503"), "{line}");
    viewers.pop();
    w.until("there is a place again", async |w| watch(w).await.1.contains("200").then_some(())).await;
    let form = async |bytes: usize| {
        w.ask("POST", "/login", "Content-Type: application/x-www-form-urlencoded\r\n", &"x".repeat(bytes))
            .await
    };
    assert_ne!(form(FORM).await.status, 413);
    assert_eq!(form(FORM + 1).await.status, 413);
    w.cluster.shutdown().await;
}
