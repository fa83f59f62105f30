//! Answers while there are no endpoints.

use crate::support::{PROXY, client, endpoint_params};
use h2::client::SendRequest;
use http::Request;
use http_h2::{ClientParams, ServerParams};
use proxy_http::{
    Connect, Endpoint, Endpoints, Proxy, Server, Stats,
    balance::endpoint::NoEndpoints,
    proxy::{self, Limits},
};
use std::{
    future::{pending, ready},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::DuplexStream,
    sync::watch,
    time::{Instant, sleep},
};

const FAILFAST: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn requests_are_told_why_there_is_no_endpoint() {
    let why = Arc::new(Mutex::new(Some(NoEndpoints::Unknown("not known yet".to_owned()))));
    let (list, listed) = watch::channel(Vec::<Endpoint<&str>>::new());
    let connector = tower::service_fn(|_: &str| ready(Err::<DuplexStream, _>(io::Error::from(io::ErrorKind::Other))));
    let connect = Connect::new(connector, &ClientParams::DEFAULT).unwrap();
    let said = Arc::clone(&why);
    let endpoints =
        Endpoints::spawn(listed, &connect, endpoint_params()).explained_by(move || said.lock().unwrap().clone());
    let params = proxy::Params { queue_capacity: 10, failfast_timeout: FAILFAST, ..PROXY };
    let proxy = Proxy::new(endpoints, Arc::new(Limits::new(params)), Arc::<Stats>::default());
    let (near, far) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move { Server::new(&ServerParams::DEFAULT).unwrap().serve(far, proxy, pending()).await });
    let mut client: SendRequest<_> = client(near).await;
    let mut send = || client.send_request(Request::get("http://x.example/").body(()).unwrap(), true).unwrap().0;
    let set = |reason| *why.lock().unwrap() = reason;

    // A list that comes has requests look again, though it is as empty as before.
    let started = Instant::now();
    let waiting = tokio::spawn(send());
    sleep(FAILFAST / 10).await;
    set(Some(NoEndpoints::Forbidden("not you".to_owned())));
    list.send_replace(Vec::new());
    assert_eq!(waiting.await.unwrap().unwrap().status(), 403);
    assert_eq!(started.elapsed(), FAILFAST / 10);

    set(Some(NoEndpoints::Unknown("not known yet".to_owned())));
    let rsp = send().await.unwrap();
    assert_eq!((rsp.status().as_u16(), &rsp.headers()["proxy-error"]), (503, &"not known yet".parse().unwrap()));
    assert_eq!(started.elapsed(), FAILFAST);
    // From now on at once.
    for (reason, status, text) in [
        (Some(NoEndpoints::Unavailable("none".to_owned())), 503, "none"),
        (Some(NoEndpoints::Forbidden("not you".to_owned())), 403, "not you"),
        (None, 503, "no endpoints"),
    ] {
        set(reason);
        let started = Instant::now();
        let rsp = send().await.unwrap();
        assert_eq!((rsp.status().as_u16(), rsp.headers()["proxy-error"].to_str().unwrap()), (status, text));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
