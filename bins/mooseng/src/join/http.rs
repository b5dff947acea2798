//! One POST over plain HTTP/1.1: a join needs no more of a client. Every wait and length is bounded.

use mooseng_core::{
    error::{MetaError, NetError},
    join::{JoinError, JoinRequest, Joined},
    wire,
};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout_at},
};

/// Wait for a connection to one master.
const CONNECT: Duration = Duration::from_secs(5);
/// Wait for its answer: longer than a master waits for its quorum.
const ANSWER: Duration = Duration::from_secs(20);
/// Bytes of an answer, head and body. Two certificates have some 1,500.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Asks one master. Its answer, or what kept it from answering.
pub(super) async fn join(addr: &str, request: &JoinRequest, until: Instant) -> Result<Joined, MetaError> {
    let connect = |cause: String| NetError::Connect { to: addr.into(), cause };
    let by = until.min(Instant::now() + CONNECT);
    let stream = timeout_at(by, TcpStream::connect(addr))
        .await
        .map_err(|_| connect("no answer in time".into()))?
        .map_err(|e| connect(format!("{e} (is it a master's client port, open for TCP?)")))?;
    let begin = Instant::now();
    let late = |_| {
        let millis = begin.elapsed().as_millis() as u64;
        NetError::Deadline { peer: addr.into(), millis }
    };
    let closed = |e: io::Error| NetError::Closed { peer: addr.into(), cause: e.to_string(), sent: true };
    let body = wire::encode(request);
    let exchange = exchange(stream, addr, &body);
    let bytes = timeout_at(until.min(begin + ANSWER), exchange).await.map_err(late)?.map_err(closed)?;
    let answer = read(addr, &bytes)?;
    Ok(answer?)
}

async fn exchange(mut stream: TcpStream, addr: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let head = format!(
        "POST /join HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// What a master says, out of an HTTP answer. Anything else is not a master's.
fn read(addr: &str, bytes: &[u8]) -> Result<Result<Joined, JoinError>, NetError> {
    let odd = |what: String| NetError::Malformed {
        what: format!("{addr} answers no joins: {what} (is it a master's client port, of this version?)"),
    };
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| odd("no HTTP".into()))?;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut first = head.split(' ');
    let (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) = (first.next(), first.next()) else {
        return Err(odd("no HTTP".into()));
    };
    // The status says nothing that the body does not say better.
    wire::decode(&bytes[end + 4..]).map_err(|e| odd(format!("HTTP {status}, {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mooseng_core::join::TokenId;

    fn http(status: &str, body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 {status}\r\ncontent-length: 1\r\n\r\n").as_bytes(), body].concat()
    }

    #[test]
    fn answers_are_read_and_what_is_none_is_told() {
        let joined = Joined { cert: Bytes::from_static(b"\r\n\r\n"), ca: Bytes::new() };
        let ok = wire::encode(&Ok::<_, JoinError>(joined.clone()));
        assert_eq!(read("m:1", &http("200 OK", &ok)).unwrap(), Ok(joined));
        let used = JoinError::Used(TokenId([1; 32]));
        let no = wire::encode(&Err::<Joined, _>(used.clone()));
        assert_eq!(read("m:1", &http("403 Forbidden", &no)).unwrap(), Err(used));
        for bad in [&b""[..], b"\x16\x03", &http("404 Not Found", b""), &http("200 OK", &ok[..ok.len() - 1])]
        {
            let said = read("m:1", bad).unwrap_err().to_string();
            assert!(said.contains("m:1 answers no joins"), "{said}");
        }
        assert!(read("m:1", &http("404 Not Found", b"")).unwrap_err().to_string().contains("HTTP 404"));
    }
}
