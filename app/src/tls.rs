//! TLS: identities and authorities from files, and handshakes on both sides.
//!
//! [`Server`] and [`Client`] each hold what was made of their files last; `watch` has them look at the files again. What
//! is open keeps the configuration that it was opened with.

mod cert;
mod cleartext;
mod client;
mod files;
mod reload;
mod server;
mod stats;
mod throttle;

pub(crate) use cleartext::Cleartext;
pub(crate) use client::{Client, TlsConnector};
pub(crate) use files::Errors;
pub(crate) use reload::{Reload, watch};
pub(crate) use server::{Accepted, Server};
pub(crate) use stats::Stats;
pub(crate) use throttle::Throttle;

use app_env::{Config, Direction};
use rustls::crypto::CryptoProvider;
use std::sync::Arc;

/// What one direction has of TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// Toward clients. `None`: it is off.
    pub(crate) server: Option<Arc<Server>>,
    /// Toward endpoints. `None`: it is off.
    pub(crate) client: Option<Arc<Client>>,
}

/// HTTP/2 in ALPN (RFC 9113 section 3.2).
const H2: &[u8] = b"h2";

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

/// What is wrong with the files of a configuration, without using them.
pub(crate) fn check(config: &Config) -> Vec<String> {
    let directions = [("inbound", &config.inbound), ("outbound", &config.outbound)];
    let loaded = directions.into_iter().filter_map(|(name, direction)| Some(Tls::load(name, direction.as_ref()?)));
    loaded.filter_map(Result::err).flatten().map(|error| error.to_string()).collect()
}

/// The one place that knows who does the cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
