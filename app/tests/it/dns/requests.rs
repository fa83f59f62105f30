//! Requests go where names lead.

use super::{List, SECOND, Server, UNBOUNDED, Zone, changed};
use crate::support::PATIENCE;
use app::dns::Target;
use bytes::Bytes;
use hickory_resolver::proto::op::ResponseCode;
use http::{Request, Response};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{BoxError, Connect, Endpoints, Proxy, balance, proxy};
use std::{
    collections::BTreeSet,
    future::{Future, pending, poll_fn},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};

/// Endpoints at one port of several loopback addresses, each of which answers with its own address: at once, or on
/// `/held` when `release` is told.
struct Backends {
    port: u16,
    release: Arc<Notify>,
}

impl Backends {
    async fn start(addrs: &[&str]) -> Self {
        let release = Arc::<Notify>::default();
        let listeners = loop {
            let first = TcpListener::bind((addrs[0], 0)).await.unwrap();
            let port = first.local_addr().unwrap().port();
            let mut listeners = vec![first];
            for addr in &addrs[1..] {
                listeners.extend(TcpListener::bind((*addr, port)).await);
            }
            // The port may be taken at one of them, in which case there is another one.
            if listeners.len() == addrs.len() {
                break listeners;
            }
        };
        let port = listeners[0].local_addr().unwrap().port();
        for listener in listeners {
            let release = Arc::clone(&release);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Self::serve(stream, Arc::clone(&release)));
                }
            });
        }
        Self { port, release }
    }

    async fn serve(stream: TcpStream, release: Arc<Notify>) {
        let ip = stream.local_addr().unwrap().ip().to_string();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((req, mut respond))) = connection.accept().await {
            let (ip, release) = (ip.clone(), Arc::clone(&release));
            tokio::spawn(async move {
                if req.uri().path() == "/held" {
                    release.notified().await;
                }
                respond.send_response(Response::builder().header("ip", ip).body(()).unwrap(), true).unwrap();
            });
        }
    }
}

/// A client of a proxy to the endpoints of a list.
async fn client_of(list: List) -> h2::client::SendRequest<Bytes> {
    let connector = tower::service_fn(|target: Target| TcpStream::connect(target.addr.tcp().unwrap()));
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
    let params = balance::Params { slow_start: Duration::ZERO, ..Default::default() };
    let endpoints = Endpoints::spawn(list, &connect, params);
    let limits = Arc::new(proxy::Limits::new(proxy::Params::default()));
    let proxy = Proxy::new(endpoints, limits, Arc::default());
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        proxy_http::Server::new(&ServerParams::DEFAULT)?.serve(far, proxy, pending()).await.map_err(BoxError::from)
    });
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Sends a request; the result is the address of the endpoint that answers.
async fn ask(client: &mut h2::client::SendRequest<Bytes>, path: &str) -> impl Future<Output = String> + use<> {
    let req = Request::get(format!("http://a.test{path}")).body(()).unwrap();
    poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
    let (response, _) = client.send_request(req, true).unwrap();
    async move { response.await.unwrap().headers()["ip"].to_str().unwrap().to_owned() }
}

/// Asks until each of `expect` has answered, and then on; nobody else may.
async fn check_answers(client: &mut h2::client::SendRequest<Bytes>, expect: &[&str]) {
    let mut answered = BTreeSet::new();
    let mut after = 0;
    while after < 50 {
        answered.insert(timeout(PATIENCE, ask(client, "/").await).await.unwrap());
        after += usize::from(answered.len() >= expect.len());
    }
    assert_eq!(answered.iter().map(String::as_str).collect::<Vec<_>>(), expect);
}

#[tokio::test(start_paused = true)]
async fn requests_follow_the_addresses_of_a_name_and_those_in_flight_stay() {
    const SOME: [&str; 3] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let mut server = Server::start().await;
    let backends = Backends::start(&SOME).await;
    server.set_addrs("a.test", 5, &SOME[..1]);
    let mut list = server.discover(&[&format!("a.test:{}", backends.port)], UNBOUNDED);
    let mut client = client_of(list.clone()).await;
    check_answers(&mut client, &SOME[..1]).await;
    let first = server.asked().await;
    let held = ask(&mut client, "/held").await;

    server.set_addrs("a.test", 5, &SOME[1..]);
    check_answers(&mut client, &SOME[..1]).await;
    changed(&mut list).await;
    assert!(server.asked_later().await - first >= 5 * SECOND);
    changed(&mut list).await;
    timeout(PATIENCE, async { while ask(&mut client, "/").await.await != SOME[2] {} }).await.unwrap();
    check_answers(&mut client, &SOME[1..]).await;

    // A name that is gone leaves its addresses.
    server.set("a.test", Zone::Code(ResponseCode::NXDomain));
    for _ in 0..2 {
        server.asked_later().await;
    }
    check_answers(&mut client, &SOME[1..]).await;
    backends.release.notify_one();
    assert_eq!(timeout(PATIENCE, held).await.unwrap(), SOME[0]);
}
