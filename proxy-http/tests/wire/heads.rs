//! Heads of requests that are held until their responses begin, which are bounded together.

use crate::{
    answers::{is_answer, is_grpc_answer},
    support::{Asked, Endpoint, PROXY, Rig, client, get, grpc},
};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderValue, Request, Response};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    BufferLimit,
    stats::{Limit, Peer},
};
use tokio::time::{Duration, timeout};

/// A request whose header list is nearly as large as the limit of one.
fn with_large_head(mut req: Request<()>) -> Request<()> {
    req.headers_mut().insert("x-large", HeaderValue::try_from("v".repeat(15 << 10)).unwrap());
    req
}

/// Sends requests until one is refused, and returns its response, and the others.
async fn fill(
    client: &mut SendRequest<Bytes>,
    endpoint: &mut Endpoint,
    req: fn() -> Request<()>,
) -> (Response<h2::RecvStream>, Vec<(Asked, ResponseFuture)>) {
    let mut open = Vec::new();
    for _ in 0..190 {
        let mut response = client.send_request(with_large_head(req()), true).unwrap().0;
        tokio::select! {
            asked = endpoint.asked() => open.push((asked, response)),
            refused = &mut response => return (refused.unwrap(), open),
        }
    }
    panic!("none is refused");
}

fn limit(rig: &Rig) -> u64 {
    rig.stats.transport(Peer::Client).limits().find(|(known, _)| *known == Limit::BufferedHeads).unwrap().1
}

#[tokio::test(start_paused = true)]
async fn heads_are_bounded_together() {
    // Half of it is less than the least for heads.
    let buffers = BufferLimit::new(8 << 20);
    let mut rig = Rig::buffering(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, buffers);
    let mut first = rig.client().await;
    let mut endpoint = rig.endpoint().await;
    let (refused, open) = fill(&mut first, &mut endpoint, get).await;
    is_answer(&refused, 431);
    assert!((50..150).contains(&open.len()), "{}", open.len());
    is_grpc_answer(&fill(&mut first, &mut endpoint, grpc).await.0, "8");
    assert_eq!(limit(&rig), 2);
    // Others are served beside it, and it is served as soon as responses have begun.
    let mut other = client(rig.connect(1 << 20).0).await;
    for _ in 0..20 {
        let response = other.send_request(get(), true).unwrap().0;
        endpoint.asked().await.respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    }
    let (mut bodies, mut responses) = (Vec::new(), Vec::new());
    let count = open.len();
    for (mut asked, response) in open {
        // The responses do not end.
        bodies.push((asked.answer(), response.await.unwrap()));
    }
    for _ in 0..count / 2 {
        responses.push(first.send_request(with_large_head(get()), true).unwrap().0);
        timeout(Duration::from_secs(60), endpoint.asked()).await.expect("there is room again");
    }
}
