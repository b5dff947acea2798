//! Running daemons are sent what no member sends, while a client goes on undisturbed.

use super::{members::run, *};
use mooseng_core::{
    limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX},
    wire::{FrameHeader, FrameKind, HEADER_BYTES},
};
use mooseng_net::identity::{Identity, client_config};
use std::{io::ErrorKind, net::UdpSocket};

/// Bad messages of each sort to each port.
const ROUNDS: u64 = 100;
/// Longest silence of a daemon that should end a connection; its own handshake may take 5 s.
const SILENCE: Duration = Duration::from_secs(20);

/// Bytes that look random and are the same each time.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(step).collect()
}

/// What QUIC would begin with, and then lies: about its version, its lengths, its contents.
fn datagrams(seed: u64) -> Vec<Vec<u8>> {
    let len = (seed as usize * 37) % 1473;
    let mut long = noise(seed, 1200);
    long[0] |= 0xc0;
    let initial = |mut bytes: Vec<u8>, version: u32, id_len: u8| {
        bytes[1..5].copy_from_slice(&version.to_be_bytes());
        bytes[5] = id_len;
        bytes
    };
    vec![
        noise(seed, len),
        initial(long.clone(), 1, 8),
        // An identifier that would be longer than the datagram.
        initial(long.clone(), 1, 255),
        initial(long.clone(), 0, 8),
        initial(long[..64].to_vec(), 1, 20),
        initial(long, 0x0a0a_0a0a, 8),
    ]
}

fn shout(port: u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for seed in 1..=ROUNDS {
        for datagram in datagrams(seed) {
            // A full buffer of the receiver is no failure of ours.
            let _ = socket.send_to(&datagram, ("127.0.0.1", port));
        }
    }
}

/// A version that nobody speaks is answered with those that are spoken here.
fn asks_for_another_version(port: u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut hello = noise(7, 1200);
    hello[0] |= 0xc0;
    hello[1..6].copy_from_slice(&[0x0a, 0x0a, 0x0a, 0x0a, 8]);
    hello[14] = 0;
    let mut reply = [0; 1500];
    // Datagrams may be lost, above all behind so much noise.
    let len = wait_for("an answer to an unknown version of QUIC", || {
        socket.send_to(&hello, ("127.0.0.1", port)).ok()?;
        socket.recv(&mut reply).ok()
    });
    assert!(len > 7 && reply[0] & 0x80 != 0 && reply[1..5] == [0; 4], "no version negotiation: {reply:?}");
}

/// Whether the other side ends the connection: with an alert, a reset, or the end of the stream.
pub fn ends(mut s: impl std::io::Read) -> bool {
    let mut buf = [0; 4096];
    loop {
        match s.read(&mut buf) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

pub fn tcp(port: u16) -> TcpStream {
    let s = TcpStream::connect(("127.0.0.1", port)).unwrap();
    s.set_read_timeout(Some(SILENCE)).unwrap();
    s
}

/// What is no TLS, or TLS records that lie about their length.
fn babble(port: u16) {
    for seed in 1..=ROUNDS / 4 {
        let len = (seed as usize * 131) % 4000 + 1;
        let records: [&[u8]; 4] = [&[], &[22, 3, 1, 0xff, 0xff], &[22, 3, 1, 0, 1], &[23, 3, 3, 0x40, 0]];
        for record in records {
            let mut s = tcp(port);
            // It may have ended the connection before all was sent.
            let _ = s.write_all(&[record, &noise(seed, len)].concat());
            let _ = s.shutdown(Shutdown::Write);
            assert!(ends(s), "{record:?} with {len} bytes of noise did not end the connection");
        }
    }
}

/// Frame headers that lie about lengths, kinds, versions.
fn lies() -> [[u8; HEADER_BYTES]; 7] {
    let header = |kind, head_len: usize, body_len: usize| {
        let (head_len, body_len) = (head_len as u32, body_len as u32);
        FrameHeader { kind, flags: 0, request: 1, method: 1, head_len, body_len }.encode()
    };
    let altered = |at: usize| {
        let mut bytes = header(FrameKind::Hello, 0, 0);
        bytes[at] ^= 0xff;
        bytes
    };
    [
        header(FrameKind::Hello, HEAD_BYTES_MAX + 1, 0),
        header(FrameKind::Request, u32::MAX as usize, u32::MAX as usize),
        header(FrameKind::Hello, 0, BODY_BYTES_MAX + 1),
        // The most that is allowed, and then the end.
        header(FrameKind::Request, HEAD_BYTES_MAX, BODY_BYTES_MAX),
        altered(0),
        altered(4),
        altered(30),
    ]
}

/// A member that speaks TLS and then lies.
fn lie(port: u16, me: &Identity) {
    for lie in lies() {
        let mut s = raw::tls(port, client_config(me).unwrap());
        s.write_all(&lie).unwrap();
        let _ = s.write_all(&noise(3, 5000));
        s.conn.send_close_notify();
        let _ = s.flush();
        assert!(ends(s), "{lie:?} did not end the connection");
    }
}

/// A member that speaks QUIC and then lies: in place of its hello, after it, and on streams of its own.
async fn lie_over_quic(port: u16, me: &Identity) {
    for (lie, greets) in lies().into_iter().flat_map(|lie| [(lie, false), (lie, true)]) {
        let (_endpoint, connection) = raw::quic(port, client_config(me).unwrap()).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        if greets {
            send.write_all(&raw::hello()).await.unwrap();
            receive.read(&mut [0; 64]).await.unwrap().unwrap();
        }
        // It may have ended the connection before all was sent.
        let _ = send.write_all(&[&lie[..], &noise(3, 5000)].concat()).await;
        let _ = send.finish();
        let ended = tokio::time::timeout(SILENCE, connection.closed()).await;
        assert!(ended.is_ok(), "{lie:?}, after a hello: {greets}, did not end the connection");
    }
    let (_endpoint, connection) = raw::quic(port, client_config(me).unwrap()).await.unwrap();
    let (mut shared, mut answers) = connection.open_bi().await.unwrap();
    shared.write_all(&raw::hello()).await.unwrap();
    answers.read(&mut [0; 64]).await.unwrap().unwrap();
    for lie in lies() {
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        let _ = send.write_all(&[&lie[..], &noise(5, 5000)].concat()).await;
        let _ = send.finish();
        // A stream that is no call ends with an error, and costs nobody else his.
        let told = tokio::time::timeout(SILENCE, receive.read_to_end(1 << 20)).await.unwrap();
        let error = told.as_ref().is_ok_and(|frame| frame.get(5) == Some(&(FrameKind::Error as u8)));
        assert!(error || told.is_err(), "{lie:?}: {told:?}");
        let mut aside = connection.open_uni().await.unwrap();
        let _ = aside.write_all(&lie).await;
    }
    assert!(connection.close_reason().is_none());
    let ask = raw::header(FrameKind::Request, 77, 0);
    shared.write_all(&ask).await.unwrap();
    let mut answer = [0; HEADER_BYTES];
    answers.read_exact(&mut answer).await.unwrap();
    let answer = FrameHeader::decode(&answer).unwrap();
    assert_eq!((answer.kind, answer.request), (FrameKind::Error, 77), "the connection goes on");
}

/// While `disturb` is at work, a client writes a file through a pipe, and another reads.
pub fn a_client_goes_on(transport: &'static str, disturb: impl Fn(&Site)) {
    let site = Site::new(transport);
    let mut master = site.start_master();
    master.wait_ready(site.master[2]);
    let mut chunkserver = site.start_chunkserver();
    chunkserver.wait_ready(site.chunkserver[1]);
    fs::write(site.path("before"), "before").unwrap();
    site.ok(&["put", &site.path("before"), "/before"]);

    let content = noise(11, 12 << 20);
    let mut put = site.verb(&["put", "-", "/during"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = put.stdin.take().unwrap();
    for part in content.chunks(6 << 20) {
        pipe.write_all(part).unwrap();
        disturb(&site);
        assert_eq!(site.ok(&["cat", "/before"]), "before");
    }
    drop(pipe);
    let out = put.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    site.ok(&["get", "/during", &site.path("back")]);
    assert!(fs::read(site.path("back")).unwrap() == content, "what was written meanwhile differs");
    for (daemon, port) in [(&mut master, site.master[2]), (&mut chunkserver, site.chunkserver[1])] {
        daemon.wait_ready(port);
        assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    }
}

#[test]
fn malformed_datagrams_disturb_nobody() {
    a_client_goes_on("quic", |site| {
        for port in [site.master[0], site.master[1], site.chunkserver[0]] {
            shout(port);
            asks_for_another_version(port);
        }
    });
}

#[test]
fn frames_that_lie_inside_quic_disturb_nobody() {
    a_client_goes_on("quic", |site| {
        for port in [site.master[0], site.master[1], site.chunkserver[0]] {
            run(lie_over_quic(port, &site.identity("client-1")));
        }
    });
}

#[test]
fn malformed_tls_and_frames_that_lie_disturb_nobody() {
    a_client_goes_on("tcp", |site| {
        let client = Identity::load(Path::new(&site.path("c/client-1"))).unwrap();
        for port in [site.master[0], site.master[1], site.chunkserver[0]] {
            babble(port);
            lie(port, &client);
        }
    });
}
