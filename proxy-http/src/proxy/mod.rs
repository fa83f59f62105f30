//! Forwards requests to endpoints, retries requests that were not processed, and answers requests that get no response.
//!
//! # Examples
//!
//! A proxy to two endpoints on loopback, of which one is not there:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use http_h2::{ClientParams, ServerParams};
//! use proxy_http::{Connect, Endpoints, IncomingBody, Proxy, Server, Stats, balance, proxy};
//! use std::{convert::Infallible, future::pending, sync::Arc};
//! use tokio::net::{TcpListener, TcpStream};
//! use tower::{ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! # let endpoint = TcpListener::bind("127.0.0.1:0").await?;
//! # let there = endpoint.local_addr()?.to_string();
//! # let gone = "127.0.0.1:1".to_owned();
//! # let server = Server::new(&ServerParams::DEFAULT)?;
//! # let echo = service_fn(|req: Request<IncomingBody>| async { Ok::<_, Infallible>(Response::new(req.into_body())) });
//! # tokio::spawn(async move { server.serve(endpoint.accept().await.unwrap().0, echo, pending()).await });
//! // Connections to the endpoints, and the choice among them.
//! let tcp = service_fn(|addr: String| TcpStream::connect(addr));
//! let connect = Connect::new(tcp, &ClientParams::DEFAULT)?;
//! let endpoints = Endpoints::fixed([there, gone], &connect, balance::Params::default());
//!
//! // A service of the requests, with the limits that its clones share.
//! let limits = Arc::new(proxy::Limits::new(proxy::Params::default()));
//! let stats = Arc::<Stats>::default();
//! let proxy = Proxy::new(endpoints, limits, Arc::clone(&stats));
//!
//! // Any server of this crate serves it.
//! let (client_io, server_io) = tokio::io::duplex(64 * 1024);
//! let server = Server::new(&ServerParams::DEFAULT)?;
//! tokio::spawn(async move { server.serve(server_io, proxy, pending()).await });
//!
//! # let mut client_io = Some(client_io);
//! # let pipe = service_fn(move |()| std::future::ready(client_io.take().ok_or("one connection")));
//! let client = Connect::<_, Empty<Bytes>>::new(pipe, &ClientParams::DEFAULT)?.oneshot(()).await?;
//! let rsp = client.oneshot(Request::get("http://echo.example/").body(Empty::new())?).await?;
//! assert_eq!(rsp.status(), 200);
//! assert_eq!(stats.requests(), 1);
//! # Ok(())
//! # }
//! ```

mod absence;
mod by_authority;
mod by_client;
mod by_route;
mod exchange;
mod exchange_end;
mod find;
mod grpc_response;
mod limits;
mod policy;
mod pool;
mod rate_limit;
mod response;
pub mod retry;
mod service;
mod shared;

pub use self::{
    absence::Absence,
    by_authority::{ByAuthority, NotAllowed, Resolve},
    by_client::ByClient,
    by_route::{Action, ByRoute, Routes},
    exchange::Error,
    limits::{Limits, Params},
    policy::Policy,
    pool::{Backend, Bounds, Destination},
    rate_limit::{ClientRates, Rate, RouteRate},
    service::{Client, Proxy, ResponseFuture},
    shared::BackendEndpoints,
};
pub use crate::{body::ResponseBody as Body, message::forwarded::ForwardedField};
