use super::*;
use mooseng_core::limits::NODE_NAME_BYTES_MAX;
use rustls::{ClientConnection, ServerConnection};
use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

#[derive(Debug)]
struct NoCertificate;
impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

const DAY: Duration = Duration::from_secs(86_400);

fn ca(n: u128) -> ClusterCa {
    ClusterCa::create(ClusterId(uuid::Uuid::from_u128(n))).unwrap()
}

/// Runs a handshake in memory: what each side thinks of the other.
fn handshake(client: rustls::ClientConfig, server: &Identity) -> Result<(), rustls::Error> {
    let mut c = ClientConnection::new(Arc::new(client), "any.invalid".try_into().unwrap()).unwrap();
    let mut s = ServerConnection::new(Arc::new(server_config(server).unwrap())).unwrap();
    for _ in 0..8 {
        let mut bytes = Vec::new();
        while c.wants_write() {
            c.write_tls(&mut bytes).unwrap();
        }
        s.read_tls(&mut &bytes[..]).unwrap();
        s.process_new_packets()?;
        bytes.clear();
        while s.wants_write() {
            s.write_tls(&mut bytes).unwrap();
        }
        c.read_tls(&mut &bytes[..]).unwrap();
        c.process_new_packets()?;
    }
    assert!(!c.is_handshaking() && !s.is_handshaking());
    assert_eq!(s.alpn_protocol(), Some(&b"mooseng/1"[..]));
    Ok(())
}

fn between(client: &Identity, server: &Identity) -> Result<(), rustls::Error> {
    handshake(client_config(client).unwrap(), server)
}

#[test]
fn members_of_a_cluster_accept_each_other_also_after_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let made = ca(1);
    made.save(dir.path()).unwrap();
    let ca = ClusterCa::load(dir.path()).unwrap();
    let server = made.issue(Role::Master, 3, "m3", DAY).unwrap();
    let peer = server.peer();
    assert_eq!((peer.role, peer.node, &peer.name[..], peer.cluster), (Role::Master, 3, "m3", ca.cluster()));
    let client = ca.issue(Role::Client, 0, "c", DAY).unwrap();
    assert_ne!(client.peer().cert_hash, peer.cert_hash);
    let dir = tempfile::tempdir().unwrap();
    client.save(dir.path()).unwrap();
    let client = Identity::load(dir.path()).unwrap();
    between(&client, &server).unwrap();
    assert!(client.save(dir.path()).is_err(), "files are never replaced");
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    ca(1).issue(Role::Client, 0, "c", DAY).unwrap().save(dir.path()).unwrap();
    let key = dir.path().join("node.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Identity::load(dir.path()).unwrap_err().to_string().contains("chmod 600"));
}

#[test]
fn an_authority_with_the_key_of_another_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    ca(1).save(one.path()).unwrap();
    ca(1).save(other.path()).unwrap();
    std::fs::copy(other.path().join("ca.key"), one.path().join("ca.key")).unwrap();
    assert!(ClusterCa::load(one.path()).unwrap_err().to_string().contains("not the key of the ca.pem"));
}

#[test]
fn foreign_forged_expired_and_absent_certificates_are_refused() {
    let ours = ca(1);
    let (me, server) =
        (ours.issue(Role::Client, 0, "c", DAY).unwrap(), ours.issue(Role::Master, 1, "m", DAY).unwrap());
    let foreign = ca(2).issue(Role::Master, 1, "m", DAY).unwrap();
    assert!(between(&me, &foreign).unwrap_err().to_string().contains("cluster"));
    assert!(between(&foreign, &server).is_err());
    // The same cluster id under another key.
    let forged = ca(1).issue(Role::Master, 1, "m", DAY).unwrap();
    assert!(between(&me, &forged).is_err() && between(&forged, &server).is_err());
    let past = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) - 2 * DAY);
    let old = ours.issue_at(past, Role::Master, 1, "m", DAY).unwrap();
    assert!(between(&me, &old).unwrap_err().to_string().contains("xpired"));
    let mut naked = client_config(&me).unwrap();
    naked.client_auth_cert_resolver = Arc::new(NoCertificate);
    assert!(handshake(naked, &server).is_err());
}

#[test]
fn names_are_bounded_at_the_edge() {
    let ca = ca(1);
    ca.issue(Role::Client, 0, &"n".repeat(NODE_NAME_BYTES_MAX), DAY).unwrap();
    for name in ["", "a/b", "ü", &"n".repeat(NODE_NAME_BYTES_MAX + 1)] {
        assert!(ca.issue(Role::Client, 0, name, DAY).is_err(), "{name}");
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn mutated(seed: &mut u64, base: &[u8]) -> Vec<u8> {
    let mut b = base.to_vec();
    for _ in 0..1 + next(seed) % 4 {
        let r = next(seed);
        let at = if b.is_empty() { 0 } else { (r >> 16) as usize % b.len() };
        match r % 6 {
            0 | 1 if !b.is_empty() => b[at] ^= 1 << ((r >> 48) % 8),
            2 if !b.is_empty() => b[at] = (r >> 48) as u8,
            3 => b.insert(at, (r >> 48) as u8),
            4 if r & 0x700 == 0 => b.truncate(at),
            _ => drop(b.splice(at..at, [0xff; 5])),
        }
    }
    b
}

/// What strangers show before they have proven anything, and what is in the files of an identity: never
/// a panic. Seeded: a failure names its input.
#[test]
fn no_certificate_breaks_its_reader() {
    let rounds: u64 =
        std::env::var("MOOSENG_FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(1_000_000);
    let made = ca(1).issue(Role::Chunkserver, 7, "c", DAY).unwrap();
    let (der, mut seed, mut members) = (made.cert.to_vec(), 1, 0);
    assert_eq!(peer_of(&made.cert).unwrap().node, 7);
    for _ in 0..rounds {
        let input = mutated(&mut seed, &der);
        let read = std::panic::catch_unwind(|| peer_of(&CertificateDer::from(&input[..])).is_ok());
        members += u64::from(*read.as_ref().unwrap_or(&false));
        assert!(read.is_ok(), "a certificate panicked: {input:02x?}");
    }
    assert!(members > rounds / 100, "the loop is not in vain: {members} still name somebody");
}

/// The same for the signing requests of joins (fewer: each that can be read has its signature verified), and
/// for the files as they are read.
#[test]
fn no_request_and_no_file_breaks_its_reader() {
    use rustls_pki_types::pem::PemObject as _;
    let rounds: u64 =
        std::env::var("MOOSENG_FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(1_000_000);
    let (ca, key) = (ca(1), KeyPair::generate().unwrap());
    let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let authority: &dyn mooseng_core::join::Authority = &ca;
    authority.check(&csr).unwrap();
    let mut seed = 1;
    for _ in 0..rounds / 20 {
        let input = mutated(&mut seed, &csr);
        let check = std::panic::AssertUnwindSafe(|| drop(authority.check(&input)));
        assert!(std::panic::catch_unwind(check).is_ok(), "a signing request panicked: {input:02x?}");
    }
    let pem = files::cert_pem(&ca.issue(Role::Client, 0, "c", DAY).unwrap().cert);
    for _ in 0..rounds {
        let input = mutated(&mut seed, pem.as_bytes());
        let read = || {
            (CertificateDer::from_pem_slice(&input).is_ok(), PrivateKeyDer::from_pem_slice(&input).is_ok())
        };
        assert!(std::panic::catch_unwind(read).is_ok(), "a file panicked: {input:02x?}");
    }
}

#[test]
fn a_certificate_tells_when_it_is_valid() {
    let now = UnixTime::now().as_secs() as i64;
    let valid = ca(1).issue(Role::Client, 0, "c", DAY).unwrap().validity().unwrap();
    let skew = CLOCK_SKEW.as_secs() as i64;
    assert!((valid.from.secs() - (now - skew)).abs() <= 5, "{valid:?}");
    assert!((valid.until.secs() - (now + 86_400)).abs() <= 5, "{valid:?}");
}
