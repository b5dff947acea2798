//! Addresses, sockets, and what their errors mean.

use mooseng_core::{error::NetError, wire::decode};
use quinn::VarInt;
use rustls::{AlertDescription, CertificateError};
use std::{error::Error, io, net::SocketAddr, time::Duration};

/// How long the way to a peer may take, from its name to its hello.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What the TLS handshake names as the server; our certificates name nodes, not hosts.
pub(crate) const SERVER_NAME: &str = "node.mooseng.invalid";
/// Why a QUIC connection is closed whose member has too many: the reason is the encoded error.
pub(crate) const TURNED_AWAY: VarInt = VarInt::from_u32(3);
/// Silence after which a peer is asked whether it is there.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Silence after which a peer counts as gone.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(8);

/// The addresses of `host:port`, looked up anew at each connect.
pub(crate) async fn resolve(to: &str) -> Result<Vec<SocketAddr>, NetError> {
    let failed = |cause: String| NetError::Connect { to: to.into(), cause };
    let found: Vec<_> = tokio::net::lookup_host(to)
        .await
        .map_err(|e| failed(format!("{e} (an address is HOST:PORT or [V6]:PORT)")))?
        .collect();
    if found.is_empty() {
        return Err(failed("the name has no address".into()));
    }
    Ok(found)
}

/// Where to listen: `host:port`, `[v6]:port`, or `:port` for every address.
pub(crate) async fn listen_addrs(at: &str) -> Result<Vec<SocketAddr>, NetError> {
    if let Some(port) = at.strip_prefix(':').and_then(|p| p.parse::<u16>().ok()) {
        return Ok(vec![([0u16; 8], port).into(), ([0u8; 4], port).into()]);
    }
    resolve(at).await.map_err(|e| match e {
        NetError::Connect { to, cause } => NetError::Listen { at: to, cause },
        other => other,
    })
}

pub(crate) fn listen_error(at: &str, e: &io::Error) -> NetError {
    let cause = match e.kind() {
        io::ErrorKind::AddrInUse => "another process uses this port: stop it or choose another port".into(),
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: name one of its own, or listen on :PORT".into()
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges: choose a higher one".into(),
        _ => e.to_string(),
    };
    NetError::Listen { at: at.into(), cause }
}

/// A refusal by TLS, or of one connection too many, anywhere in an error's chain.
pub(crate) fn refusal(peer: &str, error: &(dyn Error + 'static)) -> Option<NetError> {
    let identity = |cause: String| Some(NetError::Identity { peer: peer.into(), cause });
    let mut next = Some(error);
    while let Some(e) = next {
        match e.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(why)) => return identity(certificate(why)),
            Some(rustls::Error::AlertReceived(alert)) => return identity(alert_cause(*alert)),
            _ => {}
        }
        let quic = e.downcast_ref::<quinn::ConnectionError>().or_else(|| match e.downcast_ref() {
            Some(quinn::ReadError::ConnectionLost(e)) => Some(e),
            _ => None,
        });
        match quic {
            Some(quinn::ConnectionError::TransportError(e)) if is_crypto(e.code) => {
                return identity(format!("its certificate does not hold: {}", e.reason));
            }
            Some(quinn::ConnectionError::ConnectionClosed(e)) if is_crypto(e.error_code) => {
                let alert = AlertDescription::from((u64::from(e.error_code) & 0xff) as u8);
                return identity(alert_cause(alert));
            }
            Some(quinn::ConnectionError::ApplicationClosed(e)) if e.error_code == TURNED_AWAY => {
                return decode(&e.reason).ok();
            }
            _ => {}
        }
        next = source(e);
    }
    None
}

/// An `io::Error` does not show what it holds as its source.
fn source<'a>(e: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let held = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    held.map(|e| e as &(dyn Error + 'static)).or_else(|| e.source())
}

/// An error with the first of its causes: "connection lost" may be a reset or a silence.
pub(crate) fn with_cause(error: &(dyn Error + 'static)) -> String {
    let first = std::iter::successors(source(error), |e| source(*e)).last().map(ToString::to_string);
    match (error.to_string(), first) {
        (outer, Some(first)) if outer != first => format!("{outer}: {first}"),
        (outer, _) => outer,
    }
}

fn is_crypto(code: quinn::TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: issue a new one, or set the clocks right".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: set the clocks right".into()
        }
        CertificateError::Other(why) => match why.0.downcast_ref() {
            Some(NetError::Identity { cause, .. }) => cause.clone(),
            _ => format!("its certificate does not hold: {}", why.0),
        },
        other => format!("its certificate does not hold: {other}"),
    }
}

/// What it means that the other side ended a handshake with this alert.
fn alert_cause(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::CertificateExpired => "expired (or the clocks differ): issue a new one",
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "of another authority: have this cluster's authority issue one"
        }
        AlertDescription::CertificateRequired => "missing: have this cluster's authority issue one",
        AlertDescription::NoApplicationProtocol => {
            return "it speaks no protocol version that is spoken here: upgrade the older side".into();
        }
        other => {
            return format!(
                "it refused this node's certificate ({other:?}): check that both are of one cluster"
            );
        }
    };
    format!("it refused this node's certificate as {why}")
}
