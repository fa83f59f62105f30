//! HTTP/2 servers and clients for proxies, as tower services.
//!
//! - [`Server`] serves any `AsyncRead + AsyncWrite` with a tower service, tuned by [`http_h2::ServerParams`]. Clients
//!   may speak HTTP/1.1, too.
//! - [`Connect`] is a tower `Service<Target>` whose response, [`SendRequest`], is again a service; so
//!   `tower::MakeService` holds. It is tuned by [`http_h2::ClientParams`].
//! - [`IncomingBody`] is the body of either side. It ends without an error only when its peer ended the stream cleanly,
//!   and its errors carry the error code that the other side's stream is reset with.
//! - [`Endpoints`] keeps connections to each of several targets, which may change, and chooses among them by load;
//!   [`Proxy`] forwards requests to them, retries requests that were not processed, and answers requests that cannot be
//!   forwarded.
//! - [`route::Table`] finds which of many rules takes a request, by host, path, method and headers.
//! - [`mod@hyper`] has hyper's own HTTP/2 builders, and the same two services over them, from the same parameters.
//! - [`BufferLimit`] bounds the bytes that all connections buffer under backpressure.
//! - [`Stats`] counts connections, streams, requests and responses, without locks.
//! - [`StreamError`] chooses the code that a stream is reset with, and [`ConnectProtocol`] is the `:protocol` of a request.
//!
//! h2 speaks HTTP/2, hyper HTTP/1.1. Only [`mod@hyper`] has their types in its interface.
//!
//! # Examples
//!
//! A request through a client and a server of this crate, over an in-memory pipe:
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::{BodyExt as _, Full};
//! use http_h2::{ClientParams, ServerParams};
//! use proxy_http::{Connect, IncomingBody, Server};
//! use std::{convert::Infallible, future::pending};
//! use tower::{MakeService as _, Service as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let (client_io, server_io) = tokio::io::duplex(64 * 1024);
//!
//! // The server sends every request's body back.
//! let echo = service_fn(|req: Request<IncomingBody>| async { Ok::<_, Infallible>(Response::new(req.into_body())) });
//! let server = Server::new(&ServerParams::DEFAULT)?;
//! tokio::spawn(async move { server.serve(server_io, echo, pending()).await });
//!
//! // The client's connector hands out the other end of the pipe.
//! let mut io = Some(client_io);
//! let connector = service_fn(move |_target: &str| {
//!     std::future::ready(io.take().ok_or(std::io::Error::from(std::io::ErrorKind::NotFound)))
//! });
//! let mut connect = Connect::<_, Full<Bytes>>::new(connector, &ClientParams::DEFAULT)?;
//!
//! let mut connection = connect.make_service("in memory").await?;
//! let req = Request::post("http://echo.example/").body(Full::new(Bytes::from("hello")))?;
//! let rsp = connection.call(req).await?;
//! let body = rsp.into_body().collect().await?.to_bytes();
//! assert_eq!(body, "hello");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod balance;
pub mod body;
pub mod client;
mod connection;
pub mod http1;
pub mod hyper;
mod message;
pub mod proxy;
pub mod route;
pub mod server;
pub mod stats;

pub use balance::{Endpoint, Endpoints};
pub use body::{IncomingBody, Replay};
pub use client::{Connect, SendRequest};
pub use connection::flow::buffer_limit::BufferLimit;

/// Windows of adaptive flow control, in bytes.
pub mod adaptive_windows {
    pub use crate::connection::flow::{
        buffer_limit::MIN_CONNECTION_WINDOW,
        windows::{CONNECTION_WINDOW, MAX_CONNECTION_WINDOW, STREAM_WINDOW},
    };
}
pub use message::{connect_protocol::ConnectProtocol, grpc::is_grpc, stream_error::StreamError};
pub use proxy::Proxy;
pub use server::{Protocol, Server};
pub use stats::Stats;

/// An error of any type, where tower does not fix the type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
