//! The declarations: every variable, once.
//!
//! The parsers name the statics below and find names, grammar and defaults in them; the tables people read are made
//! from [`TABLE`]. A test in `tests/it` checks that the parsers read all of them.

use crate::{
    AccessLogFormat, ClientAuth, DiscoverySource, Forwarded, ProxyProtocol,
    grammar::{
        Address, Attributes, Auth, Bool, ClientNames, Endpoints, FilePath, Format, ForwardedFields, HealthChecks, Host,
        HostAndPort, Mode, Networks, Number, Protocols, ProxyProtocols, Ratio, RecordFormat, Sources, Suffixes, Switch,
        Text, Time,
    },
    variable::{
        DefaultText::{Computed, Is, PerDirection, Unset},
        Empty, Group, Var, Words,
    },
};
use http_h2::Setting;
use std::fmt::Display;

/// A declaration without the type of its values.
pub(crate) struct Row {
    pub(crate) words: &'static Words,
    pub(crate) accepts: &'static (dyn Display + Sync),
}

/// Declares variables and lists them in [`TABLE`].
macro_rules! declare {
    ($(
        $origin:ident $name:ident: $grammar:ident = $group:ident $suffix:literal {
            $value:expr, default: $default:expr, $(empty: $empty:ident,)? $help:literal
        }
    )*) => {
        $(
            pub(crate) static $name: Var<$grammar> = Var {
                words: Words {
                    group: Group::$group,
                    suffix: $suffix,
                    default: $default,
                    empty: declare!(@empty $($empty)?),
                    ours: declare!(@$origin),
                    help: $help,
                },
                grammar: $value,
            };
        )*

        /// Every variable, in the order that people are shown.
        pub(crate) static TABLE: &[Row] = &[$(Row { words: &$name.words, accepts: &$name.grammar }),*];
    };
    (@empty) => { Empty::Refused };
    (@empty $empty:ident) => { Empty::$empty };
    (@linkerd) => { false };
    (@ours) => { true };
}

declare! {
    linkerd LISTEN_ADDR: Address = Direction "LISTEN_ADDR" {
        Address, default: PerDirection("0.0.0.0:4143", "127.0.0.1:4140"),
        "where clients connect to; port 0: a free one; unix:@name: a name in the abstract namespace"
    }
    ours LISTEN_MODE: Mode = Direction "LISTEN_MODE" {
        Mode, default: Unset,
        "permissions of the socket's file, where LISTEN_ADDR is unix:/path; unset: 777 without the bits of the umask"
    }
    ours ENDPOINTS: Endpoints = Direction "ENDPOINTS" {
        Endpoints::ENDPOINTS, default: Unset, empty: Unset,
        "where requests go to; unset or empty: the direction is off, unless it has ROUTES or DISCOVERY"
    }
    ours ROUTES: FilePath = Direction "ROUTES" {
        FilePath::ROUTES, default: Unset,
        "file that says which requests go to which endpoints, in place of ENDPOINTS; unset: all go to ENDPOINTS"
    }
    ours DISCOVERY: Sources = Direction "DISCOVERY" {
        Sources { words: &[("authority", DiscoverySource::Dns), ("linkerd", DiscoverySource::Linkerd)] }, default: Unset,
        "with authority each request goes to the host that its authority names, in place of ENDPOINTS; needs suffixes or networks; with linkerd the control plane at DESTINATION_SVC_ADDR is asked for its endpoints first; unset: all go to ENDPOINTS"
    }
    ours DISCOVERY_SUFFIXES: Suffixes = Direction "DISCOVERY_SUFFIXES" {
        Suffixes::SUFFIXES, default: Unset,
        "names that authorities may have, themselves and all below them; others get 403, unless Linkerd's control plane knows them; unset: none"
    }
    ours DISCOVERY_NETWORKS: Networks = Direction "DISCOVERY_NETWORKS" {
        Networks::NETWORKS, default: Unset,
        "networks of the addresses that authorities may be; others get 403, unless Linkerd's control plane knows them; unset: none"
    }
    linkerd DISCOVERY_IDLE_TIMEOUT: Time = Direction "DISCOVERY_IDLE_TIMEOUT" {
        Time::ABOVE_ZERO, default: PerDirection("90s", "5s"),
        "time without a request after which the connections to a destination by ROUTES or DISCOVERY are closed"
    }
    ours MAX_DESTINATIONS: Number = Direction "MAX_DESTINATIONS" {
        Number::ABOVE_ZERO, default: Is("1000"),
        "destinations by ROUTES or DISCOVERY that each worker is connected to; more take the place of idle ones, or get 503"
    }
    ours ACCEPT_BACKLOG: Number = Direction "ACCEPT_BACKLOG" {
        Number::In(1..=65_535), default: Is("1024"),
        "connections that may wait to be accepted"
    }
    ours ACCEPT_PROXY_PROTOCOL_NETWORKS: Networks = Direction "ACCEPT_PROXY_PROTOCOL_NETWORKS" {
        Networks::NETWORKS, default: Unset,
        "networks of load balancers whose connections begin with a PROXY protocol header, version 1 or 2, which tells the client's address; a connection without one is closed; those of other networks have none; unset: no connection has one"
    }
    ours MAX_CONNECTIONS: Number = Direction "MAX_CONNECTIONS" {
        // Below the memory and descriptors of a process where it matters; idle connections take 20 KiB each.
        Number::ABOVE_ZERO, default: Is("100000"),
        "connections that clients may have open; more are closed as soon as they are accepted"
    }

    ours SERVER_TLS_CERT: FilePath = Direction "SERVER_TLS_CERT" {
        FilePath::PEM, default: Unset,
        "certificate that clients are shown, with its chain behind it; needs the key; unset: no TLS toward clients"
    }
    ours SERVER_TLS_KEY: FilePath = Direction "SERVER_TLS_KEY" {
        FilePath::PEM, default: Unset,
        "its private key (PKCS#8, SEC1 or PKCS#1); unset: no TLS toward clients"
    }
    ours SERVER_TLS_HANDSHAKE_TIMEOUT: Time = Direction "SERVER_TLS_HANDSHAKE_TIMEOUT" {
        Time::ABOVE_ZERO, default: Is("10s"),
        "how long a client may take for its TLS handshake; needs the certificate"
    }
    ours SERVER_TLS_CLIENT_CA: FilePath = Direction "SERVER_TLS_CLIENT_CA" {
        FilePath::PEM, default: Unset,
        "certificates of those who may issue clients' ones (mutual TLS); needs the certificate; unset: clients are not asked"
    }
    ours SERVER_TLS_CLIENT_AUTH: Auth = Direction "SERVER_TLS_CLIENT_AUTH" {
        Auth { words: &[("required", ClientAuth::Required), ("optional", ClientAuth::Optional)] },
        default: Is("required"),
        "whether a client must have a certificate; one that is shown is always verified; needs the clients' CA"
    }
    ours SERVER_TLS_ALLOWED_CLIENTS: ClientNames = Direction "SERVER_TLS_ALLOWED_CLIENTS" {
        ClientNames::CLIENT_NAMES, default: Unset,
        "whose requests are served, by their certificate's SAN, others get 403; needs the clients' CA; unset: all"
    }
    ours SERVER_TLS_FORWARD_CLIENT_CERT: Bool = Direction "SERVER_TLS_FORWARD_CLIENT_CERT" {
        Bool, default: Is("false"),
        "whether endpoints are told of the client's certificate in x-forwarded-client-cert; true needs the clients' CA"
    }

    linkerd DETECT_TIMEOUT: Time = Direction "DETECT_TIMEOUT" {
        Time::ABOVE_ZERO, default: Is("10s"),
        "how long a client may take to show whether it speaks HTTP/2 or HTTP/1.1, before its connection is closed; a PROXY protocol header before that has as long"
    }
    ours SERVER_HTTP1_HEADER_READ_TIMEOUT: Time = Direction "SERVER_HTTP1_HEADER_READ_TIMEOUT" {
        Time::ABOVE_ZERO, default: Is("30s"),
        "how long a client may take for the head of an HTTP/1.1 request from its first byte on"
    }

    linkerd SERVER_ADAPTIVE_FLOW_CONTROL: Bool = ServerHttp2 "ADAPTIVE_FLOW_CONTROL" {
        Bool, default: Is("false"),
        "windows that fill long paths, instead of fixed ones: up to 16 MiB a stream and 24 MiB a connection that a client may send unread, as far as MAX_BUFFERED_BYTES has them to reserve; they grow with the path, and streams' shrink, to 65535 at least, while readers that stopped hold more than 1/32 of MAX_BUFFERED_BYTES"
    }
    linkerd SERVER_INITIAL_STREAM_WINDOW_SIZE: Number = ServerHttp2 "INITIAL_STREAM_WINDOW_SIZE" {
        Number::Of(Setting::InitialStreamWindowSize), default: Is("65535"),
        "bytes a client may send unread on one stream, and so in one round trip"
    }
    linkerd SERVER_INITIAL_CONNECTION_WINDOW_SIZE: Number = ServerHttp2 "INITIAL_CONNECTION_WINDOW_SIZE" {
        Number::Of(Setting::InitialConnectionWindowSize), default: Is("1048576"),
        "bytes a client may send unread on one connection, and so in one round trip"
    }
    linkerd SERVER_KEEP_ALIVE_INTERVAL: Time = ServerHttp2 "KEEP_ALIVE_INTERVAL" {
        Time::Of(Setting::KeepAliveInterval), default: Unset,
        "silence after which a client is sent a PING; unset: never"
    }
    linkerd SERVER_KEEP_ALIVE_TIMEOUT: Time = ServerHttp2 "KEEP_ALIVE_TIMEOUT" {
        Time::Of(Setting::KeepAliveTimeout), default: Is("20s"),
        "how long a client may take to answer a PING; needs the interval"
    }
    linkerd SERVER_MAX_CONCURRENT_STREAMS: Number = ServerHttp2 "MAX_CONCURRENT_STREAMS" {
        Number::ABOVE_ZERO, default: Unset,
        "streams a client may have open at once on one connection; unset: 200"
    }
    linkerd SERVER_MAX_FRAME_SIZE: Number = ServerHttp2 "MAX_FRAME_SIZE" {
        Number::Of(Setting::MaxFrameSize), default: Unset,
        "bytes of the largest frame a client may send; unset: 16384"
    }
    linkerd SERVER_MAX_HEADER_LIST_SIZE: Number = ServerHttp2 "MAX_HEADER_LIST_SIZE" {
        Number::Of(Setting::MaxHeaderListSize), default: Unset,
        "bytes of the largest header list a client may send; unset: 16384"
    }
    ours SERVER_HEADER_TABLE_SIZE: Number = ServerHttp2 "HEADER_TABLE_SIZE" {
        Number::ANY, default: Unset,
        "bytes of the HPACK table a client may use; unset: 4096"
    }
    linkerd SERVER_MAX_PENDING_ACCEPT_RESET_STREAMS: Number = ServerHttp2 "MAX_PENDING_ACCEPT_RESET_STREAMS" {
        Number::ANY, default: Unset,
        "streams a client may have reset before they were accepted; unset: 200"
    }
    ours SERVER_MAX_CONCURRENT_RESET_STREAMS: Number = ServerHttp2 "MAX_CONCURRENT_RESET_STREAMS" {
        Number::ANY, default: Unset,
        "streams to a client that are remembered after a reset, so that what comes late does no harm; unset: 10000"
    }
    ours SERVER_MAX_LOCAL_ERROR_RESET_STREAMS: Number = ServerHttp2 "MAX_LOCAL_ERROR_RESET_STREAMS" {
        Number::ANY, default: Unset,
        "streams of one connection that may be reset for a client's protocol errors; unset: 1024"
    }
    linkerd SERVER_MAX_SEND_BUF_SIZE: Number = ServerHttp2 "MAX_SEND_BUF_SIZE" {
        Number::Of(Setting::MaxSendBufSize), default: Unset,
        "bytes buffered for sending on each stream to a client; unset: 409600"
    }
    ours SERVER_MAX_CONNECTION_AGE: Time = ServerHttp2 "MAX_CONNECTION_AGE" {
        // As in linkerd2-proxy and gRPC: without load to spread, new connections gain nothing.
        Time::Of(Setting::MaxConnectionAge), default: Unset,
        "age, give or take a tenth, at which a connection takes no more requests from its client; unset: none"
    }
    ours SERVER_MAX_CONNECTION_AGE_GRACE: Time = ServerHttp2 "MAX_CONNECTION_AGE_GRACE" {
        // As much as at the end of the process. Without an end, as in gRPC, streams that never end would keep theirs.
        Time::ANY, default: Is("2m"),
        "how long requests may go on after that, before they are cut off; 0: at once; needs the age"
    }
    ours SERVER_MAX_CONNECTION_IDLE: Time = ServerHttp2 "MAX_CONNECTION_IDLE" {
        // Envoy's. A connection kept costs little and a new one its client a round trip or more; but clients that have
        // vanished close nothing, and their connections would add up to the limit.
        Time::Of(Setting::MaxConnectionIdle), default: Is("1h"),
        "time without an open request after which a client's connection is closed"
    }
    ours SERVER_HANDSHAKE_TIMEOUT: Time = ServerHttp2 "HANDSHAKE_TIMEOUT" {
        Time::Of(Setting::HandshakeTimeout), default: Is("10s"),
        "how long a client may take until its preface and its first frame have come"
    }
    ours SERVER_HEADER_TIMEOUT: Time = ServerHttp2 "HEADER_TIMEOUT" {
        Time::Of(Setting::HeaderTimeout), default: Is("10s"),
        "how long a client may take over one header block"
    }
    ours SERVER_MAX_PREMATURE_RESETS: Number = ServerHttp2 "MAX_PREMATURE_RESETS" {
        // Envoy's count and share, over ten seconds instead of the connection's life.
        Number::ANY, default: Is("500"),
        "streams that may be reset within a second of being opened, in ten seconds; more end the connection if most are"
    }
    ours SERVER_MAX_CONTROL_FRAMES: Number = ServerHttp2 "MAX_CONTROL_FRAMES" {
        // More than any client has reason to send. Frames that go with requests and responses come on top.
        Number::Of(Setting::MaxControlFrames), default: Is("10000"),
        "frames of one kind that a client may send in a second beside those that its requests and responses explain; SETTINGS count for 50, PING ACKs for 100"
    }
    ours SERVER_WRITE_STALL_TIMEOUT: Time = ServerHttp2 "WRITE_STALL_TIMEOUT" {
        // As long as Envoy waits for a stream to be flushed. A reader that takes 16 KiB in that time goes on.
        Time::Of(Setting::WriteStallTimeout), default: Is("5m"),
        "how long a client may take nothing of a response that waits for it, before its stream is reset"
    }
    ours SERVER_STREAM_IDLE_TIMEOUT: Time = ServerHttp2 "STREAM_IDLE_TIMEOUT" {
        // Envoy's 5m would end streams of gRPC that wait for something to happen.
        Time::Of(Setting::StreamIdleTimeout), default: Unset,
        "how long nothing may move on a stream, before it is reset or answered with 504; unset: for ever"
    }

    linkerd SHARED_INITIAL_STREAM_WINDOW_SIZE: Number = SharedHttp2 "INITIAL_STREAM_WINDOW_SIZE" {
        Number::Of(Setting::InitialStreamWindowSize), default: Is("65535"),
        "bytes an endpoint may send unread on one stream, and so in one round trip; in both directions"
    }
    linkerd SHARED_INITIAL_CONNECTION_WINDOW_SIZE: Number = SharedHttp2 "INITIAL_CONNECTION_WINDOW_SIZE" {
        Number::Of(Setting::InitialConnectionWindowSize), default: Is("1048576"),
        "bytes an endpoint may send unread on one connection, and so in one round trip; in both directions"
    }

    ours CONNECT_ADAPTIVE_FLOW_CONTROL: Bool = ConnectHttp2 "ADAPTIVE_FLOW_CONTROL" {
        Bool, default: Is("false"),
        "windows that fill long paths, instead of fixed ones: 16 MiB a stream and 24 MiB a connection that an endpoint may send unread; they grow with the path, and streams' shrink, to 65535 at least, while readers that stopped hold more than 1/32 of MAX_BUFFERED_BYTES"
    }
    ours CONNECT_INITIAL_STREAM_WINDOW_SIZE: Number = ConnectHttp2 "INITIAL_STREAM_WINDOW_SIZE" {
        Number::Of(Setting::InitialStreamWindowSize), default: Computed("that of HTTP2_INITIAL_STREAM_WINDOW_SIZE"),
        "bytes an endpoint may send unread on one stream, and so in one round trip"
    }
    ours CONNECT_INITIAL_CONNECTION_WINDOW_SIZE: Number = ConnectHttp2 "INITIAL_CONNECTION_WINDOW_SIZE" {
        Number::Of(Setting::InitialConnectionWindowSize),
        default: Computed("that of HTTP2_INITIAL_CONNECTION_WINDOW_SIZE"),
        "bytes an endpoint may send unread on one connection, and so in one round trip"
    }
    ours CONNECT_KEEP_ALIVE_INTERVAL: Time = ConnectHttp2 "KEEP_ALIVE_INTERVAL" {
        Time::Of(Setting::KeepAliveInterval), default: Unset,
        "silence after which an endpoint is sent a PING; unset: never"
    }
    ours CONNECT_KEEP_ALIVE_TIMEOUT: Time = ConnectHttp2 "KEEP_ALIVE_TIMEOUT" {
        Time::Of(Setting::KeepAliveTimeout), default: Is("20s"),
        "how long an endpoint may take to answer a PING; needs the interval"
    }
    ours CONNECT_KEEP_ALIVE_WHILE_IDLE: Bool = ConnectHttp2 "KEEP_ALIVE_WHILE_IDLE" {
        Bool, default: Is("false"),
        "whether PINGs are sent while no stream is open, too; true needs the interval"
    }
    ours CONNECT_MAX_CONCURRENT_RESET_STREAMS: Number = ConnectHttp2 "MAX_CONCURRENT_RESET_STREAMS" {
        // h2's own 50 would let cancelled requests, whose answers come late, end a shared connection.
        Number::ANY, default: Is("10000"),
        "streams to an endpoint that are remembered after a reset, so that late frames do no harm"
    }
    ours CONNECT_MAX_LOCAL_ERROR_RESET_STREAMS: Number = ConnectHttp2 "MAX_LOCAL_ERROR_RESET_STREAMS" {
        Number::ANY, default: Unset,
        "streams of one connection that may be reset for an endpoint's protocol errors; unset: 1024"
    }
    ours CONNECT_MAX_FRAME_SIZE: Number = ConnectHttp2 "MAX_FRAME_SIZE" {
        Number::Of(Setting::MaxFrameSize), default: Unset,
        "bytes of the largest frame an endpoint may send; unset: 65536"
    }
    ours CONNECT_MAX_HEADER_LIST_SIZE: Number = ConnectHttp2 "MAX_HEADER_LIST_SIZE" {
        Number::Of(Setting::MaxHeaderListSize), default: Unset,
        "bytes of the largest header or trailer list an endpoint may send; unset: 65536"
    }
    ours CONNECT_HEADER_TABLE_SIZE: Number = ConnectHttp2 "HEADER_TABLE_SIZE" {
        Number::ANY, default: Unset,
        "bytes of the HPACK table an endpoint may use; unset: 4096"
    }
    ours CONNECT_MAX_SEND_BUF_SIZE: Number = ConnectHttp2 "MAX_SEND_BUF_SIZE" {
        Number::Of(Setting::MaxSendBufSize), default: Unset,
        "bytes buffered for sending on each stream to an endpoint; unset: 1048576"
    }
    ours CONNECT_WRITE_STALL_TIMEOUT: Time = ConnectHttp2 "WRITE_STALL_TIMEOUT" {
        Time::Of(Setting::WriteStallTimeout), default: Is("5m"),
        "how long an endpoint may take nothing of a request that waits for it, before its stream is reset"
    }
    ours CONNECT_HANDSHAKE_TIMEOUT: Time = ConnectHttp2 "HANDSHAKE_TIMEOUT" {
        Time::ABOVE_ZERO, default: Is("10s"),
        "how long an endpoint may take for its SETTINGS once it is connected; requests wait meanwhile"
    }
    ours CONNECT_MAX_STREAMS_PER_CONNECTION: Number = ConnectHttp2 "MAX_STREAMS_PER_CONNECTION" {
        Number::ABOVE_ZERO, default: Unset,
        "streams on one connection, if its endpoint takes more; unset: as many as the endpoint takes"
    }
    ours CONNECT_MAX_CONNECTION_IDLE: Time = ConnectHttp2 "MAX_CONNECTION_IDLE" {
        Time::ABOVE_ZERO, default: Is("1m"),
        "time without a request after which a connection is closed; each endpoint keeps one"
    }

    ours CONNECT_PROTOCOL: Protocols = Direction "CONNECT_PROTOCOL" {
        Protocols, default: Is("http2"),
        "what is spoken with endpoints: http2, http1, or what the client of each request speaks"
    }
    ours CONNECT_HTTP1_MAX_CONNECTIONS: Number = Direction "CONNECT_HTTP1_MAX_CONNECTIONS" {
        Number::ABOVE_ZERO, default: Is("1024"),
        "HTTP/1.1 connections to one endpoint, shared by all workers, but one for each at least"
    }
    ours CONNECT_HTTP1_MAX_IDLE: Number = Direction "CONNECT_HTTP1_MAX_IDLE" {
        Number::ABOVE_ZERO, default: Is("64"),
        "HTTP/1.1 connections to one endpoint kept without a request, shared by all workers, but one for each at least"
    }
    ours CONNECT_HTTP1_MAX_CONNECTION_IDLE: Time = Direction "CONNECT_HTTP1_MAX_CONNECTION_IDLE" {
        Time::ABOVE_ZERO, default: Is("30s"),
        "time without a request after which an HTTP/1.1 connection is closed"
    }

    ours CONNECT_PROXY_PROTOCOL: ProxyProtocols = Direction "CONNECT_PROXY_PROTOCOL" {
        ProxyProtocols {
            words: &[("off", None), ("v1", Some(ProxyProtocol::V1)), ("v2", Some(ProxyProtocol::V2))],
        },
        default: Is("off"),
        "PROXY protocol header, v1 or v2, that each connection to an endpoint begins with, so that it tells the client's address; each connection of a client then has connections to endpoints of its own; needs ENDPOINTS"
    }
    ours CONNECT_DROP_REQUEST_TRAILERS: Bool = Direction "CONNECT_DROP_REQUEST_TRAILERS" {
        Bool, default: Is("false"),
        "whether trailers of requests are left out toward endpoints, some of which end the connection for them (nginx)"
    }

    linkerd CONNECT_TIMEOUT: Time = Direction "CONNECT_TIMEOUT" {
        Time::ABOVE_ZERO, default: PerDirection("300ms", "1s"),
        "how long a connection to an endpoint may take to open"
    }
    linkerd CONNECT_EXP_BACKOFF_MIN: Time = Direction "CONNECT_EXP_BACKOFF_MIN" {
        Time::ABOVE_ZERO, default: Is("100ms"),
        "the wait after the first failed connection; it doubles up to the maximum"
    }
    linkerd CONNECT_EXP_BACKOFF_MAX: Time = Direction "CONNECT_EXP_BACKOFF_MAX" {
        Time::ABOVE_ZERO, default: PerDirection("10s", "1m"),
        "the longest wait between failed connections; not below the minimum"
    }
    linkerd CONNECT_EXP_BACKOFF_JITTER: Ratio = Direction "CONNECT_EXP_BACKOFF_JITTER" {
        Ratio::ANY, default: Is("0.1"),
        "the largest random part added to a wait, as a ratio of it"
    }

    ours CONNECT_TLS: Switch = Direction "CONNECT_TLS" {
        Switch { words: &[("off", false), ("on", true)] }, default: Is("off"),
        "TLS toward endpoints"
    }
    ours CONNECT_TLS_CA: FilePath = Direction "CONNECT_TLS_CA" {
        FilePath::PEM, default: Unset,
        "certificates of those who may issue endpoints' ones; needs TLS; unset: those that the system trusts"
    }
    ours CONNECT_TLS_SERVER_NAME: Host = Direction "CONNECT_TLS_SERVER_NAME" {
        Host, default: Unset,
        "whom endpoints' certificates must be for; needs TLS; unset: the host in ENDPOINTS that each was found by"
    }
    ours CONNECT_TLS_CERT: FilePath = Direction "CONNECT_TLS_CERT" {
        FilePath::PEM, default: Unset,
        "certificate that endpoints are shown, with its chain behind it; needs TLS and the key; unset: none"
    }
    ours CONNECT_TLS_KEY: FilePath = Direction "CONNECT_TLS_KEY" {
        FilePath::PEM, default: Unset,
        "its private key (PKCS#8, SEC1 or PKCS#1); unset: none"
    }
    ours CONNECT_TLS_INSECURE_SKIP_VERIFY: Bool = Direction "CONNECT_TLS_INSECURE_SKIP_VERIFY" {
        Bool, default: Is("false"),
        "whether anybody is taken for the endpoint, which makes TLS worthless against attackers; true needs TLS"
    }

    ours MAX_CONNECTIONS_PER_ENDPOINT: Number = Direction "MAX_CONNECTIONS_PER_ENDPOINT" {
        Number::ABOVE_ZERO, default: Is("16"),
        "connections to one endpoint, shared by all workers, but one for each at least"
    }
    ours SLOW_START: Time = Direction "SLOW_START" {
        Time::ANY, default: Is("10s"),
        "time in which the share of an endpoint that joins others grows from a tenth to all; 0: at once"
    }
    ours BREAKER_CONSECUTIVE_FAILURES: Number = Direction "BREAKER_CONSECUTIVE_FAILURES" {
        Number::ANY, default: Is("7"),
        "requests failed in a row (connection lost, 502, 503, 504, UNAVAILABLE) that eject an endpoint; 0: never"
    }
    ours BREAKER_MIN_EJECTION: Time = Direction "BREAKER_MIN_EJECTION" {
        Time::ABOVE_ZERO, default: Is("1s"),
        "how long an endpoint is ejected at first; it doubles with each failed probe up to the maximum"
    }
    ours BREAKER_MAX_EJECTION: Time = Direction "BREAKER_MAX_EJECTION" {
        Time::ABOVE_ZERO, default: Is("1m"),
        "the longest an endpoint is ejected; not below the minimum"
    }

    ours HEALTH_CHECK: HealthChecks = Direction "HEALTH_CHECK" {
        HealthChecks, default: Is("off"),
        "request that each endpoint is sent at an interval; one that does not answer it as expected gets no new requests: grpc is grpc.health.v1.Health/Check of the server, grpc:SERVICE of one service, http:/PATH a GET that is answered with 200..=299"
    }
    ours HEALTH_CHECK_INTERVAL: Time = Direction "HEALTH_CHECK_INTERVAL" {
        Time::ABOVE_ZERO, default: Is("10s"),
        "pause between two health checks of an endpoint, give or take a tenth"
    }
    ours HEALTH_CHECK_TIMEOUT: Time = Direction "HEALTH_CHECK_TIMEOUT" {
        // As Kubernetes has it.
        Time::ABOVE_ZERO, default: Is("1s"),
        "how long a health check may take, with the connection that it may need"
    }
    ours HEALTH_CHECK_UNHEALTHY_THRESHOLD: Number = Direction "HEALTH_CHECK_UNHEALTHY_THRESHOLD" {
        Number::ABOVE_ZERO, default: Is("3"),
        "health checks failed in a row after which an endpoint is unhealthy; the first one after the start decides alone"
    }
    ours HEALTH_CHECK_HEALTHY_THRESHOLD: Number = Direction "HEALTH_CHECK_HEALTHY_THRESHOLD" {
        Number::ABOVE_ZERO, default: Is("2"),
        "health checks passed in a row after which an unhealthy endpoint is healthy; the first one after the start decides alone"
    }

    linkerd ACCEPT_KEEPALIVE: Time = Direction "ACCEPT_KEEPALIVE" {
        Time::TCP_KEEPALIVE, default: Unset,
        "idle time before TCP keep-alive probes to clients; unset: none are sent"
    }
    linkerd CONNECT_KEEPALIVE: Time = Direction "CONNECT_KEEPALIVE" {
        Time::TCP_KEEPALIVE, default: Unset,
        "idle time before TCP keep-alive probes to endpoints; unset: none are sent"
    }
    linkerd ACCEPT_USER_TIMEOUT: Time = Direction "ACCEPT_USER_TIMEOUT" {
        Time::TCP_USER_TIMEOUT, default: Unset,
        "how long data sent to clients may stay unacknowledged; unset: the system's choice"
    }
    linkerd CONNECT_USER_TIMEOUT: Time = Direction "CONNECT_USER_TIMEOUT" {
        Time::TCP_USER_TIMEOUT, default: Unset,
        "how long data sent to endpoints may stay unacknowledged; unset: the system's choice"
    }

    linkerd HTTP_QUEUE_CAPACITY: Number = Direction "HTTP_QUEUE_CAPACITY" {
        Number::ABOVE_ZERO, default: Is("10000"),
        "requests that may wait for an endpoint"
    }
    linkerd HTTP_FAILFAST_TIMEOUT: Time = Direction "HTTP_FAILFAST_TIMEOUT" {
        Time::ABOVE_ZERO, default: PerDirection("1s", "3s"),
        "how long requests wait for an endpoint, before they are answered with 503 (502, 504: none could be reached)"
    }
    ours HTTP_REQUEST_TIMEOUT: Time = Direction "HTTP_REQUEST_TIMEOUT" {
        Time::ABOVE_ZERO, default: Unset,
        "the longest a request may take before it is answered with 504; unset: no limit"
    }
    ours HTTP_MAX_HEADERS_COUNT: Number = Direction "HTTP_MAX_HEADERS_COUNT" {
        // Envoy's.
        Number::ANY, default: Is("100"),
        "fields a request may have beside its pseudo-fields, with all of cookie as one; one with more is answered with 431; a response of an HTTP/1.1 endpoint may have as many, and 100 at least"
    }
    ours HTTP_MAX_URI_LENGTH: Number = Direction "HTTP_MAX_URI_LENGTH" {
        // RFC 9110 section 4.1 asks for 8,000 at least; nginx and Apache take about as many.
        Number::ABOVE_ZERO, default: Is("8192"),
        "bytes the path and query of a request may have; one with more is answered with 414"
    }
    ours HTTP_FORWARDED: ForwardedFields = Direction "HTTP_FORWARDED" {
        ForwardedFields {
            words: &[
                ("off", None),
                ("x-forwarded-for", Some(Forwarded::XForwardedFor)),
                ("forwarded", Some(Forwarded::Forwarded)),
            ],
        },
        default: Is("off"),
        "field in which endpoints are told the client's address, behind what the client says in it: x-forwarded-for, forwarded (RFC 7239), or off for none"
    }
    ours HTTP_RATE_LIMIT_PER_CLIENT: Number = Direction "HTTP_RATE_LIMIT_PER_CLIENT" {
        Number::In(1..=1_000_000), default: Unset,
        "requests a second that a client, by its address (of IPv6 the first 64 bits), may send; more are answered with 429; unset: no limit"
    }
    ours HTTP_RATE_LIMIT_BURST: Number = Direction "HTTP_RATE_LIMIT_BURST" {
        Number::In(1..=1_000_000), default: Unset,
        "requests that a client may send at once after a time without any; needs the rate limit; unset: as many as in a second"
    }
    ours HTTP_RETRY_GATEWAY_ERRORS: Bool = Direction "HTTP_RETRY_GATEWAY_ERRORS" {
        Bool, default: Is("false"),
        "whether GET and HEAD are sent again after 502, 503, 504 or a lost connection"
    }
    ours HTTP_RETRY_REFUSED_NON_IDEMPOTENT: Bool = Direction "HTTP_RETRY_REFUSED_NON_IDEMPOTENT" {
        Bool, default: Is("true"),
        "whether requests of methods that are not idempotent, as POST and all of gRPC, are sent again after REFUSED_STREAM"
    }
    ours HTTP_RETRY_GRPC_UNAVAILABLE: Bool = Direction "HTTP_RETRY_GRPC_UNAVAILABLE" {
        Bool, default: Is("false"),
        "whether gRPC calls are sent again after UNAVAILABLE or a lost connection"
    }
    ours HTTP_RETRY_BUDGET_RATIO: Ratio = Direction "HTTP_RETRY_BUDGET_RATIO" {
        Ratio::ANY, default: Is("0.2"),
        "retries for each request, beside those of requests that never reached an endpoint"
    }
    ours HTTP_RETRY_BUDGET_MIN_PER_SECOND: Number = Direction "HTTP_RETRY_BUDGET_MIN_PER_SECOND" {
        Number::ANY, default: Is("10"),
        "retries a second in addition, on each worker"
    }
    ours HTTP_RETRY_BUFFER_SIZE: Number = Direction "HTTP_RETRY_BUFFER_SIZE" {
        Number::ANY, default: Is("65536"),
        "bytes of a request's body kept until its response comes; one that has sent more is not sent again"
    }
    linkerd MAX_IN_FLIGHT: Number = Direction "MAX_IN_FLIGHT" {
        Number::ABOVE_ZERO, default: Is("100000"),
        "requests from their head to their response's end; more are answered with 503"
    }
    ours MAX_BUFFERED_BYTES: Number = Direction "MAX_BUFFERED_BYTES" {
        // 4,096 readers that have stopped, at the default windows; the rest of a small sidecar's memory.
        Number::ANY, default: Is("268435456"),
        "bytes held for readers that have stopped, beside connections' windows, and for heads of requests; at the limit reading stalls; heads of requests whose responses have not begun have half of it at most; what clients' adaptive windows have above 1 MiB a connection is reserved from up to three quarters of it"
    }

    linkerd DNS_MIN_TTL: Time = Process "DNS_MIN_TTL" {
        Time::ANY, default: Unset,
        "the least time before a name is looked up again, whatever its TTL; unset: its TTL, and never below 1s"
    }
    linkerd DNS_MAX_TTL: Time = Process "DNS_MAX_TTL" {
        Time::ANY, default: Unset,
        "the most time before a name is looked up again, whatever its TTL; not below the minimum; unset: its TTL"
    }
    ours DNS_NEGATIVE_HOLD: Time = Process "DNS_NEGATIVE_HOLD" {
        Time::ANY, default: Is("30s"),
        "how long a name's addresses are kept once name servers say that there are none; 0 drops them at once"
    }

    linkerd DESTINATION_SVC_ADDR: HostAndPort = Process "DESTINATION_SVC_ADDR" {
        HostAndPort, default: Unset,
        "where the destination service of Linkerd's control plane listens, which is asked by directions with DISCOVERY=linkerd; unset: none"
    }
    linkerd DESTINATION_CONTEXT: Text = Process "DESTINATION_CONTEXT" {
        Text, default: Unset,
        "a token that it is sent with each question; unset: an empty one"
    }
    linkerd DESTINATION_PROFILE_SUFFIXES: Suffixes = Process "DESTINATION_PROFILE_SUFFIXES" {
        Suffixes::SUFFIXES, default: Is("svc.cluster.local"),
        "names, themselves and all below them, of which it is asked for the profile before the endpoints"
    }
    ours DESTINATION_ALLOW_PLAINTEXT: Bool = Process "DESTINATION_ALLOW_PLAINTEXT" {
        Bool, default: Is("false"),
        "whether endpoints that it says to have a TLS identity, which the proxy cannot verify, are sent requests all the same; false: they are left out"
    }

    linkerd CONTROL_STREAM_INITIAL_TIMEOUT: Time = Process "CONTROL_STREAM_INITIAL_TIMEOUT" {
        Time::ABOVE_ZERO, default: Is("3s"), empty: Unset,
        "how long it may take for its first answer to a question, before it is asked again on a new connection"
    }
    linkerd CONTROL_STREAM_IDLE_TIMEOUT: Time = Process "CONTROL_STREAM_IDLE_TIMEOUT" {
        Time::ABOVE_ZERO, default: Is("5m"), empty: Unset,
        "time without news of a destination after which it is asked again, in case that it is silent for another reason"
    }

    linkerd ADMIN_LISTEN_ADDR: Address = Process "ADMIN_LISTEN_ADDR" {
        Address, default: Is("127.0.0.1:4191"),
        "where the admin server listens; port 0: a free one"
    }
    linkerd SHUTDOWN_GRACE_PERIOD: Time = Process "SHUTDOWN_GRACE_PERIOD" {
        Time::ANY, default: Is("2m"),
        "how long requests may go on once the process is told to end; 0 ends them at once"
    }
    ours SHUTDOWN_LAME_DUCK_PERIOD: Time = Process "SHUTDOWN_LAME_DUCK_PERIOD" {
        Time::ANY, default: Is("0"),
        "how long clients are served as before once the process is told to end, while /ready is 503; the grace follows"
    }
    ours UPGRADE_TIMEOUT: Time = Process "UPGRADE_TIMEOUT" {
        Time::ABOVE_ZERO, default: Is("30s"),
        "how long the process that SIGUSR2 starts may take until it is ready to take over; then it is ended, and this one goes on"
    }
    linkerd SHUTDOWN_ENDPOINT_ENABLED: Bool = Process "SHUTDOWN_ENDPOINT_ENABLED" {
        // linkerd2-proxy's is false: its workloads end it, and need no request for that.
        Bool, default: Is("true"),
        "whether POST /shutdown on the admin server ends the process"
    }
    ours ADMIN_REMOTE_CONTROL: Bool = Process "ADMIN_REMOTE_CONTROL" {
        Bool, default: Is("false"),
        "whether POST /shutdown and PUT /proxy-log-level are taken from other hosts, not from loopback alone"
    }
    linkerd CORES: Number = Process "CORES" {
        Number::In(1..=1024), default: Computed("available cores"), empty: Unset,
        "worker threads"
    }
    linkerd LOG: Text = Process "LOG" {
        Text, default: Is("info"),
        "which log lines are written, a filter in the syntax of tracing"
    }
    linkerd LOG_FORMAT: Format = Process "LOG_FORMAT" {
        Format, default: Is("plain"), empty: Unset,
        "how log lines are written: text for people, or one JSON object a line"
    }
    linkerd ACCESS_LOG: RecordFormat = Process "ACCESS_LOG" {
        RecordFormat { words: &[("apache", AccessLogFormat::Apache), ("json", AccessLogFormat::Json)] },
        default: Unset, empty: Unset,
        "writes one line for each request at its end, in the Common Log Format with more fields behind it, or as a JSON object; unset: none"
    }
    ours ACCESS_LOG_FILE: FilePath = Process "ACCESS_LOG_FILE" {
        FilePath::LOG, default: Unset,
        "file that lines are appended to, opened again on SIGHUP; needs ACCESS_LOG; unset: standard error"
    }
    ours ACCESS_LOG_SAMPLE: Ratio = Process "ACCESS_LOG_SAMPLE" {
        Ratio::PART, default: Is("1"),
        "the part of the requests that have a line, chosen at random; needs ACCESS_LOG"
    }
    ours ACCESS_LOG_ERRORS_ONLY: Bool = Process "ACCESS_LOG_ERRORS_ONLY" {
        Bool, default: Is("false"),
        "whether requests without an error have no line; needs ACCESS_LOG"
    }
    linkerd TRACE_COLLECTOR_SVC_ADDR: HostAndPort = Process "TRACE_COLLECTOR_SVC_ADDR" {
        HostAndPort, default: Unset,
        "collector that takes spans by OTLP over gRPC, without TLS; unset: there are no spans, and trace contexts pass unchanged"
    }
    linkerd TRACE_SERVICE_NAME: Text = Process "TRACE_SERVICE_NAME" {
        Text, default: Is("unknown_service"),
        "service.name of spans; needs TRACE_COLLECTOR_SVC_ADDR"
    }
    linkerd TRACE_EXTRA_ATTRIBUTES: Attributes = Process "TRACE_EXTRA_ATTRIBUTES" {
        Attributes, default: Unset, empty: Unset,
        "further attributes of the resource that spans belong to, in place of TRACE_SERVICE_NAME for service.name; needs TRACE_COLLECTOR_SVC_ADDR; unset: none"
    }
    linkerd OTEL_RESOURCE_ATTRIBUTES: Text = OpenTelemetry "RESOURCE_ATTRIBUTES" {
        Text, default: Unset, empty: Unset,
        "the same as TRACE_EXTRA_ATTRIBUTES, and before it, as name=value,name=value with %20 for a space; left out with a warning where it is malformed; unset: none"
    }
}
