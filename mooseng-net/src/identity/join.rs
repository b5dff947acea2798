//! Both ends of a join: the new node's key and request, the authority's signature.

use super::{ClusterCa, Identity, bad, tls};
use bytes::Bytes;
use mooseng_core::{
    error::NetError,
    join::{Authority, CaHash, JoinError, JoinRequest, JoinToken, Joined, Promise, sha256},
};
use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKey};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime,
};
use std::time::Duration;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The key of a signing request that its holder has, and of a kind that we use.
fn key_of(csr: &[u8]) -> Result<PublicKey, JoinError> {
    let bad = |cause: String| JoinError::Csr(cause);
    let csr = CertificateSigningRequestDer::from(csr);
    let parsed = CertificateSigningRequestParams::from_der(&csr).map_err(|e| bad(e.to_string()))?;
    if parsed.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(bad("its key is not ECDSA P-256".into()));
    }
    Ok(parsed.public_key)
}

impl Authority for ClusterCa {
    fn check(&self, csr: &[u8]) -> Result<(), JoinError> {
        key_of(csr).map(drop)
    }

    fn sign(&self, csr: &[u8], promise: &Promise) -> Result<Joined, JoinError> {
        let key = key_of(csr)?;
        let validity = Duration::from_secs(promise.validity_secs);
        let cert = self
            .certify(UnixTime::now(), &promise.invite, validity, &key)
            .map_err(|e| JoinError::Internal(e.to_string()))?;
        Ok(Joined { cert: Bytes::copy_from_slice(&cert), ca: Bytes::copy_from_slice(&self.cert) })
    }
}

/// A node that is about to join: its new key, which leaves this machine never.
pub struct Joining {
    token: JoinToken,
    key: KeyPair,
    csr: Bytes,
}

impl std::fmt::Debug for Joining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joining").field("token", &self.token).finish_non_exhaustive()
    }
}

impl Joining {
    /// Draws a key.
    pub fn new(token: JoinToken) -> Result<Self, NetError> {
        let failed = |e: rcgen::Error| bad(&token.invite.name, e);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        // It names nobody: what a certificate says is the token's matter.
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(failed)?;
        let csr = Bytes::copy_from_slice(csr.der());
        Ok(Self { token, key, csr })
    }

    /// What masters are asked: the same bytes however often, so that an answer that was lost on
    /// its way is given again.
    pub fn request(&self) -> JoinRequest {
        JoinRequest::new(&self.token, self.csr.clone())
    }

    /// The identity, when the answer is what the token promised: nothing in it is believed without
    /// proof.
    pub fn accept(&self, joined: &Joined) -> Result<Identity, NetError> {
        let (token, what) = (&self.token, "the answer to the join");
        if CaHash(sha256(&joined.ca)) != token.ca {
            return Err(bad(
                what,
                "its authority is not the one that the token names: somebody else answered, or the \
                 cluster has another authority now; check --master-addrs, and have another token made",
            ));
        }
        let ca = CertificateDer::from(joined.ca.to_vec());
        let cert = CertificateDer::from(joined.cert.to_vec());
        tls::check_signed(&ca, &cert, UnixTime::now())?;
        let (_, parsed) = X509Certificate::from_der(&cert).map_err(|e| bad(what, e))?;
        if *parsed.public_key().subject_public_key.data != *self.key.public_key_raw() {
            return Err(bad(what, "its certificate is for another key; try again"));
        }
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let identity = Identity::new(ca, cert, key)?;
        let (peer, invite) = (&identity.peer, &token.invite);
        if peer.cluster != token.cluster
            || (peer.role, peer.node, &peer.name) != (invite.role, invite.node, &invite.name)
        {
            let cause = format!("its certificate names {} {}, the token {invite}", peer.role, peer.name);
            return Err(bad(what, cause));
        }
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mooseng_core::{
        attr::Timestamp,
        ids::ClusterId,
        join::{Invite, TokenSeed},
        net::Role,
    };

    fn ca(n: u128) -> ClusterCa {
        ClusterCa::create(ClusterId(uuid::Uuid::from_u128(n))).unwrap()
    }
    fn invite(node: u64) -> Invite {
        Invite { role: Role::Chunkserver, node, name: "c".into() }
    }
    fn token(ca: &ClusterCa) -> JoinToken {
        let (cluster, seed) = (ca.cluster(), TokenSeed([5; 32]));
        JoinToken { cluster, ca: ca.hash(), seed, invite: invite(4), masters: vec![] }
    }
    fn promise(node: u64) -> Promise {
        Promise { invite: invite(node), expires: Timestamp(0), validity_secs: 86_400 }
    }

    #[test]
    fn a_node_joins_with_a_key_that_it_made() {
        let ca = ca(1);
        let joining = Joining::new(token(&ca)).unwrap();
        let request = joining.request();
        assert_eq!(request, joining.request(), "a repeat is the same");
        request.verify().unwrap();
        ca.check(&request.csr).unwrap();
        let identity = joining.accept(&ca.sign(&request.csr, &promise(4)).unwrap()).unwrap();
        let peer = identity.peer();
        assert_eq!((peer.role, peer.node, &peer.name[..]), (Role::Chunkserver, 4, "c"));
        let dir = tempfile::tempdir().unwrap();
        identity.save(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap().peer(), peer);
    }

    #[test]
    fn answers_that_are_not_what_was_promised_are_refused() {
        let (ours, joining) = (ca(1), Joining::new(token(&ca(1))).unwrap());
        let e = |joined: &Joined, joining: &Joining| joining.accept(joined).unwrap_err().to_string();
        // The same cluster id under another key.
        let joined = ours.sign(&joining.csr, &promise(4)).unwrap();
        assert!(e(&joined, &joining).contains("not the one that the token names"));

        let joining = Joining::new(token(&ours)).unwrap();
        let good = ours.sign(&joining.csr, &promise(4)).unwrap();
        joining.accept(&good).unwrap();
        let forged = ca(1).sign(&joining.csr, &promise(4)).unwrap();
        assert!(e(&Joined { ca: good.ca.clone(), ..forged }, &joining).contains("not signed by"));
        let other_key = ours.sign(&Joining::new(token(&ours)).unwrap().csr, &promise(4)).unwrap();
        assert!(e(&other_key, &joining).contains("another key"));
        let other_node = ours.sign(&joining.csr, &promise(5)).unwrap();
        assert!(e(&other_node, &joining).contains("the token chunkserver c, number 4"));
        let past = UnixTime::since_unix_epoch(Duration::from_secs(86_400));
        let key = key_of(&joining.csr).unwrap();
        let ended = ours.certify(past, &invite(4), Duration::from_secs(60), &key).unwrap();
        let ended = Joined { cert: Bytes::copy_from_slice(&ended), ca: good.ca.clone() };
        assert!(e(&ended, &joining).contains("clock"));
        for at in 0..good.cert.len() {
            let mut cert = good.cert.to_vec();
            cert[at] ^= 1;
            assert!(joining.accept(&Joined { cert: cert.into(), ca: good.ca.clone() }).is_err(), "byte {at}");
        }
        for cert in [&b""[..], b"x", &good.cert[..good.cert.len() - 1]] {
            let cert = Bytes::copy_from_slice(cert);
            assert!(joining.accept(&Joined { cert, ca: good.ca.clone() }).is_err());
        }
    }

    #[test]
    fn signing_requests_that_make_no_sense_are_refused() {
        let ca = ca(1);
        let (csr, mut accepted) = (Joining::new(token(&ca)).unwrap().csr, 0);
        for at in 0..csr.len() {
            let mut altered = csr.to_vec();
            altered[at] ^= 1;
            // Some wrapping around what is signed is not looked at; the key is.
            if let Ok(key) = key_of(&altered) {
                assert_eq!(key, key_of(&csr).unwrap(), "byte {at}");
                accepted += 1;
            }
        }
        assert!(accepted < 8, "{accepted} altered requests were accepted");
        for bad in [&b""[..], b"csr", &csr[..csr.len() / 2]] {
            assert!(matches!(ca.check(bad), Err(JoinError::Csr(_))));
            assert!(ca.sign(bad, &promise(4)).is_err());
        }
        let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other = CertificateParams::default().serialize_request(&ed).unwrap();
        assert!(ca.check(other.der()).unwrap_err().to_string().contains("P-256"));
    }

    #[test]
    fn what_a_request_asks_for_beside_its_key_does_not_count() {
        let ca = ca(1);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["admin".into()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let csr = params.serialize_request(&key).unwrap();
        if let Ok(joined) = ca.sign(csr.der(), &promise(4)) {
            let (_, cert) = X509Certificate::from_der(&joined.cert).unwrap();
            assert!(!cert.is_ca());
            assert_eq!(super::super::peer_of(&CertificateDer::from(joined.cert.to_vec())).unwrap().node, 4);
        }
    }
}
