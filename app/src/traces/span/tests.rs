use super::*;
use crate::traces::context::Trace;
use http::{HeaderValue, Request, header::CONTENT_TYPE};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use proxy_http::stats::{ProxyError, Reset};
use std::collections::BTreeMap;

const MS: Duration = Duration::from_millis(1);

fn started(request: http::request::Builder) -> RequestSpans {
    let trace =
        Trace { id: [1; 16], parent: [2; 8], server: [3; 8], client: [4; 8], flags: 1, state: "a=b".to_owned() };
    let client = Client { direction: "outbound", peer: PeerAddr::Tcp("[2001:db8::1]:9".parse().unwrap()) };
    let (head, ()) = request.body(()).unwrap().into_parts();
    RequestSpans::start(trace, client, &head, UNIX_EPOCH + Duration::from_secs(1))
}

fn spans(request: http::request::Builder, end: RequestEnd) -> Vec<Span> {
    let mut spans = started(request);
    spans.end = end;
    let made = spans.to_spans();
    assert_eq!(made.len() as u64, spans.spans());
    made
}

fn sent(status: u16) -> RequestEnd {
    let mut end = RequestEnd::default();
    end.status = StatusCode::from_u16(status).ok();
    (end.attempts, end.time_to_send, end.time_to_head, end.duration) = (1, Some(MS), Some(2 * MS), 5 * MS);
    end.endpoint = Some("[::1]:80".into());
    end
}

/// A common request, with a span toward either side.
pub(in crate::traces) fn request() -> Box<RequestSpans> {
    let mut spans = started(Request::get("http://shop.example/cart").header(USER_AGENT, "curl/8"));
    spans.end = sent(200);
    Box::new(spans)
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let value = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let all: BTreeMap<_, _> =
        span.attributes.iter().map(|attribute| (attribute.key.as_str(), value(attribute))).collect();
    assert_eq!(all.len(), span.attributes.len(), "no name is there twice");
    all
}

#[test]
fn a_request_has_a_span_toward_either_side() {
    let request = Request::post("https://user:pass@shop.example:8443/cart?token=secret")
        .version(Version::HTTP_2)
        .header(USER_AGENT, "curl/8");
    let made = spans(request, sent(200));
    let [server, client] = made.as_slice() else { panic!("{made:?}") };
    assert_eq!((server.parent_span_id.as_slice(), server.span_id.as_slice()), (&[2; 8][..], &[3; 8][..]));
    assert_eq!((client.parent_span_id.as_slice(), client.span_id.as_slice()), (&[3; 8][..], &[4; 8][..]));
    assert_eq!((server.kind(), client.kind()), (SpanKind::Server, SpanKind::Client));
    assert_eq!((server.flags, client.flags), (0x301, 0x101));
    for span in &made {
        assert_eq!((span.trace_id.as_slice(), span.trace_state.as_str()), (&[1; 16][..], "a=b"));
        assert_eq!((span.name.as_str(), &span.status), ("POST", &None));
        let found = attributes(span);
        for (name, expected) in [
            ("http.request.method", "POST"),
            ("url.scheme", "https"),
            ("url.path", "/cart"),
            ("server.address", "shop.example"),
            ("server.port", "8443"),
            ("network.protocol.name", "http"),
            ("http.response.status_code", "200"),
            ("http.response.body.size", "0"),
        ] {
            assert_eq!(found[name], expected, "{name}");
        }
        assert!(found.values().all(|value| !value.contains("secret") && !value.contains("pass")), "{found:?}");
    }
    let found = attributes(server);
    assert_eq!((&*found["client.address"], &*found["client.port"]), ("2001:db8::1", "9"));
    assert_eq!((&*found["user_agent.original"], &*found["network.protocol.version"]), ("curl/8", "2"));
    assert_eq!(found["proxy.direction"], "outbound");
    let found = attributes(client);
    assert_eq!((&*found["network.peer.address"], &*found["network.peer.port"]), ("::1", "80"));
    let second = 1_000_000_000;
    assert_eq!((server.start_time_unix_nano, server.end_time_unix_nano), (second, second + 5_000_000));
    assert_eq!((client.start_time_unix_nano, client.end_time_unix_nano), (second + 1_000_000, second + 5_000_000));
    let events: Vec<_> = client.events.iter().map(|event| (event.name.as_str(), event.time_unix_nano)).collect();
    assert_eq!(events, [("first byte", second + 2_000_000)]);
    assert_eq!(server.events, []);
}

#[test]
fn a_call_of_grpc_is_named_by_its_method() {
    for (kind, is_call) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc ;a=b", true),
        ("application/grpc-web", false),
        ("text/css", false),
    ] {
        let request = Request::post("http://h.example/shop.v1.Cart/Add").header(CONTENT_TYPE, kind);
        let mut end = sent(200);
        end.grpc_status = Some(5);
        let made = spans(request, end);
        let found = attributes(&made[0]);
        assert_eq!(made[0].name, if is_call { "shop.v1.Cart/Add" } else { "POST" }, "{kind}");
        let rpc =
            ["rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code"].map(|name| found.get(name).cloned());
        let expected = ["grpc", "shop.v1.Cart", "Add", "5"].map(|value| is_call.then(|| value.to_owned()));
        assert_eq!(rpc, expected);
    }
}

#[test]
fn errors_are_the_ones_of_the_side() {
    let grpc = || Request::post("http://h.example/a.B/C").header(CONTENT_TYPE, "application/grpc");
    let get = || Request::get("http://h.example/");
    let with = |edit: fn(&mut RequestEnd)| {
        let mut end = sent(200);
        edit(&mut end);
        end
    };
    for (request, end, server, client) in [
        (get(), sent(404), None, Some("404")),
        (get(), sent(503), Some("503"), Some("503")),
        (get(), sent(302), None, None),
        (grpc(), with(|end| end.grpc_status = Some(0)), None, None),
        (grpc(), with(|end| end.grpc_status = Some(5)), None, Some("5")),
        (grpc(), with(|end| end.grpc_status = Some(14)), Some("14"), Some("14")),
        (grpc(), sent(502), Some("502"), Some("502")),
        (get(), with(|end| end.proxy_error = Some(ProxyError::Deadline)), Some("deadline"), Some("deadline")),
        (
            get(),
            with(|end| end.reset = Some(Reset { by: ResetBy::Client, code: Some(8) })),
            Some("client_reset"),
            Some("client_reset"),
        ),
    ] {
        let made = spans(request, end.clone());
        for (span, expected) in made.iter().zip([server, client]) {
            let found = attributes(span);
            assert_eq!(found.get("error.type").map(String::as_str), expected, "{end:?}");
            let status = span.status.as_ref().map(|status| status.code());
            assert_eq!(status, expected.map(|_| SpanStatus::Error), "{end:?}");
        }
    }
    let mut end = RequestEnd::default();
    (end.status, end.proxy_error) = (Some(StatusCode::URI_TOO_LONG), Some(ProxyError::UriTooLong));
    let made = spans(get(), end);
    assert_eq!(made.len(), 1, "it was sent nowhere");
    assert_eq!(made[0].status, None, "the client is at fault");
}

#[test]
fn texts_of_clients_are_bounded() {
    let long = "p".repeat(9_000);
    let request = Request::builder()
        .method(&*"M".repeat(900))
        .uri(format!("http://{}.example/{long}", "h".repeat(900)))
        .header(USER_AGENT, HeaderValue::from_bytes("\u{e9}".repeat(900).as_bytes()).unwrap());
    for span in spans(request, sent(200)) {
        assert_eq!(span.name, "HTTP");
        let found = attributes(&span);
        assert_eq!((&*found["http.request.method"], found["url.path"].len()), ("_OTHER", MAX_PATH));
        assert!(found.values().all(|value| value.len() <= MAX_PATH), "{found:?}");
    }
}

#[test]
fn authorities_have_a_host_and_a_port() {
    for (authority, host, port) in [
        ("a.example", "a.example", None),
        ("a.example:80", "a.example", Some(80)),
        ("[::1]:443", "::1", Some(443)),
        ("[::1]", "::1", None),
        ("u@a.example:x", "a.example", None),
    ] {
        assert_eq!(host_and_port(authority), (host, port), "{authority}");
    }
}

#[test]
fn a_client_by_a_unix_domain_socket_has_no_address() {
    let mut spans = started(Request::get("http://a.example/"));
    spans.client.peer = PeerAddr::Unix;
    let attributes = spans.server().attributes;
    let has = |key: &str| attributes.iter().any(|attribute| attribute.key == key);
    assert!(has("network.transport") && !has("client.address") && !has("client.port"), "{attributes:?}");
}
