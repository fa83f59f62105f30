//! HTTP/1.1 clients of the binary.

use crate::support::{App, PATIENCE, admin};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

#[tokio::test]
async fn sigterm_lets_requests_of_http_1_1_finish() {
    let mut endpoint = crate::support::Endpoint::start().await;
    let mut app = App::start(endpoint.addr, &[]);
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(app.proxy).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test.example\r\n\r\n").await.unwrap();
        endpoint.asked.recv().await.unwrap();
        streams.push(stream);
    }
    app.terminate();
    while TcpStream::connect(app.proxy).await.is_ok() {
        tokio::task::yield_now().await;
    }
    endpoint.answer.send_replace(true);
    for mut stream in streams {
        let mut rsp = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut rsp)).await.expect("it closes").unwrap();
        assert!(rsp.starts_with("HTTP/1.1 200 OK\r\n") && rsp.contains("\r\n6\r\nanswer\r\n0\r\n\r\n"), "{rsp}");
        assert!(rsp.contains("connection: close\r\n"), "{rsp}");
    }
    assert!(app.ended().await.success());
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_counted() {
    let endpoint = crate::support::Endpoint::start().await;
    let app = App::start(endpoint.addr, &[("LINKERD2_PROXY_OUTBOUND_DETECT_TIMEOUT", "50ms")]);
    for (sent, expect) in [(&b"\x00garbage\r\n\r\n"[..], "HTTP/1.1 400 "), (b"\x16\x03\x01", ""), (b"", "")] {
        let mut stream = TcpStream::connect(app.proxy).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut rsp = String::new();
        let _ = timeout(PATIENCE, stream.read_to_string(&mut rsp)).await.expect("it closes");
        assert!(rsp.starts_with(expect) && rsp.is_empty() == expect.is_empty(), "{rsp:?}");
    }
    let (_, metrics) = admin(app.admin, "GET", "/metrics", "").await;
    let line = "http2_connection_limit_total{direction=\"outbound\",limit=\"detect_timeout\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
}
