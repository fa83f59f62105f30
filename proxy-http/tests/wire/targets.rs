//! Authorities, targets and limits of heads, which have one meaning in both versions of HTTP.

use crate::{
    early::PATIENCE,
    raw::Raw,
    support::{Asked, Endpoint, PROXY, Rig, endpoint_params, get},
};
use http::{HeaderValue, Request, Response, Uri};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{Endpoints, Protocol, http1, proxy};
use tokio::time::timeout;

fn rig(protocol: Protocol) -> Rig {
    Rig::to(protocol, endpoint_params())
}

fn answer(mut asked: Asked) {
    asked.respond.send_response(Response::builder().header("content-length", "0").body(()).unwrap(), true).unwrap();
}

/// The end of an endpoint's connection, in its version.
enum End {
    Http2(Endpoint),
    Http1(Raw),
}

impl End {
    async fn of(rig: &mut Rig, protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http2 => Self::Http2(rig.endpoint().await),
            Protocol::Http1 => Self::Http1(Raw::next(&rig.endpoint_ios)),
        }
    }

    /// Answers a request, and returns its method, authority and path.
    async fn serve(&mut self) -> String {
        match self {
            Self::Http2(endpoint) => {
                let asked = endpoint.asked().await;
                let (uri, method) = (asked.request.uri().clone(), asked.request.method().clone());
                answer(asked);
                let authority = uri.authority().map_or("", |authority| authority.as_str());
                format!("{method} {authority} {}", uri.path_and_query().unwrap())
            }
            Self::Http1(endpoint) => {
                let head = endpoint.until("\r\n\r\n").await;
                endpoint.send("HTTP/1.1 200 OK|content-length: 0||").await;
                let (line, fields) = head.split_once("\r\n").unwrap();
                let host = fields.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
                let mut line = line.split(' ');
                format!("{} {host} {}", line.next().unwrap(), line.next().unwrap())
            }
        }
    }
}

/// Authorities with the host that is sent beside them, and whether they pass.
const AUTHORITIES: [(&str, Option<&str>, bool); 15] = [
    ("example.com", None, true),
    ("example.com:", None, true),
    ("example.com:80", None, true),
    ("[::1]:8080", None, true),
    ("a_b!$&'()*+;=~", None, true),
    ("example.com", Some("example.com:80"), true),
    ("example.com", Some("EXAMPLE.com:"), true),
    ("example.com:80", Some("example.com"), true),
    ("example.com", Some("example.com:8080"), false),
    ("example.com", Some("example.org"), false),
    ("example.com", Some("example.com,example.com"), false),
    ("example.com:0", None, false),
    ("example.com:65536", None, false),
    ("a,b", None, false),
    ("user@example.com", None, false),
];

#[tokio::test]
async fn authorities_pass_or_are_400_in_both_versions() {
    for protocol in [Protocol::Http2, Protocol::Http1] {
        for (authority, host, passes) in AUTHORITIES {
            let mut rig = rig(protocol);
            let mut client = rig.client().await;
            let mut end = End::of(&mut rig, protocol).await;
            let uri = Uri::builder().scheme("http").authority(authority).path_and_query("/x").build().unwrap();
            let mut req = Request::get(uri).body(()).unwrap();
            if let Some(host) = host {
                req.headers_mut().insert("host", HeaderValue::from_static(host));
            }
            let rsp = client.send_request(req, true).unwrap().0;
            if passes {
                assert_eq!(
                    timeout(PATIENCE, end.serve()).await.expect("it is passed on"),
                    format!("GET {authority} /x")
                );
            }
            assert_eq!(
                rsp.await.unwrap().status(),
                if passes { 200 } else { 400 },
                "{authority} {host:?} {protocol:?}"
            );
            if host.is_some() {
                // An absolute target overrides the field in HTTP/1.1 (RFC 9112 section 3.2.2).
                continue;
            }
            for head in [
                format!("GET /x HTTP/1.1|host: {authority}||"),
                format!("GET http://{authority}/x HTTP/1.1|host: other||"),
            ] {
                let mut client = Raw::new(rig.connect(1 << 16).0);
                client.send(&head).await;
                if passes {
                    assert_eq!(
                        timeout(PATIENCE, end.serve()).await.expect("it is passed on"),
                        format!("GET {authority} /x")
                    );
                }
                assert_eq!(client.receive().await.status, if passes { 200 } else { 400 }, "{head} {protocol:?}");
            }
        }
    }
}

#[tokio::test]
async fn each_form_of_a_target_has_its_path() {
    for protocol in [Protocol::Http2, Protocol::Http1] {
        let mut rig = rig(protocol);
        let mut client = Raw::new(rig.client_io.take().unwrap());
        let mut end = End::of(&mut rig, protocol).await;
        for (line, expect) in [
            ("GET /x?y", "GET a /x?y"),
            ("GET http://b?x=1", "GET b /?x=1"),
            ("GET http://b?", "GET b /?"),
            ("GET http://b", "GET b /"),
            ("GET http://b/?x", "GET b /?x"),
            ("OPTIONS *", "OPTIONS a *"),
            ("OPTIONS http://b?x", "OPTIONS b /?x"),
        ] {
            client.send(&format!("{line} HTTP/1.1|host: a||")).await;
            assert_eq!(timeout(PATIENCE, end.serve()).await.expect("it is passed on"), expect, "{line}");
            assert_eq!(client.receive().await.status, 200);
        }
    }
}

/// As docs/errors.md has it: `http` reads no other targets, and h2 refuses a stream with one.
#[tokio::test]
async fn targets_may_hold_all_of_ascii_but_some() {
    let mut rig = rig(Protocol::Http2);
    let mut end = End::of(&mut rig, Protocol::Http2).await;
    for (start, refused) in [("/a", "<>`"), ("/a?", "\"<>")] {
        // A line's end is sent as this.
        for byte in ('!'..='~').filter(|byte| *byte != '|') {
            let mut client = Raw::new(rig.connect(1 << 16).0);
            client.send(&format!("GET {start}{byte}b HTTP/1.1|host: a||")).await;
            let passes = !refused.contains(byte);
            if passes {
                timeout(PATIENCE, end.serve()).await.expect("it is passed on");
            }
            assert_eq!(client.receive().await.status, if passes { 200 } else { 400 }, "{start}{byte}b");
        }
    }
}

#[tokio::test]
async fn crumbs_of_a_cookie_are_one_field() {
    let mut rig = Rig::defaults();
    let (mut client, mut endpoint) = (rig.client().await, rig.endpoint().await);
    for (name, status) in [("cookie", 200), ("x-many", 431)] {
        let mut req = get();
        for _ in 0..120 {
            req.headers_mut().append(name, HeaderValue::from_static("a=1"));
        }
        let rsp = client.send_request(req, true).unwrap().0;
        if status == 200 {
            let asked = endpoint.asked().await;
            assert_eq!(asked.request.headers().get_all("cookie").iter().count(), 120);
            answer(asked);
        }
        assert_eq!(rsp.await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn the_limit_of_fields_is_the_same_in_both_versions() {
    const FIELDS: usize = 150;
    for max in [100, 200] {
        let params = proxy::Params { max_headers_count: max, ..PROXY };
        let mut rig = Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params, |connect| {
            let connect = connect.protocol(Protocol::Http1).max_headers_count(max);
            Endpoints::fixed(["endpoint"], &connect, endpoint_params())
        });
        let http1 = http1::Params { max_headers_count: max, ..http1::Params::default() };
        rig.server = rig.server.clone().http1(&http1);
        let mut endpoint = Raw::next(&rig.endpoint_ios);
        let many = "x: y|".repeat(FIELDS);
        let mut client = Raw::new(rig.connect(1 << 16).0);
        client.send(&format!("GET / HTTP/1.1|host: a|{many}|")).await;
        if max < FIELDS {
            assert_eq!(client.head().await.status, 431);
            client = Raw::new(rig.connect(1 << 16).0);
            client.send("GET / HTTP/1.1|host: a||").await;
        }
        endpoint.until("\r\n\r\n").await;
        endpoint.send(&format!("HTTP/1.1 200 OK|content-length: 0|{}|", many.replace("x:", "set-cookie:"))).await;
        assert_eq!(client.receive().await.status, if max < FIELDS { 502 } else { 200 });
    }
}

#[tokio::test]
async fn the_size_of_a_header_list_is_the_same_in_both_versions() {
    // 60 fields of 100 bytes are 6 KiB on the wire, and 8 KiB as a list.
    for (size, status) in [(7_000, 431), (9_000, 200)] {
        let params = ServerParams { max_header_list_size: Some(size), ..ServerParams::DEFAULT };
        let mut rig = Rig::new(&params, &ClientParams::DEFAULT, PROXY);
        let mut endpoint = rig.endpoint().await;
        let value = "v".repeat(94);
        let mut client = Raw::new(rig.connect(1 << 16).0);
        client.send(&format!("GET / HTTP/1.1|host: a|{}|", format!("x-y: {value}|").repeat(60))).await;
        let mut http2 = rig.client().await;
        let mut req = get();
        for _ in 0..60 {
            req.headers_mut().append("x-y", HeaderValue::from_str(&value).unwrap());
        }
        let rsp = http2.send_request(req, true).unwrap().0;
        if status == 200 {
            answer(endpoint.asked().await);
            answer(endpoint.asked().await);
        }
        assert_eq!((rsp.await.unwrap().status().as_u16(), client.head().await.status), (status, status));
    }
}
