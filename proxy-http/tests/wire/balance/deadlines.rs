//! A request that ends at its deadline counts as a failure of the endpoint that it was at.

use super::{PARAMS, PATIENCE, Rig, asked_in_memory, params};
use crate::support::get;
use bytes::Bytes;
use h2::{Reason, client::ResponseFuture, server::SendResponse};
use http::{Response, StatusCode};
use http_h2::ClientParams;
use proxy_http::{
    Connect, Endpoints,
    balance::endpoint::{ResponseCounts, State},
    proxy,
};
use std::{
    future::Future,
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

const DEADLINE: Duration = Duration::from_secs(1);

/// Sends one request to two endpoints in memory, of which the first that is asked handles it by `handle`. Returns the response of
/// the client, unless it does not wait for it, and the counts of successes and failures of the endpoints that were asked, in turn.
async fn counts<F>(
    client: impl FnOnce(ResponseFuture) -> F,
    handle: [fn(SendResponse<Bytes>); 2],
) -> (F::Output, Vec<(u64, u64)>)
where
    F: Future,
{
    let (tx, mut asked) = mpsc::unbounded_channel();
    let connect = Connect::new(asked_in_memory(tx), &ClientParams::DEFAULT).unwrap();
    let endpoints = Endpoints::fixed(["a", "b"], &connect, params());
    let mut rig = Rig::of(endpoints, proxy::Params { request_timeout: Some(DEADLINE), ..PARAMS }).await;
    rig.until(|rig| rig.endpoints.status().iter().all(|endpoint| endpoint.state == State::Ready)).await;
    let (response, _) = rig.client.send_request(get(), true).unwrap();
    let names = Arc::<Mutex<Vec<_>>>::default();
    let asked_names = Arc::clone(&names);
    tokio::spawn(async move {
        let mut handle = handle.into_iter();
        while let Some((name, respond)) = asked.recv().await {
            asked_names.lock().unwrap().push(name);
            handle.next().expect("no further attempt")(respond);
        }
    });
    let result = timeout(PATIENCE, client(response)).await.unwrap();
    sleep(2 * DEADLINE).await;
    let names = mem::take(&mut *names.lock().unwrap());
    let counts = names.into_iter().map(|name| {
        let status = rig.endpoints.status().into_iter().find(|endpoint| endpoint.addr == name).unwrap();
        let ResponseCounts { successes, failures } = status.responses.unwrap_or_default();
        (successes, failures)
    });
    (result, counts.collect())
}

fn hang(respond: SendResponse<Bytes>) {
    std::mem::forget(respond);
}

fn no_more(_: SendResponse<Bytes>) {
    panic!("it is sent once");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_before_the_head_is_a_failure_of_the_endpoint() {
    let (status, counts) = counts(|response| async { response.await.unwrap().status() }, [hang, no_more]).await;
    assert_eq!((status, counts), (StatusCode::GATEWAY_TIMEOUT, vec![(0, 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_after_a_retry_is_a_failure_of_the_last_endpoint() {
    let refuse = |mut respond: SendResponse<Bytes>| respond.send_reset(Reason::REFUSED_STREAM);
    let (status, counts) = counts(|response| async { response.await.unwrap().status() }, [refuse, hang]).await;
    assert_eq!((status, counts), (StatusCode::GATEWAY_TIMEOUT, vec![(0, 0), (0, 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_within_the_response_is_a_failure_of_the_endpoint() {
    let begin = |mut respond: SendResponse<Bytes>| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data("begun".into(), false).unwrap();
        std::mem::forget(body);
    };
    let read = |response: ResponseFuture| async {
        let mut body = response.await.unwrap().into_body();
        while let Some(read) = body.data().await {
            let read = read.map_err(|error| error.reason())?;
            body.flow_control().release_capacity(read.len()).unwrap();
        }
        Ok(())
    };
    let (read, counts) = counts(read, [begin, no_more]).await;
    assert_eq!((read, counts), (Err(Some(Reason::INTERNAL_ERROR)), vec![(0, 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_while_the_client_does_not_read_is_no_failure_of_the_endpoint() {
    let respond = |mut respond: SendResponse<Bytes>| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(vec![0; 1 << 17].into(), true).unwrap();
        std::mem::forget(body);
    };
    let wait = |response: ResponseFuture| async {
        let response = response.await.unwrap();
        sleep(2 * DEADLINE).await;
        drop(response);
    };
    let ((), counts) = counts(wait, [respond, no_more]).await;
    assert_eq!(counts, [(1, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_its_client_cancels_is_not_counted() {
    let cancel = |response: ResponseFuture| async {
        sleep(DEADLINE / 2).await;
        drop(response);
    };
    let ((), counts) = counts(cancel, [hang, no_more]).await;
    assert_eq!(counts, [(0, 0)]);
}
