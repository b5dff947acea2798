//! Addresses as people write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// `host:port`, with brackets around an IPv6 address.
pub fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Host (without brackets) and port of `host:port`; the port may be left out.
///
/// Errors: what is wrong, for people.
pub fn split(addr: &str) -> Result<(&str, Option<u16>), String> {
    if addr.parse::<Ipv6Addr>().is_ok() {
        return Ok((addr, None));
    }
    let (host, port) = match addr.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => (host, Some(port)),
        _ => (addr, None),
    };
    let (host, port) = match (host, port) {
        // `[::1]` without a port was cut inside its brackets.
        (h, Some(_)) if h.starts_with('[') && !h.ends_with(']') => (addr, None),
        other => other,
    };
    let port = port.map(|p| p.parse::<u16>().map_err(|_| format!("\"{p}\" is no port"))).transpose()?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c == '/') {
        return Err(format!("\"{addr}\" has no host"));
    }
    Ok((host, port))
}

/// Checks `host:port` with its port, and writes it in one way.
pub fn with_port(addr: &str) -> Result<String, String> {
    match split(addr)? {
        (host, Some(port)) if port != 0 => Ok(host_port(host, port)),
        _ => Err(format!("\"{addr}\" has no port")),
    }
}

/// The address that takes connections from everywhere: of both families where IPv6 is there.
pub fn any() -> IpAddr {
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// This machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_and_written() {
        for (text, host, port) in [
            ("m1:9421", "m1", Some(9421)),
            ("m1", "m1", None),
            ("10.0.0.7:1", "10.0.0.7", Some(1)),
            ("[::1]:9421", "::1", Some(9421)),
            ("[::1]", "::1", None),
            ("fe80::1", "fe80::1", None),
        ] {
            assert_eq!(split(text), Ok((host, port)), "{text}");
        }
        for bad in ["", ":9421", "m1:x", "m1:70000", "a b:1", "m/1:1"] {
            assert!(split(bad).is_err(), "{bad}");
        }
        assert_eq!(with_port("[::1]:5").unwrap(), "[::1]:5");
        assert_eq!(with_port("m1").unwrap_err(), "\"m1\" has no port");
        assert!(with_port("m1:0").is_err());
        assert_eq!(host_port("::1", 7), "[::1]:7");
        assert_eq!(host_port("m1", 7), "m1:7");
    }
}
