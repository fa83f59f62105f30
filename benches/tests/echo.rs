//! tonic's echo server and this crate's own endpoint answer alike, so that either can be at the end of a load.

#[path = "../examples/echo.rs"]
#[expect(dead_code, reason = "its `main` is not called here")]
mod echo;

use benches::load::{End, Endpoint, Load, Workload};
use echo::EchoServer;
use std::time::Duration;

#[tokio::test]
async fn tonic_and_the_endpoint_echo_alike() {
    let (tonic, endpoint) = (EchoServer::spawn().await.unwrap(), Endpoint::spawn().await.unwrap());
    for target in [tonic.addr(), endpoint.addr()] {
        for workload in [Workload::GrpcUnary, Workload::Bidi] {
            let load = Load {
                target,
                workload,
                connections: 1,
                streams: 2,
                rate: None,
                warm_up: Duration::ZERO,
                time: Duration::from_millis(200),
                timeout: Duration::from_secs(10),
            };
            let (outcome, (), ()) = load.run(|| ()).await.unwrap();
            assert!(outcome.ok() > 0, "{workload}: {outcome:?}");
            assert!(outcome.ends.keys().all(|end| *end == End::Ok), "{workload}: {outcome:?}");
        }
    }
}
