//! One request, and the response that it should have.

use super::{Client, End, Payload, Workload, workload::MESSAGE};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::time::Duration;
use tokio::time::sleep;

/// A request, and the response that it should have.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    req: Request<Payload>,
    answer_bytes: u64,
    is_grpc: bool,
    /// The wait after each frame that is read.
    pause: Option<Duration>,
}

// === impl Exchange ===

impl Exchange {
    /// A stream of `workload`.
    pub(crate) fn of(workload: Workload) -> Self {
        Self {
            req: workload.request(),
            answer_bytes: workload.answer_bytes(),
            is_grpc: workload.is_grpc(),
            pause: workload.pause(),
        }
    }

    /// A download, an upload or a gRPC server stream of some `bytes`; other workloads have a size of their own.
    pub(crate) fn sized(workload: Workload, bytes: u64) -> Self {
        let mut exchange = Self::of(workload);
        let mut path = |path: String| {
            *exchange.req.uri_mut() = format!("http://bench.example{path}").parse().expect("the URI is valid");
        };
        match workload {
            Workload::Download => {
                path(format!("/bytes/{bytes}"));
                exchange.answer_bytes = bytes;
            }
            Workload::Upload => *exchange.req.body_mut() = Payload::bytes(bytes),
            Workload::ServerStreaming => {
                let messages = bytes.div_ceil(MESSAGE.into());
                path(format!("/bench.Echo/Repeat?{messages}"));
                exchange.answer_bytes = Workload::repeated(messages).remaining();
            }
            _ => {}
        }
        exchange
    }

    /// Sends the request, and reads the response to its end; `received` gets the length of each piece.
    pub(crate) async fn run(self, mut client: Client, received: impl Fn(u64)) -> End {
        match self.try_run(&mut client, received).await {
            Ok(end) => end,
            Err(error) => End::of_error(&error),
        }
    }

    async fn try_run(self, client: &mut Client, received: impl Fn(u64)) -> Result<End, hyper::Error> {
        let Self { req, answer_bytes, is_grpc, pause } = self;
        client.ready().await?;
        let rsp = client.send_request(req).await?;
        if rsp.status() != http::StatusCode::OK {
            return Ok(End::Status(rsp.status().as_u16()));
        }
        let (bytes, status) = drain(rsp, pause, received).await?;
        Ok(match status {
            _ if bytes != answer_bytes => End::Truncated,
            None if is_grpc => End::Truncated,
            Some(status) if status != 0 => End::Grpc(status),
            _ => End::Ok,
        })
    }
}

/// Reads a response to its end; returns the bytes of its body, and its gRPC status.
async fn drain(
    rsp: Response<Incoming>,
    pause: Option<Duration>,
    received: impl Fn(u64),
) -> Result<(u64, Option<u16>), hyper::Error> {
    let mut status = rsp.headers().get("grpc-status").cloned();
    let mut body = rsp.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                bytes += data.len() as u64;
                received(data.len() as u64);
                if let Some(pause) = pause {
                    sleep(pause).await;
                }
            }
            Err(frame) => status = frame.trailers_ref().and_then(|trailers| trailers.get("grpc-status")).cloned(),
        }
    }
    // A status that is no number is `UNKNOWN`.
    Ok((bytes, status.map(|status| status.to_str().ok().and_then(|status| status.parse().ok()).unwrap_or(2))))
}
