//! `/destinations` on the admin server.

use super::{DISCOVERY, File, NETWORKS, SUFFIXES, ask, endpoint, get};
use crate::support::{App, PATIENCE, admin, connect};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// The page, once it is as it should be.
async fn page(app: &App, is_done: impl Fn(&Value) -> bool) -> Value {
    let done = async {
        loop {
            let (status, text) = admin(app.admin, "GET", "/destinations", "").await;
            assert_eq!(status, 200);
            let page = serde_json::from_str(&text).unwrap();
            if is_done(&page) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, done).await.expect("the page is as it should be")
}

fn destination<'a>(page: &'a Value, name: &str) -> &'a Value {
    page["destinations"].as_array().unwrap().iter().find(|it| it["name"] == name).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn destinations_of_routes_are_listed_with_their_endpoints() {
    let a = endpoint("a").await;
    // Nothing listens on port 1.
    let file = File::new(&format!(
        "
         backends:
           a: {{endpoints: ['{a}']}}
           down: {{endpoints: ['127.0.0.1:1']}}
           unused: {{endpoints: ['localhost:1', '127.0.0.1:1']}}
         routes:
           - rules:
               - backendRefs: [{{name: a}}]
               - matches: [{{path: {{value: /down}}}}]
                 backendRefs: [{{name: down}}, {{name: unused, weight: 0}}]"
    ));
    let app = file.start();
    let mut client = connect(app.proxy).await;
    assert_eq!(ask(&mut client, get("http://x.example/")).await.0, 200);
    assert_eq!(ask(&mut client, get("http://x.example/down")).await.0, 502);
    let page = page(&app, |page| destination(page, "unused")["names"][0]["state"] == "resolved").await;
    assert_eq!(page["left_off"], 0);
    assert_eq!(page["destinations"].as_array().unwrap().len(), 3, "{page:#}");
    // Problems come first.
    assert_eq!(page["destinations"][0]["name"], "down");
    let listed = destination(&page, "a");
    assert_eq!((&listed["direction"], &listed["source"]), (&json!("outbound"), &json!("route")), "{page:#}");
    assert_eq!((&listed["workers"], &listed["error"]), (&json!(1), &Value::Null));
    assert!(listed["unused_seconds"].as_f64().unwrap() < PATIENCE.as_secs_f64());
    let end = &listed["endpoints"][0];
    assert_eq!((&end["address"], &end["state"], &end["weight"]), (&json!(a.to_string()), &json!("ready"), &json!(1)));
    assert_eq!((&end["connections"], &end["streams"]), (&json!(1), &json!(0)));
    let down = destination(&page, "down");
    assert_eq!(down["endpoints"][0]["state"], "failed");
    assert!(down["error"].as_str().unwrap().contains("Connection refused"), "{down:#}");
    let unused = destination(&page, "unused");
    assert_eq!((&unused["workers"], &unused["unused_seconds"]), (&json!(0), &Value::Null));
    assert_eq!(unused["names"][0]["name"], "localhost:1");
    assert!(unused["names"][0]["addresses"].as_u64() >= Some(1), "{unused:#}");

    let text = admin(app.admin, "GET", "/destinations?format=text", "").await.1;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("DIRECTION  SOURCE  NAME "), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("outbound   route   a ")), "{text}");
    assert!(text.contains(&format!("\n    endpoint {a}  ready  weight 1  connections 1  streams 0")), "{text}");
    assert!(text.contains("\n    name localhost:1  resolved  addresses "), "{text}");
}

#[tokio::test]
async fn destinations_of_authorities_and_endpoints_are_listed() {
    let (a, b) = (endpoint("a").await, endpoint("b").await);
    let app = App::start_to("", &[(DISCOVERY, "authority"), (NETWORKS, "127.0.0.0/8")]);
    let mut client = connect(app.proxy).await;
    assert_eq!(ask(&mut client, get(&format!("http://{a}/"))).await.0, 200);
    let listed = page(&app, |page| destination(page, &a.to_string())["endpoints"][0]["state"] == "ready").await;
    assert_eq!(listed["destinations"].as_array().unwrap().len(), 1, "{listed:#}");
    assert_eq!(listed["destinations"][0]["source"], "authority");

    let ends = format!("{a},{b}");
    let app = App::start_to(&ends, &[]);
    let is_ready = |page: &Value| destination(page, &ends)["endpoints"][0]["state"] == "ready";
    let listed = page(&app, is_ready).await;
    let listed = destination(&listed, &ends);
    assert_eq!((&listed["source"], &listed["workers"]), (&json!("endpoints"), &json!(2)), "{listed:#}");
    assert_eq!(listed["unused_seconds"], Value::Null);
    assert_eq!(admin(app.admin, "GET", "/destinations?format=xml", "").await.0, 400);
    assert_eq!(admin(app.admin, "POST", "/destinations", "").await.0, 405);
}

#[tokio::test]
async fn a_service_is_listed_by_its_name_without_a_port() {
    let app = App::start_to("", &[(DISCOVERY, "authority"), (SUFFIXES, "invalid")]);
    let mut client = connect(app.proxy).await;
    // RFC 6761 section 6.4: there is nothing under `invalid`.
    for uri in ["http://_grpc._tcp.shop.invalid/", "http://_grpc._tcp.shop.invalid:8080/"] {
        let (status, reason) = ask(&mut client, get(uri)).await;
        assert_eq!(status, 503, "{reason}");
    }
    let (status, text) = admin(app.admin, "GET", "/destinations", "").await;
    assert_eq!(status, 200);
    let listed = serde_json::from_str(&text).unwrap();
    for name in ["_grpc._tcp.shop.invalid", "_grpc._tcp.shop.invalid:8080"] {
        assert_eq!(destination(&listed, name)["names"][0]["name"], name, "{listed:#}");
    }
}
