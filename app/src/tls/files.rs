//! Certificates and keys in PEM files. Errors name the variable of the file, and never show a part of a key.

use super::provider;
use app_env::{PREFIX, TlsIdentity};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    fmt, fs, iter,
    path::{Path, PathBuf},
    vec,
};

/// A variable that names something that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: {reason}")]
pub(crate) struct Error {
    variable: String,
    reason: String,
}

/// All that is wrong; at least one.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub(crate) struct Errors(Vec<Error>);

/// The variables of one side of one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variables {
    /// `inbound` or `outbound`.
    pub(crate) direction: &'static str,
    /// `SERVER_TLS` or `CONNECT_TLS`.
    pub(crate) side: &'static str,
}

/// A variable and the file that it names.
struct Named<'a> {
    variables: Variables,
    suffix: &'static str,
    path: &'a Path,
}

// === impl Variables ===

impl Variables {
    pub(crate) fn error(self, suffix: &str, reason: impl Into<String>) -> Error {
        let Self { direction, side } = self;
        let variable = format!("{PREFIX}{}_{side}_{suffix}", direction.to_ascii_uppercase());
        Error { variable, reason: reason.into() }
    }

    /// A certificate with its chain, and its key.
    pub(crate) fn identity(self, identity: &TlsIdentity) -> Result<CertifiedKey, Errors> {
        let cert = self.named("CERT", &identity.cert);
        let key = self.named("KEY", &identity.key);
        let (certs, key_der) = match (cert.certs(), key.key()) {
            (Ok(certs), Ok(key)) => (certs, key),
            (certs, key) => return Err(certs.err().into_iter().chain(key.err()).collect()),
        };
        for (index, cert_der) in certs.iter().enumerate() {
            webpki::EndEntityCert::try_from(cert_der).map_err(|error| match error {
                // openssl makes such certificates unless it is given extensions.
                webpki::Error::UnsupportedCertVersion => {
                    cert.wrong_cert(index, "it is not of X.509 version 3, and so has no subject alternative names")
                }
                error => cert.wrong_cert(index, error),
            })?;
        }
        CertifiedKey::from_der(certs, key_der, &provider()).map_err(|error| {
            match error {
                rustls::Error::InconsistentKeys(_) => key
                    .error(format_args!("has a key that is not the one of the certificate in {}", cert.path.display())),
                error => key.error(format_args!("has a key that cannot be used: {error}")),
            }
            .into()
        })
    }

    /// Certificates of authorities.
    pub(crate) fn roots(self, suffix: &'static str, path: &Path) -> Result<RootCertStore, Errors> {
        let file = self.named(suffix, path);
        let mut roots = RootCertStore::empty();
        for (index, cert) in file.certs()?.into_iter().enumerate() {
            roots.add(cert).map_err(|error| file.wrong_cert(index, error))?;
        }
        Ok(roots)
    }

    fn named<'a>(self, suffix: &'static str, path: &'a Path) -> Named<'a> {
        Named { variables: self, suffix, path }
    }
}

// === impl Named ===

impl Named<'_> {
    fn certs(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.read()?).collect();
        match certs {
            Ok(certs) if certs.is_empty() => Err(self.error("has no certificate in PEM")),
            Ok(certs) => Ok(certs),
            Err(error) => Err(self.error(format_args!("is not PEM: {error}"))),
        }
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(&self.read()?).map_err(|error| match error {
            pem::Error::NoItemsFound => self.error("has no private key in PEM (PKCS#8, SEC1 or PKCS#1, not encrypted)"),
            // Errors of PEM quote the line that is wrong.
            _ => self.error("is not PEM"),
        })
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        fs::read(self.path).map_err(|error| self.error(format_args!("cannot be read: {error}")))
    }

    fn wrong_cert(&self, index: usize, error: impl fmt::Display) -> Error {
        self.error(format_args!("has a certificate (number {}) that cannot be used: {error}", index + 1))
    }

    fn error(&self, reason: impl fmt::Display) -> Error {
        self.variables.error(self.suffix, format!("{} {reason}", self.path.display()))
    }
}

// === impl Errors ===

impl Errors {
    /// The values of both attempts, or all their errors.
    pub(crate) fn both<A, B>(a: Result<A, Self>, b: Result<B, Self>) -> Result<(A, B), Self> {
        match (a, b) {
            (Ok(a), Ok(b)) => Ok((a, b)),
            (a, b) => Err(a.err().into_iter().chain(b.err()).flatten().collect()),
        }
    }
}

impl From<Error> for Errors {
    fn from(error: Error) -> Self {
        iter::once(error).collect()
    }
}

impl FromIterator<Error> for Errors {
    fn from_iter<I: IntoIterator<Item = Error>>(errors: I) -> Self {
        Self(errors.into_iter().collect())
    }
}

impl IntoIterator for Errors {
    type Item = Error;
    type IntoIter = vec::IntoIter<Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The identity of a file: if any of it changes, the file has. Symbolic links are followed, so that updates of Kubernetes
/// secrets are seen, too.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Stamp(Option<(i64, i64, u64, u64)>);

impl Stamp {
    pub(crate) fn of(path: &PathBuf) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self(fs::metadata(path).ok().map(|file| (file.mtime(), file.mtime_nsec(), file.size(), file.ino())))
    }
}
