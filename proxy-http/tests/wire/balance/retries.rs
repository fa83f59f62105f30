//! A retry goes to another endpoint, of the next priority if need be.

use super::{Asked, PARAMS, Rig, answer, endpoint, sockets};
use h2::Reason;
use http::Response;
use proxy_http::{
    Endpoint,
    balance::endpoint::State,
    proxy::{self, retry},
};
use tokio::sync::watch;

/// The requests that each endpoint gets of five clients' requests, where the first fails and the others are well, with these priorities.
async fn requests<F>(fail: impl Fn(Asked) -> F + Clone + Send + 'static, priorities: [u16; 3]) -> [usize; 3]
where
    F: Future<Output = ()> + Send + 'static,
{
    let endpoints = [endpoint(None, fail).await, endpoint(None, answer).await, endpoint(None, answer).await];
    let list = sockets(&endpoints).into_iter().zip(priorities);
    let list = list.map(|(addr, priority)| Endpoint { priority, ..Endpoint::new(addr) }).collect();
    let params = proxy::Params { retry: retry::Params { gateway_errors: true, ..PARAMS.retry }, ..PARAMS };
    let mut rig = Rig::follow(watch::channel(list).1, super::params(), params).await;
    rig.until(|rig| rig.endpoints.status().iter().all(|endpoint| endpoint.state == State::Ready)).await;
    for _ in 0..5 {
        assert_eq!(rig.send().await.unwrap(), 200);
    }
    endpoints.each_ref().map(|(_, seen)| seen.requests())
}

async fn unavailable(mut asked: Asked) {
    let _ = asked.respond.send_response(Response::builder().status(503).body(()).unwrap(), true);
}

async fn refuse(mut asked: Asked) {
    asked.respond.send_reset(Reason::REFUSED_STREAM);
}

#[tokio::test]
async fn a_retry_goes_to_the_next_priority_where_the_one_in_use_has_no_other_endpoint() {
    assert_eq!(requests(unavailable, [0, 1, 2]).await, [5, 5, 0]);
    assert_eq!(requests(refuse, [0, 1, 2]).await, [5, 5, 0]);
}

#[tokio::test]
async fn a_retry_stays_in_the_priority_in_use_where_that_has_another_endpoint() {
    let [failed, other, next] = requests(unavailable, [0, 0, 1]).await;
    assert!(failed > 0 && other == 5 && next == 0, "{failed} {other} {next}");
}
