//! Sockets and parameters of QUIC, from measurements.

use super::resets::Resets;
use crate::{
    identity::{Identity, client_config, server_config},
    socket::{IDLE_TIMEOUT, KEEP_ALIVE},
};
use mooseng_core::{error::NetError, limits::CALLS_IN_FLIGHT_MAX};
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{io, net::SocketAddr, sync::Arc};

/// Streams of their own, one way, at once; more wait for one to end.
const BULK_STREAMS_MAX: u32 = 256;
/// Bytes of one stream under way that the receiver has not polled: 10 Gbit/s at 2 ms, twice.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes sent and not acknowledged, of all streams.
const SEND_WINDOW_BYTES: u64 = 32 << 20;

/// Parameters of QUIC; the defaults are measured.
#[derive(Clone, Debug)]
pub struct QuicOptions {
    /// Bytes of each socket buffer that are asked for; the system may give less (on Linux
    /// `net.core.rmem_max` and `wmem_max`). 8 MiB: no loss on loopback at full speed.
    pub socket_buffer_bytes: usize,
    /// Largest UDP payload that is tried. 6,500: above about 6,550 quinn's segmentation exceeds
    /// 64 KiB and stalls; where only 1,500 go through, discovery finds that.
    pub mtu_max: u16,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self { socket_buffer_bytes: 8 << 20, mtu_max: 6500 }
    }
}

fn transport(options: &QuicOptions) -> Arc<TransportConfig> {
    let mut t = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(options.mtu_max);
    t.mtu_discovery_config(Some(mtu))
        .max_concurrent_bidi_streams(VarInt::from_u32(BULK_STREAMS_MAX + 1))
        .max_concurrent_uni_streams(VarInt::from_u32(CALLS_IN_FLIGHT_MAX as u32))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        // Bounded by the streams: a few that nobody polls must not stop the others.
        .receive_window(VarInt::MAX)
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32))))
        .keep_alive_interval(Some(KEEP_ALIVE));
    Arc::new(t)
}

fn unusable(me: &Identity, e: impl std::fmt::Display) -> NetError {
    NetError::Identity { peer: me.peer().name, cause: e.to_string() }
}

pub(super) fn client(me: &Identity, options: &QuicOptions) -> Result<quinn::ClientConfig, NetError> {
    let tls = QuicClientConfig::try_from(client_config(me)?).map_err(|e| unusable(me, e))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(transport(options));
    Ok(config)
}

pub(super) fn server(me: &Identity, options: &QuicOptions) -> Result<quinn::ServerConfig, NetError> {
    let tls = QuicServerConfig::try_from(server_config(me)?).map_err(|e| unusable(me, e))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(transport(options)).migration(false);
    Ok(config)
}

/// A socket with large buffers at the first address that can be had.
pub(super) fn bind(
    addrs: &[SocketAddr],
    options: &QuicOptions,
    server: Option<(quinn::ServerConfig, Resets)>,
) -> io::Result<Endpoint> {
    let (server, resets) = server.unzip();
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for addr in addrs {
        match socket(*addr, options) {
            Ok(socket) => {
                let mut config = match resets {
                    Some(resets) => resets.config(socket.local_addr()?.as_socket().map_or(0, |a| a.port())),
                    None => EndpointConfig::default(),
                };
                config.max_udp_payload_size(options.mtu_max).map_err(io::Error::other)?;
                return Endpoint::new(config, server, socket.into(), Arc::new(TokioRuntime));
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => return Err(e),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn socket(addr: SocketAddr, options: &QuicOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        // Both families on the unspecified address.
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    // As much as the system gives: less costs speed, not correctness.
    let _ = socket.set_recv_buffer_size(options.socket_buffer_bytes);
    let _ = socket.set_send_buffer_size(options.socket_buffer_bytes);
    socket.bind(&addr.into())?;
    Ok(socket)
}
