//! TLS toward endpoints.

use super::{
    Errors, H2, HTTP_1_1,
    cert::{SELF_SIGNED, expires, is_self_signed},
    files::{self, Variables},
    provider,
    reload::Reloadable,
    stats::{Failure, Stats},
    stream::Stream,
};
use crate::{reload::Reload, transport::Socket};
use app_env::{ConnectTls, EndpointAddr};
use proxy_http::Protocol;
use rustls::{
    ClientConfig, RootCertStore,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{io, path::PathBuf, sync::Arc};
use tokio_rustls::client::TlsStream;

/// One direction's TLS toward endpoints, for all workers.
#[derive(Debug)]
pub(crate) struct Client {
    direction: &'static str,
    /// The name that all endpoints' certificates must have. `None`: the host that each endpoint was found by.
    server_name: Option<ServerName<'static>>,
    made: Reloadable<Made>,
    stats: Arc<Stats>,
}

/// Why there is no TLS with an endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("TLS handshake failed: endpoint speaks plain text")]
    Plaintext,
    #[error("TLS handshake failed: endpoint's certificate {SELF_SIGNED}")]
    SelfSigned,
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("endpoint does not speak {}: it takes none of the protocols offered by ALPN", name(*.0))]
    NoProtocol(Protocol),
    #[error("endpoint does not speak {}: by ALPN it chose {chosen}, must be {}", name(*.asked), alpn(*.asked).escape_ascii())]
    Protocol { asked: Protocol, chosen: String },
}

/// The configuration that is made of the files.
#[derive(Debug)]
struct Made {
    /// To speak HTTP/2.
    http2: Arc<ClientConfig>,
    /// To speak HTTP/1.1.
    http1: Arc<ClientConfig>,
    expires: Option<u64>,
}

/// Takes anybody for the endpoint, as an operator may want while testing.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

// === impl Client ===

impl Client {
    pub(crate) fn load(direction: &'static str, tls: &ConnectTls, endpoints: &[EndpointAddr]) -> Result<Self, Errors> {
        let variables = Variables { direction, side: "CONNECT_TLS" };
        let server_name = Self::server_name(tls, endpoints, variables).map_err(Errors::from);
        let identity = tls.identity.as_ref().map(|identity| [&identity.cert, &identity.key]);
        let files: Vec<PathBuf> = tls.ca.iter().chain(identity.into_iter().flatten()).cloned().collect();
        let tls = tls.clone();
        let made = Reloadable::load(files, move || Made::new(&tls, variables));
        let (server_name, made) = Errors::both(server_name, made)?;
        let stats = Arc::<Stats>::default();
        stats.set_expires(direction, made.current().expires);
        Ok(Self { direction, server_name, made, stats })
    }

    /// The name that endpoints must have, if it is one for all.
    fn server_name(
        tls: &ConnectTls,
        endpoints: &[EndpointAddr],
        variables: Variables,
    ) -> Result<Option<ServerName<'static>>, files::Error> {
        let parse = |name: &str| {
            ServerName::try_from(name.to_owned()).map_err(|_| {
                let reason = format!("{name:?} is no name of a certificate, must be a DNS name or an IP address");
                variables.error("SERVER_NAME", reason)
            })
        };
        match &tls.server_name {
            Some(name) => parse(name).map(Some),
            None => endpoints
                .iter()
                .try_for_each(|endpoint| match endpoint {
                    EndpointAddr::HostPort(endpoint) => parse(endpoint.host()).map(drop),
                    EndpointAddr::Unix(unix) => {
                        let reason =
                            format!("is not set, must be, since the endpoint {unix} has no host for its certificate");
                        Err(variables.error("SERVER_NAME", reason))
                    }
                })
                .map(|()| None),
        }
    }

    /// Whether the host that an endpoint was found by must be known to connect to it.
    pub(crate) fn needs_hosts(&self) -> bool {
        self.server_name.is_none()
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Shakes hands on `stream`, with an endpoint that was found by `host`.
    pub(crate) async fn connect(
        &self,
        host: Option<&str>,
        stream: Socket,
        protocol: Protocol,
    ) -> Result<Stream<TlsStream<Socket>>, ConnectError> {
        let handshake = self.stats.start();
        let name = match (&self.server_name, host) {
            (Some(name), _) => Ok(name.clone()),
            (None, host) => ServerName::try_from(host.unwrap_or_default().to_owned()),
        };
        let connecting = match name {
            Ok(name) => {
                let config = self.made.current().config(protocol);
                tokio_rustls::TlsConnector::from(config).connect(name, stream)
            }
            Err(error) => {
                handshake.failed(Failure::Other);
                return Err(ConnectError::Handshake(io::Error::other(error)));
            }
        };
        let stream = match connecting.await {
            Ok(stream) => stream,
            Err(error) => {
                let failure = Failure::of(&error);
                handshake.failed(failure);
                return Err(match failure {
                    Failure::Plaintext => ConnectError::Plaintext,
                    Failure::Alpn => ConnectError::NoProtocol(protocol),
                    _ if is_self_signed(&error) => ConnectError::SelfSigned,
                    _ => ConnectError::Handshake(error),
                });
            }
        };
        let (_, session) = stream.get_ref();
        let chosen = session.alpn_protocol();
        // Servers that speak nothing else need not know of ALPN.
        if chosen == Some(alpn(protocol)) || (protocol == Protocol::Http1 && chosen.is_none()) {
            let version = session.protocol_version();
            handshake.done(version);
            return Ok(Stream::new(stream, protocol == Protocol::Http2));
        }
        let chosen = chosen.map_or_else(|| "nothing".to_owned(), |name| name.escape_ascii().to_string());
        handshake.failed(Failure::Alpn);
        Err(ConnectError::Protocol { asked: protocol, chosen })
    }
}

impl Reload for Client {
    fn reload(&self, forced: bool) {
        if let Some(result) = self.made.reload(forced) {
            self.stats.reloaded(self.direction, &result);
            self.stats.set_expires(self.direction, self.made.current().expires);
        }
    }
}

// === impl Made ===

impl Made {
    fn new(tls: &ConnectTls, variables: Variables) -> Result<Self, Errors> {
        let ConnectTls { ca, server_name: _, identity, insecure_skip_verify } = tls;
        let provider = provider();
        let roots = match ca {
            _ if *insecure_skip_verify => Ok(RootCertStore::empty()),
            Some(path) => variables.roots("CA", path),
            None => system_roots().map_err(|reason| variables.error("CA", reason).into()),
        };
        let identity = identity.as_ref().map(|identity| variables.identity(identity)).transpose();
        let (roots, identity) = Errors::both(roots, identity)?;
        let expires = identity.as_ref().and_then(|identity| expires(identity.cert.first()?));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| variables.error("CERT", error.to_string()))?;
        let builder = if *insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        } else {
            builder.with_root_certificates(roots)
        };
        let mut config = match identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity)))
            }
            None => builder.with_no_client_auth(),
        };
        let mut offering = |protocol| {
            config.alpn_protocols = vec![alpn(protocol).to_vec()];
            // A cache for each configuration: a session is resumed with the protocol that it was made for.
            config.resumption = Resumption::in_memory_sessions(SESSIONS);
            Arc::new(config.clone())
        };
        Ok(Self { http2: offering(Protocol::Http2), http1: offering(Protocol::Http1), expires })
    }

    fn config(&self, protocol: Protocol) -> Arc<ClientConfig> {
        Arc::clone(match protocol {
            Protocol::Http2 => &self.http2,
            Protocol::Http1 => &self.http1,
        })
    }
}

fn alpn(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::Http2 => H2,
        Protocol::Http1 => HTTP_1_1,
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http2 => "HTTP/2",
        Protocol::Http1 => "HTTP/1.1",
    }
}

/// Sessions that are remembered to be resumed, one for each name of an endpoint.
const SESSIONS: usize = 1_024;

/// The certificate authorities that the system trusts.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have some that webpki does not take.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!("is not set, must be, since the system trusts nobody {errors:?}"));
    }
    Ok(roots)
}

// === impl Anybody ===

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
