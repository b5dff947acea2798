//! Before there is a client: who looks is told so, and need not wait.

use std::{convert::Infallible, io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Longest time that one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries when connections cannot be taken, as when there are no file descriptors.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of a request's head that are looked at.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Requests at a time.
const REQUESTS_MAX: usize = 64;

static ROOM: Semaphore = Semaphore::const_new(REQUESTS_MAX);

/// Answers every request with 503 and why, and `/livez` with 200, until the future is dropped: for the time before a
/// cluster's masters answer for the first time.
pub async fn turn_away(listener: &TcpListener) -> Infallible {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "a connection could not be taken");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        // Who finds no room is closed: it may come again.
        if let Ok(permit) = ROOM.try_acquire() {
            tokio::spawn(async move {
                let _permit = permit;
                // Whoever goes away while it is told needs no answer.
                let _ = tokio::time::timeout(PATIENCE, tell(stream)).await;
            });
        }
    }
}

async fn tell(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let (status, text) = match head.starts_with(b"GET /livez ") {
        true => ("200 OK", "ok\n"),
        false => (
            "503 Service Unavailable",
            "The dashboard has no session with the masters yet, and tries again.\nLook whether most masters run and \
             reach each other, whether --master-addrs names them, and at the dashboard's log.\n",
        ),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n\
         Cache-Control: no-store\r\nRetry-After: 2\r\nRefresh: 2\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_looks_is_told_to_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let ask = async |path: &str| {
            let mut s = TcpStream::connect(at).await.unwrap();
            s.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
            let mut text = String::new();
            s.read_to_string(&mut text).await.unwrap();
            text
        };
        let asked = async {
            let (page, live) = (ask("/").await, ask("/livez").await);
            assert!(page.starts_with("HTTP/1.1 503 ") && page.contains("--master-addrs"), "{page}");
            assert!(live.starts_with("HTTP/1.1 200 ") && live.ends_with("ok\n"), "{live}");
        };
        tokio::select! {
            ended = turn_away(&listener) => panic!("{ended:?}"),
            () = asked => {}
        }
    }
}
