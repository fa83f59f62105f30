//! TLS toward clients.

use super::{
    Errors, H2, HTTP_1_1,
    cert::{Names, SELF_SIGNED, expires, is_self_signed, system_time, unix_time},
    files::Variables,
    provider,
    reload::Reloadable,
    stats::{Failure, Stats},
    stream::Stream,
};
use crate::{client_addr::PeerAddr, log::Throttle, reload::Reload, transport::Socket};
use app_env::{ClientAuth, ClientCert, ServerTls};
use http::HeaderValue;
use proxy_http::{Protocol, proxy};
use rustls::{ServerConfig, ServerConnection, pki_types::CertificateDer, server::WebPkiClientVerifier};
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// One direction's TLS toward clients, for all workers.
#[derive(Debug)]
pub(crate) struct Server {
    direction: &'static str,
    handshake_timeout: Duration,
    client: Option<ClientCert>,
    made: Reloadable<Made>,
    stats: Arc<Stats>,
    denials: Throttle,
    /// For each [`Failure`].
    failures: [Throttle; Failure::ALL.len()],
}

/// A client whose handshake is complete, and whose certificate is valid if one is required.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream<TlsStream<Socket>>,
    pub(crate) client: proxy::Client,
    /// The protocol that ALPN chose. `None`: none.
    pub(crate) protocol: Option<Protocol>,
    /// The names in the client's certificate. `None`: it has none, or is not asked for one.
    pub(crate) identity: Option<String>,
}

/// The configuration that is made of the files.
#[derive(Debug)]
struct Made {
    config: Arc<ServerConfig>,
    /// The first URI of our certificate, if it has one.
    uri: Option<String>,
    expires: Option<u64>,
}

// === impl Server ===

impl Server {
    pub(crate) fn load(direction: &'static str, tls: &ServerTls) -> Result<Self, Errors> {
        let ServerTls { identity, handshake_timeout, client } = tls.clone();
        let files = [&identity.cert, &identity.key].into_iter().chain(client.as_ref().map(|client| &client.ca));
        let files: Vec<PathBuf> = files.cloned().collect();
        let variables = Variables { direction, side: "SERVER_TLS" };
        let tls = tls.clone();
        let made = Reloadable::load(files, move || Made::new(&tls, variables))?;
        let stats = Arc::<Stats>::default();
        stats.set_expires(direction, made.current().expires);
        Ok(Self {
            direction,
            handshake_timeout,
            client,
            made,
            stats,
            denials: Throttle::default(),
            failures: Default::default(),
        })
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Shakes hands with the client at `peer`, within the time it has. `None`: it failed, and the connection is closed.
    pub(crate) async fn accept(&self, stream: Socket, peer: PeerAddr) -> Option<Accepted> {
        let handshake = self.stats.start();
        let made = self.made.current();
        let accepting = TlsAcceptor::from(Arc::clone(&made.config)).accept(stream);
        let stream = match tokio::time::timeout(self.handshake_timeout, accepting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let failure = Failure::of(&error);
                handshake.failed(failure);
                self.log_failure(peer, failure, &error);
                return None;
            }
            Err(_) => {
                handshake.failed(Failure::Timeout);
                tracing::debug!(direction = self.direction, %peer, "TLS handshake takes too long");
                return None;
            }
        };
        let (_, session) = stream.get_ref();
        let version = session.protocol_version();
        match self.identify(session, &made, peer) {
            Ok((client, identity)) => {
                handshake.done(version);
                let protocol = session.alpn_protocol().map(|name| match name {
                    H2 => Protocol::Http2,
                    _ => Protocol::Http1,
                });
                let stream = Stream::new(stream, protocol == Some(Protocol::Http2));
                Some(Accepted { stream, client, protocol, identity })
            }
            Err(error) => {
                handshake.failed(Failure::Certificate);
                self.log_failure(peer, Failure::Certificate, &error);
                None
            }
        }
    }

    /// The client of a handshake that is done.
    fn identify(
        &self,
        session: &ServerConnection,
        made: &Made,
        peer: PeerAddr,
    ) -> Result<(proxy::Client, Option<String>), io::Error> {
        let Some(params) = &self.client else { return Ok((proxy::Client::default(), None)) };
        let cert = session.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
        // A resumed session has the certificate of the one before, which may have expired in the meantime.
        let expires = cert.and_then(expires);
        if expires.is_some_and(|expires| expires < unix_time()) {
            let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
            return Err(io::Error::new(io::ErrorKind::InvalidData, expired));
        }
        let names = cert.and_then(Names::of);
        let denied =
            params.allowed.as_ref().is_some_and(|allowed| !names.as_ref().is_some_and(|n| n.is_one_of(allowed)));
        if denied && let Some(left_out) = self.denials.admits() {
            let direction = self.direction;
            let names = names.as_ref().map(Names::list);
            tracing::warn!(direction, %peer, names, left_out, "client is not among those allowed");
        }
        let identity = names.as_ref().map(Names::list).filter(|names| !names.is_empty());
        let forwards = params.forward && cert.is_some();
        let forwarded = names.filter(|_| forwards).and_then(|names| names.forwarded(made.uri.as_deref()));
        // Endpoints would take the requests of such a client for requests of a client without a certificate.
        let is_nameless = forwards && forwarded.is_none();
        if is_nameless && let Some(left_out) = self.denials.admits() {
            let direction = self.direction;
            tracing::warn!(direction, %peer, left_out, "client's certificate has a name that no field can hold");
        }
        let expires = expires.map(system_time);
        let denied = denied || is_nameless;
        Ok((proxy::Client { denied, cert: forwarded, expires, ..proxy::Client::default() }, identity))
    }

    fn log_failure(&self, peer: PeerAddr, failure: Failure, error: &io::Error) {
        let direction = self.direction;
        let admitted = self.failures[failure as usize].admits().filter(|_| failure != Failure::Closed);
        let Some(left_out) = admitted else {
            tracing::debug!(direction, %peer, %error, "TLS handshake with client failed");
            return;
        };
        if failure == Failure::Plaintext {
            tracing::warn!(
                direction,
                %peer,
                left_out,
                "client speaks plain text to a listener with TLS; closing its connection"
            );
        } else if is_self_signed(error) {
            tracing::warn!(
                direction,
                %peer,
                left_out,
                "TLS handshake with client failed: its certificate {SELF_SIGNED}"
            );
        } else {
            tracing::warn!(direction, %peer, %error, left_out, "TLS handshake with client failed");
        }
    }
}

impl Reload for Server {
    fn reload(&self, forced: bool) {
        if let Some(result) = self.made.reload(forced) {
            self.stats.reloaded(self.direction, &result);
            self.stats.set_expires(self.direction, self.made.current().expires);
        }
    }
}

// === impl Made ===

impl Made {
    fn new(tls: &ServerTls, variables: Variables) -> Result<Self, Errors> {
        let provider = provider();
        let verifier = match &tls.client {
            None => Ok(WebPkiClientVerifier::no_client_auth()),
            Some(client) => variables.roots("CLIENT_CA", &client.ca).and_then(|roots| {
                let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
                let builder = match client.auth {
                    ClientAuth::Required => builder,
                    ClientAuth::Optional => builder.allow_unauthenticated(),
                };
                builder.build().map_err(|error| variables.error("CLIENT_CA", error.to_string()).into())
            }),
        };
        let (identity, verifier) = Errors::both(variables.identity(&tls.identity), verifier)?;
        let leaf = identity.cert.first();
        let (uri, expires) =
            (leaf.and_then(Names::of).and_then(|names| names.uri().map(str::to_owned)), leaf.and_then(expires));
        // A name of our own that no field can hold is left out; a client's is an error.
        let uri = uri.filter(|uri| HeaderValue::from_str(uri).is_ok());
        let wrong = |error: rustls::Error| variables.error("CERT", error.to_string());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity)));
        // The first protocol that the client offers, too, is chosen. Without ALPN the protocol is detected.
        config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        // A new key for tickets: sessions that old files verified are verified again by the new ones.
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(wrong)?;
        Ok(Self { config: Arc::new(config), uri, expires })
    }
}
