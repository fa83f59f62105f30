//! Metrics of requests by destination and route.

use super::{DISCOVERY, File, IDLE, NETWORKS, ask, call, endpoint, endpoint_on, get};
use crate::support::{App, admin, connect};

const MAX: &str = "LINKERD2_PROXY_OUTBOUND_MAX_DESTINATIONS";

#[tokio::test]
async fn requests_are_counted_by_rule_and_back_end() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let text = |rule: &str| {
        format!(
            "
             backends:
               a: {{endpoints: ['{a}']}}
               b: {{endpoints: ['{b}']}}
             routes:
               - rules:
                   - backendRefs: [{{name: a}}]
               - name: shop
                 rules:
                   - matches: [{{path: {{value: /shop}}}}]
                     backendRefs: [{{name: a, weight: 0}}, {{name: b}}]
                   - name: {rule}
                     matches: [{{path: {{value: /cart}}}}, {{path: {{type: Exact, value: /wait}}}}]
                     timeouts: {{request: 50ms}}
                     backendRefs: [{{name: b}}]"
        )
    };
    let file = File::new(&text("cart"));
    let app = file.start();
    let mut client = connect(app.proxy).await;
    for path in ["/", "/", "/shop", "/cart", "/shop", "/"] {
        assert_eq!(ask(&mut client, get(&format!("http://x.example{path}"))).await.0, 200);
    }
    assert_eq!(ask(&mut client, get("http://x.example/wait")).await.0, 504);
    let of = |dst: &str, route: &str| format!("direction=\"outbound\",dst=\"{dst}\",rt_name=\"{route}\"");
    for (dst, route, successes, failures) in [("a", "0/0", 3, 0), ("b", "shop/0", 2, 0), ("b", "shop/cart", 1, 1)] {
        let (labels, count) = (of(dst, route), successes + failures);
        app.counted(&format!("route_request_total{{{labels}}} {count}")).await;
        app.counted(&format!("route_response_total{{{labels},classification=\"success\"}} {successes}")).await;
        app.counted(&format!("route_response_total{{{labels},classification=\"failure\"}} {failures}")).await;
        app.counted(&format!("route_response_latency_ms_count{{{labels}}} {count}")).await;
    }
    let metrics = admin(app.admin, "GET", "/metrics", "").await.1;
    // A back end that no request has gone to has no series.
    assert!(!metrics.contains("dst=\"a\",rt_name=\"shop/0\"") && !metrics.contains("dst=\"other\""), "{metrics}");

    // The counts of a rule go on when the file changes, and the ones of a rule that is gone stay.
    file.write(&text("basket"));
    app.signal("-HUP");
    app.counted("http_routes_reloads_total{direction=\"outbound\",result=\"success\"} 1").await;
    for path in ["/shop", "/cart"] {
        assert_eq!(ask(&mut client, get(&format!("http://x.example{path}"))).await.0, 200);
    }
    for (route, count) in [("shop/0", 3), ("shop/cart", 2), ("shop/basket", 1)] {
        app.counted(&format!("route_request_total{{{}}} {count}", of("b", route))).await;
    }
}

#[tokio::test]
async fn requests_are_counted_by_authority_and_series_are_bounded() {
    let everywhere = endpoint_on("0.0.0.0:0", "any").await;
    let settings = [(DISCOVERY, "authority"), (NETWORKS, "127.0.0.0/8"), (IDLE, "60s"), (MAX, "2")];
    let app = App::start_to("", &settings);
    let mut client = connect(app.proxy).await;
    let authority = |host: u8| format!("127.0.0.{host}:{}", everywhere.port());
    for host in [1, 2, 1, 3, 4, 4, 5] {
        assert_eq!(ask(&mut client, get(&format!("http://{}/", authority(host)))).await.0, 200);
    }
    // Not allowed: it has no destination.
    assert_eq!(ask(&mut client, call("http://10.0.0.1/a.B/C")).await.1, "grpc-status 7");
    for (dst, count) in [(&*authority(4), 2), (&*authority(5), 1), ("other", 4)] {
        let labels = format!("direction=\"outbound\",dst=\"{dst}\"");
        app.counted(&format!("route_request_total{{{labels}}} {count}")).await;
        app.counted(&format!("route_response_total{{{labels},classification=\"success\"}} {count}")).await;
    }
    let metrics = admin(app.admin, "GET", "/metrics", "").await.1;
    assert_eq!(metrics.lines().filter(|line| line.starts_with("route_request_total{")).count(), 3, "{metrics}");
    let app = App::start(everywhere, &[]);
    let mut client = connect(app.proxy).await;
    assert_eq!(ask(&mut client, get("http://x.example/")).await.0, 200);
    app.counted("request_total{direction=\"outbound\"} 1").await;
    assert!(!admin(app.admin, "GET", "/metrics", "").await.1.contains("dst="));
}
