//! The requests and responses of a load's streams.

use super::Payload;
use http::{HeaderValue, Method, Request, Uri, header};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The kind of a load's streams.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// GET, 128 bytes in the answer.
    Unary,
    /// A gRPC message of 128 bytes each way.
    GrpcUnary,
    /// One gRPC message up, 64 of 4 KiB down.
    ServerStreaming,
    /// 64 gRPC messages of 4 KiB up, one down.
    ClientStreaming,
    /// 64 gRPC messages of 4 KiB up, each sent back.
    Bidi,
    /// GET, 16 MiB in the answer.
    Download,
    /// POST of 16 MiB.
    Upload,
    /// Downloads that are hardly read, beside a stream on each connection that fetches 64 KiB again and again, and
    /// alone counts.
    SlowReaders,
    /// The stream beside slow readers, without them.
    #[value(skip)]
    Fast,
    /// Small requests as of `Unary`, beside a stream on each connection that downloads 1 MiB again and again, and does not
    /// count.
    BesideDownload,
    /// The stream beside small requests.
    #[value(skip)]
    Beside,
}

const SMALL: u64 = 128;
const FAST: u64 = 64 << 10;
const BESIDE: u64 = 1 << 20;
const LARGE: u64 = 16 << 20;
pub(super) const MESSAGES: u64 = 64;
pub(super) const MESSAGE: u32 = 4 << 10;
/// Flag and length before each gRPC message.
const PREFIX: u64 = 5;
/// A slow reader's wait after each frame.
const PAUSE: Duration = Duration::from_millis(500);

// === impl Workload ===

impl Workload {
    /// The workloads of the plan.
    pub const ALL: [Self; 8] = [
        Self::Unary,
        Self::GrpcUnary,
        Self::ServerStreaming,
        Self::ClientStreaming,
        Self::Bidi,
        Self::Download,
        Self::Upload,
        Self::SlowReaders,
    ];

    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::GrpcUnary => "grpc-unary",
            Self::ServerStreaming => "server-streaming",
            Self::ClientStreaming => "client-streaming",
            Self::Bidi => "bidi",
            Self::Download => "download",
            Self::Upload => "upload",
            Self::SlowReaders => "slow-readers",
            Self::Fast => "fast",
            Self::BesideDownload => "beside-download",
            Self::Beside => "beside",
        }
    }

    /// Whether its bytes mostly go to the endpoint.
    pub fn is_upward(self) -> bool {
        matches!(self, Self::ClientStreaming | Self::Upload)
    }

    /// Whether an answer without `grpc-status` is cut off.
    pub(super) fn is_grpc(self) -> bool {
        matches!(self, Self::GrpcUnary | Self::ServerStreaming | Self::ClientStreaming | Self::Bidi)
    }

    /// The workload that runs beside it on each connection.
    pub(super) fn beside(self) -> Option<Self> {
        match self {
            Self::SlowReaders => Some(Self::Fast),
            Self::BesideDownload => Some(Self::Beside),
            _ => None,
        }
    }

    /// Whether its streams count, if they end well.
    pub(super) fn is_measured(self) -> bool {
        !matches!(self, Self::SlowReaders | Self::Beside)
    }

    /// The wait after each frame that is read.
    pub(super) fn pause(self) -> Option<Duration> {
        (self == Self::SlowReaders).then_some(PAUSE)
    }

    /// The client's stream window, where it must be small, so that unread bytes stay in the proxy.
    pub(super) fn client_window(self) -> Option<u32> {
        (self == Self::SlowReaders).then_some(65_535)
    }

    /// The bytes of an answer's body.
    pub(super) fn answer_bytes(self) -> u64 {
        match self {
            Self::Unary | Self::BesideDownload => SMALL,
            Self::GrpcUnary | Self::ClientStreaming => PREFIX + SMALL,
            Self::ServerStreaming | Self::Bidi => MESSAGES * (PREFIX + u64::from(MESSAGE)),
            Self::Download | Self::SlowReaders => LARGE,
            Self::Upload => 0,
            Self::Fast => FAST,
            Self::Beside => BESIDE,
        }
    }

    pub(super) fn request(self) -> Request<Payload> {
        let (method, uri, body) = match self {
            Self::Unary | Self::BesideDownload => (Method::GET, "http://bench.example/bytes/128", Payload::bytes(0)),
            Self::Beside => (Method::GET, "http://bench.example/bytes/1048576", Payload::bytes(0)),
            Self::Fast => (Method::GET, "http://bench.example/bytes/65536", Payload::bytes(0)),
            Self::Download | Self::SlowReaders => {
                (Method::GET, "http://bench.example/bytes/16777216", Payload::bytes(0))
            }
            Self::Upload => (Method::POST, "http://bench.example/drain", Payload::bytes(LARGE)),
            Self::GrpcUnary => {
                (Method::POST, "http://bench.example/bench.Echo/Unary", Payload::messages(1, SMALL as u32))
            }
            Self::ServerStreaming => {
                (Method::POST, "http://bench.example/bench.Echo/Repeat", Payload::messages(1, SMALL as u32))
            }
            Self::ClientStreaming => {
                (Method::POST, "http://bench.example/bench.Echo/Collect", Payload::messages(MESSAGES, MESSAGE))
            }
            Self::Bidi => (Method::POST, "http://bench.example/bench.Echo/Chat", Payload::messages(MESSAGES, MESSAGE)),
        };
        let mut req = Request::new(body);
        *req.method_mut() = method;
        *req.uri_mut() = Uri::from_static(uri);
        if self.is_grpc() {
            req.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            req.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        }
        req
    }

    /// The response of `bench.Echo/Repeat`.
    pub(super) fn repeated(messages: u64) -> Payload {
        Payload::messages(messages, MESSAGE)
    }

    /// The response of `bench.Echo/Collect`.
    pub(super) fn collected() -> Payload {
        Payload::messages(1, SMALL as u32)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
