//! Certificates and keys in files, as PEM.

use super::bad;
use mooseng_core::error::NetError;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

fn at(path: &Path, cause: impl std::fmt::Display) -> NetError {
    bad(&path.display().to_string(), cause)
}

/// Writes a file that must not exist yet, with its mode from the start.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), NetError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|e| at(path, format!("cannot be made: {e} (a file that exists is never replaced)")))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| at(path, e))
}

pub(super) fn read_cert(path: &Path) -> Result<CertificateDer<'static>, NetError> {
    let bytes = fs::read(path)
        .map_err(|e| at(path, format!("{e}: have the cluster's authority issue a certificate")))?;
    CertificateDer::from_pem_slice(&bytes).map_err(|e| at(path, format!("no certificate in it: {e}")))
}

pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, NetError> {
    let mode = fs::metadata(path).map_err(|e| at(path, e))?.permissions().mode();
    if mode & 0o077 != 0 {
        let cure = format!("others may read this key (mode {:o}): chmod 600 it", mode & 0o777);
        return Err(at(path, cure));
    }
    let bytes = fs::read(path).map_err(|e| at(path, e))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| at(path, format!("no key in it: {e}")))
}

pub(super) fn cert_pem(cert: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", cert)
}

pub(super) fn key_pem(key: &PrivateKeyDer<'_>) -> String {
    pem("PRIVATE KEY", key.secret_der())
}

fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let n = group.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - group.len()));
            for i in 0..4 {
                let digit = DIGITS[(n >> (18 - 6 * i)) as usize & 63] as char;
                out.push(if i <= group.len() { digit } else { '=' });
            }
        }
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}
