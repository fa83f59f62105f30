//! What a request costs through client, proxy and endpoint, over in-memory pipes, and on one connection by the proxy's
//! engine and by hyper; and what reading the settings and applying params do.

use benches::{Chain, Pair};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use http_body_util::Full;
use http_h2::{ClientParams, FlowControl, ServerParams};
use proxy_http::{Connect, Server};
use std::{collections::HashMap, hint::black_box};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

fn round_trips(c: &mut Criterion) {
    let runtime = runtime();
    let chain = runtime.block_on(Chain::new());
    let mut group = c.benchmark_group("client_proxy_endpoint_in_memory");

    group.throughput(Throughput::Elements(1));
    let small = Bytes::from_static(&[b'x'; 128]);
    group.bench_function("one_stream_128_bytes_each_way", |b| {
        b.iter(|| assert_eq!(runtime.block_on(chain.echo(small.clone())), 128));
    });

    group.throughput(Throughput::Elements(8));
    group.bench_function("eight_streams_128_bytes_each_way", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let echo = || chain.echo(small.clone());
                tokio::join!(echo(), echo(), echo(), echo(), echo(), echo(), echo(), echo())
            })
        });
    });

    let large = Bytes::from(vec![b'x'; 1 << 20]);
    group.throughput(Throughput::Bytes(2 << 20));
    group.bench_function("one_stream_1_mib_each_way", |b| {
        b.iter(|| assert_eq!(runtime.block_on(chain.echo(large.clone())), 1 << 20));
    });
    group.finish();
}

/// Both have the same params, a client and a server, and 128 bytes each way.
fn engines(c: &mut Criterion) {
    let runtime = runtime();
    let pairs = [("h2", runtime.block_on(Pair::by_proxy())), ("hyper", runtime.block_on(Pair::by_hyper()))];
    let mut group = c.benchmark_group("one_connection_in_memory");
    let body = Bytes::from_static(&[b'x'; 128]);
    for streams in [1, 8, 64] {
        group.throughput(Throughput::Elements(streams));
        for (engine, pair) in &pairs {
            group.bench_function(BenchmarkId::new(*engine, streams), |b| {
                b.iter(|| runtime.block_on(join_all((0..streams).map(|_| pair.echo(body.clone())))));
            });
        }
    }
    group.finish();
}

fn settings(c: &mut Criterion) {
    let env = HashMap::from([
        ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:8080,127.0.0.1:8081"),
        ("LINKERD2_PROXY_OUTBOUND_SERVER_HTTP2_KEEP_ALIVE_INTERVAL", "10s"),
        ("LINKERD2_PROXY_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "262144"),
    ]);
    c.bench_function("load_environment_of_three_variables", |b| {
        b.iter(|| app_env::load(black_box(&env)).expect("the settings are valid"));
    });
}

fn params(c: &mut Criterion) {
    let flow_control =
        Some(FlowControl::Fixed { initial_stream_window_size: 1 << 18, initial_connection_window_size: 1 << 22 });
    let server = ServerParams { flow_control, max_concurrent_streams: Some(100), ..ServerParams::DEFAULT };
    let client = ClientParams { flow_control, max_frame_size: Some(32_768), ..ClientParams::DEFAULT };
    c.bench_function("server_from_params", |b| {
        b.iter(|| Server::new(black_box(&server)).expect("the params are in range"));
    });
    c.bench_function("connect_from_params", |b| {
        b.iter(|| Connect::<(), Full<Bytes>>::new((), black_box(&client)).expect("the params are in range"));
    });
}

criterion_group!(benches, round_trips, engines, params, settings);
criterion_main!(benches);
