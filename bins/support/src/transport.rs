//! The one place that picks a transport.

use crate::node::TransportKind;
use mooseng_core::net::Transport;
use mooseng_net::{
    identity::Identity,
    quic::{QuicOptions, QuicTransport},
    tcp::{TakeOther, TcpOptions, TcpTransport},
};
use std::sync::Arc;

/// A transport of this kind, as this identity. `other` takes connections to a port of the `tcp`
/// transport that do not begin with TLS.
pub fn transport(
    kind: TransportKind,
    me: &Identity,
    other: Option<TakeOther>,
) -> anyhow::Result<Arc<dyn Transport>> {
    Ok(match kind {
        TransportKind::Quic => QuicTransport::new(me, QuicOptions::default())?,
        TransportKind::Tcp => TcpTransport::new(me, TcpOptions { other })?,
    })
}
