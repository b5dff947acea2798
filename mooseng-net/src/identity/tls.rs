//! TLS 1.3 between members of one cluster, each proving itself to the other.

use super::{Identity, bad, foreign, peer_of};
use mooseng_core::{error::NetError, ids::ClusterId, wire::ALPN};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// AES-128-GCM first: the fastest where the processor has AES instructions.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

/// Accepts members of one cluster, whatever host they are on.
#[derive(Debug)]
struct Members {
    cluster: ClusterId,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Members {
    fn new(me: &Identity) -> Result<Arc<Self>, NetError> {
        let mut roots = RootCertStore::empty();
        roots.add(me.ca.clone()).map_err(|e| bad("the cluster's authority", e))?;
        let (roots, provider) = (Arc::new(roots), provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| bad("the cluster's authority", e))?;
        Ok(Arc::new(Self { cluster: me.peer.cluster, roots, provider, clients }))
    }

    /// The certificate names a member of our cluster.
    fn member(&self, cert: &CertificateDer<'_>) -> Result<(), Error> {
        let refuse =
            |e: NetError| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(e))));
        let peer = peer_of(cert).map_err(refuse)?;
        if peer.cluster != self.cluster {
            return Err(refuse(bad(&peer.name, foreign(peer.cluster, self.cluster))));
        }
        Ok(())
    }

    fn signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }
}

/// Checks that the authority signed a certificate, and that it is valid now.
pub(super) fn check_signed(
    ca: &CertificateDer<'static>,
    cert: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<(), NetError> {
    let refuse = |e: Error| {
        let cause = match &e {
            Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => format!("it is not valid at this time: check this machine's clock ({e})"),
            _ => format!("it is not signed by the cluster's authority: {e}"),
        };
        bad("the certificate", cause)
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(refuse)?;
    let parsed = ParsedCertificate::try_from(cert).map_err(refuse)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms).map_err(refuse)
}

fn only_tls13() -> Error {
    Error::General("only TLS 1.3 is spoken here".into())
}

impl ServerCertVerifier for Members {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The name comes first: a foreign cluster then gets its own cause, not "unknown issuer".
        self.member(cert)?;
        let parsed = ParsedCertificate::try_from(cert)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }
    fn verify_client_cert(
        &self,
        cert: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.member(cert)?;
        self.clients.verify_client_cert(cert, intermediates, now)
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn alpn() -> Vec<Vec<u8>> {
    ALPN.iter().map(|name| name.to_vec()).collect()
}

/// TLS of the connecting side: TLS 1.3 only, mutual, no early data.
pub fn client_config(me: &Identity) -> Result<ClientConfig, NetError> {
    let refuse = |e: Error| bad(&me.peer.name, e);
    let members = Members::new(me)?;
    let mut config = ClientConfig::builder_with_provider(members.provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(refuse)?
        .dangerous()
        .with_custom_certificate_verifier(members)
        .with_client_auth_cert(vec![me.cert.clone()], me.key.clone_key())
        .map_err(refuse)?;
    config.alpn_protocols = alpn();
    // A resumed session would skip the check of validity.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// TLS of the listening side: the same, and a client certificate is required.
pub fn server_config(me: &Identity) -> Result<ServerConfig, NetError> {
    let refuse = |e: Error| bad(&me.peer.name, e);
    let members = Members::new(me)?;
    let mut config = ServerConfig::builder_with_provider(members.provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(refuse)?
        .with_client_cert_verifier(members)
        .with_single_cert(vec![me.cert.clone()], me.key.clone_key())
        .map_err(refuse)?;
    config.alpn_protocols = alpn();
    config.send_tls13_tickets = 0;
    Ok(config)
}
