//! Proxies one request with `http-h2`, `app-env` and `proxy-http`, as a program of one's own would.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use http_h2::{ClientParams, ServerParams};
use proxy_http::{BoxError, Connect, Endpoints, IncomingBody, Proxy, Server, Stats, balance, proxy};
use std::{collections::HashMap, convert::Infallible, future::pending, sync::Arc};
use tokio::net::{TcpListener, TcpStream};
use tower::{ServiceExt as _, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // An endpoint that sends bodies back.
    let endpoint = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint_addr = endpoint.local_addr()?.to_string();
    let server = Server::new(&ServerParams::DEFAULT)?;
    tokio::spawn(async move {
        let echo =
            service_fn(|req: Request<IncomingBody>| async { Ok::<_, Infallible>(Response::new(req.into_body())) });
        let (stream, _) = endpoint.accept().await.expect("a loopback listener accepts");
        server.serve(stream, echo, pending()).await
    });

    // A proxy to it, set up from variables.
    let env = HashMap::from([
        ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", endpoint_addr.as_str()),
        ("LINKERD2_PROXY_HTTP2_INITIAL_STREAM_WINDOW_SIZE", "262144"),
    ]);
    let outbound = app_env::load(&env)?.config.outbound.ok_or("endpoints turn the direction on")?;
    let tcp = service_fn(|addr: String| TcpStream::connect(addr));
    let connect = Connect::new(tcp, &outbound.connect.http2)?.timeout(outbound.connect.timeout);
    let app_env::Backoff { min, max, jitter } = outbound.connect.backoff;
    let targets = outbound.endpoints.iter().map(ToString::to_string);
    let backoff = balance::Backoff { min, max, jitter };
    let endpoints = Endpoints::fixed(targets, &connect, balance::Params { backoff, ..Default::default() });
    let limits = Arc::new(proxy::Limits::new(proxy::Params {
        queue_capacity: outbound.http_queue_capacity,
        failfast_timeout: outbound.http_failfast_timeout,
        max_in_flight: outbound.max_in_flight,
        request_timeout: outbound.http_request_timeout,
        ..Default::default()
    }));
    let stats = Arc::<Stats>::default();
    let proxy = Proxy::new(endpoints, limits, Arc::clone(&stats));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let proxy_addr = listener.local_addr()?;
    let server = Server::new(&outbound.server)?;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a loopback listener accepts");
        server.serve(stream, proxy, pending()).await
    });

    // One request through it.
    let connect = Connect::<_, Full<Bytes>>::new(service_fn(TcpStream::connect::<String>), &ClientParams::DEFAULT)?;
    let client = connect.oneshot(proxy_addr.to_string()).await?;
    let rsp = client.oneshot(Request::post("http://downstream.example/").body(Full::new("hello".into()))?).await?;
    let status = rsp.status();
    let body = rsp.into_body().collect().await?.to_bytes();
    println!("{status}, {} bytes back; the proxy counted {} request", body.len(), stats.requests());
    if body != "hello" || stats.requests() != 1 {
        return Err("the request did not go through the proxy".into());
    }
    Ok(())
}
