//! The time from a process's start until it is ready, by how many endpoints it has. The process is the release binary, or APP.

use benches::{
    load::Endpoint,
    process::{Proxy, find_app},
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::{
    env,
    time::{Duration, Instant},
};
use tokio::runtime::Builder;

fn start(c: &mut Criterion) {
    let release = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/app");
    let app = find_app(Some(env::var_os("APP").unwrap_or(release.into()).into())).expect("there is a binary");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let mut group = c.benchmark_group("start_to_ready");
    group.sample_size(10);
    for count in [1, 10, 100] {
        let endpoints = runtime.block_on(async {
            let mut endpoints = Vec::with_capacity(count);
            for _ in 0..count {
                endpoints.push(Endpoint::spawn().await.expect("an endpoint listens"));
            }
            endpoints
        });
        let all: Vec<_> = endpoints.iter().map(|endpoint| endpoint.addr().to_string()).collect();
        let settings = [("OUTBOUND_ENDPOINTS".to_owned(), all.join(","))];
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter_custom(|times| {
                let mut total = Duration::ZERO;
                for _ in 0..times {
                    let started = Instant::now();
                    let mut proxy = Proxy::spawn(&app, endpoints[0].addr(), &settings).expect("the proxy starts");
                    runtime.block_on(proxy.ready()).expect("it is ready");
                    total += started.elapsed();
                }
                total
            });
        });
    }
    group.finish();
}

criterion_group!(benches, start);
criterion_main!(benches);
