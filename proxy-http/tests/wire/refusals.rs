//! REFUSED_STREAM is no proof that an endpoint has not processed a request: some proxies turn each reset of a server behind
//! them into it.

use crate::support::{Endpoint, PROXY, Rig, endpoint_params, get, grpc, post};
use h2::Reason;
use http::Request;
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Endpoints, balance,
    proxy::{self, retry},
};
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

/// A proxy to so many endpoints, which refuse all requests, and how many each has had.
async fn refusing(endpoints: usize, retry: retry::Params) -> (Rig, Arc<Mutex<Vec<usize>>>) {
    let names = ["a", "b", "c"].into_iter().take(endpoints);
    let params = proxy::Params { retry, ..PROXY };
    let rig = Rig::of(&ServerParams::DEFAULT, &ClientParams::DEFAULT, params, |connect| {
        let params = balance::Params { max_connections: NonZeroUsize::MIN, ..endpoint_params() };
        Endpoints::fixed(names, &connect, params)
    });
    let (mut opened, seen) = (rig.endpoint_ios.clone(), Arc::<Mutex<Vec<usize>>>::default());
    let counts = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Some(io) = opened.recv().await {
            let (mut endpoint, counts) = (Endpoint::accept(io).await, Arc::clone(&counts));
            let index = counts.lock().unwrap().len();
            counts.lock().unwrap().push(0);
            tokio::spawn(async move {
                loop {
                    endpoint.asked().await.respond.send_reset(Reason::REFUSED_STREAM);
                    counts.lock().unwrap()[index] += 1;
                }
            });
        }
    });
    (rig, seen)
}

/// The status that a client gets, and of gRPC the call's.
async fn status(rig: &mut Rig, req: Request<()>) -> (u16, Option<String>) {
    let rsp = rig.client().await.send_request(req, true).unwrap().0.await.expect("it is not reset");
    let grpc_status = rsp.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
    (rsp.status().as_u16(), grpc_status)
}

#[tokio::test(start_paused = true)]
async fn no_endpoint_gets_a_request_more_than_twice_and_just_one_gets_it_twice() {
    for endpoints in 1..=3 {
        let (mut rig, seen) = refusing(endpoints, PROXY.retry).await;
        assert_eq!(status(&mut rig, post()).await.0, 503);
        let seen = seen.lock().unwrap().clone();
        assert!(seen.iter().all(|count| *count <= 2), "{seen:?}");
        assert!(seen.iter().sum::<usize>() <= endpoints + 1, "{seen:?}");
        if endpoints == 1 {
            assert_eq!(seen, [2]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn grpc_has_a_status_for_it() {
    let (mut rig, _) = refusing(1, PROXY.retry).await;
    assert_eq!(status(&mut rig, grpc()).await, (200, Some("14".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn methods_that_are_not_idempotent_are_left_out_where_that_is_set() {
    let retry = retry::Params { refused_non_idempotent: false, ..PROXY.retry };
    for (req, times) in [(post(), 1), (grpc(), 1), (get(), 6)] {
        let (mut rig, seen) = refusing(1, retry).await;
        status(&mut rig, req).await;
        assert_eq!(*seen.lock().unwrap(), [times]);
    }
}
