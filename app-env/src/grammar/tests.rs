use super::*;
use std::net::SocketAddr;

const SECOND: Duration = Duration::from_secs(1);

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "rows read better without a borrow")]
fn check<G: Grammar<Value: PartialEq + fmt::Debug>>(grammar: &G, text: &str, expect: Option<G::Value>) {
    let value = grammar.parse(text).ok();
    assert_eq!(value, expect, "text: {text:?}");
    if let Some(value) = value {
        let printed = grammar.print(&value);
        assert_eq!(grammar.parse(&printed).ok(), Some(value), "text: {text:?}, printed: {printed:?}");
    }
}

#[test]
fn booleans_are_exactly_true_or_false() {
    check(&Bool, "true", Some(true));
    check(&Bool, "false", Some(false));
    for text in ["True", "TRUE", "yes", "on", "1", "0", "t"] {
        check(&Bool, text, None);
    }
}

#[test]
fn numbers_are_decimal_digits() {
    check(&Number::ANY, "0", Some(0));
    check(&Number::ANY, "0042", Some(42));
    check(&Number::ANY, "4294967295", Some(u32::MAX));
    for text in ["+1", "-1", "1.0", "1e3", "0x10", "1_000", "1k", "1 0", "٣", "one"] {
        check(&Number::ANY, text, None);
    }
}

#[test]
fn numbers_beyond_any_type_are_refused() {
    check(&Number::ANY, "4294967296", None);
    check(&Number::ANY, "18446744073709551616", None);
    check(&Number::ANY, &"9".repeat(10_000), None);
}

#[test]
fn numbers_of_a_setting_have_its_range() {
    let grammar = Number::Of(Setting::MaxFrameSize);
    check(&grammar, "16383", None);
    check(&grammar, "16384", Some(16_384));
    check(&grammar, "16777215", Some(16_777_215));
    check(&grammar, "16777216", None);
    assert_eq!(grammar.to_string(), "a whole number in 16384..=16777215");
}

#[test]
fn durations_need_a_unit_unless_zero() {
    check(&Time::ANY, "250ms", Some(SECOND / 4));
    check(&Time::ANY, "10s", Some(10 * SECOND));
    check(&Time::ANY, "2m", Some(120 * SECOND));
    check(&Time::ANY, "3h", Some(10_800 * SECOND));
    check(&Time::ANY, "1d", Some(86_400 * SECOND));
    for text in ["0", "000", "0ms", "0d"] {
        check(&Time::ANY, text, Some(Duration::ZERO));
    }
    for text in ["10", "s", "ms", "1.5s", "-1s", "+1s", "1 s", "1S", "1min", "1y", "1us", "1s1s", "1m30s", "٣s", "1é"]
    {
        check(&Time::ANY, text, None);
    }
}

#[test]
fn durations_never_wrap() {
    check(&Time::ANY, "36500d", Some(Time::MOST));
    check(&Time::ANY, "36501d", None);
    check(&Time::ANY, "3153600000001ms", None);
    // 2^64 milliseconds and 2^64 of each unit's milliseconds: unchecked products would be small.
    for text in ["18446744073709551616ms", "18446744073709552s", "307445734561826m", "5124095576031h", "213503982335d"]
    {
        check(&Time::ANY, text, None);
    }
    check(&Time::ANY, "123456789012345678901234567890ms", None);
}

#[test]
fn durations_print_in_the_longest_exact_unit() {
    for (text, printed) in [("10000ms", "10s"), ("1500ms", "1500ms"), ("120s", "2m"), ("48h", "2d"), ("0ms", "0")] {
        assert_eq!(Time::ANY.print(&Time::ANY.parse(text).unwrap()), printed, "text: {text}");
    }
}

#[test]
fn durations_of_a_setting_are_above_zero() {
    let grammar = Time::Of(Setting::KeepAliveInterval);
    check(&grammar, "0", None);
    check(&grammar, "0s", None);
    check(&grammar, "1ms", Some(Duration::from_millis(1)));
    check(&grammar, "36500d", Some(Time::MOST));
    check(&grammar, "36501d", None);
    assert!(grammar.to_string().ends_with("in 1ms..=36500d"), "{grammar}");
}

#[test]
fn ratios_are_finite_and_bounded() {
    for (text, ratio) in [("0", 0.0), ("0.1", 0.1), (".5", 0.5), ("1e1", 10.0), ("100", 100.0)] {
        check(&Ratio::ANY, text, Some(ratio));
    }
    for text in ["-0.1", "100.1", "nan", "inf", "-inf", "1e400", "half", "0,5"] {
        check(&Ratio::ANY, text, None);
    }
}

#[test]
fn addresses_are_numbers_with_a_port() {
    check(&Address, "127.0.0.1:0", Some(SocketAddr::from(([127, 0, 0, 1], 0)).into()));
    check(&Address, "[::1]:65535", Some(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 65_535)).into()));
    for text in ["127.0.0.1", "localhost:80", ":80", "::1:80", "127.0.0.1:65536", "127.0.0.1:+80", "1.2.3:80"] {
        check(&Address, text, None);
    }
}

#[test]
fn endpoints_are_trimmed_one_by_one() {
    let list = vec!["a:1".parse().unwrap(), "[::1]:2".parse().unwrap()];
    check(&Endpoints::ENDPOINTS, "a:1,[::1]:2", Some(list.clone()));
    check(&Endpoints::ENDPOINTS, "a:1 ,\t[::1]:2", Some(list));
}

#[test]
fn endpoints_report_each_item_that_is_wrong() {
    let detail = |text: &str| Endpoints::ENDPOINTS.parse(text).unwrap_err().detail.unwrap();
    assert_eq!(detail("a:1,,b"), "item 2 is empty; item 3 has no port");
    assert_eq!(detail("a:1,"), "item 2 is empty");
    assert_eq!(detail(&["b"; 5].join(",")).matches("has no port").count(), 5);
    assert!(detail(&["b"; 7].join(",")).ends_with("item 5 has no port; 2 more are wrong"));
}

#[test]
fn protocols_are_words() {
    check(&Protocols, "http2", Some(EndpointProtocol::Http2));
    check(&Protocols, "http1", Some(EndpointProtocol::Http1));
    check(&Protocols, "same", Some(EndpointProtocol::Same));
    for text in ["HTTP2", "http1.1", "h2", "http"] {
        check(&Protocols, text, None);
    }
}

#[test]
fn formats_are_words_in_any_case() {
    check(&Format, "plain", Some(LogFormat::Plain));
    check(&Format, "PLAIN", Some(LogFormat::Plain));
    check(&Format, "Json", Some(LogFormat::Json));
    check(&Format, "text", None);
}

#[test]
fn a_health_check_is_grpc_or_a_path() {
    let grpc = |service: &str| Some(Some(HealthCheckRequest::Grpc(service.to_owned())));
    let http = |path: &str| Some(Some(HealthCheckRequest::Http(path.to_owned())));
    check(&HealthChecks, "off", Some(None));
    check(&HealthChecks, "grpc", grpc(""));
    check(&HealthChecks, "grpc:shop.Cart", grpc("shop.Cart"));
    check(&HealthChecks, "http:/", http("/"));
    check(&HealthChecks, "http:/healthz?a=b:c", http("/healthz?a=b:c"));
    for text in [
        "on",
        "GRPC",
        "grpc:",
        "grpc:a b",
        "http",
        "http:",
        "http:healthz",
        "/healthz",
        "http:/a b",
        "http:/a#b",
        "http://a/b",
        "tcp",
        "https:/a",
    ] {
        check(&HealthChecks, text, None);
    }
}
