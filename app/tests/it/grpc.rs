//! gRPC through the proxy, with tonic on both sides. Messages are plain bytes, so no code is generated.

use crate::support::PATIENCE;
use app::{LogLevel, Process};
use bytes::{Buf as _, BufMut as _, Bytes};
use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::tokio_stream::{self, Stream, StreamExt as _, wrappers::UnboundedReceiverStream},
    metadata::{MetadataMap, MetadataValue},
    server::{ClientStreamingService, NamedService, ServerStreamingService, StreamingService, UnaryService},
    transport::{Channel, Server},
};

const LARGE: usize = 4 << 20;
/// Above the largest message, with its frame.
const LIMIT: usize = LARGE + 1024;
const DETAIL: &str = "no such thing: \u{e9}\u{20ac} 100%";

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// Messages are bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Plain;

/// The server's methods, by name.
#[derive(Clone, Debug, Default)]
struct Service(Arc<Seen>);

/// The events of the server's `Hang`.
#[derive(Debug, Default)]
struct Seen {
    hanging: Notify,
    dropped: AtomicUsize,
    dropping: Notify,
}

/// Counts the handler that it lives in as dropped.
struct Dropped(Arc<Seen>);

/// A server, the proxy before it, and a client of the proxy.
struct Rig {
    client: Grpc<Channel>,
    seen: Arc<Seen>,
    _stop: oneshot::Sender<&'static str>,
}

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}

impl NamedService for Service {
    const NAME: &'static str = "test.Echo";
}

impl tower_service::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, req: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Plain).max_decoding_message_size(LIMIT);
            Ok(match req.uri().path().rsplit('/').next().unwrap_or_default() {
                "Collect" => grpc.client_streaming(service, req).await,
                "Repeat" => grpc.server_streaming(service, req).await,
                "Chat" => grpc.streaming(service, req).await,
                _ => grpc.unary(service, req).await,
            })
        })
    }
}

impl UnaryService<Bytes> for Service {
    type Response = Bytes;
    type Future = Answer<Bytes>;

    /// The message's first word chooses the answer.
    fn call(&mut self, req: Request<Bytes>) -> Answer<Bytes> {
        let seen = Arc::clone(&self.0);
        Box::pin(async move {
            let (metadata, _, message) = req.into_parts();
            match &message[..] {
                b"fail" => {
                    let mut metadata = MetadataMap::new();
                    metadata.insert("more", "in the trailers".parse().unwrap());
                    Err(Status::with_details_and_metadata(Code::NotFound, DETAIL, Bytes::from("\0details"), metadata))
                }
                b"hang" => {
                    let _dropped = Dropped(Arc::clone(&seen));
                    seen.hanging.notify_one();
                    std::future::pending().await
                }
                _ => {
                    let mut rsp = Response::new(message);
                    *rsp.metadata_mut() = metadata;
                    Ok(rsp)
                }
            }
        })
    }
}

impl ClientStreamingService<Bytes> for Service {
    type Response = Bytes;
    type Future = Answer<Bytes>;

    fn call(&mut self, req: Request<Streaming<Bytes>>) -> Answer<Bytes> {
        Box::pin(async move {
            let mut messages = req.into_inner();
            let mut all = Vec::new();
            while let Some(message) = messages.message().await? {
                all.extend_from_slice(&message);
            }
            Ok(Response::new(all.into()))
        })
    }
}

impl ServerStreamingService<Bytes> for Service {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Answer<Messages>;

    /// The message a hundred times, and then an error if it is "fail".
    fn call(&mut self, req: Request<Bytes>) -> Answer<Messages> {
        let message = req.into_inner();
        let end = (message == "fail").then(|| Err(Status::data_loss("after a hundred")));
        let messages = std::iter::repeat_n(Ok(message), 100).chain(end);
        Box::pin(async { Ok(Response::new(Box::pin(tokio_stream::iter(messages)) as Messages)) })
    }
}

impl StreamingService<Bytes> for Service {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Answer<Messages>;

    fn call(&mut self, req: Request<Streaming<Bytes>>) -> Answer<Messages> {
        Box::pin(async { Ok(Response::new(Box::pin(req.into_inner()) as Messages)) })
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, SeqCst);
        self.0.dropping.notify_one();
    }
}

impl Rig {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let service = Service::default();
        let seen = Arc::clone(&service.0);
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Self::to(&addr.to_string(), seen).await
    }

    async fn to(endpoint: &str, seen: Arc<Seen>) -> Self {
        let env = HashMap::from([
            ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", endpoint),
            ("LINKERD2_PROXY_OUTBOUND_LISTEN_ADDR", "127.0.0.1:0"),
            ("LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "127.0.0.1:0"),
            ("LINKERD2_PROXY_CORES", "1"),
        ]);
        let process = Process::start(app_env::load(&env).unwrap(), LogLevel::fixed()).unwrap();
        let proxy = process.outbound_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(process.run(async { stopped.await.unwrap_or("the test is over") }));
        let channel = Channel::from_shared(format!("http://{proxy}")).unwrap().connect().await.unwrap();
        Self { client: Grpc::new(channel).max_decoding_message_size(LIMIT), seen, _stop: stop }
    }

    async fn unary(&mut self, req: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        self.client.ready().await.unwrap();
        self.client.unary(req, "/test.Echo/Unary".parse().unwrap(), Plain).await
    }
}

fn message(text: &'static str) -> Request<Bytes> {
    Request::new(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn unary_and_metadata() {
    let mut rig = Rig::new().await;
    let mut req = message("hello");
    req.metadata_mut().insert("ascii", "a value".parse().unwrap());
    req.metadata_mut().insert_bin("some-bin", MetadataValue::from_bytes(b"\0\xff"));
    let rsp = rig.unary(req).await.unwrap();
    assert_eq!(rsp.metadata().get("ascii").unwrap(), "a value");
    assert_eq!(
        rsp.metadata().get_bin("some-bin").unwrap().to_bytes().unwrap(),
        "\0\u{ff}".chars().map(|c| c as u8).collect::<Vec<_>>()
    );
    assert_eq!(rsp.into_inner(), "hello");
}

#[tokio::test]
async fn messages_of_4_mib() {
    let mut rig = Rig::new().await;
    let large = Bytes::from(vec![b'x'; LARGE]);
    assert_eq!(rig.unary(Request::new(large.clone())).await.unwrap().into_inner(), large);
}

#[tokio::test]
async fn client_streaming() {
    let mut rig = Rig::new().await;
    rig.client.ready().await.unwrap();
    let messages = tokio_stream::iter((0..100).map(|n| Bytes::from(vec![n; 1_000])));
    let path = "/test.Echo/Collect".parse().unwrap();
    let rsp = rig.client.client_streaming(Request::new(messages), path, Plain).await.unwrap();
    assert_eq!(rsp.into_inner(), (0..100).flat_map(|n| vec![n; 1_000]).collect::<Vec<u8>>());
}

#[tokio::test]
async fn server_streaming_with_status_behind_the_messages() {
    let mut rig = Rig::new().await;
    for (text, ends) in [("fine", Ok(())), ("fail", Err((Code::DataLoss, "after a hundred".to_owned())))] {
        rig.client.ready().await.unwrap();
        let path = "/test.Echo/Repeat".parse().unwrap();
        let mut messages = rig.client.server_streaming(message(text), path, Plain).await.unwrap().into_inner();
        for _ in 0..100 {
            assert_eq!(messages.message().await.unwrap().unwrap(), text);
        }
        let end = messages.message().await.map(|end| assert!(end.is_none()));
        assert_eq!(end.map_err(|status| (status.code(), status.message().to_owned())), ends);
    }
}

#[tokio::test]
async fn bidirectional_streaming_answers_each_before_the_next() {
    let mut rig = Rig::new().await;
    rig.client.ready().await.unwrap();
    let (say, said) = mpsc::unbounded_channel();
    say.send(Bytes::from("first")).unwrap();
    let path = "/test.Echo/Chat".parse().unwrap();
    let said = Request::new(UnboundedReceiverStream::new(said));
    let mut heard = rig.client.streaming(said, path, Plain).await.unwrap().into_inner();
    assert_eq!(heard.next().await.unwrap().unwrap(), "first");
    for _ in 0..50 {
        say.send(Bytes::from("next")).unwrap();
        assert_eq!(heard.next().await.unwrap().unwrap(), "next");
    }
    drop(say);
    assert!(heard.next().await.is_none());
}

#[tokio::test]
async fn status_with_details_as_trailers_only() {
    let mut rig = Rig::new().await;
    let status = rig.unary(message("fail")).await.unwrap_err();
    assert_eq!((status.code(), status.message(), status.details()), (Code::NotFound, DETAIL, &b"\0details"[..]));
    assert_eq!(status.metadata().get("more").unwrap(), "in the trailers");
}

#[tokio::test]
async fn deadline_ends_the_call_on_both_sides() {
    let mut rig = Rig::new().await;
    let mut req = message("hang");
    req.set_timeout(Duration::from_millis(100));
    // tonic's channel has a timer for the deadline as well; without it the proxy's answer says so.
    let status = rig.unary(req).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    tokio::time::timeout(PATIENCE, rig.seen.dropping.notified()).await.unwrap();
    assert_eq!(rig.seen.dropped.load(SeqCst), 1);
}

#[tokio::test]
async fn cancel_reaches_the_server() {
    let mut rig = Rig::new().await;
    let seen = Arc::clone(&rig.seen);
    let call = tokio::spawn(async move { rig.unary(message("hang")).await.map(|_| rig) });
    tokio::time::timeout(PATIENCE, seen.hanging.notified()).await.unwrap();
    assert_eq!(seen.dropped.load(SeqCst), 0);
    call.abort();
    tokio::time::timeout(PATIENCE, seen.dropping.notified()).await.unwrap();
}

#[tokio::test]
async fn endpoint_that_cannot_be_reached_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut rig = Rig::to(&free.to_string(), Arc::default()).await;
    let status = rig.unary(message("hello")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("no endpoint can be reached"), "{status:?}");
}
