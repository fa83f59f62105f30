//! The admin server's page of connections and of the streams that wait on them.

use crate::support::{App, PATIENCE, admin, command, endpoint, get};
use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// An endpoint that answers with a megabyte.
async fn large_endpoint() -> SocketAddr {
    endpoint(|_, _, mut respond| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from(vec![0; 1 << 20]), true).unwrap();
    })
    .await
}

/// A client that asks for `path` and reads nothing of the body. Its window of a stream is as large as this.
async fn stopped_reader(proxy: SocketAddr, path: &str, window: u32) -> impl Sized + use<> {
    let stream = TcpStream::connect(proxy).await.unwrap();
    let (mut client, connection) =
        h2::client::Builder::new().initial_window_size(window).handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(async { _ = connection.await });
    let req = Request::get(format!("http://test.example{path}")).body(()).unwrap();
    let body = client.send_request(req, true).unwrap().0.await.unwrap().into_body();
    (client, body)
}

/// The page once the client has a blocked stream and all that its window of 1,000 bytes takes, and the client's connection on it.
async fn blocked(app: &App) -> (Value, Value) {
    let blocked = async {
        loop {
            let (status, page) = admin(app.admin, "GET", "/connections", "").await;
            assert_eq!(status, 200);
            let page: Value = serde_json::from_str(&page).unwrap();
            let mut connections = page["connections"].as_array().unwrap().iter();
            let client = connections.find(|connection| connection["peer"] == "src").unwrap().clone();
            // A page may be made before the bytes that the window takes are written.
            let is_written = client["written_bytes"].as_u64() >= Some(1_000);
            if client["http2"]["blocked_streams"] == 1 && is_written {
                return (page, client);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, blocked).await.expect("a stream is blocked")
}

#[tokio::test]
async fn a_stream_of_a_stopped_reader_is_listed_with_its_reason() {
    let endpoint = large_endpoint().await;
    let app = App::start(endpoint, &[]);
    let long = format!("/slow/{}", "x".repeat(300));
    let _reader = stopped_reader(app.proxy, &format!("{long}?secret=1"), 1_000).await;
    let (page, client) = blocked(&app).await;
    assert_eq!(page["left_off"], 0);
    assert_eq!(client["direction"], "outbound");
    assert!(client["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{client}");
    assert_eq!(client["streams"], 1);
    assert!(client["written_bytes"].as_u64().unwrap() >= 1_000, "{client}");
    let http2 = &client["http2"];
    assert_eq!(http2["granted"], json!({ "stream": 65_535, "connection": 1_048_576 }));
    assert_eq!(http2["granted_by_peer"]["stream"], 1_000);
    let stream = &http2["blocked"][0];
    assert_eq!((&stream["id"], &stream["reason"]), (&1.into(), &"stream_window".into()));
    assert_eq!(stream["path"], long[..200], "cut, and without its query");
    assert!(stream["seconds"].as_f64().unwrap() >= 0.0);

    let text = admin(app.admin, "GET", "/connections?format=text", "").await.1;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("DIRECTION  PEER  ADDRESS"), "{text}");
    let stream = lines.iter().find(|line| line.starts_with("    stream 1  stream_window  ")).unwrap();
    assert!(stream.ends_with(&long[..200]), "{text}");
    assert!(!text.contains("secret"), "{text}");
    let column = lines[0].find("PEER").unwrap();
    for line in lines[1..].iter().filter(|line| line.starts_with("outbound")) {
        assert!(["src", "dst"].contains(&&line[column..column + 3]), "{text}");
    }
}

#[tokio::test]
async fn the_format_is_the_one_that_is_asked_for() {
    let app = App::start(large_endpoint().await, &[]);
    let mut stream = TcpStream::connect(app.admin).await.unwrap();
    let req = "GET /connections HTTP/1.1\r\nhost: admin\r\nconnection: close\r\naccept: text/plain\r\n\r\n";
    stream.write_all(req.as_bytes()).await.unwrap();
    let mut rsp = String::new();
    stream.read_to_string(&mut rsp).await.unwrap();
    assert!(rsp.contains("content-type: text/plain") && rsp.contains("DIRECTION"), "{rsp}");
    assert_eq!(admin(app.admin, "GET", "/connections?format=xml", "").await.0, 400);
    assert_eq!(admin(app.admin, "POST", "/connections", "").await.0, 405);
    let (status, missing) = admin(app.admin, "GET", "/", "").await;
    assert_eq!(status, 404);
    assert!(missing.contains("/connections"), "{missing}");
}

#[tokio::test]
async fn metrics_say_what_streams_wait_for() {
    let endpoint = large_endpoint().await;
    let app = App::start(endpoint, &[]);
    let metrics = admin(app.admin, "GET", "/metrics", "").await.1;
    for peer in ["src", "dst"] {
        for reason in ["stream_window", "connection_window", "socket", "reader", "budget"] {
            let labels = format!("{{direction=\"outbound\",peer=\"{peer}\",reason=\"{reason}\"}}");
            assert!(metrics.contains(&format!("http2_flow_control_blocked_seconds_total{labels} 0.0\n")), "{metrics}");
            assert!(metrics.contains(&format!("http2_flow_control_blocked_streams{labels} 0\n")), "{metrics}");
        }
    }
    assert!(metrics.contains("http2_reserved_window_bytes{direction=\"outbound\"} 0\n"), "{metrics}");
    let _reader = stopped_reader(app.proxy, "/", 1_000).await;
    let of = |peer, reason| format!("{{direction=\"outbound\",peer=\"{peer}\",reason=\"{reason}\"}}");
    app.counted(&format!("http2_flow_control_blocked_streams{} 1", of("src", "stream_window"))).await;
    app.counted(&format!("http2_flow_control_blocked_streams{} 1", of("dst", "reader"))).await;
    let metrics = admin(app.admin, "GET", "/metrics", "").await.1;
    let seconds = |labels: String| {
        let start = format!("http2_flow_control_blocked_seconds_total{labels} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
        line.parse::<f64>().unwrap()
    };
    assert!(seconds(of("src", "stream_window")) > 0.0 && seconds(of("dst", "reader")) > 0.0, "{metrics}");
    assert_eq!(seconds(of("src", "socket")), 0.0);
    for (peer, endpoint) in [("src", String::new()), ("dst", endpoint.to_string())] {
        for (window, bytes) in [("stream", 65_535), ("connection", 1_048_576)] {
            let labels = format!(
                "{{direction=\"outbound\",peer=\"{peer}\",endpoint=\"{endpoint}\",window=\"{window}\",granted_by=\"us\"}}"
            );
            assert!(metrics.contains(&format!("http2_window_bytes{labels} {bytes}\n")), "{labels}: {metrics}");
        }
    }
}

#[tokio::test]
async fn adaptive_windows_are_reserved() {
    let app =
        App::start(large_endpoint().await, &[("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL", "true")]);
    let stream = TcpStream::connect(app.proxy).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async { _ = connection.await });
    let rsp = client.send_request(get(), true).unwrap().0.await;
    assert!(rsp.is_ok());
    // A quarter of half the limit would be 32 MiB, and a connection wants 24 MiB.
    app.counted(&format!("http2_reserved_window_bytes{{direction=\"outbound\"}} {}", 23 << 20)).await;
}

#[test]
fn check_warns_of_large_windows_and_says_what_small_ones_cost() {
    let mut command = command();
    command.arg("check").envs([
        ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:1"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "16777216"),
        ("LINKERD2_PROXY_OUTBOUND_CONNECT_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE", "67108864"),
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let warning =
        "warning: LINKERD2_PROXY_OUTBOUND_CONNECT_HTTP2_INITIAL_CONNECTION_WINDOW_SIZE: is 67108864, more than a sixth";
    assert!(stderr.starts_with(warning), "{stderr}");
    let note = stdout.lines().last().unwrap();
    assert!(note.starts_with("note: a window of 65535 bytes"), "{note}");
    assert!(
        note.ends_with("set LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_ADAPTIVE_FLOW_CONTROL=true for uploads"),
        "{note}"
    );
}
