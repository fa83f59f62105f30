//! Each kind of exchange between clients and endpoints, each with TLS and without.

use crate::{
    support::{App, PATIENCE},
    tls::{
        HOST, connect,
        pki::{Authority, Files},
        start,
    },
};
use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest, server};
use http::{HeaderMap, Method, Request, Response};
use rustls::ServerConfig;
use std::{future::poll_fn, net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// An endpoint, the binary before it, and a client's connection.
struct Rig {
    client: SendRequest<Bytes>,
    /// Of requests that hang: that they came, and the codes that they are reset with.
    hanging: mpsc::UnboundedReceiver<Option<Reason>>,
    _files: Files,
    _app: App,
}

const LARGE: usize = 1 << 20;

impl Rig {
    async fn start(client_tls: bool, endpoint_tls: bool) -> Self {
        let (ca, files) = (Authority::new("both"), Files::new());
        let identity = ca.issue(&[HOST, "127.0.0.1"]);
        let ([cert, key], ca_path) = (files.identity("both", &identity), files.write("ca.pem", &ca.pem()));
        let mut settings = vec![("CONNECT_TIMEOUT", "1m")];
        if client_tls {
            settings.extend([("SERVER_TLS_CERT", &*cert), ("SERVER_TLS_KEY", &key)]);
        }
        if endpoint_tls {
            settings.extend([("CONNECT_TLS", "on"), ("CONNECT_TLS_CA", &*ca_path)]);
        }
        let (addr, hanging) = endpoint(endpoint_tls.then(|| Authority::server(&identity, &["h2"], None))).await;
        let app = start(addr, &settings);
        let client = if client_tls {
            open(connect(app.proxy, ca.client(None)).await.unwrap()).await
        } else {
            open(TcpStream::connect(app.proxy).await.unwrap()).await
        };
        Self { client, hanging, _files: files, _app: app }
    }

    /// Sends a request with a body and trailers, if there are any, and returns what comes back.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(Bytes, HeaderMap)>,
    ) -> (Response<()>, Vec<u8>, Option<HeaderMap>) {
        let req = Request::builder().method(method).uri(format!("http://test.example{path}")).body(()).unwrap();
        let (response, mut to) = self.client.send_request(req, body.is_none()).unwrap();
        let exchange = async {
            tokio::join!(
                async {
                    let Some((mut bytes, trailers)) = body else { return };
                    while !bytes.is_empty() {
                        to.reserve_capacity(bytes.len());
                        let room = poll_fn(|cx| to.poll_capacity(cx)).await.unwrap().unwrap();
                        to.send_data(bytes.split_to(room.min(bytes.len())), false).unwrap();
                    }
                    to.send_trailers(trailers).unwrap();
                },
                async {
                    let (head, mut body) = response.await.unwrap().into_parts();
                    let (bytes, trailers) = collect(&mut body).await;
                    (Response::from_parts(head, ()), bytes, trailers)
                }
            )
        };
        timeout(PATIENCE, exchange).await.expect("it is answered").1
    }
}

async fn open<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(io: I) -> SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(io).await.unwrap();
    tokio::spawn(async { _ = connection.await });
    client
}

async fn collect(body: &mut RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    (bytes, body.trailers().await.unwrap())
}

async fn endpoint(tls: Option<Arc<ServerConfig>>) -> (SocketAddr, mpsc::UnboundedReceiver<Option<Reason>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (told, hanging) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, told) = (tls.clone(), told.clone());
            tokio::spawn(async move {
                match tls {
                    None => serve(stream, told).await,
                    Some(tls) => serve(TlsAcceptor::from(tls).accept(stream).await.unwrap(), told).await,
                }
            });
        }
    });
    (addr, hanging)
}

async fn serve<I: AsyncRead + AsyncWrite + Unpin>(io: I, told: mpsc::UnboundedSender<Option<Reason>>) {
    let Ok(mut connection) = server::handshake(io).await else { return };
    while let Some(Ok((req, respond))) = connection.accept().await {
        tokio::spawn(answer(req, respond, told.clone()));
    }
}

async fn answer(
    req: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
    told: mpsc::UnboundedSender<Option<Reason>>,
) {
    let (head, mut body) = req.into_parts();
    let rsp = Response::builder();
    match head.uri.path() {
        "/none" => _ = respond.send_response(rsp.status(204).body(()).unwrap(), true).unwrap(),
        "/head" => _ = respond.send_response(rsp.header("content-length", 5).body(()).unwrap(), true).unwrap(),
        "/hang" => {
            told.send(None).unwrap();
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
            told.send(Some(reason)).unwrap();
        }
        // What comes is sent back as it comes.
        _ => {
            let mut to = respond.send_response(rsp.body(()).unwrap(), false).unwrap();
            while let Some(chunk) = body.data().await {
                let mut chunk = chunk.unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                while !chunk.is_empty() {
                    to.reserve_capacity(chunk.len());
                    let room = poll_fn(|cx| to.poll_capacity(cx)).await.unwrap().unwrap();
                    to.send_data(chunk.split_to(room.min(chunk.len())), false).unwrap();
                }
            }
            match body.trailers().await.unwrap() {
                Some(trailers) => to.send_trailers(trailers).unwrap(),
                None => to.send_data("greeting".into(), true).unwrap(),
            }
        }
    }
}

async fn check(client_tls: bool, endpoint_tls: bool) {
    let mut rig = Rig::start(client_tls, endpoint_tls).await;
    let (rsp, body, trailers) = rig.ask(Method::GET, "/", None).await;
    assert_eq!((rsp.status().as_u16(), &*body, trailers), (200, &b"greeting"[..], None));

    let large: Bytes = (0..LARGE).map(|n| n as u8).collect();
    let sum = HeaderMap::from_iter([("sum".parse().unwrap(), "12".parse().unwrap())]);
    let (rsp, body, trailers) = rig.ask(Method::POST, "/echo", Some((large.clone(), sum.clone()))).await;
    assert_eq!((rsp.status().as_u16(), trailers), (200, Some(sum)));
    assert!(body == large);

    let (rsp, body, trailers) = rig.ask(Method::HEAD, "/head", None).await;
    assert_eq!((rsp.headers()["content-length"].to_str().unwrap(), body.len(), trailers), ("5", 0, None));

    let (rsp, body, trailers) = rig.ask(Method::GET, "/none", None).await;
    assert_eq!((rsp.status().as_u16(), body.len(), trailers), (204, 0, None));

    let req = Request::post("http://test.example/hang").body(()).unwrap();
    let (response, mut to) = rig.client.send_request(req, false).unwrap();
    to.send_data("some".into(), false).unwrap();
    // What is reset before the proxy has seen it goes no further.
    assert_eq!(timeout(PATIENCE, rig.hanging.recv()).await.expect("it comes"), Some(None));
    to.send_reset(Reason::CANCEL);
    drop(response);
    assert_eq!(timeout(PATIENCE, rig.hanging.recv()).await.expect("it is told"), Some(Some(Reason::CANCEL)));
    // And the connection goes on.
    assert_eq!(rig.ask(Method::GET, "/", None).await.1, b"greeting");
}

#[tokio::test]
async fn h2c_to_h2c() {
    check(false, false).await;
}

#[tokio::test]
async fn h2c_to_tls() {
    check(false, true).await;
}

#[tokio::test]
async fn tls_to_h2c() {
    check(true, false).await;
}

#[tokio::test]
async fn tls_to_tls() {
    check(true, true).await;
}
