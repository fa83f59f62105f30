//! The file of routes, as `app check` sees it.

use crate::{docs, support::command, tls::pki::Files};
use std::{fs, process::Output};

const PREFIX: &str = "LINKERD2_PROXY_";

/// Runs `app check` with these variables and arguments; the exit code and both outputs.
#[track_caller]
fn check(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command();
    command.arg("check").args(arguments);
    command.envs(variables.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value)));
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The file in the manual.
fn example() -> String {
    let chapter = docs::chapter("routes.md");
    let (_, block) = chapter.split_once("<!-- routes -->\n```yaml\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

fn errors(stderr: &str) -> Vec<&str> {
    stderr.lines().filter_map(|line| line.strip_prefix("error: ")).collect()
}

#[test]
fn the_file_of_the_manual_says_what_goes_where() {
    let files = Files::new();
    let path = files.write("routes.yaml", &example());
    let (code, stdout, stderr) = check(&[("OUTBOUND_ROUTES", &path), ("OUTBOUND_MAX_CONNECTIONS", "1")], &[]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    let (_, shown) = stdout.split_once(&format!("outbound routes of {path}:\n")).unwrap();
    assert_eq!(
        shown,
        "  shop.example, *.shop.example (shop)\n    \
             line 17 (cart): paths below /cart -> shop (90 of 100), shop-new (10 of 100); request within 10s\n    \
             line 24: all paths -> shop\n  \
           all hosts (orders)\n    \
             line 27: gRPC shop.v1.Orders/* -> orders\n  \
           backend orders: orders.example:50051 by HTTP/2 with TLS\n  \
           backend shop: 10.0.0.11:8080, 10.0.0.12:8080 by HTTP/1.1\n  \
           backend shop-new: shop-new.example:8080 by HTTP/1.1\n"
    );
}

#[test]
fn a_request_is_told_its_rule() {
    let files = Files::new();
    let path = files.write("routes.yaml", &example());
    let ask = |request: &str, header: &str| {
        let arguments = ["--request", request, "--header", header];
        let (code, stdout, _) = check(&[("INBOUND_ROUTES", &path)], &arguments);
        (code, stdout.replace(&path, "FILE").lines().next().unwrap_or_default().to_owned())
    };
    let cart = "inbound: the rule of FILE, line 17 (cart) of route shop -> shop (90 of 100), shop-new (10 of 100); request within 10s";
    let orders = "inbound: the rule of FILE, line 27 of route orders -> orders";
    let none = "inbound: no rule of FILE takes it: 404, or UNIMPLEMENTED of gRPC";
    for (request, code, expect) in [
        ("GET http://shop.example/cart?a=b", 0, cart),
        ("PUT http://EU.shop.example:8080/cart/1", 0, cart),
        ("GET http://shop.example/carts", 0, "inbound: the rule of FILE, line 24 of route shop -> shop"),
        ("POST http://orders.example/shop.v1.Orders/Get", 0, orders),
        ("POST /shop.v1.Orders/Get", 0, orders),
        ("GET http://orders.example/shop.v1.Orders/Get", 1, none),
    ] {
        assert_eq!(ask(request, "x-env: new"), (Some(code), expect.to_owned()), "{request}");
    }
    let by_header = example().replace("path: {type: PathPrefix, value: /cart}", "headers: [{name: X-Env, value: new}]");
    fs::write(&path, by_header).unwrap();
    assert_eq!(ask("GET http://shop.example/", "x-env: new"), (Some(0), cart.to_owned()));
    assert_ne!(ask("GET http://shop.example/", "x-env: old"), (Some(0), cart.to_owned()));
    fs::write(&path, example().replace("weight: 90", "weight: 0").replace("weight: 10", "weight: 0")).unwrap();
    let (code, line) = ask("GET http://shop.example/cart", "a: b");
    assert!(code == Some(0) && line.ends_with("-> 500, since all weights are 0; request within 10s"), "{line}");
}

#[test]
fn a_rate_limit_is_told_with_its_rule() {
    let files = Files::new();
    let limit = |keys: &str| example().replace("timeouts: {request: 10s}", &format!("rateLimit: {{{keys}}}"));
    let path = files.write("routes.yaml", &limit("requestsPerSecond: 100, burst: 200"));
    let variables = [("OUTBOUND_ROUTES", &*path)];
    let (code, stdout, stderr) = check(&variables, &[]);
    let shown = "shop (90 of 100), shop-new (10 of 100); at most 100 requests a second, 200 at once\n";
    assert!(code == Some(0) && stdout.contains(shown), "{stdout}{stderr}");
    let (code, stdout, _) = check(&variables, &["--request", "GET http://shop.example/cart"]);
    assert!(code == Some(0) && stdout.lines().next().is_some_and(|line| line.ends_with(shown.trim())), "{stdout}");
    fs::write(&path, limit("requestsPerSecond: 0")).unwrap();
    let (code, _, stderr) = check(&variables, &[]);
    let expect = format!("{path}:23:36: requestsPerSecond is \"0\", must be a whole number in 1..=1000000");
    assert_eq!((code, errors(&stderr)), (Some(64), vec![&*expect]));
}

#[test]
fn all_mistakes_have_their_places() {
    let files = Files::new();
    let text = example()
        .replace("weight: 90", "wieght: 90")
        .replace("http1", "h1")
        .replace("- {name: shop-new", "- {name: new");
    let path = files.write("routes.yaml", &text);
    let (code, _, stderr) = check(&[("OUTBOUND_ROUTES", &path), ("CORES", "?")], &[]);
    assert_eq!(code, Some(64));
    // The variables come first: by them backends connect.
    assert!(matches!(errors(&stderr)[..], [line] if line.starts_with("LINKERD2_PROXY_CORES: ")), "{stderr}");
    let (code, stdout, stderr) = check(&[("OUTBOUND_ROUTES", &path)], &[]);
    let protocol = "protocol is \"h1\" (did you mean http1?), must be http2, http1 or same";
    let expect = [
        format!("{path}:4:15: {protocol}"),
        format!("{path}:7:15: {protocol}"),
        format!(
            "{path}:21:20: wieght is no key of a backendRef; the nearest known one is weight, must be one of name, weight"
        ),
        format!("{path}:22:14: name is \"new\", must be one of backends"),
    ];
    assert_eq!((code, &*stdout, errors(&stderr)), (Some(64), "", expect.iter().map(String::as_str).collect()));
}

#[test]
fn files_that_cannot_be_read_are_errors() {
    let files = Files::new();
    let path = files.write("routes.yaml", "a: \u{e9}\n");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 2]).unwrap();
    for (path, expect) in [
        (&*path, ":1:4: is not UTF-8"),
        ("/nowhere/routes.yaml", ": cannot be read: No such file or directory (os error 2)"),
        ("/", ": cannot be read: Is a directory (os error 21)"),
        ("/dev/zero", ":1:1: the file has 1048577 bytes, must have at most 1048576"),
    ] {
        let (code, _, stderr) = check(&[("OUTBOUND_ROUTES", path)], &[]);
        assert_eq!((code, errors(&stderr)), (Some(64), vec![&*format!("{path}{expect}")]));
    }
}

#[test]
fn what_can_never_match_is_a_warning() {
    let files = Files::new();
    let path = files.write(
        "routes.yaml",
        &format!("{}- rules: [{{backendRefs: [{{name: shop}}]}}]\n", example().replace("/cart", "/")),
    );
    let (code, _, stderr) = check(&[("OUTBOUND_ROUTES", &path)], &[]);
    let warning = format!("warning: {path}:24:5: no request comes here, the match of line 19 takes all of them");
    assert!(code == Some(0) && stderr.lines().any(|line| line == warning), "{stderr}");
}

#[test]
fn listeners_of_the_process_are_no_endpoints() {
    let files = Files::new();
    for (endpoint, listener) in [("127.0.0.1:4140", "OUTBOUND_LISTEN_ADDR"), ("localhost:4191", "ADMIN_LISTEN_ADDR")] {
        let path = files.write("routes.yaml", &example().replace("10.0.0.12:8080", endpoint));
        let (code, _, stderr) = check(&[("OUTBOUND_ROUTES", &path)], &[]);
        let expect = format!(
            "{path}: the backend shop has {endpoint}, the proxy's own listener ({PREFIX}{listener}), must have addresses of others"
        );
        assert_eq!((code, errors(&stderr)), (Some(64), vec![&*expect]));
    }
    // Nor are listeners of the other direction.
    let path = files.write("routes.yaml", &example().replace("10.0.0.12:8080", "127.0.0.1:4143"));
    let variables = [("OUTBOUND_ROUTES", &*path), ("INBOUND_ENDPOINTS", "127.0.0.1:80")];
    let (code, _, stderr) = check(&variables, &[]);
    let expect =
        format!("{path}: the backend shop has 127.0.0.1:4143, the proxy's own listener ({PREFIX}INBOUND_LISTEN_ADDR)");
    assert!(code == Some(64) && errors(&stderr)[0].starts_with(&expect), "{stderr}");
}

#[test]
fn what_is_asked_must_be_a_request_and_have_routes() {
    let ask = |arguments: &[&str]| check(&[("OUTBOUND_ENDPOINTS", "127.0.0.1:1")], arguments);
    for wrong in [
        &["--request", "GET"][..],
        &["--request", "G\u{e9}T /"],
        &["--request", "GET http://[/"],
        &["--header", "a: b"],
    ] {
        let (code, _, stderr) = ask(wrong);
        assert_eq!(code, Some(2), "{stderr}");
    }
    let (code, stdout, stderr) = ask(&["--request", "GET /"]);
    assert_eq!((code, &*stdout), (Some(64), ""));
    assert!(
        stderr.contains("LINKERD2_PROXY_OUTBOUND_ROUTES, LINKERD2_PROXY_INBOUND_ROUTES: neither is set"),
        "{stderr}"
    );
}

#[test]
fn certificates_of_backends_are_checked() {
    let files = Files::new();
    let tls = example().replace("serverName: orders.example", "serverName: orders.example, ca: /none.pem");
    let path = files.write("routes.yaml", &tls);
    let (code, _, stderr) = check(&[("OUTBOUND_ROUTES", &path)], &[]);
    assert_eq!(code, Some(64));
    let place =
        format!("{path}: TLS of the backend orders, in place of LINKERD2_PROXY_OUTBOUND_CONNECT_TLS_CA: /none.pem");
    assert!(matches!(&*errors(&stderr), [error] if error.starts_with(&place)), "{stderr}");
}
