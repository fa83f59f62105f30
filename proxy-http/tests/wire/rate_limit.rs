//! Limits of the requests of one client.

use crate::{
    answers::{is_answer, is_grpc_answer},
    support::{Endpoint, PROXY, Rig, get, grpc},
};
use bytes::Bytes;
use h2::client::SendRequest;
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    proxy::{Client, ClientRates, Rate},
    stats::{Limit, Peer},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// A connection of a client, and its endpoint.
struct Connected {
    rig: Rig,
    client: SendRequest<Bytes>,
    endpoint: Endpoint,
}

impl Connected {
    async fn new(rates: &Arc<ClientRates>, addr: [u8; 4]) -> Self {
        let client =
            Client { addr: Some(SocketAddr::from((addr, 7))), rates: Some(Arc::clone(rates)), ..Client::default() };
        let mut rig = Rig::for_client(&ServerParams::DEFAULT, &ClientParams::DEFAULT, PROXY, client);
        let (client, endpoint) = (rig.client().await, rig.endpoint().await);
        Self { rig, client, endpoint }
    }

    async fn is_served(&mut self) {
        let response = self.client.send_request(get(), true).unwrap().0;
        self.endpoint.asked().await.answer().send_data(Bytes::new(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    }

    async fn is_refused(&mut self) {
        let rsp = self.client.send_request(get(), true).unwrap().0.await.unwrap();
        is_answer(&rsp, 429);
        assert_eq!(rsp.headers()["retry-after"], "1");
    }

    fn refused(&self) -> u64 {
        let mut limits = self.rig.stats.transport(Peer::Client).limits();
        limits.find(|(limit, _)| *limit == Limit::Rate).unwrap().1
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_client_beyond_its_rate_get_429_or_8() {
    let rate = Rate { per_second: 1.try_into().unwrap(), burst: 2.try_into().unwrap() };
    let rates = Arc::new(ClientRates::new(rate));
    let mut first = Connected::new(&rates, [192, 0, 2, 1]).await;
    let mut second = Connected::new(&rates, [192, 0, 2, 1]).await;
    first.is_served().await;
    second.is_served().await;
    first.is_refused().await;
    second.is_refused().await;
    let rsp = second.client.send_request(grpc(), true).unwrap().0.await.unwrap();
    is_grpc_answer(&rsp, "8");
    assert!(!rsp.headers().contains_key("retry-after"));
    Connected::new(&rates, [192, 0, 2, 2]).await.is_served().await;
    tokio::time::advance(Duration::from_secs(1)).await;
    second.is_served().await;
    first.is_refused().await;
    assert_eq!((first.refused(), second.refused()), (2, 2));
}
