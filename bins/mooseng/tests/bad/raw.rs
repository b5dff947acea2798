//! Connections on which a test says what it likes, byte by byte.

use super::*;
use mooseng_core::wire::{ALPN, FrameHeader, FrameKind, HEADER_BYTES, encode};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::ClientConfig;
use std::{net::SocketAddr, sync::Arc};

/// What certificates of nodes are asked for as a name.
const NAME: &str = "node.mooseng.invalid";

/// A client that shows no certificate and believes any.
pub fn nobody() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    config
}

/// The same with the certificate of one who may belong to another cluster.
pub fn anybody(me: &Path) -> ClientConfig {
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let cert = CertificateDer::from_pem_file(me.join("node.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(me.join("node.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(vec![cert], key)
        .unwrap();
    config.alpn_protocols = ALPN.iter().map(|name| name.to_vec()).collect();
    config
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A QUIC connection whose handshake is done on this side; the other side may think otherwise.
pub async fn quic(port: u16, tls: ClientConfig) -> Result<(quinn::Endpoint, quinn::Connection), String> {
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let connection = endpoint.connect_with(config, to, NAME).unwrap().await.map_err(|e| e.to_string())?;
    Ok((endpoint, connection))
}

/// A TLS connection over TCP, likewise.
pub fn tls(port: u16, config: ClientConfig) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let tls = rustls::ClientConnection::new(Arc::new(config), NAME.try_into().unwrap()).unwrap();
    rustls::StreamOwned::new(tls, wire::tcp(port))
}

pub fn header(kind: FrameKind, request: u64, head_len: usize) -> [u8; HEADER_BYTES] {
    fields(kind, request, head_len).encode()
}

pub fn fields(kind: FrameKind, request: u64, head_len: usize) -> FrameHeader {
    FrameHeader { kind, flags: 0, request, method: 1, head_len: head_len as u32, body_len: 0 }
}

/// What each side says first: that it speaks version 1.
pub fn hello() -> Vec<u8> {
    let versions = encode(&(1u8, 1u8));
    [&header(FrameKind::Hello, 0, versions.len())[..], &versions].concat()
}
