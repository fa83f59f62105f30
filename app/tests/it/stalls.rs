//! Clients that stop reading.

use crate::support::{App, Endpoint, PATIENCE, admin, get};
use std::time::Duration;
use tokio::{net::TcpStream, time::timeout};

#[tokio::test]
async fn readers_that_stop_are_cut_off_and_counted() {
    let mut endpoint = Endpoint::start().await;
    endpoint.answer.send_replace(true);
    let app = App::start(endpoint.addr, &[("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_WRITE_STALL_TIMEOUT", "100ms")]);
    let stream = TcpStream::connect(app.proxy).await.unwrap();
    let (mut client, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let closed = tokio::spawn(connection);
    let (response, _) = client.send_request(get(), true).unwrap();
    endpoint.asked.recv().await.unwrap();
    let mut body = response.await.unwrap().into_body();
    assert!(timeout(PATIENCE, body.data()).await.expect("it is cut off").unwrap().is_err());
    let _ = timeout(PATIENCE, closed).await.expect("nothing else is open").unwrap();
    let line = "http2_stream_limit_total{direction=\"outbound\",peer=\"src\",limit=\"write_stall_timeout\"} 1\n";
    let counted = async {
        while !admin(app.admin, "GET", "/metrics", "").await.1.contains(line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("it is counted");
    let metrics = admin(app.admin, "GET", "/metrics", "").await.1;
    assert!(metrics.contains("http2_buffered_bytes{direction=\"outbound\"} 0\n"), "{metrics}");
}
