//! The time to find the rule of a request among many.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proxy_http::route::{Match, PathMatch, Rule, Table};
use std::hint::black_box;

fn find(c: &mut Criterion) {
    let mut headers = HeaderMap::new();
    for (name, value) in [("accept", "*/*"), ("user-agent", "bench"), ("te", "trailers")] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let mut group = c.benchmark_group("find_the_rule_of_a_request");
    for rules in [1, 100, 1_000] {
        let last = rules - 1;
        headers.insert(HeaderName::from_static("x-env"), format!("env-{last}").parse().expect("it is a value"));
        for (name, table, authority, path) in [
            ("hosts", table(rules, host), format!("host-{last}.shop.example:8080"), "/cart/1".to_owned()),
            ("paths", table(rules, exact), "shop.example".to_owned(), format!("/shop.v1.Orders/Method{last}")),
            ("prefixes", table(rules, prefix), "shop.example".to_owned(), format!("/api/{last}/orders/{last}/items/1")),
            ("headers", table(rules, header), "shop.example".to_owned(), "/cart/1".to_owned()),
            ("none", table(rules, prefix), "shop.example".to_owned(), "/other/path/that/no/rule/takes".to_owned()),
        ] {
            let find = || table.find(Some(black_box(&authority)), black_box(&path), &Method::POST, &headers);
            assert_eq!(find().copied(), (name != "none").then_some(last), "{name}");
            group.bench_function(BenchmarkId::new(name, rules), |b| b.iter(find));
        }
    }
    group.finish();
}

fn table(rules: usize, rule: fn(usize) -> Rule) -> Table<usize> {
    Table::new((0..rules).map(|number| (rule(number), number)))
}

fn of(path: PathMatch) -> Rule {
    let hostnames = vec!["shop.example".parse().expect("it is a host")];
    Rule { hostnames, matches: vec![Match { path, ..Match::default() }] }
}

/// One host each, with a prefix.
fn host(number: usize) -> Rule {
    let name = format!("host-{number}.shop.example");
    Rule { hostnames: vec![name.parse().expect("it is a host")], ..of(PathMatch::Prefix("/cart".to_owned())) }
}

/// One method of gRPC each.
fn exact(number: usize) -> Rule {
    let (service, method) = (Some("shop.v1.Orders".to_owned()), Some(format!("Method{number}")));
    of(PathMatch::GrpcMethod { service, method })
}

/// Prefixes of two and of four segments.
fn prefix(number: usize) -> Rule {
    of(PathMatch::Prefix(match number % 2 {
        0 => format!("/api/{number}"),
        _ => format!("/api/{number}/orders/{number}"),
    }))
}

/// One value each of a field, all of one path: each is compared.
fn header(number: usize) -> Rule {
    let mut rule = of(PathMatch::Prefix("/cart".to_owned()));
    let value = format!("env-{number}");
    rule.matches[0].headers.push((HeaderName::from_static("x-env"), value.parse().expect("it is a value")));
    rule
}

criterion_group!(benches, find);
criterion_main!(benches);
