//! Endpoints that send requests back to the proxy.

use crate::support::{App, PATIENCE, connect, get};
use http::{Request, StatusCode};
use std::net::SocketAddr;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

/// A relay to an address that is told later; nothing shows that it leads back.
async fn relay() -> (SocketAddr, watch::Sender<Option<SocketAddr>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, told) = watch::channel(None);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut told = told.clone();
            tokio::spawn(async move {
                let Ok(to) = told.wait_for(Option::is_some).await.map(|to| to.unwrap()) else { return };
                let Ok(mut far) = TcpStream::connect(to).await else { return };
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (addr, tell)
}

/// Requests that the proxy has had from clients, itself among them.
async fn requests(app: &App) -> u64 {
    let (_, metrics) = crate::support::admin(app.admin, "GET", "/metrics", "").await;
    let name = "request_total{direction=\"outbound\"} ";
    metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

async fn one_request_is_not_many(protocol: &str) {
    let (endpoint, tell) = relay().await;
    let app = App::start(endpoint, &[("LINKERD2_PROXY_OUTBOUND_CONNECT_PROTOCOL", protocol)]);
    tell.send_replace(Some(app.proxy));
    let mut client = connect(app.proxy).await;
    let (response, _) = client.send_request(get(), true).unwrap();
    let response = timeout(PATIENCE, response).await.expect("it is answered").unwrap();
    assert_eq!(response.status(), StatusCode::LOOP_DETECTED);
    let requests = requests(&app).await;
    assert!((130..300).contains(&requests), "{requests} requests");
    app.counted("http2_connection_limit_total{direction=\"outbound\",limit=\"hops\"} 1").await;
    app.logged(&["comes back", "test.example"]).await;
}

#[tokio::test]
async fn a_loop_is_broken_over_http2() {
    one_request_is_not_many("http2").await;
}

#[tokio::test]
async fn a_loop_is_broken_over_http1() {
    one_request_is_not_many("http1").await;
}

#[tokio::test]
async fn an_authority_that_is_the_proxy_itself_is_refused() {
    let settings = [
        ("LINKERD2_PROXY_OUTBOUND_DISCOVERY", "authority"),
        ("LINKERD2_PROXY_OUTBOUND_DISCOVERY_NETWORKS", "127.0.0.0/8,0.0.0.0"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_PROTOCOL", "http1"),
    ];
    let mut app = App::start_to("", &settings);
    let mut client = connect(app.proxy).await;
    for own in [app.proxy, app.admin] {
        for host in ["127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]"] {
            let req = Request::post(format!("http://{host}:{}/shutdown", own.port())).body(()).unwrap();
            let response = client.send_request(req, true).unwrap().0.await.unwrap();
            assert_eq!(response.status(), StatusCode::BAD_GATEWAY, "{host}");
            let error = "no endpoint can be reached: could not connect: it is a listener of this proxy";
            assert_eq!(response.headers()["proxy-error"], error, "{host}");
        }
    }
    assert_eq!(requests(&app).await, 6);
    assert!(!app.has_ended());
}
