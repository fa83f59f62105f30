//! Each parameter's effect on the wire, seen by a peer that reads and writes frames: with the proxy's engine and with
//! hyper.

mod flow_control;
mod limits;

use self::{
    flow_control::{
        adaptive_windows_start_full_and_ping_on_data, clients_stream_window_holds_an_endpoint_up,
        max_send_buf_size_bounds_what_waits_for_a_reader, servers_connection_window_holds_all_streams_up,
        servers_stream_window_holds_a_client_up,
    },
    limits::{
        cancelled_requests_with_late_answers_do_not_end_the_shared_connection,
        few_remembered_resets_end_the_connection_that_many_survive, frames_above_the_limit_are_refused,
        header_list_above_the_clients_limit_is_502, header_list_above_the_servers_limit_is_431,
        header_list_far_above_the_servers_limit, protocol_errors_of_a_client_end_the_connection_at_the_limit,
        protocol_errors_of_an_endpoint_end_the_connection_at_the_limit,
        resets_before_they_are_accepted_end_the_connection_at_the_limit, streams_above_the_limit_are_refused,
        trailers_above_the_clients_limit,
    },
};
use crate::{
    frames::{Frame, GET, GOAWAY, HEADERS, PING, Peer, RST_STREAM, SETTINGS},
    raw::Opened,
    support::{self, Endpoint, Opens, PROXY, Rig, collect, get},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Either, Empty};
use http_h2::{ClientKeepAlive, ClientParams, FlowControl, KeepAlive, MaxConnectionAge, ServerParams};
use hyper::body::Incoming;
use proxy_http::BufferLimit;
use std::{collections::BTreeMap, convert::Infallible, future::pending, time::Duration};
use tokio::{
    io::DuplexStream,
    sync::mpsc,
    time::{Instant, timeout},
};
use tower::Service as _;

/// Makes each row a test with each engine. A row with two values says how the engines differ, and why.
macro_rules! effects {
    ($($name:ident $(: proxy $proxy:expr, hyper $hyper:expr, because $why:literal)?;)*) => {
        mod by_proxy {
            use super::*;
            $(
                $(#[doc = $why])?
                #[tokio::test(start_paused = true)]
                async fn $name() {
                    super::$name(Engine::Proxy $(, $proxy)?).await;
                }
            )*
        }

        mod by_hyper {
            use super::*;
            $(
                $(#[doc = $why])?
                #[tokio::test(start_paused = true)]
                async fn $name() {
                    super::$name(Engine::Hyper $(, $hyper)?).await;
                }
            )*
        }
    };
}

effects! {
    server_announces_what_is_set;
    server_without_params_has_the_documented_defaults;
    client_announces_what_is_set;
    client_without_params_has_the_documented_defaults;
    adaptive_windows_start_full_and_ping_on_data;
    servers_stream_window_holds_a_client_up;
    servers_connection_window_holds_all_streams_up;
    clients_stream_window_holds_an_endpoint_up;
    max_send_buf_size_bounds_what_waits_for_a_reader;
    server_keep_alive_pings_and_closes;
    client_keep_alive_pings_and_closes;
    header_list_above_the_servers_limit_is_431;
    header_list_far_above_the_servers_limit: proxy Outcome::Stream, hyper Outcome::Connection,
        because "The proxy gives h2 a larger limit than it announces; hyper has one setter for both.";
    header_list_above_the_clients_limit_is_502;
    trailers_above_the_clients_limit: proxy Outcome::Stream, hyper Outcome::Cut,
        because "h2 cuts trailers at its limit without an error; the proxy gives it a larger one and counts itself.";
    resets_before_they_are_accepted_end_the_connection_at_the_limit;
    protocol_errors_of_a_client_end_the_connection_at_the_limit;
    protocol_errors_of_an_endpoint_end_the_connection_at_the_limit;
    cancelled_requests_with_late_answers_do_not_end_the_shared_connection;
    few_remembered_resets_end_the_connection_that_many_survive;
    frames_above_the_limit_are_refused;
    streams_above_the_limit_are_refused;
    limits_of_time_on_connections_and_streams: proxy true, hyper false,
        because "hyper has no setters for them.";
}

/// An engine that turns params into connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Engine {
    Proxy,
    Hyper,
}

/// A client's pipe, and the pipes toward the endpoint of the engine that forwards between them.
struct Between {
    client_io: Option<DuplexStream>,
    endpoint_ios: Opened,
}

/// The stream or the connection that ends for a message beyond a limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Stream,
    Connection,
    /// Nothing, but the message is not whole.
    Cut,
}

// Identifiers of settings, RFC 9113 section 6.5.2.
const HEADER_TABLE_SIZE: u16 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;

const WINDOWS: Option<FlowControl> =
    Some(FlowControl::Fixed { initial_stream_window_size: 70_000, initial_connection_window_size: 200_000 });

// === impl Engine ===

impl Engine {
    fn between(self, server: &ServerParams, client: &ClientParams) -> Between {
        self.buffering(server, client, BufferLimit::default())
    }

    fn buffering(self, server: &ServerParams, client: &ClientParams, buffers: BufferLimit) -> Between {
        match self {
            Self::Proxy => {
                let Rig { client_io, endpoint_ios, .. } = Rig::buffering(server, client, PROXY, buffers);
                Between { client_io, endpoint_ios }
            }
            Self::Hyper => Between::by_hyper(server, client),
        }
    }

    /// A client of a server with these params, after the prefaces.
    async fn client(self, params: &ServerParams) -> (Peer, BTreeMap<u16, u32>, Between) {
        let mut between = self.between(params, &ClientParams::DEFAULT);
        let (peer, settings) = Peer::greet(between.client_io.take().unwrap()).await;
        (peer, settings, between)
    }

    /// A server of a client with these params, after the prefaces.
    async fn server(self, params: &ClientParams) -> (Peer, BTreeMap<u16, u32>, Between) {
        let mut between = self.between(&ServerParams::DEFAULT, params);
        let mut peer = Peer(between.endpoint_ios.recv().await.unwrap());
        let settings = peer.greeted().await;
        peer.send(SETTINGS, 0, 0, &[]).await;
        (peer, settings, between)
    }
}

// === impl Between ===

impl Between {
    /// A server of hyper's that forwards to a connection of hyper's, and answers 502 where that fails.
    fn by_hyper(server: &ServerParams, client: &ClientParams) -> Self {
        let (opened, endpoint_ios) = mpsc::unbounded_channel();
        let server = proxy_http::hyper::Server::new(server).unwrap();
        let mut connect = proxy_http::hyper::Connect::new(Opens(opened), client).unwrap();
        let (client_io, server_io) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let client = connect.call("endpoint").await.unwrap();
            let forward = tower::service_fn(move |req: Request<Incoming>| {
                let response = client.clone().call(req);
                async move {
                    Ok::<_, Infallible>(response.await.map_or_else(
                        |_| {
                            let mut rsp = Response::new(Either::Right(Empty::<Bytes>::new()));
                            *rsp.status_mut() = StatusCode::BAD_GATEWAY;
                            rsp
                        },
                        |rsp| rsp.map(Either::Left),
                    ))
                }
            });
            server.serve(server_io, forward, pending()).await
        });
        Self { client_io: Some(client_io), endpoint_ios: Opened::new(endpoint_ios) }
    }

    /// The client's end of its connection, with large windows.
    async fn client(&mut self) -> h2::client::SendRequest<Bytes> {
        support::client(self.client_io.take().unwrap()).await
    }

    /// The next connection toward the endpoint.
    async fn endpoint(&mut self) -> Endpoint {
        Endpoint::accept(self.endpoint_ios.recv().await.unwrap()).await
    }
}

async fn server_announces_what_is_set(engine: Engine) {
    let params = ServerParams {
        flow_control: WINDOWS,
        max_concurrent_streams: Some(7),
        max_frame_size: Some(20_000),
        header_table_size: Some(1_000),
        max_header_list_size: Some(9_000),
        ..ServerParams::DEFAULT
    };
    let (mut peer, settings, _rig) = engine.client(&params).await;
    assert_eq!(settings[&INITIAL_WINDOW_SIZE], 70_000);
    assert_eq!(settings[&MAX_CONCURRENT_STREAMS], 7);
    assert_eq!(settings[&MAX_FRAME_SIZE], 20_000);
    assert_eq!(settings[&HEADER_TABLE_SIZE], 1_000);
    assert_eq!(settings[&MAX_HEADER_LIST_SIZE], 9_000);
    assert_eq!(peer.connection_window().await, 200_000);
}

async fn server_without_params_has_the_documented_defaults(engine: Engine) {
    let (mut peer, settings, _rig) = engine.client(&ServerParams::DEFAULT).await;
    assert_eq!(settings[&MAX_CONCURRENT_STREAMS], 200, "unset is not unlimited");
    assert_eq!(settings[&MAX_CONCURRENT_STREAMS], ServerParams::DEFAULT_MAX_CONCURRENT_STREAMS);
    assert_eq!(settings[&MAX_HEADER_LIST_SIZE], ServerParams::DEFAULT_MAX_HEADER_LIST_SIZE);
    assert_eq!(settings.get(&MAX_FRAME_SIZE).copied().unwrap_or(16_384), ServerParams::DEFAULT_MAX_FRAME_SIZE);
    assert_eq!(settings.get(&HEADER_TABLE_SIZE), None);
    assert_eq!(windows(&settings, &mut peer).await, ServerParams::DEFAULT_FLOW_CONTROL);
}

async fn windows(settings: &BTreeMap<u16, u32>, peer: &mut Peer) -> FlowControl {
    FlowControl::Fixed {
        initial_stream_window_size: settings[&INITIAL_WINDOW_SIZE],
        initial_connection_window_size: peer.connection_window().await,
    }
}

async fn client_without_params_has_the_documented_defaults(engine: Engine) {
    let (mut peer, settings, _rig) = engine.server(&ClientParams::DEFAULT).await;
    assert_eq!(settings[&MAX_HEADER_LIST_SIZE], ClientParams::DEFAULT_MAX_HEADER_LIST_SIZE);
    assert_eq!(settings.get(&MAX_FRAME_SIZE).copied().unwrap_or(16_384), ClientParams::DEFAULT_MAX_FRAME_SIZE);
    assert_eq!(settings.get(&HEADER_TABLE_SIZE), None);
    assert_eq!(windows(&settings, &mut peer).await, ClientParams::DEFAULT_FLOW_CONTROL);
}

async fn client_announces_what_is_set(engine: Engine) {
    let params = ClientParams {
        flow_control: WINDOWS,
        max_frame_size: Some(20_000),
        header_table_size: Some(1_000),
        max_header_list_size: Some(9_000),
        ..ClientParams::DEFAULT
    };
    let (mut peer, settings, _rig) = engine.server(&params).await;
    assert_eq!(settings[&INITIAL_WINDOW_SIZE], 70_000);
    assert_eq!(settings[&MAX_FRAME_SIZE], 20_000);
    assert_eq!(settings[&HEADER_TABLE_SIZE], 1_000);
    assert_eq!(settings[&MAX_HEADER_LIST_SIZE], 9_000);
    assert_eq!(peer.connection_window().await, 200_000);
}

async fn server_keep_alive_pings_and_closes(engine: Engine) {
    let keep_alive = Some(KeepAlive { interval: Duration::from_secs(10), timeout: Duration::from_secs(3) });
    let (mut peer, _, _rig) = engine.client(&ServerParams { keep_alive, ..ServerParams::DEFAULT }).await;
    let started = Instant::now();
    assert!(peer.until(PING).await.is_some(), "also without a stream");
    assert_eq!(started.elapsed().as_secs(), 10);
    while peer.frame().await.is_some() {}
    assert_eq!(started.elapsed().as_secs(), 13);
}

async fn client_keep_alive_pings_and_closes(engine: Engine) {
    let keep_alive = |while_idle| {
        let (interval, timeout) = (Duration::from_secs(10), Duration::from_secs(3));
        ClientParams { keep_alive: Some(ClientKeepAlive { interval, timeout, while_idle }), ..ClientParams::DEFAULT }
    };
    let (mut peer, _, mut rig) = engine.server(&keep_alive(true)).await;
    let _client = rig.client().await;
    let started = Instant::now();
    assert!(peer.until(PING).await.is_some());
    assert_eq!(started.elapsed().as_secs(), 10);
    while peer.frame().await.is_some() {}
    assert_eq!(started.elapsed().as_secs(), 13);

    let (mut peer, _, mut rig) = engine.server(&keep_alive(false)).await;
    let mut client = rig.client().await;
    let hour = Duration::from_secs(3_600);
    assert!(timeout(hour, peer.until(PING)).await.is_err(), "idle connections are left alone");
    let (_response, _) = client.send_request(get(), true).unwrap();
    assert!(timeout(hour, peer.until(PING)).await.unwrap().is_some());
}

/// For each of them, whether a client is told anything within an hour.
async fn limits_of_time_on_connections_and_streams(engine: Engine, are_kept: bool) {
    let time = Duration::from_secs(10);
    let params = ServerParams::DEFAULT;
    let age = Some(MaxConnectionAge { age: time, grace: time });
    for (name, params, asks) in [
        ("max_connection_age", ServerParams { max_connection_age: age, ..params }, true),
        ("max_connection_idle", ServerParams { max_connection_idle: Some(time), ..params }, false),
        ("stream_idle_timeout", ServerParams { stream_idle_timeout: Some(time), ..params }, true),
        ("write_stall_timeout", ServerParams { write_stall_timeout: Some(time), ..params }, true),
    ] {
        let (mut peer, _, mut rig) = engine.client(&params).await;
        let mut endpoint = rig.endpoint().await;
        let open = if asks {
            // No window: INITIAL_WINDOW_SIZE 0.
            peer.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await;
            peer.send(HEADERS, 5, 1, GET).await;
            let mut asked = endpoint.asked().await;
            let mut body = asked.answer();
            body.send_data("waits".into(), false).unwrap();
            assert!(peer.until(HEADERS).await.is_some());
            Some((asked, body))
        } else {
            None
        };
        let told = timeout(Duration::from_secs(3_600), async {
            loop {
                match peer.frame().await {
                    Some(Frame { kind: RST_STREAM | GOAWAY, .. }) | None => return,
                    Some(_) => {}
                }
            }
        });
        assert_eq!(told.await.is_ok(), are_kept, "{name}");
        drop(open);
    }
}

#[test]
fn params_out_of_range_are_refused() {
    use proxy_http::{IncomingBody, hyper};
    let server = ServerParams { max_frame_size: Some(4), ..ServerParams::DEFAULT };
    assert!(proxy_http::Server::new(&server).is_err());
    assert!(hyper::Server::new(&server).is_err());
    let client = ClientParams { max_frame_size: Some(4), ..ClientParams::DEFAULT };
    assert!(proxy_http::Connect::<_, IncomingBody>::new((), &client).is_err());
    assert!(hyper::Connect::<_, IncomingBody>::new((), &client).is_err());
}

/// hyper and h2 assert some of these when they are set, some on each connection.
#[tokio::test(start_paused = true)]
async fn hyper_takes_all_that_is_in_range() {
    let flow_control =
        |size| Some(FlowControl::Fixed { initial_stream_window_size: size, initial_connection_window_size: size });
    for (window, frame, any, above_zero, time) in
        [(1, 16_384, 0, 1, Duration::from_nanos(1)), ((1 << 31) - 1, (1 << 24) - 1, u32::MAX, u32::MAX, Duration::MAX)]
    {
        let (any_size, send_buf) = (Some(any as usize), Some(above_zero as usize));
        let server = ServerParams {
            flow_control: flow_control(window),
            // An answer after a nanosecond is too late.
            keep_alive: Some(KeepAlive { interval: time, timeout: Duration::MAX }),
            max_concurrent_streams: Some(any.max(1)),
            max_frame_size: Some(frame),
            header_table_size: Some(any),
            max_header_list_size: Some(u32::MAX),
            max_pending_accept_reset_streams: any_size,
            max_local_error_reset_streams: any_size,
            max_send_buf_size: send_buf,
            ..ServerParams::DEFAULT
        };
        let client = ClientParams {
            flow_control: flow_control(window),
            keep_alive: Some(ClientKeepAlive { interval: time, timeout: Duration::MAX, while_idle: true }),
            max_concurrent_reset_streams: any_size,
            max_local_error_reset_streams: any_size,
            max_frame_size: Some(frame),
            header_table_size: Some(any),
            max_header_list_size: Some(u32::MAX),
            max_send_buf_size: send_buf,
            ..ClientParams::DEFAULT
        };
        let mut between = Between::by_hyper(&server, &client);
        let (mut client, mut endpoint) = (between.client().await, between.endpoint().await);
        let (response, _) = client.send_request(get(), true).unwrap();
        endpoint.asked().await.answer().send_data("whole".into(), true).unwrap();
        assert_eq!(collect(response.await.unwrap().body_mut()).await.unwrap().0, b"whole");
    }
}
