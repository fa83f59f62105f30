//! TLS on both sides: the certificates that each side accepts, and files that change.

mod clients;
mod endpoints;
mod files;
mod listeners;
pub(crate) mod pki;

use crate::support::{App, PATIENCE};
use bytes::Bytes;
use h2::{client::SendRequest, server};
use http::{Request, Response};
use pki::{Authority, Files};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use std::{fmt, io, net::SocketAddr, process::Output, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

pub(crate) const HOST: &str = "proxy.example";
const CLIENT_CERT: &str = "x-forwarded-client-cert";

/// The binary with a certificate for [`HOST`], before an endpoint that answers at once and says what it was told of the
/// client.
pub(crate) struct Rig {
    pub(crate) ca: Authority,
    files: Files,
    pub(crate) app: App,
}

impl Rig {
    /// `settings`: of the listener, without the first part of their names.
    async fn start(settings: &[(&str, &str)]) -> Self {
        let (ca, files) = (Authority::new("proxies"), Files::new());
        Self::start_with(ca, files, settings).await
    }

    async fn start_with(ca: Authority, files: Files, settings: &[(&str, &str)]) -> Self {
        let [cert, key] = files.identity("proxy", &ca.issue(&[HOST, "spiffe://example/proxy"]));
        let mut all = vec![("SERVER_TLS_CERT", &*cert), ("SERVER_TLS_KEY", &key)];
        all.extend(settings);
        let app = start(endpoint(None).await, &all);
        Self { ca, files, app }
    }

    /// The same, that asks clients for certificates of `clients`.
    pub(crate) async fn start_mutual(clients: &Authority, settings: &[(&str, &str)]) -> Self {
        let (ca, files) = (Authority::new("proxies"), Files::new());
        let client_ca = files.write("clients.pem", &clients.pem());
        let mut all = vec![("SERVER_TLS_CLIENT_CA", &*client_ca)];
        all.extend(settings);
        Self::start_with(ca, files, &all).await
    }

    pub(crate) async fn ask(&self, config: ClientConfig, req: Request<()>) -> Result<Answer, Failed> {
        let stream = connect(self.app.proxy, config).await?;
        ask(&mut open(stream).await?, req).await
    }

    async fn counted(&self, what: &str, count: u64) {
        self.app.counted(&format!("{what} {count}")).await;
    }

    async fn handshakes(&self, result: &str, version: &str, count: u64) {
        let labels = format!("direction=\"outbound\",peer=\"src\",result=\"{result}\",version=\"{version}\"");
        self.counted(&format!("tls_handshakes_total{{{labels}}}"), count).await;
    }
}

pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A response.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The description of the client's certificate at the endpoint.
    pub(crate) told: Option<String>,
    grpc_status: Option<String>,
    error: Option<String>,
}

/// The binary's outbound direction. Settings of the process have whole names.
pub(crate) fn start(endpoint: impl fmt::Display + Copy, settings: &[(&str, &str)]) -> App {
    let settings: Vec<_> = settings.iter().map(|(name, value)| (whole(name), *value)).collect();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    App::start_to(&endpoint.to_string(), &settings)
}

fn whole(name: &str) -> String {
    if name.starts_with("LINKERD2_PROXY_") { name.to_owned() } else { format!("LINKERD2_PROXY_OUTBOUND_{name}") }
}

/// An endpoint, with TLS or without.
pub(crate) async fn endpoint(tls: Option<Arc<ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => answer(stream).await,
                    Some(tls) => {
                        if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                            answer(stream).await;
                        }
                    }
                }
            });
        }
    });
    addr
}

pub(crate) async fn answer<I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(io: I) {
    let Ok(mut connection) = server::handshake(io).await else { return };
    while let Some(Ok((req, mut respond))) = connection.accept().await {
        let mut rsp = Response::new(());
        if let Some(told) = req.headers().get(CLIENT_CERT) {
            rsp.headers_mut().insert("told", told.clone());
        }
        let _ = respond.send_response(rsp, true).map(|_: h2::SendStream<Bytes>| ());
    }
}

pub(crate) async fn connect(addr: SocketAddr, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    connect_shared(addr, Arc::new(config)).await
}

async fn connect_shared(addr: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(addr).await?;
    TlsConnector::from(config).connect(ServerName::try_from(HOST).unwrap(), stream).await
}

pub(crate) async fn open(stream: TlsStream<TcpStream>) -> Result<SendRequest<Bytes>, h2::Error> {
    let (client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(async { _ = connection.await });
    Ok(client)
}

pub(crate) async fn ask(client: &mut SendRequest<Bytes>, req: Request<()>) -> Result<Answer, Failed> {
    let (rsp, _) = client.send_request(req, true)?;
    let rsp = timeout(PATIENCE, rsp).await??;
    let text = |name: &str| rsp.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    Ok(Answer {
        status: rsp.status().as_u16(),
        told: text("told"),
        grpc_status: text("grpc-status"),
        error: text("proxy-error"),
    })
}

/// The answer to a request that is passed on.
pub(crate) fn served() -> Answer {
    Answer { status: 200, told: None, grpc_status: None, error: None }
}

fn grpc() -> Request<()> {
    Request::post("http://test.example/pkg.Service/Method").header("content-type", "application/grpc").body(()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
