//! Backends: lists of endpoints, and how they are connected to.

use super::{
    Backend,
    fields::{Fields, Known, Problems},
    yaml::{Key, Node, Position, Value},
};
use crate::{
    Backoff, Connect, ConnectHttp1, ConnectTls, EndpointAddr, TcpParams, TlsIdentity,
    error::plain,
    grammar::{Grammar, Number, Time},
    table::{
        CONNECT_ADAPTIVE_FLOW_CONTROL, CONNECT_DROP_REQUEST_TRAILERS, CONNECT_EXP_BACKOFF_JITTER,
        CONNECT_EXP_BACKOFF_MAX, CONNECT_EXP_BACKOFF_MIN, CONNECT_HANDSHAKE_TIMEOUT, CONNECT_HEADER_TABLE_SIZE,
        CONNECT_HTTP1_MAX_CONNECTION_IDLE, CONNECT_HTTP1_MAX_CONNECTIONS, CONNECT_HTTP1_MAX_IDLE,
        CONNECT_INITIAL_CONNECTION_WINDOW_SIZE, CONNECT_INITIAL_STREAM_WINDOW_SIZE, CONNECT_KEEP_ALIVE_INTERVAL,
        CONNECT_KEEP_ALIVE_TIMEOUT, CONNECT_KEEP_ALIVE_WHILE_IDLE, CONNECT_KEEPALIVE,
        CONNECT_MAX_CONCURRENT_RESET_STREAMS, CONNECT_MAX_CONNECTION_IDLE, CONNECT_MAX_FRAME_SIZE,
        CONNECT_MAX_HEADER_LIST_SIZE, CONNECT_MAX_LOCAL_ERROR_RESET_STREAMS, CONNECT_MAX_SEND_BUF_SIZE,
        CONNECT_MAX_STREAMS_PER_CONNECTION, CONNECT_PROTOCOL, CONNECT_TIMEOUT, CONNECT_TLS, CONNECT_TLS_CA,
        CONNECT_TLS_CERT, CONNECT_TLS_INSECURE_SKIP_VERIFY, CONNECT_TLS_KEY, CONNECT_TLS_SERVER_NAME,
        CONNECT_USER_TIMEOUT, CONNECT_WRITE_STALL_TIMEOUT, HEALTH_CHECK, MAX_CONNECTIONS_PER_ENDPOINT,
    },
    variable::{Scope, Var},
};
use http_h2::{ClientKeepAlive, ClientParams, FlowControl};
use std::collections::BTreeMap;

/// A backend as the file has it.
pub(super) struct Entry {
    pub(super) position: Position,
    /// `None`: something is wrong in it.
    pub(super) backend: Option<Backend>,
}

const BACKEND: Known = Known {
    kind: "a backend",
    keys: &[
        "endpoints",
        "protocol",
        "tls",
        "connectTimeout",
        "backoff",
        "tcp",
        "maxConnections",
        "dropRequestTrailers",
        "healthCheck",
        "http1",
        "http2",
    ],
    unsupported: &[],
};

const TLS: Known = Known {
    kind: "tls",
    keys: &["serverName", "ca", "cert", "key", "insecureSkipVerify"],
    unsupported: &["subjectAltNames", "wellKnownCACertificates"],
};

const BACKOFF: Known = Known { kind: "backoff", keys: &["min", "max", "jitter"], unsupported: &[] };

const TCP: Known = Known { kind: "tcp", keys: &["keepalive", "userTimeout"], unsupported: &[] };

const HTTP1: Known =
    Known { kind: "http1", keys: &["maxConnections", "maxIdle", "maxConnectionIdle"], unsupported: &[] };

const HTTP2: Known = Known {
    kind: "http2",
    keys: &[
        "adaptiveFlowControl",
        "initialStreamWindowSize",
        "initialConnectionWindowSize",
        "keepAliveInterval",
        "keepAliveTimeout",
        "keepAliveWhileIdle",
        "maxConcurrentResetStreams",
        "maxLocalErrorResetStreams",
        "maxFrameSize",
        "maxHeaderListSize",
        "headerTableSize",
        "maxSendBufSize",
        "writeStallTimeout",
        "handshakeTimeout",
        "maxStreamsPerConnection",
        "maxConnectionIdle",
    ],
    unsupported: &[],
};

/// Reads all backends. `None`: there is nothing to read them from.
pub(super) fn read_all(node: &Node, connect: &Connect, problems: &mut Problems) -> Option<BTreeMap<String, Entry>> {
    let entries = match &node.value {
        Value::Map(entries) if !entries.is_empty() => entries,
        value => {
            let empty = if let Value::Map(_) = value { "an empty mapping" } else { value.kind() };
            problems.error(node.position, format!("backends is {empty}, must be a mapping of names to backends"));
            return None;
        }
    };
    let mut backends: BTreeMap<String, Entry> = BTreeMap::new();
    for (key, node) in entries {
        if let Some(first) = backends.get(&key.text) {
            problems.twice(key, first.position);
            continue;
        }
        check_name(key, problems);
        let backend = read(node, connect, problems);
        backends.insert(key.text.clone(), Entry { position: key.position, backend });
    }
    Some(backends)
}

fn check_name(Key { position, text }: &Key, problems: &mut Problems) {
    if let Err(expected) = super::rule::name(text) {
        problems.error(*position, format!("the backend's name is {:?}, must be {expected}", plain(text)));
    }
}

fn read(node: &Node, base: &Connect, problems: &mut Problems) -> Option<Backend> {
    let fields = problems.fields(node, &BACKEND)?;
    let endpoints = fields.require(problems, "endpoints").and_then(|node| read_endpoints(node, problems));
    let mut connect = base.clone();
    set(&mut connect.protocol, fields.read(problems, "protocol", &CONNECT_PROTOCOL.grammar));
    if let Some(node) = fields.get("tls") {
        connect.tls = read_tls(node, base.tls.as_ref(), problems);
    }
    set(&mut connect.timeout, fields.read(problems, "connectTimeout", &CONNECT_TIMEOUT.grammar));
    if let Some(node) = fields.get("backoff") {
        read_backoff(node, &mut connect.backoff, problems);
    }
    if let Some(node) = fields.get("tcp") {
        read_tcp(node, &mut connect.tcp, problems);
    }
    set(&mut connect.max_connections, read_size(&fields, "maxConnections", &MAX_CONNECTIONS_PER_ENDPOINT, problems));
    let drop_trailers = fields.read(problems, "dropRequestTrailers", &CONNECT_DROP_REQUEST_TRAILERS.grammar);
    set(&mut connect.drop_request_trailers, drop_trailers);
    set(&mut connect.health_check.request, fields.read(problems, "healthCheck", &HEALTH_CHECK.grammar));
    if connect.health_check.is_grpc_over(connect.protocol) {
        let position = fields.get("healthCheck").map_or(fields.position, |node| node.position);
        problems.error(
            position,
            "healthCheck is grpc and protocol is http1, must be off or http:/PATH, since gRPC needs HTTP/2",
        );
    }
    if let Some(node) = fields.get("http1") {
        read_http1(node, &mut connect.http1, problems);
    }
    if let Some(node) = fields.get("http2") {
        read_http2(node, &mut connect, problems);
    }
    Some(Backend { endpoints: endpoints?, connect })
}

fn read_endpoints(node: &Node, problems: &mut Problems) -> Option<Vec<EndpointAddr>> {
    let items = problems.list(node, "endpoints", "host:port or unix:/path")?;
    let mut endpoints = Vec::with_capacity(items.len());
    let mut seen = std::collections::BTreeSet::new();
    for item in items {
        let expected = "host:port (as 10.0.0.1:80, \"[::1]:80\" or api.example:80) or unix:/path";
        let parse = |text: &str| text.parse::<EndpointAddr>().map_err(|error| error.to_string());
        let Some(endpoint) = problems.parse(item, "the endpoint", expected, parse) else { continue };
        if seen.insert(endpoint.clone()) {
            endpoints.push(endpoint);
        } else {
            problems.warn(item.position, format!("the endpoint {endpoint} is listed again, and used once"));
        }
    }
    (!endpoints.is_empty()).then_some(endpoints)
}

/// Reads `on`, `off`, or settings in place of the direction's TLS.
fn read_tls(node: &Node, base: Option<&ConnectTls>, problems: &mut Problems) -> Option<ConnectTls> {
    let base = base.cloned().unwrap_or_default();
    if let Value::Scalar(text) = &node.value {
        if let Ok(on) = CONNECT_TLS.grammar.parse(text) {
            return on.then_some(base);
        }
        let keys = TLS.keys.join(", ");
        let expected = format!("on, off, or a mapping of {keys}");
        problems.parse(node, "tls", &expected, |_| Err::<(), _>(String::new()));
        return None;
    }
    let fields = problems.fields(node, &TLS)?;
    let identity = match (fields.get("cert"), fields.get("key")) {
        (None, None) => base.identity,
        (Some(cert), Some(key)) => {
            let cert = problems.read(cert, "cert", &CONNECT_TLS_CERT.grammar);
            let key = problems.read(key, "key", &CONNECT_TLS_KEY.grammar);
            cert.zip(key).map(|(cert, key)| TlsIdentity { cert, key })
        }
        (cert, _) => {
            let (has, lacks) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
            problems.error(fields.position, format!("tls has {has} and no {lacks}, must have both or none"));
            None
        }
    };
    let skip = fields.read(problems, "insecureSkipVerify", &CONNECT_TLS_INSECURE_SKIP_VERIFY.grammar);
    let mut tls = ConnectTls {
        ca: fields.read(problems, "ca", &CONNECT_TLS_CA.grammar).or(base.ca),
        server_name: fields.read(problems, "serverName", &CONNECT_TLS_SERVER_NAME.grammar).or(base.server_name),
        identity,
        insecure_skip_verify: skip.unwrap_or(base.insecure_skip_verify),
    };
    if tls.insecure_skip_verify {
        if let Some(ca) = fields.get("ca") {
            problems.warn(ca.position, "ca has no effect, insecureSkipVerify is true");
        }
        if let Some(node) = fields.get("insecureSkipVerify") {
            let message = "insecureSkipVerify is true, anybody on the way can pass for an endpoint";
            problems.warn(node.position, message);
        }
        tls.ca = None;
    }
    Some(tls)
}

fn read_backoff(node: &Node, backoff: &mut Backoff, problems: &mut Problems) {
    let Some(fields) = problems.fields(node, &BACKOFF) else { return };
    set(&mut backoff.min, fields.read(problems, "min", &CONNECT_EXP_BACKOFF_MIN.grammar));
    set(&mut backoff.max, fields.read(problems, "max", &CONNECT_EXP_BACKOFF_MAX.grammar));
    set(&mut backoff.jitter, fields.read(problems, "jitter", &CONNECT_EXP_BACKOFF_JITTER.grammar));
    if backoff.min > backoff.max {
        let print = |time| Time::ANY.print(time);
        let (min, max) = (print(&backoff.min), print(&backoff.max));
        problems.error(fields.position, format!("backoff has {min} as min, must be at most max, which is {max}"));
    }
}

fn read_tcp(node: &Node, tcp: &mut TcpParams, problems: &mut Problems) {
    let Some(fields) = problems.fields(node, &TCP) else { return };
    tcp.keepalive = fields.read(problems, "keepalive", &CONNECT_KEEPALIVE.grammar).or(tcp.keepalive);
    tcp.user_timeout = fields.read(problems, "userTimeout", &CONNECT_USER_TIMEOUT.grammar).or(tcp.user_timeout);
}

fn read_http1(node: &Node, http1: &mut ConnectHttp1, problems: &mut Problems) {
    let Some(fields) = problems.fields(node, &HTTP1) else { return };
    set(&mut http1.max_connections, read_size(&fields, "maxConnections", &CONNECT_HTTP1_MAX_CONNECTIONS, problems));
    set(&mut http1.max_idle, read_size(&fields, "maxIdle", &CONNECT_HTTP1_MAX_IDLE, problems));
    let idle = fields.read(problems, "maxConnectionIdle", &CONNECT_HTTP1_MAX_CONNECTION_IDLE.grammar);
    set(&mut http1.max_connection_idle, idle);
}

fn read_http2(node: &Node, connect: &mut Connect, problems: &mut Problems) {
    let Some(fields) = problems.fields(node, &HTTP2) else { return };
    let size = |key, var, problems: &mut Problems| read_size(&fields, key, var, problems);
    let number = |key, var: &Var<Number>, problems: &mut Problems| fields.read(problems, key, &var.grammar);
    let overrides = ClientParams {
        flow_control: read_flow_control(&fields, connect.http2.flow_control, problems),
        keep_alive: read_keep_alive(&fields, connect.http2.keep_alive, problems),
        max_concurrent_reset_streams: size(
            "maxConcurrentResetStreams",
            &CONNECT_MAX_CONCURRENT_RESET_STREAMS,
            problems,
        ),
        max_local_error_reset_streams: size(
            "maxLocalErrorResetStreams",
            &CONNECT_MAX_LOCAL_ERROR_RESET_STREAMS,
            problems,
        ),
        max_frame_size: number("maxFrameSize", &CONNECT_MAX_FRAME_SIZE, problems),
        header_table_size: number("headerTableSize", &CONNECT_HEADER_TABLE_SIZE, problems),
        max_header_list_size: number("maxHeaderListSize", &CONNECT_MAX_HEADER_LIST_SIZE, problems),
        max_send_buf_size: size("maxSendBufSize", &CONNECT_MAX_SEND_BUF_SIZE, problems),
        write_stall_timeout: fields.read(problems, "writeStallTimeout", &CONNECT_WRITE_STALL_TIMEOUT.grammar),
    };
    connect.http2 = connect.http2.override_from(&overrides);
    let handshake = fields.read(problems, "handshakeTimeout", &CONNECT_HANDSHAKE_TIMEOUT.grammar);
    set(&mut connect.handshake_timeout, handshake);
    let streams = read_size(&fields, "maxStreamsPerConnection", &CONNECT_MAX_STREAMS_PER_CONNECTION, problems);
    connect.max_streams = streams.or(connect.max_streams);
    set(&mut connect.max_idle, fields.read(problems, "maxConnectionIdle", &CONNECT_MAX_CONNECTION_IDLE.grammar));
}

/// Reads windows: adaptive ones win over sizes beside them, and sizes over the direction's adaptive ones.
fn read_flow_control(fields: &Fields<'_>, base: Option<FlowControl>, problems: &mut Problems) -> Option<FlowControl> {
    let adaptive = fields.read(problems, "adaptiveFlowControl", &CONNECT_ADAPTIVE_FLOW_CONTROL.grammar);
    let windows = [
        ("initialStreamWindowSize", &CONNECT_INITIAL_STREAM_WINDOW_SIZE),
        ("initialConnectionWindowSize", &CONNECT_INITIAL_CONNECTION_WINDOW_SIZE),
    ];
    let [stream, connection] = windows.map(|(key, var)| fields.read(problems, key, &var.grammar));
    if adaptive == Some(true) {
        for node in windows.iter().filter_map(|(key, _)| fields.get(key)) {
            problems.warn(node.position, "a window's size has no effect, adaptiveFlowControl is true");
        }
        return Some(FlowControl::Adaptive);
    }
    if adaptive.is_none() && stream.is_none() && connection.is_none() {
        return None;
    }
    let fixed = |flow_control| match flow_control {
        FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size } => {
            Some((initial_stream_window_size, initial_connection_window_size))
        }
        FlowControl::Adaptive => None,
    };
    let (base_stream, base_connection) = base.and_then(fixed).or_else(|| fixed(FlowControl::DEFAULT))?;
    Some(FlowControl::Fixed {
        initial_stream_window_size: stream.unwrap_or(base_stream),
        initial_connection_window_size: connection.unwrap_or(base_connection),
    })
}

fn read_keep_alive(
    fields: &Fields<'_>,
    base: Option<ClientKeepAlive>,
    problems: &mut Problems,
) -> Option<ClientKeepAlive> {
    let interval = fields.read(problems, "keepAliveInterval", &CONNECT_KEEP_ALIVE_INTERVAL.grammar);
    let timeout = fields.read(problems, "keepAliveTimeout", &CONNECT_KEEP_ALIVE_TIMEOUT.grammar);
    let while_idle = fields.read(problems, "keepAliveWhileIdle", &CONNECT_KEEP_ALIVE_WHILE_IDLE.grammar);
    if base.is_none() && fields.get("keepAliveInterval").is_none() {
        for (key, is_set) in [("keepAliveTimeout", timeout.is_some()), ("keepAliveWhileIdle", while_idle == Some(true))]
        {
            if let Some(node) = fields.get(key).filter(|_| is_set) {
                problems.error(node.position, format!("{key} is set, must have keepAliveInterval beside it"));
            }
        }
    }
    Some(ClientKeepAlive {
        interval: interval.or(base.map(|base| base.interval))?,
        // The default is the same in both directions.
        timeout: timeout
            .or(base.map(|base| base.timeout))
            .unwrap_or_else(|| CONNECT_KEEP_ALIVE_TIMEOUT.default(Scope::Outbound)),
        while_idle: while_idle.or(base.map(|base| base.while_idle)).unwrap_or_default(),
    })
}

fn read_size(fields: &Fields<'_>, key: &str, var: &Var<Number>, problems: &mut Problems) -> Option<usize> {
    let size = fields.read(problems, key, &var.grammar)?;
    Some(usize::try_from(size).unwrap_or(usize::MAX))
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}
