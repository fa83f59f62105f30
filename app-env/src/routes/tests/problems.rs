//! Mistakes, and probable mistakes.

use super::*;

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    let text = "
backends:
  shop:
    endpoints: [10.0.0.1, 'http://a:1', '::1:80', x:1]
    protocol: spdy
    tls: {cert: /c}
    http2: {maxFrameSize: 4, keepAliveTimeout: 1s}
  shop: {}
  b: {}
routes:
- hostnames: [shop.example:80, https://a, 10.0.0.1, '*', a.*.b, 'a.']
  rules:
  - matches:
    - path: {type: RegularExpression, value: /a.*}
    - path: {type: Exact, value: cart}
      method: get
      headers: [{name: ':path', value: x}, {name: a}]
    - method: {service: a}
      path: {value: /}
    backendRefs: [{name: shpo, weight: -1}, {name: b, wieght: 1}]
    timeouts: {request: 1s, backendRequest: 2s}
    retry: {attempts: 6, codes: [500]}
    filters: []
  - matches: []
- rules: no
";
    let found = errors(text);
    let expect = [
        "4:17: the endpoint is \"10.0.0.1\" (has no port), must be host:port (as 10.0.0.1:80, \"[::1]:80\" or api.example:80) or unix:/path",
        "4:27: the endpoint is \"http://a:1\" (has a scheme, which is no part of an endpoint), must be host:port (as 10.0.0.1:80, \"[::1]:80\" or api.example:80) or unix:/path",
        "4:41: the endpoint is \"::1:80\" (needs brackets around an IPv6 address), must be host:port (as 10.0.0.1:80, \"[::1]:80\" or api.example:80) or unix:/path",
        "5:15: protocol is \"spdy\", must be http2, http1 or same",
        "6:10: tls has cert and no key, must have both or none",
        "7:27: maxFrameSize is \"4\", must be a whole number in 16384..=16777215",
        "7:48: keepAliveTimeout is set, must have keepAliveInterval beside it",
        "8:3: shop is set again, must be set once; line 3 does",
        "9:6: a backend has no endpoints, must have it",
        "11:15: the hostname is \"shop.example:80\" (has a port; requests are taken whatever port they name), must be a DNS name (as shop.example or \"*.shop.example\")",
        "11:32: the hostname is \"https://a\" (has a scheme, which is no part of a host), must be a DNS name (as shop.example or \"*.shop.example\")",
        "11:43: the hostname is \"10.0.0.1\" (is an IP address, which the Gateway API does not allow), must be a DNS name (as shop.example or \"*.shop.example\")",
        "11:53: the hostname is \"*\" (all hosts are taken where there are no hostnames), must be a DNS name (as shop.example or \"*.shop.example\")",
        "11:58: the hostname is \"a.*.b\" (has * elsewhere than before the first dot), must be a DNS name (as shop.example or \"*.shop.example\")",
        "11:65: the hostname is \"a.\" (has a dot at its end), must be a DNS name (as shop.example or \"*.shop.example\")",
        "14:20: type is \"RegularExpression\" (regular expressions are not supported), must be Exact or PathPrefix",
        "15:34: value is \"cart\" (does not start with /), must be a path (as /cart), without a query, of at most 1024 bytes",
        "16:15: method is \"get\" (methods are in upper case), must be an HTTP method (as GET), or a mapping of service and method for gRPC",
        "17:24: name is \":path\" (is a pseudo-field), must be the name of a field (as x-env)",
        "17:44: a header has no value, must have it",
        "19:13: path is set beside a gRPC method, must be left out, since that is the path",
        "20:26: name is \"shpo\", must be one of backends; the nearest is shop",
        "20:40: weight is \"-1\", must be a whole number in 0..=1000000",
        "20:55: wieght is no key of a backendRef; the nearest known one is weight, must be one of name, weight",
        "21:15: backendRequest is 2s, must be at most request, which is 1s",
        "22:23: attempts is \"6\", must be a whole number in 0..=5",
        "22:33: codes is [500], must be [502, 503, 504], after which GET and HEAD are sent again, or []; others are not supported",
        "23:5: filters of a rule is not supported here, must be left out; supported are name, matches, backendRefs, timeouts, retry, rateLimit",
        "24:5: a rule has no backendRefs, must have it",
        "24:14: matches is an empty list, must have at least one item",
        "25:10: rules is \"no\", must be a list of mappings",
    ];
    for (found, expect) in found.iter().zip(expect) {
        assert_eq!(found, expect);
    }
    assert_eq!(found.len(), expect.len(), "{found:#?}");
}

#[test]
fn wrong_shapes_are_errors() {
    for (text, expect) in [
        ("", "1:1: the file is empty, must be a mapping of backends, routes"),
        ("# nothing\n", "1:1: the file is empty, must be a mapping of backends, routes"),
        ("~", "1:1: the file is empty, must be a mapping of backends, routes"),
        ("hello", "1:1: the file is \"hello\", must be a mapping of backends, routes"),
        ("- a", "1:1: the file is a list, must be a mapping of backends, routes"),
        ("backends: {}\nroutes: []", "1:11: backends is an empty mapping, must be a mapping of names to backends"),
        ("backends: [a]\nroutes: []", "1:11: backends is a list, must be a mapping of names to backends"),
        ("backends: {a: 1}\nroutes: []", "1:15: a backend is \"1\", must be a mapping of endpoints, protocol, tls"),
        (
            "backends: {'a b': {endpoints: ['a:1']}}\nroutes: []",
            "1:12: the backend's name is \"a b\", must be 1 to 253",
        ),
        ("backends: *a\nroutes: []", "1:11: is no YAML from here on: while parsing node, found unknown anchor"),
        ("backends: &a {}\nroutes: *a", "2:9: is an alias (*), must be written out: aliases are not supported"),
        ("backends: !!map {}", "1:11: has a tag (!), must have none: tags are not supported"),
        ("backends: {}\n---\na: b", "3:1: a second document starts here, must be one in a file"),
        ("backends:\n\t- a", "2:2: is no YAML from here on: "),
        ("a: b: c", "1:5: is no YAML from here on: mapping values are not allowed in this context"),
        ("[a]: b", "1:1: is a list as a key, must be text"),
        (
            "apiVersion: gateway.networking.k8s.io/v1",
            "1:1: apiVersion of the file is not supported here, must be left out",
        ),
    ] {
        let found = errors(text);
        assert!(found[0].starts_with(expect), "{text}: {found:#?}");
    }
    assert_eq!(errors("routes: []\nrouts: 1").len(), 3);
}

#[test]
fn wrong_values_of_rules_are_errors() {
    let long = format!("matches: [{{path: {{value: /{}}}}}]", "a".repeat(1024));
    for (keys, expect) in [
        ("matches: [{path: {value: /a?b}}]", "(has a query or a fragment)"),
        ("matches: [{path: {value: /a//b}}]", "(has //, /./, /../ or %2f)"),
        ("matches: [{path: {value: /a/..}}]", "(has //, /./, /../ or %2f)"),
        ("matches: [{path: {value: /a%2Fb}}]", "(has //, /./, /../ or %2f)"),
        ("matches: [{path: {value: /a b}}]", "(has a character that must be escaped with %)"),
        ("matches: [{path: {value: /%4}}]", "(has a character that must be escaped with %)"),
        (&long, "(has 1025 bytes)"),
        ("matches: [{path: /a}]", "path is \"/a\", must be a mapping of type, value"),
        ("matches: [{method: [GET]}]", "method is a list, must be an HTTP method"),
        ("matches: [{method: 'G T'}]", "method is \"G T\", must be an HTTP method"),
        ("matches: [{method: {}}]", "method is empty, must have service, method or both"),
        ("matches: [{method: {service: a/b}}]", "service is \"a/b\", must be the full name of a gRPC service"),
        ("matches: [{method: {service: a..b}}]", "service is \"a..b\", must be"),
        ("matches: [{method: {method: a.b}}]", "method is \"a.b\", must be the name of a gRPC method"),
        (
            "matches: [{method: {type: RegularExpression, method: a}}]",
            "(regular expressions are not supported), must be Exact",
        ),
        ("matches: [{headers: [{name: Host, value: a}]}]", "name is \"Host\" (is matched by hostnames)"),
        ("matches: [{headers: [{name: a, value: \"x\\ny\"}]}]", "value is \"x\\ny\", must be text in one line"),
        ("matches: [{headers: [{name: a, value: }]}]", "value is empty, must be text"),
        ("matches: [{headers: [{name: a, value: ' '}]}]", "value is \" \", must be text"),
        ("matches: [{headers: [{name: a, value: b}, {name: A, value: c}]}]", "the header a is in the match again"),
        ("matches: [{queryParams: []}]", "queryParams of a match is not supported here"),
        ("name: 'a b'", "name is \"a b\", must be 1 to 253 letters"),
        ("name: []", "name is a list, must be"),
        (
            "timeouts: {request: 1}",
            "request is \"1\" (has no unit: did you mean 1s?), must be a duration (as 250ms, 10s, 5m, 2h or 1d) in 0..=36500d",
        ),
        ("timeouts: 1s", "timeouts is \"1s\", must be a mapping of request, backendRequest"),
        ("retry: {codes: 503}", "codes is text, must be [502, 503, 504]"),
        ("retry: {codes: [503]}", "codes is [503], must be [502, 503, 504]"),
        ("retry: {backoff: 1s}", "backoff of retry is not supported here"),
        ("rateLimit: 100", "rateLimit is \"100\", must be a mapping of requestsPerSecond, burst"),
        ("rateLimit: {}", "rateLimit has no requestsPerSecond, must have it"),
        ("rateLimit: {burst: 1}", "rateLimit has no requestsPerSecond, must have it"),
        ("rateLimit: {requestsPerSecond: 0}", "requestsPerSecond is \"0\", must be a whole number in 1..=1000000"),
        ("rateLimit: {requestsPerSecond: -1}", "requestsPerSecond is \"-1\", must be a whole number in 1..=1000000"),
        ("rateLimit: {requestsPerSecond: 0.5}", "requestsPerSecond is \"0.5\", must be a whole number in 1..=1000000"),
        ("rateLimit: {requestsPerSecond: 1000001}", "is \"1000001\", must be a whole number in 1..=1000000"),
        ("rateLimit: {requestsPerSecond: 99999999999999999999}", "must be a whole number in 1..=1000000"),
        ("rateLimit: {requestsPerSecond: [1]}", "requestsPerSecond is a list, must be a whole number in 1..=1000000"),
        ("rateLimit: {requestsPerSecond: 1, burst: 0}", "burst is \"0\", must be a whole number in 1..=1000000"),
        ("rateLimit: {requestsPerSecond: 1, burst: 1000001}", "burst is \"1000001\", must be a whole number in"),
        ("rateLimit: {requestPerSecond: 1, requestsPerSecond: 1}", "the nearest known one is requestsPerSecond"),
        ("rateLimit: {requestsPerSecond: 1, total: {}}", "total of rateLimit is not supported here"),
        ("backendRefs: []", "backendRefs is set again, must be set once; line 4 does"),
    ] {
        let found = errors(&rule(keys));
        let [error] = &found[..] else { panic!("{keys}: {found:#?}") };
        assert!(error.starts_with("5:") && error.contains(expect), "{keys}: {error}");
    }
}

#[test]
fn names_come_once() {
    let to = "backendRefs: [{name: a}, {name: b}]";
    let text = file(&format!(
        "- {{name: x, rules: [{{name: y, {to}}}, {{name: y, matches: [{{method: GET}}], {to}}}]}}\n- {{name: x, hostnames: [h], rules: [{{name: y, {to}}}]}}"
    ));
    assert_eq!(
        errors(&text),
        [
            "3:76: name is \"y\", must be another; the rule of line 3 has it",
            "4:10: name is \"x\", must be another; the route of line 3 has it"
        ]
    );
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let text = "
backends:
  a: {endpoints: ['a:1', 'A:1'], tls: {insecureSkipVerify: true, ca: /x}, http2: {adaptiveFlowControl: true, initialStreamWindowSize: 1}}
  unused: {endpoints: ['a:1']}
routes:
- hostnames: [a, A]
  rules: [{backendRefs: [{name: a, weight: 0}]}]
";
    assert_eq!(
        warnings(text),
        [
            "3:26: the endpoint a:1 is listed again, and used once",
            "3:60: insecureSkipVerify is true, anybody on the way can pass for an endpoint",
            "3:70: ca has no effect, insecureSkipVerify is true",
            "3:135: a window's size has no effect, adaptiveFlowControl is true",
            "4:3: the backend unused is in no rule",
            "6:18: the hostname a is listed again",
        ]
    );
}

#[test]
fn a_match_of_which_others_take_all_is_a_warning() {
    let check = |rules: &[&str], expect: &[&str]| {
        let rules: String = rules
            .iter()
            .map(|matches| format!("- rules: [{{matches: [{matches}], backendRefs: [{{name: a}}, {{name: b}}]}}]\n"))
            .collect();
        assert_eq!(warnings(&file(&rules)), expect, "{rules}");
    };
    let by = |at: &str, line| format!("{at}: no request comes here, the match of line {line} takes all of them");
    check(&["{path: {value: /a}}", "{path: {value: /a/}}"], &[&by("4:22", 3)]);
    check(&["{path: {value: /a}}, {path: {value: /a}}"], &[&by("3:43", 3)]);
    check(&["{path: {value: /a}}", "{path: {value: /}}", "{path: {value: /a, type: Exact}}"], &[]);
    check(&["{method: GET}", "{method: POST}", "{}"], &[]);
    check(&["{method: GET}", "{method: GET, path: {value: /}}"], &[&by("4:22", 3)]);
    let (one, two) = ("{name: a, value: b}", "{name: B, value: c}");
    check(&[&format!("{{headers: [{one}]}}"), &format!("{{headers: [{one}, {two}]}}")], &[]);
    let both = [format!("{{headers: [{one}, {two}]}}"), format!("{{headers: [{two}, {one}]}}")];
    check(&[&both[0], &both[1]], &[&by("4:22", 3)]);
    // gRPC's methods are paths of POST.
    let get = "{method: {service: s, method: Get}}";
    check(&["{path: {value: /s/Get, type: Exact}}", get], &[&by("4:22", 3)]);
    check(&[get, "{path: {value: /s/Get, type: Exact}}"], &[]);
    check(&[get, "{path: {value: /s/Get, type: Exact}, method: POST}"], &[&by("3:22", 4)]);
    check(&["{path: {value: /s}}", "{method: {service: s}}"], &[&by("4:22", 3)]);
    check(&["{}", "{method: {method: Get}}"], &[]);
    check(&["{method: POST}", "{method: {method: Get}}"], &[&by("4:22", 3)]);
}

#[test]
fn hosts_count_for_what_others_take() {
    let to = "rules: [{backendRefs: [{name: a}, {name: b}]}]";
    let line = |at: &str| format!("{at}: no request comes here, the match of line 3 takes all of them");
    let check = |first: &str, second: &str, expect: &[String]| {
        assert_eq!(warnings(&file(&format!("- {{{first}{to}}}\n- {{{second}{to}}}"))), expect, "{first} {second}");
    };
    check("", "", &[line("4:12")]);
    check("", "hostnames: [a], ", &[]);
    check("hostnames: [a], ", "", &[]);
    check("hostnames: [a, b], ", "hostnames: [b], ", &[line("4:28")]);
    check("hostnames: [a, b], ", "hostnames: [b, c], ", &[]);
    check("hostnames: ['*.a'], ", "hostnames: [b.a], ", &[]);
}

#[test]
fn a_file_cannot_cost_more_than_its_size() {
    let large = format!("#{}", "x".repeat(MAX_SIZE));
    assert_eq!(errors(&large), ["1:1: the file has 1048577 bytes, must have at most 1048576"]);
    for open in ["[", "{a: ", "- ", "? "] {
        let text = open.repeat(MAX_SIZE / open.len());
        assert_eq!(errors(&text).len(), 1, "{open}");
    }
    let deep = (0..1_400).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
    assert!(errors(&deep)[0].ends_with("is more than 32 levels deep"));
    let many = errors(&"a:\n".repeat(MAX_SIZE / 3));
    assert!(many.len() == 1_000 && many[999].contains("more mistakes are in the file"), "{}", many[999]);
    let hosts: Vec<_> = (0..1_000).map(|host| format!("h{host}")).collect();
    let matches = "{method: GET},".repeat(101);
    let hosts = hosts.join(",");
    let text =
        file(&format!("- {{hostnames: [{hosts}], rules: [{{matches: [{matches}], backendRefs: [{{name: a}}]}}]}}"));
    assert_eq!(errors(&text), ["3:3: the routes have 101000 pairs of hostname and match, must have at most 100000"]);
}

/// Each text is a file with a part left out, put twice or replaced.
#[test]
fn no_text_panics() {
    let pieces = [
        "", "[", "]", "{", "}", ":", "- ", "\n", "\t", "'", "\"", "&a ", "*a", "!t ", "|\n", "\u{0}", "é", "#", "---\n",
    ];
    let connect = connect([]);
    for start in (0..MANY.len()).step_by(7) {
        for (index, piece) in pieces.iter().enumerate() {
            let end = (start + index * 5).min(MANY.len());
            let text = format!("{}{piece}{}", &MANY[..start], &MANY[end..]);
            if let Err(errors) = Routes::parse(&text, &connect) {
                assert!(!errors.is_empty(), "{text}");
            }
        }
    }
}

#[test]
fn grpc_is_not_checked_over_http1() {
    let text = "backends: {a: {endpoints: [a:1], protocol: http1, healthCheck: grpc}}\nroutes: [{rules: [{backendRefs: [{name: a}]}]}]";
    let expect = "1:64: healthCheck is grpc and protocol is http1, must be off or http:/PATH, since gRPC needs HTTP/2";
    assert_eq!(errors(text), [expect]);
}
