//! A certificate to throw away, in files that vanish with it.

use crate::tls;
use app_env::{ConnectTls, ServerTls, TlsIdentity};
use proxy_http::BoxError;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

/// A self-signed certificate for this machine's names, and its key. A client that trusts the certificate trusts no other.
#[derive(Debug)]
pub(super) struct Certificate {
    dir: PathBuf,
    /// The certificate's file.
    pub(super) cert: PathBuf,
    /// The key's file.
    pub(super) key: PathBuf,
}

/// The host that the certificate is for, beside `localhost`.
pub(super) const HOST: &str = "127.0.0.1";

impl Certificate {
    pub(super) fn new() -> Result<Self, BoxError> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".into(), HOST.into()])?;
        let dir = private_dir("tls")?;
        let certificate = Self { cert: dir.join("cert.pem"), key: dir.join("key.pem"), dir };
        fs::write(&certificate.cert, cert.pem())?;
        fs::write(&certificate.key, signing_key.serialize_pem())?;
        Ok(certificate)
    }

    /// One that shows the certificate.
    pub(super) fn server(&self) -> Result<tls::Server, BoxError> {
        let identity = TlsIdentity { cert: self.cert.clone(), key: self.key.clone() };
        let params = ServerTls { identity, handshake_timeout: Duration::from_secs(10), client: None };
        Ok(tls::Server::load("demo", &params)?)
    }

    /// One that trusts it.
    pub(super) fn client(&self) -> Result<tls::Client, BoxError> {
        let params = ConnectTls { ca: Some(self.cert.clone()), ..ConnectTls::default() };
        Ok(tls::Client::load("demo", &params, &[])?)
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A new directory that only this user may read, for one purpose.
pub(super) fn private_dir(purpose: &str) -> io::Result<PathBuf> {
    let dir: &Path = &env::temp_dir().join(format!("app-demo-{purpose}-{}", process::id()));
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    Ok(dir.to_owned())
}
