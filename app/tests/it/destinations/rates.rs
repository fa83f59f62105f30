//! Rate limits of routes.

use super::{File, ROUTES, ask, call, endpoint, get};
use crate::{
    access_log::LogFile,
    support::{App, admin, connect},
};
use std::net::SocketAddr;

/// A rate so low that the burst alone counts in the time of a test.
const SLOW: &str = "requestsPerSecond: 1, burst: 1000";

fn text(a: SocketAddr, shop: &str, other: &str) -> String {
    format!(
        "
         backends: {{a: {{endpoints: ['{a}']}}}}
         routes:
           - name: shop
             hostnames: [shop.example]
             rules:
               - name: cart
                 matches: [{{path: {{value: /cart}}}}]
                 rateLimit: {{{shop}}}
                 backendRefs: [{{name: a}}]
               - backendRefs: [{{name: a}}]
           - rules:
               - rateLimit: {{{other}}}
                 backendRefs: [{{name: a}}]"
    )
}

/// Sends so many requests one after another, over three connections. Returns how many got 200, and how many 429.
async fn statuses(app: &App, uri: &str, requests: usize) -> (usize, usize) {
    let mut clients = [connect(app.proxy).await, connect(app.proxy).await, connect(app.proxy).await];
    let (mut served, mut refused) = (0, 0);
    for index in 0..requests {
        match ask(&mut clients[index % 3], get(uri)).await.0 {
            200 => served += 1,
            429 => refused += 1,
            status => panic!("{status}"),
        }
    }
    (served, refused)
}

async fn value(app: &App, series: &str) -> u64 {
    let metrics = admin(app.admin, "GET", "/metrics", "").await.1;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series}: {metrics}")).parse().unwrap()
}

#[tokio::test]
async fn a_route_has_a_rate_of_its_own_for_all_workers() {
    let file = File::new(&text(endpoint("a").await, SLOW, SLOW));
    let log = LogFile::new();
    let [format, path] = log.settings("json");
    let app = App::start_to("", &[format, path, (ROUTES, file.path().to_str().unwrap())]);
    let (served, refused) = statuses(&app, "http://shop.example/cart", 1_300).await;
    // A test that takes a minute would be served 60 more.
    assert!((1_000..1_060).contains(&served), "{served} of 1,300 were served");
    let mut client = connect(app.proxy).await;
    assert_eq!(ask(&mut client, call("http://shop.example/cart")).await, (200, "grpc-status 8".to_owned()));
    assert_eq!(ask(&mut client, get("http://shop.example/")).await.0, 200);
    assert_eq!(ask(&mut client, get("http://other.example/cart")).await.0, 200);
    let refused = refused as u64 + 1;
    let limit = "http2_connection_limit_total{direction=\"outbound\",limit=\"route_rate_limit\"}";
    assert_eq!(value(&app, limit).await, refused);
    let by_route = "route_request_total{direction=\"outbound\",dst=\"a\",rt_name=\"shop/cart\"}";
    assert_eq!(value(&app, by_route).await, 1_301);
    let lines = log.lines(1_303).await;
    let line = lines.iter().find(|line| line.contains("\"status\":429")).unwrap();
    for part in ["\"rate_limited\"", "\"shop/cart\"", "the request's route gets too many requests"] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn a_rate_of_a_route_keeps_its_count_unless_it_changes() {
    let a = endpoint("a").await;
    let file = File::new(&text(a, SLOW, SLOW));
    let app = file.start();
    let read_again = async |count: u32, text: String| {
        file.write(&text);
        app.signal("-HUP");
        app.counted(&format!("http_routes_reloads_total{{direction=\"outbound\",result=\"success\"}} {count}")).await;
    };
    let (cart, other) = ("http://shop.example/cart", "http://other.example/");
    let is_spent = |(served, refused): (usize, usize)| served < 60 && refused > 0;
    for uri in [cart, other] {
        assert!(statuses(&app, uri, 1_100).await.0 >= 1_000, "{uri}");
        assert!(is_spent(statuses(&app, uri, 100).await), "{uri}");
    }
    read_again(1, text(a, SLOW, "requestsPerSecond: 1, burst: 500")).await;
    assert!(is_spent(statuses(&app, cart, 100).await));
    let (served, refused) = statuses(&app, other, 600).await;
    assert!((500..560).contains(&served) && refused > 0, "{served}");
    // Without a limit, and with it again.
    read_again(2, text(a, SLOW, SLOW).replacen(&format!("rateLimit: {{{SLOW}}}"), "timeouts: {}", 1)).await;
    assert_eq!(statuses(&app, cart, 1_200).await, (1_200, 0));
}
