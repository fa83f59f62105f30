//! Proxies requests with `http-h2`, `app-env` and `proxy-http`, as a program of one's own would: one of the crate's own
//! client, one of a tower client by hyper, and one of plain hyper.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use http_h2::{ClientParams, ServerParams};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_http::{
    BoxError, Connect, Endpoints, IncomingBody, Proxy, Server, Stats, balance, hyper as by_hyper, proxy,
};
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
    let proxy_addr = listener.local_addr()?.to_string();
    let server = Server::new(&outbound.server)?;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a loopback listener accepts");
            let (server, proxy) = (server.clone(), proxy.clone());
            tokio::spawn(async move { server.serve(stream, proxy, pending()).await });
        }
    });
    let tcp = service_fn(TcpStream::connect::<String>);
    let params = ClientParams::DEFAULT;
    let req = || Request::post("http://downstream.example/").body(Full::<Bytes>::new("hello".into()));

    // One request through it.
    let client = Connect::<_, Full<Bytes>>::new(tcp, &params)?.oneshot(proxy_addr.clone()).await?;
    let rsp = client.oneshot(req()?).await?;
    check(rsp.into_body().collect().await?.to_bytes())?;

    // One of a tower client whose connection is hyper's.
    let client = by_hyper::Connect::<_, Full<Bytes>>::new(tcp, &params)?.oneshot(proxy_addr.clone()).await?;
    let rsp = client.oneshot(req()?).await?;
    check(rsp.into_body().collect().await?.to_bytes())?;

    // One of plain hyper, with the same params.
    let builder = by_hyper::client_builder(&params, TokioExecutor::new())?;
    let (mut client, connection) = builder.handshake(TokioIo::new(TcpStream::connect(&proxy_addr).await?)).await?;
    tokio::spawn(connection);
    let rsp = client.send_request(req()?).await?;
    check(rsp.into_body().collect().await?.to_bytes())?;

    println!("the proxy counted {} requests", stats.requests());
    if stats.requests() != 3 {
        return Err("a request did not go through the proxy".into());
    }
    Ok(())
}

fn check(body: Bytes) -> Result<(), BoxError> {
    println!("{} bytes back", body.len());
    if body == "hello" { Ok(()) } else { Err("the endpoint sends another body back".into()) }
}
