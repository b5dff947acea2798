//! Who a node is: the cluster's certificate authority, the certificates it issues, their files.
//!
//! A certificate names its holder in one URI: `mooseng://CLUSTER/ROLE/NODE/NAME`. Host names do not
//! matter, so that addresses may change without new certificates.

mod files;
mod join;
#[cfg(test)]
mod tests;
mod tls;

pub use join::Joining;
pub use tls::{client_config, server_config};

use aws_lc_rs::hmac;
use mooseng_core::{
    attr::Timestamp,
    error::NetError,
    ids::ClusterId,
    join::{CaHash, Invite, check_node_name, sha256},
    limits::CERT_VALIDITY_MAX_SECS,
    net::{CertHash, PeerIdentity, Role},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use std::{fmt, path::Path, time::Duration};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Certificates begin this long before they are issued, so that clocks may differ.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// How long a cluster's authority is valid.
const CA_VALIDITY: Duration = Duration::from_secs(CERT_VALIDITY_MAX_SECS);

/// Where a master's identity directory has a copy of the cluster's authority, when joins by token
/// are to be answered: the authority's own files, in a directory that can be taken away as one.
pub const AUTHORITY_DIR: &str = "ca";

fn bad(peer: &str, cause: impl fmt::Display) -> NetError {
    NetError::Identity { peer: peer.into(), cause: cause.to_string() }
}

/// The authority of one cluster: who holds it decides who is a member.
pub struct ClusterCa {
    cluster: ClusterId,
    cert: CertificateDer<'static>,
    key: KeyPair,
}

impl fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterCa").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl ClusterCa {
    /// A new authority for `cluster`, valid for 20 years.
    pub fn create(cluster: ClusterId) -> Result<Self, NetError> {
        let mut params = params(UnixTime::now(), CA_VALIDITY);
        params.distinguished_name.push(DnType::CommonName, format!("MooseNG cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(format!("mooseng://{cluster}"))?];
        let key = KeyPair::generate().map_err(|e| bad("the new authority", e))?;
        let cert = params.self_signed(&key).map_err(|e| bad("the new authority", e))?;
        Ok(Self { cluster, cert: cert.der().clone(), key })
    }

    /// The cluster it stands for.
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// SHA-256 of its certificate.
    pub fn hash(&self) -> CaHash {
        CaHash(sha256(&self.cert))
    }

    /// Writes `ca.pem` and `ca.key` (mode 0600). Files that exist are never replaced.
    pub fn save(&self, dir: &Path) -> Result<(), NetError> {
        files::write_new(&dir.join("ca.key"), self.key.serialize_pem().as_bytes(), 0o600)?;
        files::write_new(&dir.join("ca.pem"), files::cert_pem(&self.cert).as_bytes(), 0o644)
    }

    /// Reads what [`ClusterCa::save`] wrote.
    pub fn load(dir: &Path) -> Result<Self, NetError> {
        let cert = files::read_cert(&dir.join("ca.pem"))?;
        let cluster = cluster_of_ca(&cert)?;
        let path = dir.join("ca.key");
        let at = |e: &dyn fmt::Display| bad(&path.display().to_string(), e);
        let key = KeyPair::try_from(&files::read_key(&path)?).map_err(|e| at(&e))?;
        let (_, parsed) = X509Certificate::from_der(&cert).map_err(|e| at(&e))?;
        if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
            return Err(at(&"it is not the key of the ca.pem beside it: copy both from one authority"));
        }
        Ok(Self { cluster, cert, key })
    }

    /// A certificate for one node, valid from now for `validity`.
    ///
    /// Errors: a name that is empty, over 64 bytes, or of other than `A-Z a-z 0-9 . _ -`.
    pub fn issue(&self, role: Role, node: u64, name: &str, validity: Duration) -> Result<Identity, NetError> {
        self.issue_at(UnixTime::now(), role, node, name, validity)
    }

    fn issue_at(
        &self,
        now: UnixTime,
        role: Role,
        node: u64,
        name: &str,
        validity: Duration,
    ) -> Result<Identity, NetError> {
        let invite = Invite { role, node, name: name.into() };
        let key = KeyPair::generate().map_err(|e| bad(name, e))?;
        let cert = self.certify(now, &invite, validity, &key)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Identity::new(self.cert.clone(), cert, key)
    }

    /// The certificate of whoever has the private half of `key`.
    fn certify(
        &self,
        now: UnixTime,
        invite: &Invite,
        validity: Duration,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, NetError> {
        let Invite { role, node, name } = invite;
        check_node_name(name).map_err(|e| bad(name, e))?;
        let mut params = params(now, validity);
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![uri(format!("mooseng://{}/{role}/{node}/{name}", self.cluster))?];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.cert, &self.key).map_err(|e| bad(name, e))?;
        let cert = params.signed_by(key, &issuer).map_err(|e| bad(name, e))?;
        Ok(cert.der().clone())
    }
}

/// When a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// From then on.
    pub from: Timestamp,
    /// Until then.
    pub until: Timestamp,
}

/// A node's certificate, its key, and the authority it trusts.
pub struct Identity {
    ca: CertificateDer<'static>,
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    peer: PeerIdentity,
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        let (ca, cert) = (self.ca.clone(), self.cert.clone());
        Self { ca, cert, key: self.key.clone_key(), peer: self.peer.clone() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Identity {
    fn new(
        ca: CertificateDer<'static>,
        cert: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, NetError> {
        let peer = peer_of(&cert)?;
        let cluster = cluster_of_ca(&ca)?;
        if peer.cluster != cluster {
            return Err(bad(&peer.name, foreign(peer.cluster, cluster)));
        }
        Ok(Self { ca, cert, key, peer })
    }

    /// Who its holder is, as others see it.
    pub fn peer(&self) -> PeerIdentity {
        self.peer.clone()
    }

    /// SHA-256 of the certificate of the authority that it trusts.
    pub fn ca_hash(&self) -> CaHash {
        CaHash(sha256(&self.ca))
    }

    /// Bytes that only the holder of the private key can know, for one purpose, the same after a restart.
    pub(crate) fn derived(&self, purpose: &str) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.secret_der());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&key, purpose.as_bytes()).as_ref());
        bytes
    }

    /// Refuses a certificate that is not valid at this time, or not of the authority beside it.
    pub fn check_now(&self) -> Result<(), NetError> {
        tls::check_signed(&self.ca, &self.cert, UnixTime::now())
    }

    /// From when until when the certificate is valid.
    pub fn validity(&self) -> Result<Validity, NetError> {
        let (_, parsed) = X509Certificate::from_der(&self.cert).map_err(|e| bad(&self.peer.name, e))?;
        let of = |t: x509_parser::time::ASN1Time| Timestamp::new(t.timestamp(), 0);
        Ok(Validity { from: of(parsed.validity.not_before), until: of(parsed.validity.not_after) })
    }

    /// Writes `ca.pem`, `node.pem` and `node.key` (mode 0600). Files that exist are never replaced.
    pub fn save(&self, dir: &Path) -> Result<(), NetError> {
        files::write_new(&dir.join("node.key"), files::key_pem(&self.key).as_bytes(), 0o600)?;
        files::write_new(&dir.join("node.pem"), files::cert_pem(&self.cert).as_bytes(), 0o644)?;
        files::write_new(&dir.join("ca.pem"), files::cert_pem(&self.ca).as_bytes(), 0o644)
    }

    /// Reads what [`Identity::save`] wrote; refuses a key that others may read.
    pub fn load(dir: &Path) -> Result<Self, NetError> {
        let ca = files::read_cert(&dir.join("ca.pem"))?;
        let cert = files::read_cert(&dir.join("node.pem"))?;
        Self::new(ca, cert, files::read_key(&dir.join("node.key"))?)
    }
}

fn foreign(theirs: ClusterId, ours: ClusterId) -> String {
    format!(
        "its certificate is of cluster {theirs}, ours is {ours}: check the address, or have this \
         cluster's authority issue a certificate"
    )
}

fn params(now: UnixTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs());
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + validity;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

fn uri(text: String) -> Result<SanType, NetError> {
    Ok(SanType::URI(text.as_str().try_into().map_err(|e: rcgen::Error| bad(&text, e))?))
}

/// The one URI of a certificate that begins with our scheme, without the scheme.
fn our_uri(cert: &CertificateDer<'_>) -> Result<String, NetError> {
    let what = "the certificate";
    let (_, parsed) = X509Certificate::from_der(cert).map_err(|e| bad(what, e))?;
    let names = parsed.subject_alternative_name().map_err(|e| bad(what, e))?;
    let mut ours = names.iter().flat_map(|n| &n.value.general_names).filter_map(|n| match n {
        GeneralName::URI(uri) => uri.strip_prefix("mooseng://"),
        _ => None,
    });
    match (ours.next(), ours.next()) {
        (Some(uri), None) => Ok(uri.into()),
        _ => Err(bad(what, "it has not one mooseng:// name: have the cluster's authority issue one")),
    }
}

fn cluster_of_ca(cert: &CertificateDer<'_>) -> Result<ClusterId, NetError> {
    our_uri(cert)?.parse().map_err(|e| bad("the cluster's authority", e))
}

/// Whom a certificate names. Says nothing about who signed it.
pub(crate) fn peer_of(cert: &CertificateDer<'_>) -> Result<PeerIdentity, NetError> {
    let uri = our_uri(cert)?;
    let parts: Vec<&str> = uri.split('/').collect();
    let [cluster, role, node, name] = parts[..] else {
        return Err(bad(&uri, "its name is not mooseng://CLUSTER/ROLE/NODE/NAME"));
    };
    check_node_name(name).map_err(|e| bad(name, e))?;
    Ok(PeerIdentity {
        cluster: cluster.parse().map_err(|e| bad(name, e))?,
        role: role.parse::<Role>().map_err(|e| bad(name, e))?,
        node: node.parse().map_err(|e| bad(name, e))?,
        name: name.into(),
        cert_hash: CertHash(sha256(cert)),
    })
}
