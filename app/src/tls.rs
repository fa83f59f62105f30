//! TLS: identities and authorities from files, and handshakes on both sides.
//!
//! [`Server`] and [`Client`] each hold the configuration that was made last of their files; `reload::watch` has them check the
//! files again. An open connection keeps the configuration that it was opened with.

mod cert;
mod client;
mod files;
mod reload;
mod server;
mod stats;
mod stream;

pub(crate) use client::Client;
pub(crate) use files::{Errors, Stamp};
pub(crate) use server::{Accepted, Server};
pub(crate) use stats::Stats;
pub(crate) use stream::Stream;

use crate::reload::Reload;
use app_env::{Config, Direction};
use rustls::crypto::CryptoProvider;
use std::sync::Arc;

/// The TLS of one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// Toward clients. `None`: it is off.
    pub(crate) server: Option<Arc<Server>>,
    /// Toward endpoints. `None`: it is off.
    pub(crate) client: Option<Arc<Client>>,
}

/// HTTP/2 in ALPN (RFC 9113 section 3.2).
const H2: &[u8] = b"h2";
/// HTTP/1.1 in ALPN (RFC 7301 section 6).
const HTTP_1_1: &[u8] = b"http/1.1";

// === impl Tls ===

impl Tls {
    /// Reads all files of a direction.
    pub(crate) fn load(name: &'static str, direction: &Direction) -> Result<Self, Errors> {
        let server = direction.server_tls.as_ref().map(|tls| Server::load(name, tls)).transpose();
        let connect = direction.connect.tls.as_ref();
        let client = connect.map(|tls| Client::load(name, tls, &direction.endpoints)).transpose();
        match (server, client) {
            (Ok(server), Ok(client)) => Ok(Self { server: server.map(Arc::new), client: client.map(Arc::new) }),
            (server, client) => Err(Errors::from_iter(server.err().into_iter().chain(client.err()).flatten())),
        }
    }

    /// All that is made of files.
    pub(crate) fn reloads(&self) -> impl Iterator<Item = Arc<dyn Reload>> {
        let server = self.server.clone().map(|server| server as Arc<dyn Reload>);
        server.into_iter().chain(self.client.clone().map(|client| client as Arc<dyn Reload>))
    }
}

/// The errors in the files of a configuration, without using them.
pub(crate) fn check(config: &Config) -> Vec<String> {
    let directions = [("inbound", &config.inbound), ("outbound", &config.outbound)];
    let loaded = directions.into_iter().filter_map(|(name, direction)| Some(Tls::load(name, direction.as_ref()?)));
    loaded.filter_map(Result::err).flatten().map(|error| error.to_string()).collect()
}

/// The one place that chooses the cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::{files::Variables, *};
    use app_env::{ConnectTls, ServerTls, TlsIdentity};
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use std::{env, fs, process, time::Duration};

    #[test]
    fn debug_shows_no_key() {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["a.example".into()]).unwrap();
        let path = |end: &str| env::temp_dir().join(format!("app-tls-debug-{}.{end}", process::id()));
        let identity = TlsIdentity { cert: path("pem"), key: path("key") };
        fs::write(&identity.cert, cert.pem()).unwrap();
        fs::write(&identity.key, signing_key.serialize_pem()).unwrap();
        let params = ServerTls { identity: identity.clone(), handshake_timeout: Duration::from_secs(1), client: None };
        let server = Server::load("inbound", &params).unwrap();
        let params = ConnectTls { ca: Some(path("pem")), identity: Some(identity.clone()), ..ConnectTls::default() };
        let client = Client::load("inbound", &params, &[]).unwrap();
        let made = Variables { direction: "inbound", side: "SERVER_TLS" }.identity(&identity).unwrap();
        let shown = format!("{:?} {made:?}", Tls { server: Some(Arc::new(server)), client: Some(Arc::new(client)) });
        fs::remove_file(identity.cert).unwrap();
        fs::remove_file(identity.key).unwrap();

        // PKCS#8 of P-256 by ring: the secret is the 32 bytes from the 36th on.
        let secret = &signing_key.serialized_der()[36..68];
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!shown.contains(&hex) && !shown.contains(&hex.to_uppercase()), "{shown}");
        // As lists of numbers are printed.
        assert!(!shown.contains(format!("{secret:?}").trim_matches(['[', ']'])), "{shown}");
        assert!(shown.contains("app-tls-debug"), "it shows where they are");
    }
}
