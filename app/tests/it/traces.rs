//! Spans of the binary: the requests that have them, the context that the endpoint gets, and the collector, which may be away.

mod mock;

use self::mock::{Collector, attribute, hex};
use crate::{
    access_log::LogFile,
    support::{App, PATIENCE, body, connect, endpoint},
};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const COLLECTOR: &str = "LINKERD2_PROXY_TRACE_COLLECTOR_SVC_ADDR";

/// The proxy before an endpoint whose requests' fields are kept.
struct Rig {
    app: App,
    client: SendRequest<Bytes>,
    endpoint: SocketAddr,
    seen: mpsc::UnboundedReceiver<HeaderMap>,
}

impl Rig {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let endpoint = endpoint(move |_, request, mut respond| {
            let _ = sender.send(request.headers().clone());
            let status = if request.uri().path() == "/failing" { 503 } else { 200 };
            let _ = respond.send_response(Response::builder().status(status).body(()).unwrap(), true);
        })
        .await;
        let app = App::start(endpoint, settings);
        let client = connect(app.proxy).await;
        Self { app, client, endpoint, seen }
    }

    async fn with(collector: &Collector) -> Self {
        Self::start(&[(COLLECTOR, &collector.addr.to_string())]).await
    }

    /// Sends a request, and returns its fields as the endpoint has them.
    async fn ask(&mut self, path: &str, fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut request = Request::get(format!("http://test.example{path}")).body(()).unwrap();
        *request.headers_mut() = headers(fields);
        body(self.client.send_request(request, true).unwrap().0).await.unwrap();
        self.seen.recv().await.unwrap()
    }

    async fn ask_sampled(&mut self) -> HeaderMap {
        self.ask("/cart", &[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]).await
    }
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// The spans toward the client and toward the endpoint of the next message, which has one request's.
async fn pair(collector: &mut Collector) -> (Span, Span) {
    let spans: [Span; 2] = collector.spans().await.try_into().expect("two spans");
    let [server, client] = spans;
    assert_eq!((server.kind(), client.kind()), (SpanKind::Server, SpanKind::Client));
    assert_eq!(client.parent_span_id, server.span_id);
    assert_eq!(client.trace_id, server.trace_id);
    (server, client)
}

/// Contexts that are not sampled, or that are none.
fn unsampled() -> Vec<Vec<(&'static str, String)>> {
    let parent = |end: &str| format!("00-{TRACE}-{PARENT}-{end}");
    vec![
        vec![],
        vec![("traceparent", parent("00")), ("tracestate", "a=1,b=2".into())],
        vec![("traceparent", parent("fe")), ("tracestate", "a=1,,=bad,  c".into()), ("tracestate", "".into())],
        vec![("traceparent", parent("0x")), ("tracestate", "caf\u{e9}".into())],
        vec![("traceparent", format!("ff-{TRACE}-{PARENT}-01"))],
        vec![("traceparent", "not one".into())],
        vec![("traceparent", parent("01")), ("traceparent", parent("01"))],
        vec![("b3", "0".into())],
        vec![("b3", format!("{TRACE}-{PARENT}-0"))],
        vec![("b3", format!("{TRACE}-{PARENT}"))],
        vec![("x-b3-traceid", TRACE.into()), ("x-b3-spanid", PARENT.into()), ("x-b3-sampled", "0".into())],
        vec![("x-b3-traceid", "zz".into()), ("x-b3-spanid", PARENT.into()), ("x-b3-sampled", "1".into())],
        vec![("x-request-id", "5f3c2c4a-0b1d-9c55-a2f5-d02f7c2b1d9e".into())],
    ]
}

fn sampled() -> Vec<Vec<(&'static str, String)>> {
    vec![
        vec![("traceparent", format!("00-{TRACE}-{PARENT}-01")), ("tracestate", "a=1,=bad".into())],
        vec![("traceparent", format!("00-{TRACE}-{PARENT}-ff"))],
        vec![("b3", format!("{TRACE}-{PARENT}-1-{PARENT}"))],
        vec![("x-b3-traceid", TRACE.into()), ("x-b3-spanid", PARENT.into()), ("x-b3-sampled", "1".into())],
    ]
}

#[tokio::test]
async fn without_a_collector_all_contexts_pass_byte_for_byte() {
    let mut rig = Rig::start(&[]).await;
    for fields in unsampled().into_iter().chain(sampled()) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(rig.ask("/", &fields).await, headers(&fields));
    }
}

#[tokio::test]
async fn with_a_collector_contexts_that_are_not_sampled_pass_byte_for_byte_and_have_no_spans() {
    let mut collector = Collector::start().await;
    let mut rig = Rig::with(&collector).await;
    for fields in unsampled() {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(rig.ask("/", &fields).await, headers(&fields));
    }
    rig.ask_sampled().await;
    pair(&mut collector).await;
}

#[tokio::test]
async fn a_sampled_request_has_two_spans_of_which_the_endpoint_sees_the_second() {
    let mut collector = Collector::start().await;
    let collector_addr = collector.addr.to_string();
    let extra = "k8s.pod.ip=\"10.0.0.1\"\nservice.name=\"web\"";
    let settings = [
        (COLLECTOR, &*collector_addr),
        ("LINKERD2_PROXY_TRACE_SERVICE_NAME", "not this"),
        ("LINKERD2_PROXY_TRACE_EXTRA_ATTRIBUTES", extra),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=a%20b"),
    ];
    let mut rig = Rig::start(&settings).await;
    for fields in sampled() {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let seen = rig.ask("/cart", &fields).await;
        let (server, client) = pair(&mut collector).await;
        assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
        let (ours, between) = (hex(&client.span_id), hex(&server.span_id));
        let expected: Vec<_> = fields
            .iter()
            .map(|(name, value)| {
                // The last part of b3 is the parent of the span that it names.
                let value = value.strip_suffix(&format!("-1-{PARENT}")).map(|start| format!("{start}-1-{between}"));
                let value = value.unwrap_or_else(|| fields.iter().find(|field| field.0 == *name).unwrap().1.to_owned());
                (*name, value.replace(PARENT, &ours))
            })
            .collect();
        let expected: Vec<_> = expected.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(seen, headers(&expected));
        for span in [&server, &client] {
            assert_eq!(span.trace_state, if fields.len() == 2 { "a=1,=bad" } else { "" });
            assert_eq!(span.name, "GET");
            for (name, expected) in [
                ("http.request.method", "GET"),
                ("url.path", "/cart"),
                ("server.address", "test.example"),
                ("http.response.status_code", "200"),
            ] {
                assert_eq!(attribute(&span.attributes, name).as_deref(), Some(expected), "{name}");
            }
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        }
        let port = rig.endpoint.port().to_string();
        assert_eq!(attribute(&client.attributes, "network.peer.port"), Some(port));
        assert_eq!(client.events.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["first byte"]);
    }
    for (name, expected) in
        [("service.name", "web"), ("k8s.pod.ip", "10.0.0.1"), ("deployment.environment.name", "a b")]
    {
        assert_eq!(attribute(&collector.resource, name).as_deref(), Some(expected), "{name}");
    }
    rig.app.counted("trace_spans_exported_total 8").await;
    rig.app.counted("trace_spans_waiting 0").await;
}

#[tokio::test]
async fn retries_are_events_and_errors_have_a_status() {
    let mut collector = Collector::start().await;
    let addr = collector.addr.to_string();
    let retry = ("LINKERD2_PROXY_OUTBOUND_HTTP_RETRY_GATEWAY_ERRORS", "true");
    let mut rig = Rig::start(&[(COLLECTOR, &addr), retry]).await;
    rig.ask("/failing", &[("b3", &format!("{TRACE}-{PARENT}-1"))]).await;
    let (server, client) = pair(&mut collector).await;
    let retries: Vec<_> = client.events.iter().filter(|event| event.name == "retry").collect();
    assert_eq!(retries.len(), 5, "{client:?}");
    assert_eq!(attribute(&retries[0].attributes, "proxy.retry.reason").as_deref(), Some("gateway_error"));
    assert_eq!(attribute(&retries[0].attributes, "proxy.retry.endpoint"), Some(rig.endpoint.to_string()));
    assert_eq!(attribute(&client.attributes, "http.request.resend_count").as_deref(), Some("5"));
    for span in [&server, &client] {
        assert_eq!(attribute(&span.attributes, "error.type").as_deref(), Some("503"));
    }
}

#[tokio::test]
async fn spans_wait_for_a_collector_that_is_away() {
    let mut collector = Collector::start().await;
    let mut rig = Rig::with(&collector).await;
    rig.ask_sampled().await;
    pair(&mut collector).await;
    // Else the collector may be gone before its response comes, and the message is sent again.
    rig.app.counted("trace_spans_exported_total 2").await;
    let addr = collector.addr;
    collector.kill();
    for _ in 0..3 {
        rig.ask_sampled().await;
    }
    rig.app.logged(&["spans cannot be sent; they wait"]).await;
    rig.app.counted("trace_spans_waiting 6").await;
    let mut collector = Collector::start_on(addr).await;
    let mut spans = 0;
    while spans < 6 {
        spans += collector.spans().await.len();
    }
    assert_eq!(spans, 6, "none comes twice");
    rig.app.counted("trace_spans_waiting 0").await;
    rig.app.counted("trace_spans_lost_total{reason=\"queue\"} 0").await;
}

#[tokio::test]
async fn what_the_collector_says_counts() {
    let mut collector = Collector::start().await;
    let mut rig = Rig::with(&collector).await;
    // Sent again after the time that it names.
    let delay = Duration::from_millis(300);
    let details = ErrorDetails::with_retry_info(Some(delay));
    collector.answer(Err(Status::with_error_details(Code::ResourceExhausted, "busy", details)));
    rig.ask_sampled().await;
    let first = collector.refused().await;
    pair(&mut collector).await;
    assert!(first.elapsed() >= delay, "{:?}", first.elapsed());
    rig.app.counted("trace_export_retries_total 1").await;
    collector.answer(Ok(1));
    rig.ask_sampled().await;
    pair(&mut collector).await;
    rig.app.counted("trace_spans_lost_total{reason=\"partial_success\"} 1").await;
    collector.answer(Err(Status::invalid_argument("no")));
    rig.ask_sampled().await;
    collector.refused().await;
    rig.app.counted("trace_spans_lost_total{reason=\"rejected\"} 2").await;
    rig.app.counted("trace_spans_exported_total 3").await;
    rig.app.counted("trace_spans_waiting 0").await;
}

#[tokio::test]
async fn spans_that_wait_are_sent_before_the_end() {
    let mut collector = Collector::start().await;
    let mut rig = Rig::with(&collector).await;
    rig.ask_sampled().await;
    rig.app.terminate();
    drop(rig.client);
    assert!(rig.app.ended().await.success());
    pair(&mut collector).await;
}

#[tokio::test]
async fn a_collector_that_is_not_there_holds_up_no_end() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut rig = Rig::start(&[(COLLECTOR, &closed.to_string())]).await;
    rig.ask_sampled().await;
    rig.app.terminate();
    drop(rig.client);
    assert!(timeout(PATIENCE, rig.app.ended()).await.unwrap().success());
    rig.app.logged(&["spans were not sent before the end", "\"spans\":2"]).await;
}

#[tokio::test]
async fn a_request_may_have_a_line_and_spans() {
    let (mut collector, file) = (Collector::start().await, LogFile::new());
    let addr = collector.addr.to_string();
    let mut settings = file.settings("json").to_vec();
    settings.push((COLLECTOR, &addr));
    let mut rig = Rig::start(&settings).await;
    rig.ask("/", &[]).await;
    rig.ask_sampled().await;
    pair(&mut collector).await;
    let lines = file.lines(2).await;
    assert!(lines[1].contains(&format!("\"trace_id\":\"{TRACE}\"")), "{lines:?}");
}
