use super::*;
use http::header::{ACCEPT, HOST};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// Rules in a few words, each of which leads to its number: hosts, then `=exact`, `/prefix` or `service:method` with `-` for
/// none, then a method, then headers as `name:value`; all apart by blanks.
fn table(rules: &[&str]) -> Table<usize> {
    Table::new(rules.iter().enumerate().map(|(number, rule)| (read(rule), number)))
}

fn read(text: &str) -> Rule {
    let mut rule = Rule::default();
    let mut of = Match::default();
    let some = |name: &str| (name != "-").then(|| name.to_owned());
    for word in text.split_ascii_whitespace() {
        if let Some(path) = word.strip_prefix('=') {
            of.path = PathMatch::Exact(path.to_owned());
        } else if word.starts_with('/') {
            of.path = PathMatch::Prefix(word.to_owned());
        } else if let Some((name, value)) = word.split_once('=') {
            of.headers.push((name.parse().unwrap(), value.parse().unwrap()));
        } else if let Some((service, method)) = word.split_once(':') {
            of.path = PathMatch::GrpcMethod { service: some(service), method: some(method) };
        } else if word.bytes().all(|byte| byte.is_ascii_uppercase()) {
            of.method = Some(word.parse().unwrap());
        } else {
            rule.hostnames.push(word.parse().unwrap());
        }
    }
    rule.matches.push(of);
    rule
}

/// Asserts which rule takes each request: `METHOD authority path name=value...`.
#[track_caller]
fn check(rules: &[&str], requests: &[(&str, Option<usize>)]) {
    let table = table(rules);
    for (text, expect) in requests {
        let mut words = text.split_ascii_whitespace();
        let [method, authority, path] = [(); 3].map(|()| words.next().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in words.map(|word| word.split_once('=').unwrap()) {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let authority = (authority != "-").then_some(authority);
        let found = table.find(authority, path, &method.parse().unwrap(), &headers);
        assert_eq!(found.copied(), *expect, "{text} by {rules:?}");
    }
}

#[test]
fn hosts_are_exact_then_the_longest_wildcard_then_none() {
    check(
        &["*.example", "*.shop.example", "shop.example", "", "a.shop.example"],
        &[
            ("GET shop.example /", Some(2)),
            ("GET a.shop.example /", Some(4)),
            ("GET b.shop.example /", Some(1)),
            ("GET a.b.shop.example /", Some(1)),
            ("GET b.example /", Some(0)),
            ("GET .example /", Some(3)),
            ("GET example /", Some(3)),
            ("GET xshop.example /", Some(0)),
            ("GET - /", Some(3)),
        ],
    );
    check(&["shop.example"], &[("GET - /", None), ("GET example.com /", None), ("GET shop.example.com /", None)]);
}

#[test]
fn case_ports_and_the_last_dot_of_hosts_make_no_difference() {
    check(
        &["Shop.Example", "*.B.example.", ""],
        &[
            ("GET SHOP.example /", Some(0)),
            ("GET shop.example:8080 /", Some(0)),
            ("GET shop.example: /", Some(0)),
            ("GET shop.example. /", Some(0)),
            ("GET SHOP.EXAMPLE.:80 /", Some(0)),
            ("GET A.b.EXAMPLE:80 /", Some(1)),
            ("GET [::1]:80 /", Some(2)),
            // A malformed authority has no host.
            ("GET user@shop.example /", Some(2)),
            ("GET shop.example:0 /", Some(2)),
            ("GET shop.example:x /", Some(2)),
        ],
    );
    let long = format!("GET {}.shop.example /", "A".repeat(300));
    check(&["*.shop.example", ""], &[(&long, Some(1)), (&long.to_ascii_lowercase().replace("get", "GET"), Some(0))]);
}

#[test]
fn paths_are_exact_then_the_longest_prefix() {
    check(
        &["/", "/a", "/a/b/", "=/a/b/c", "=/a/b/", "/a-b"],
        &[
            ("GET h /", Some(0)),
            ("GET h /x", Some(0)),
            ("OPTIONS h *", Some(0)),
            ("GET h /a", Some(1)),
            ("GET h /a/", Some(1)),
            ("GET h /a/x", Some(1)),
            ("GET h /ab", Some(0)),
            ("GET h /A", Some(0)),
            ("GET h /a-b", Some(5)),
            ("GET h /a/b", Some(2)),
            ("GET h /a/b/", Some(4)),
            ("GET h /a/b/d", Some(2)),
            ("GET h /a/b/c", Some(3)),
            ("GET h /a/b/c/", Some(2)),
            ("GET h /a//b", Some(1)),
        ],
    );
    check(&["/a"], &[("GET h /", None), ("GET h /b", None), ("OPTIONS h *", None)]);
}

#[test]
fn methods_count_before_headers_and_headers_before_the_order() {
    check(
        &["/a x=1 y=2", "/a GET", "/a x=1", "/a x=1", "/a GET z=3"],
        &[
            ("GET h /a x=1 y=2", Some(1)),
            ("GET h /a z=3 x=1", Some(4)),
            ("PUT h /a x=1 y=2", Some(0)),
            ("PUT h /a x=1 y=3", Some(2)),
            ("PUT h /a y=2", None),
            ("PUT h /a x=2 x=1", Some(2)),
            ("PUT h /a x=1,2", None),
        ],
    );
}

#[test]
fn what_is_less_specific_comes_where_the_more_specific_does_not_take_it() {
    check(
        &["a.example =/a GET", "*.example /a", "a.example /a x=1", "/"],
        &[
            ("GET a.example /a", Some(0)),
            ("PUT a.example /a x=1", Some(2)),
            ("PUT a.example /a", Some(1)),
            ("PUT a.example /b", Some(3)),
        ],
    );
}

#[test]
fn calls_of_grpc_are_posts_to_a_service_and_a_method() {
    check(
        &["shop.Orders:Get", "shop.Orders:-", "-:Get", "-:-", "/", "/ PUT"],
        &[
            ("POST h /shop.Orders/Get", Some(0)),
            ("GET h /shop.Orders/Get", Some(4)),
            ("POST h /shop.Orders/Put", Some(1)),
            ("POST h /shop.Orders/Put/x", Some(4)),
            ("POST h /shop.Orders", Some(4)),
            ("POST h /shop.Orders/", Some(4)),
            ("POST h /other/Get", Some(2)),
            ("POST h /other/Put", Some(3)),
            ("POST h //Get", Some(4)),
            ("POST h /a/b/Get", Some(4)),
            ("PUT h /other/Get", Some(5)),
        ],
    );
    // A gRPC method without a service counts as a method, and one of a service by its path alone.
    check(&["/", "-:Get"], &[("POST h /a/Get", Some(1))]);
    check(&["/ POST", "-:Get"], &[("POST h /a/Get", Some(0))]);
    check(&["a:Get", "=/a/Get"], &[("POST h /a/Get", Some(0)), ("GET h /a/Get", Some(1))]);
    check(&["a:Get", "=/a/Get POST"], &[("POST h /a/Get", Some(1))]);
}

#[test]
fn hostnames_are_names_or_wildcards() {
    for valid in ["a", "A.example", "*.a", "a.example.", "[::1]", "a_b"] {
        let name: Hostname = valid.parse().unwrap();
        assert_eq!(name.to_string(), valid.to_ascii_lowercase().trim_end_matches('.'));
    }
    for invalid in ["", "*", "*.", ".", "a.*", "*a", "*.*.a", "\u{e9}", &"a".repeat(256)] {
        assert!(invalid.parse::<Hostname>().is_err(), "{invalid}");
    }
}

/// A rule's rank among others, if it takes the request: the Gateway API's words, one by one.
fn rank(rule: &Rule, authority: &str, path: &str, method: &Method, headers: &HeaderMap) -> Option<impl Ord + use<>> {
    let host = authority.split(':').next().unwrap().to_ascii_lowercase();
    let hosts = rule.hostnames.iter().filter_map(|Hostname { name, is_wildcard }| {
        let is_below = host.strip_suffix(&**name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
        let takes = if *is_wildcard { is_below } else { host == **name };
        takes.then_some((!is_wildcard, name.len()))
    });
    let host = hosts.max().or(rule.hostnames.is_empty().then_some((false, 0)))?;
    let segments = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let rank = |of: &Match| {
        let (is_exact, length, of_grpc) = match &of.path {
            PathMatch::Exact(exact) => (path == exact).then_some((true, exact.len(), None))?,
            PathMatch::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                segments(path).starts_with(&segments(prefix)).then_some((false, prefix.len(), None))?
            }
            PathMatch::GrpcMethod { service, method: name } => {
                let [first, called_service, called] = &segments(path)[..] else { return None };
                let is = |of: &Option<String>, called: &String| of.as_ref().is_none_or(|of| of == called);
                let takes = method == Method::POST && is(service, called_service) && is(name, called);
                if !takes || !first.is_empty() || called_service.is_empty() || called.is_empty() {
                    return None;
                }
                let length = service.as_ref().map_or(0, |service| service.len() + 1);
                let rest = if service.is_some() { name.as_ref().map_or(0, |name| name.len() + 1) } else { 0 };
                (rest > 0, length + rest, Some(service.is_none() && name.is_some()))
            }
        };
        let takes_method = of_grpc.is_some() || of.method.as_ref().is_none_or(|of| of == method);
        let takes_headers =
            of.headers.iter().all(|(name, value)| headers.get_all(name).iter().any(|line| line == value));
        let has_method = of_grpc.unwrap_or(of.method.is_some());
        (takes_method && takes_headers).then_some((is_exact, length, has_method, of.headers.len()))
    };
    let best = rule.matches.iter().filter_map(rank).max()?;
    Some((host, best))
}

fn paths() -> impl Strategy<Value = String> {
    vec(select(&["a", "b", "ab", "Get", ""][..]), 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn matches() -> impl Strategy<Value = Match> {
    let name = || option::of(select(&["a", "b", "Get"][..]).prop_map(str::to_owned));
    let path = prop_oneof![
        paths().prop_map(PathMatch::Exact),
        paths().prop_map(PathMatch::Prefix),
        (name(), name()).prop_map(|(service, method)| PathMatch::GrpcMethod { service, method }),
    ];
    let header = (select(&[ACCEPT, HOST][..]), select(&["1", "2"][..]).prop_map(HeaderValue::from_static));
    (path, option::of(methods()), vec(header, 0..3)).prop_map(|(path, method, headers)| Match { path, method, headers })
}

fn methods() -> impl Strategy<Value = Method> {
    select(&[Method::GET, Method::POST][..])
}

fn rules() -> impl Strategy<Value = Rule> {
    let hosts = select(&["a.x", "b.a.x", "*.x", "*.a.x", "*.b.a.x", "x"][..]).prop_map(|name| name.parse().unwrap());
    (vec(hosts, 0..3), vec(matches(), 1..4)).prop_map(|(hostnames, matches)| Rule { hostnames, matches })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_finds_what_all_rules_compared_do(
        rules in vec(rules(), 0..12),
        requests in vec((select(&["a.x", "B.A.X:80", "c.b.a.x", "x", "y"][..]), paths(), methods(), vec((select(&[ACCEPT, HOST][..]), select(&["1", "2"][..])), 0..3)), 1..24),
    ) {
        let table = Table::new(rules.iter().cloned().zip(0..));
        for (authority, path, method, lines) in requests {
            let headers = lines.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value)));
            let mut map = HeaderMap::new();
            headers.for_each(|(name, value)| _ = map.append(name, value));
            let mut best = None;
            for (number, rule) in rules.iter().enumerate() {
                let rank = rank(rule, authority, &path, &method, &map);
                if rank.is_some() && best.as_ref().is_none_or(|(_, other)| rank > *other) {
                    best = Some((number, rank));
                }
            }
            let found = table.find(Some(authority), &path, &method, &map);
            prop_assert_eq!(found.copied(), best.map(|(number, _)| number), "{} {} {}", method, authority, path);
        }
    }
}
