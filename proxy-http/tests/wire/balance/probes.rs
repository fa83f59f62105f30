//! An ejected endpoint gets one request as a probe, and no other.

use super::{PARAMS, PATIENCE, Rig, asked_in_memory, params};
use bytes::Bytes;
use h2::{Reason, client::ResponseFuture, server::SendResponse};
use http::Response;
use http_h2::ClientParams;
use proxy_http::{
    Connect, Endpoint, Endpoints, Protocol,
    balance::{self, breaker, endpoint::State},
    proxy,
};
use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const S: Duration = Duration::from_secs(1);
/// Three failures eject for a second.
const BREAKER: breaker::Params =
    breaker::Params { consecutive_failures: 3, min_ejection: S, max_ejection: Duration::from_secs(3_600) };

/// An endpoint in memory of HTTP/1.1, which counts its requests, answers with this status, and then may close the connection.
fn http1_endpoint(status: u16, closes: bool, requests: Arc<AtomicUsize>) -> DuplexStream {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut head = Vec::new();
        while let Ok(byte) = far.read_u8().await {
            head.push(byte);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                requests.fetch_add(1, Relaxed);
                let connection = if closes { "close" } else { "keep-alive" };
                let response = format!("HTTP/1.1 {status} -\r\nconnection: {connection}\r\ncontent-length: 0\r\n\r\n");
                far.write_all(response.as_bytes()).await.unwrap();
                if closes {
                    return;
                }
            }
        }
    });
    near
}

/// Endpoints of these names and priorities.
fn list(endpoints: [(&'static str, u16); 2]) -> watch::Receiver<Vec<Endpoint<&'static str>>> {
    let endpoint = |(name, priority)| Endpoint { priority, ..Endpoint::new(name) };
    watch::channel(endpoints.map(endpoint).to_vec()).1
}

fn breaker_params() -> balance::Params {
    balance::Params { breaker: BREAKER, ..params() }
}

fn state(rig: &Rig, endpoint: &str) -> State {
    rig.endpoints.status().iter().find(|one| one.addr == endpoint).unwrap().state
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_a_connection_go_elsewhere_at_an_ejection() {
    let requests = [(); 2].map(|()| Arc::<AtomicUsize>::default());
    let (counted, connections) = (requests.clone(), Arc::<AtomicUsize>::default());
    let connector = tower::service_fn(move |name: &'static str| {
        let (counted, connections) = (counted.clone(), Arc::clone(&connections));
        async move {
            if name == "good" {
                return Ok::<_, io::Error>(http1_endpoint(200, false, Arc::clone(&counted[1])));
            }
            // One connection comes soon, and no other.
            match connections.fetch_add(1, Relaxed) {
                0 => sleep(S / 10).await,
                _ => pending().await,
            }
            Ok(http1_endpoint(503, false, Arc::clone(&counted[0])))
        }
    });
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap().protocol(Protocol::Http1);
    let mut rig = Rig::of(Endpoints::fixed(["bad", "good"], &connect, breaker_params()), PARAMS).await;
    let answered: JoinSet<_> = (0..40).map(|_| rig.send()).collect();
    let answered = timeout(S / 2, answered.join_all()).await.expect("none waits for the ejected one");
    let failures = answered.into_iter().filter(|answered| *answered.as_ref().unwrap() == 503).count();
    assert_eq!((failures, requests[0].load(Relaxed), state(&rig, "bad")), (3, 3, State::Ejected));
}

#[tokio::test(start_paused = true)]
async fn one_request_waits_for_a_connection_to_an_ejected_endpoint() {
    for priority in [0, 1] {
        let requests = [(); 2].map(|()| Arc::<AtomicUsize>::default());
        let counted = requests.clone();
        let connector = tower::service_fn(move |name: &'static str| {
            let counted = counted.clone();
            async move {
                if name == "good" {
                    return Ok::<_, io::Error>(http1_endpoint(200, false, Arc::clone(&counted[1])));
                }
                sleep(S / 10).await;
                Ok(http1_endpoint(503, true, Arc::clone(&counted[0])))
            }
        });
        let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap().protocol(Protocol::Http1);
        let endpoints = Endpoints::spawn(list([("bad", 0), ("good", priority)]), &connect, breaker_params());
        let mut rig = Rig::of(endpoints, PARAMS).await;
        for _ in 0..100 {
            rig.send().await.unwrap();
            // The next one is of another batch.
            sleep(S / 1_000).await;
        }
        assert_eq!(state(&rig, "bad"), State::Ejected);
        assert_eq!(requests[0].load(Relaxed), 3);
        sleep(S).await;
        let answered: JoinSet<_> = (0..20).map(|_| rig.send()).collect();
        let answered = answered.join_all().await;
        let failures = answered.into_iter().filter(|answered| *answered.as_ref().unwrap() == 503).count();
        assert_eq!((failures, requests[0].load(Relaxed)), (1, 4), "priority {priority}");
    }
}

/// Requests to two endpoints in memory, which the test answers or not.
struct Asked {
    rig: Rig,
    at: mpsc::UnboundedReceiver<(&'static str, SendResponse<Bytes>)>,
    /// Requests to the good endpoint, which stay open.
    good: Vec<(ResponseFuture, SendResponse<Bytes>)>,
}

impl Asked {
    async fn new() -> Self {
        Self::with(PARAMS).await
    }

    async fn with(params: proxy::Params) -> Self {
        let (asked, at) = mpsc::unbounded_channel();
        let connect = Connect::new(asked_in_memory(asked), &ClientParams::DEFAULT).unwrap();
        let rig = Rig::of(Endpoints::fixed(["bad", "good"], &connect, breaker_params()), params).await;
        rig.until(|rig| rig.endpoints.status().iter().all(|endpoint| endpoint.state == State::Ready)).await;
        Self { rig, at, good: Vec::new() }
    }

    /// Sends a request, and says which endpoint gets it.
    async fn send(&mut self) -> (&'static str, ResponseFuture, SendResponse<Bytes>) {
        let (response, _) = self.rig.client.send_request(crate::support::get(), true).unwrap();
        let (name, respond) = timeout(PATIENCE, self.at.recv()).await.expect("it is sent").unwrap();
        (name, response, respond)
    }

    /// Sends requests until the bad endpoint gets one.
    async fn ask_bad(&mut self) -> (ResponseFuture, SendResponse<Bytes>) {
        loop {
            match self.send().await {
                ("bad", response, respond) => return (response, respond),
                (_, response, respond) => self.good.push((response, respond)),
            }
        }
    }
}

fn respond(mut with: SendResponse<Bytes>, status: u16) {
    with.send_response(Response::builder().status(status).body(()).unwrap(), true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_from_before_the_ejection_decide_nothing_about_the_probe() {
    type End = fn(ResponseFuture, SendResponse<Bytes>);
    let ends: [(&str, End); 4] = [
        ("cancelled", |_, with| std::mem::forget(with)),
        ("reset", |response, mut with| {
            std::mem::forget(response);
            with.send_reset(Reason::INTERNAL_ERROR);
        }),
        ("200", |response, with| {
            std::mem::forget(response);
            respond(with, 200);
        }),
        ("503", |response, with| {
            std::mem::forget(response);
            respond(with, 503);
        }),
    ];
    for (name, end) in ends {
        let mut asked = Asked::new().await;
        let (response, old) = asked.ask_bad().await;
        for _ in 0..3 {
            let (response, with) = asked.ask_bad().await;
            respond(with, 503);
            assert_eq!(response.await.unwrap().status(), 503);
        }
        assert_eq!(state(&asked.rig, "bad"), State::Ejected);
        sleep(S).await;
        let (probe, with) = asked.ask_bad().await;
        end(response, old);
        sleep(S / 10).await;
        for _ in 0..20 {
            let (at, response, with) = asked.send().await;
            assert_eq!(at, "good", "{name}");
            asked.good.push((response, with));
        }
        assert_eq!(state(&asked.rig, "bad"), State::Ejected, "{name}");
        respond(with, 200);
        assert_eq!(probe.await.unwrap().status(), 200);
        assert_eq!(state(&asked.rig, "bad"), State::Ready, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_that_takes_no_probe_does_not_keep_requests_from_the_next_priority() {
    let connections = Arc::<AtomicUsize>::default();
    let connector = tower::service_fn(move |name: &'static str| {
        let connections = Arc::clone(&connections);
        async move {
            let is_good = name == "good";
            if !is_good && connections.fetch_add(1, Relaxed) > 0 {
                pending::<()>().await;
            }
            let (near, far) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(far).await.unwrap();
                let mut requests = 0;
                while let Some(Ok((_, with))) = connection.accept().await {
                    requests += 1;
                    respond(with, if is_good { 200 } else { 503 });
                    // The connection ends well, and there is no next one.
                    if !is_good && requests == 3 {
                        connection.graceful_shutdown();
                    }
                }
            });
            Ok::<_, io::Error>(near)
        }
    });
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
    let endpoints = Endpoints::spawn(list([("bad", 0), ("good", 1)]), &connect, breaker_params());
    let mut rig = Rig::of(endpoints, PARAMS).await;
    for _ in 0..3 {
        assert_eq!(rig.send().await.unwrap(), 503);
    }
    for pause in [S / 10, 2 * S] {
        sleep(pause).await;
        let answered = timeout(S / 10, rig.send()).await;
        assert_eq!(answered.expect("nothing is waited for").unwrap(), 200, "{pause:?}");
    }
}

/// Probes that get no head: what happens to one, and until when the endpoint is ejected then, counted from the probe.
#[tokio::test(start_paused = true)]
async fn a_probe_that_times_out_or_is_reset_has_failed() {
    type End = fn(ResponseFuture, SendResponse<Bytes>);
    let ends: [(&str, Option<Duration>, End); 4] = [
        ("timed out", Some(S / 10 + 2 * S), |response, with| _ = tokio::spawn(async move { (response.await, with) })),
        ("reset", Some(2 * S), |response, mut with| {
            std::mem::forget(response);
            with.send_reset(Reason::INTERNAL_ERROR);
        }),
        ("refused", Some(2 * S), |response, mut with| {
            std::mem::forget(response);
            with.send_reset(Reason::REFUSED_STREAM);
        }),
        ("cancelled", None, |response, with| {
            drop(response);
            std::mem::forget(with);
        }),
    ];
    for (name, ejected, end) in ends {
        let mut asked = Asked::with(proxy::Params { request_timeout: Some(S / 10), ..PARAMS }).await;
        for _ in 0..3 {
            let (response, with) = asked.ask_bad().await;
            respond(with, 503);
            assert_eq!(response.await.unwrap().status(), 503);
        }
        sleep(S).await;
        let (probe, with) = asked.ask_bad().await;
        let started = Instant::now();
        end(probe, with);
        let mut next = None;
        while next.is_none() && started.elapsed() < 4 * S {
            sleep(S / 50).await;
            let (at, response, with) = asked.send().await;
            next = (at == "bad").then(|| started.elapsed());
            tokio::spawn(async move { (respond(with, 200), response.await) });
        }
        let expected = ejected.unwrap_or_default();
        let next = next.expect("there is another probe");
        assert!((expected..=expected + S / 10).contains(&next), "{name}: the next probe comes after {next:?}");
    }
}

/// A stream may last for days, and the circuit must not stay open for as long.
#[tokio::test(start_paused = true)]
async fn a_probe_whose_response_lasts_has_succeeded_after_the_least_ejection() {
    for is_answered in [true, false] {
        let mut asked = Asked::new().await;
        for _ in 0..3 {
            let (response, with) = asked.ask_bad().await;
            respond(with, 503);
            assert_eq!(response.await.unwrap().status(), 503);
        }
        sleep(S).await;
        let (probe, mut with) = asked.ask_bad().await;
        let mut open = None;
        if is_answered {
            let stream = with.send_response(Response::new(()), false).unwrap();
            open = Some((probe.await.unwrap(), stream));
        } else {
            std::mem::forget(probe);
        }
        for pause in [S / 2, S / 4, S] {
            assert_eq!(state(&asked.rig, "bad"), State::Ejected);
            for _ in 0..10 {
                let (at, response, with) = asked.send().await;
                assert_eq!(at, "good");
                asked.good.push((response, with));
            }
            sleep(pause).await;
        }
        let Some(_open) = open else {
            assert_eq!(asked.send().await.0, "good", "it has not answered");
            continue;
        };
        // It gets requests again, but not for long if they fail.
        for _ in 0..3 {
            let (response, with) = asked.ask_bad().await;
            respond(with, 503);
            assert_eq!(response.await.unwrap().status(), 503);
        }
        assert_eq!(state(&asked.rig, "bad"), State::Ejected);
        sleep(S + S / 2).await;
        let (at, ..) = asked.send().await;
        assert_eq!(at, "good", "the ejection is longer than the first");
        sleep(S).await;
        let (response, with) = asked.ask_bad().await;
        respond(with, 200);
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(state(&asked.rig, "bad"), State::Ready);
    }
}
