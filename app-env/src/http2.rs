//! HTTP/2 toward clients and toward endpoints.

use crate::{
    Config, Direction, Error, Origin,
    grammar::{Bool, Number, Time},
    reader::Reader,
    table::{
        CONNECT_ADAPTIVE_FLOW_CONTROL, CONNECT_HEADER_TABLE_SIZE, CONNECT_INITIAL_CONNECTION_WINDOW_SIZE,
        CONNECT_INITIAL_STREAM_WINDOW_SIZE, CONNECT_KEEP_ALIVE_INTERVAL, CONNECT_KEEP_ALIVE_TIMEOUT,
        CONNECT_KEEP_ALIVE_WHILE_IDLE, CONNECT_MAX_CONCURRENT_RESET_STREAMS, CONNECT_MAX_FRAME_SIZE,
        CONNECT_MAX_HEADER_LIST_SIZE, CONNECT_MAX_LOCAL_ERROR_RESET_STREAMS, CONNECT_MAX_SEND_BUF_SIZE,
        CONNECT_WRITE_STALL_TIMEOUT, MAX_BUFFERED_BYTES, SERVER_ADAPTIVE_FLOW_CONTROL, SERVER_HANDSHAKE_TIMEOUT,
        SERVER_HEADER_TABLE_SIZE, SERVER_HEADER_TIMEOUT, SERVER_INITIAL_CONNECTION_WINDOW_SIZE,
        SERVER_INITIAL_STREAM_WINDOW_SIZE, SERVER_KEEP_ALIVE_INTERVAL, SERVER_KEEP_ALIVE_TIMEOUT,
        SERVER_MAX_CONCURRENT_RESET_STREAMS, SERVER_MAX_CONCURRENT_STREAMS, SERVER_MAX_CONNECTION_AGE,
        SERVER_MAX_CONNECTION_AGE_GRACE, SERVER_MAX_CONNECTION_IDLE, SERVER_MAX_CONTROL_FRAMES, SERVER_MAX_FRAME_SIZE,
        SERVER_MAX_HEADER_LIST_SIZE, SERVER_MAX_LOCAL_ERROR_RESET_STREAMS, SERVER_MAX_PENDING_ACCEPT_RESET_STREAMS,
        SERVER_MAX_PREMATURE_RESETS, SERVER_MAX_SEND_BUF_SIZE, SERVER_STREAM_IDLE_TIMEOUT, SERVER_WRITE_STALL_TIMEOUT,
        SHARED_INITIAL_CONNECTION_WINDOW_SIZE, SHARED_INITIAL_STREAM_WINDOW_SIZE,
    },
    variable::{Scope, Var},
};
use http_h2::{ClientKeepAlive, ClientParams, FlowControl, KeepAlive, MaxConnectionAge, Protection, ServerParams};
use std::time::Duration;

/// The windows toward endpoints that both directions start from.
pub(crate) struct Shared {
    stream: Window,
    connection: Window,
}

/// A window, and the origin of a variable that takes it as its default.
struct Window {
    size: u32,
    origin: Origin,
}

/// A fixed window of a connection is large from this part of `MAX_BUFFERED_BYTES` on.
const LARGE: usize = 6;

pub(crate) fn read_shared(env: &mut Reader) -> Shared {
    Shared {
        stream: Window::read_shared(env, &SHARED_INITIAL_STREAM_WINDOW_SIZE),
        connection: Window::read_shared(env, &SHARED_INITIAL_CONNECTION_WINDOW_SIZE),
    }
}

pub(crate) fn read_server(env: &mut Reader, scope: Scope) -> ServerParams {
    let flow_control = read_flow_control(
        env,
        scope,
        &SERVER_ADAPTIVE_FLOW_CONTROL,
        (&SERVER_INITIAL_STREAM_WINDOW_SIZE, &Window::default_of(&SERVER_INITIAL_STREAM_WINDOW_SIZE, scope)),
        (&SERVER_INITIAL_CONNECTION_WINDOW_SIZE, &Window::default_of(&SERVER_INITIAL_CONNECTION_WINDOW_SIZE, scope)),
    );
    let keep_alive = read_keep_alive(env, scope, &SERVER_KEEP_ALIVE_INTERVAL, &SERVER_KEEP_ALIVE_TIMEOUT, None);
    ServerParams {
        flow_control: Some(flow_control),
        keep_alive: keep_alive.map(|ClientKeepAlive { interval, timeout, .. }| KeepAlive { interval, timeout }),
        max_concurrent_streams: env.read(&SERVER_MAX_CONCURRENT_STREAMS, scope),
        max_frame_size: env.read(&SERVER_MAX_FRAME_SIZE, scope),
        header_table_size: env.read(&SERVER_HEADER_TABLE_SIZE, scope),
        max_header_list_size: env.read(&SERVER_MAX_HEADER_LIST_SIZE, scope),
        max_pending_accept_reset_streams: env.read(&SERVER_MAX_PENDING_ACCEPT_RESET_STREAMS, scope).map(size),
        max_concurrent_reset_streams: env.read(&SERVER_MAX_CONCURRENT_RESET_STREAMS, scope).map(size),
        max_local_error_reset_streams: env.read(&SERVER_MAX_LOCAL_ERROR_RESET_STREAMS, scope).map(size),
        max_send_buf_size: env.read(&SERVER_MAX_SEND_BUF_SIZE, scope).map(size),
        max_connection_age: read_max_connection_age(env, scope),
        max_connection_idle: Some(env.read_or_default(&SERVER_MAX_CONNECTION_IDLE, scope)),
        write_stall_timeout: Some(env.read_or_default(&SERVER_WRITE_STALL_TIMEOUT, scope)),
        stream_idle_timeout: env.read(&SERVER_STREAM_IDLE_TIMEOUT, scope),
        protection: Protection {
            handshake_timeout: env.read_or_default(&SERVER_HANDSHAKE_TIMEOUT, scope),
            header_timeout: env.read_or_default(&SERVER_HEADER_TIMEOUT, scope),
            max_premature_resets: env.read_or_default(&SERVER_MAX_PREMATURE_RESETS, scope),
            max_control_frames: env.read_or_default(&SERVER_MAX_CONTROL_FRAMES, scope),
        },
    }
}

pub(crate) fn read_client(env: &mut Reader, scope: Scope, shared: &Shared) -> ClientParams {
    let flow_control = read_flow_control(
        env,
        scope,
        &CONNECT_ADAPTIVE_FLOW_CONTROL,
        (&CONNECT_INITIAL_STREAM_WINDOW_SIZE, &shared.stream),
        (&CONNECT_INITIAL_CONNECTION_WINDOW_SIZE, &shared.connection),
    );
    let keep_alive = read_keep_alive(
        env,
        scope,
        &CONNECT_KEEP_ALIVE_INTERVAL,
        &CONNECT_KEEP_ALIVE_TIMEOUT,
        Some(&CONNECT_KEEP_ALIVE_WHILE_IDLE),
    );
    ClientParams {
        flow_control: Some(flow_control),
        keep_alive,
        max_concurrent_reset_streams: Some(size(env.read_or_default(&CONNECT_MAX_CONCURRENT_RESET_STREAMS, scope))),
        max_local_error_reset_streams: env.read(&CONNECT_MAX_LOCAL_ERROR_RESET_STREAMS, scope).map(size),
        max_frame_size: env.read(&CONNECT_MAX_FRAME_SIZE, scope),
        header_table_size: env.read(&CONNECT_HEADER_TABLE_SIZE, scope),
        max_header_list_size: env.read(&CONNECT_MAX_HEADER_LIST_SIZE, scope),
        max_send_buf_size: env.read(&CONNECT_MAX_SEND_BUF_SIZE, scope).map(size),
        write_stall_timeout: Some(env.read_or_default(&CONNECT_WRITE_STALL_TIMEOUT, scope)),
    }
}

/// Warns of a shared window that is set while every direction that is on has its own, or none.
pub(crate) fn warn_of_unused_shared(env: &mut Reader, config: &Config) {
    let on = [(&config.inbound, Scope::Inbound), (&config.outbound, Scope::Outbound)];
    for (shared, own) in [
        (&SHARED_INITIAL_STREAM_WINDOW_SIZE, &CONNECT_INITIAL_STREAM_WINDOW_SIZE),
        (&SHARED_INITIAL_CONNECTION_WINDOW_SIZE, &CONNECT_INITIAL_CONNECTION_WINDOW_SIZE),
    ] {
        let is_used = on
            .iter()
            .filter(|(direction, _)| direction.is_some())
            .any(|(_, scope)| matches!(env.origin(own, *scope), Some(Origin::Inherited(_))));
        if env.is_set(shared, Scope::Process) && !is_used {
            env.warn(shared.name(Scope::Process), "has no effect, no direction that is on uses it");
        }
    }
}

/// Warns of a fixed window of streams that is set, and larger than that of their connection, which bounds them, too.
pub(crate) fn warn_of_bounded_windows(env: &mut Reader, scope: Scope, direction: &Direction) {
    for (var, connection_var, flow_control) in [
        (&SERVER_INITIAL_STREAM_WINDOW_SIZE, &SERVER_INITIAL_CONNECTION_WINDOW_SIZE, direction.server.flow_control),
        (
            &CONNECT_INITIAL_STREAM_WINDOW_SIZE,
            &CONNECT_INITIAL_CONNECTION_WINDOW_SIZE,
            direction.connect.http2.flow_control,
        ),
    ] {
        let Some(FlowControl::Fixed { initial_stream_window_size: stream, initial_connection_window_size: connection }) =
            flow_control
        else {
            continue;
        };
        if stream > connection {
            let set = match env.origin(var, scope) {
                Some(Origin::Environment) => var.name(scope),
                Some(Origin::Inherited(name)) => name.clone(),
                _ => continue,
            };
            let connection_name = connection_var.name(scope);
            env.warn(set, format!("is {stream}, and a stream gets no more than {connection_name} ({connection})"));
        }
    }
}

/// Warns of fixed windows of connections of which six use up the bytes that may be buffered: a peer may fill each with DATA for readers that
/// have stopped, and the connection is given as much again for the other streams.
pub(crate) fn warn_of_large_windows(env: &mut Reader, scope: Scope, direction: &Direction) {
    let max = direction.max_buffered_bytes;
    for (var, flow_control) in [
        (&SERVER_INITIAL_CONNECTION_WINDOW_SIZE, direction.server.flow_control),
        (&CONNECT_INITIAL_CONNECTION_WINDOW_SIZE, direction.connect.http2.flow_control),
    ] {
        let Some(FlowControl::Fixed { initial_connection_window_size: window, .. }) = flow_control else { continue };
        if size(window) <= max / LARGE {
            continue;
        }
        let (name, max_name) = (var.name(scope), MAX_BUFFERED_BYTES.name(scope));
        let why = "a few connections whose readers stop use it up, and then streams beside them stall";
        // The variable that is set is the one to change.
        let set = match env.origin(var, scope) {
            Some(Origin::Environment) => Some(name.clone()),
            Some(Origin::Inherited(name)) => Some(name.clone()),
            _ => None,
        };
        match set {
            Some(set) => env.warn(set, format!("is {window}, more than a sixth of {max_name} ({max}): {why}")),
            None => env.warn(max_name, format!("is {max}, less than six times {name} ({window}): {why}")),
        }
    }
}

/// Reads one choice: adaptive, or two windows each of which has its own default.
fn read_flow_control(
    env: &mut Reader,
    scope: Scope,
    adaptive: &Var<Bool>,
    (stream_var, stream_default): (&Var<Number>, &Window),
    (connection_var, connection_default): (&Var<Number>, &Window),
) -> FlowControl {
    let is_adaptive = env.read_or_default(adaptive, scope);
    // Windows are read in any case, since a wrong one is an error also when it has no effect.
    let initial_stream_window_size = read_window(env, scope, stream_var, stream_default);
    let initial_connection_window_size = read_window(env, scope, connection_var, connection_default);
    if is_adaptive {
        let name = adaptive.name(scope);
        env.overrule(stream_var, scope, &name, "is true");
        env.overrule(connection_var, scope, &name, "is true");
        return FlowControl::Adaptive;
    }
    FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size }
}

fn read_window(env: &mut Reader, scope: Scope, var: &Var<Number>, default: &Window) -> u32 {
    env.read(var, scope).unwrap_or_else(|| env.fall_back(var, scope, default.size, default.origin.clone()))
}

/// Reads keep-alive. `None`: no PINGs are sent, or something is wrong.
fn read_keep_alive(
    env: &mut Reader,
    scope: Scope,
    interval_var: &Var<Time>,
    timeout_var: &Var<Time>,
    while_idle_var: Option<&Var<Bool>>,
) -> Option<ClientKeepAlive> {
    let interval = env.read(interval_var, scope);
    let timeout = env.read(timeout_var, scope);
    let while_idle = while_idle_var.is_some_and(|var| env.read_or_default(var, scope));
    if let Some(interval) = interval {
        let timeout = timeout.unwrap_or_else(|| fall_back(env, scope, timeout_var));
        return Some(ClientKeepAlive { interval, timeout, while_idle });
    }
    let mut needed_by = Vec::new();
    if env.is_set(timeout_var, scope) {
        needed_by.push(format!("{} is set", timeout_var.name(scope)));
    }
    if let Some(var) = while_idle_var.filter(|_| while_idle) {
        needed_by.push(format!("{} is true", var.name(scope)));
    }
    check_needed(env, scope, interval_var, &needed_by);
    None
}

/// Reads the age of connections and its grace. `None`: they have no end, or something is wrong.
fn read_max_connection_age(env: &mut Reader, scope: Scope) -> Option<MaxConnectionAge> {
    let (age_var, grace_var) = (&SERVER_MAX_CONNECTION_AGE, &SERVER_MAX_CONNECTION_AGE_GRACE);
    let age = env.read(age_var, scope);
    let grace = env.read(grace_var, scope);
    if let Some(age) = age {
        let grace = grace.unwrap_or_else(|| fall_back(env, scope, grace_var));
        return Some(MaxConnectionAge { age, grace });
    }
    if env.is_set(grace_var, scope) {
        check_needed(env, scope, age_var, &[format!("{} is set", grace_var.name(scope))]);
    }
    None
}

/// The default of a variable that has none until another one is set.
fn fall_back(env: &mut Reader, scope: Scope, var: &Var<Time>) -> Duration {
    env.fall_back(var, scope, var.default(scope), Origin::Default)
}

/// Half a pair is never ignored: an unset variable is an error if set ones would silently do nothing without it.
fn check_needed(env: &mut Reader, scope: Scope, var: &Var<Time>, needed_by: &[String]) {
    if !needed_by.is_empty() && !env.is_set(var, scope) {
        let expected = format!("{}, since {}", var.grammar, needed_by.join(" and "));
        env.error(Error::new(var.name(scope), "is not set", expected));
    }
}

/// Counts and sizes have 32 bits in the environment, which hold all that makes sense on any machine.
fn size(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

// === impl Window ===

impl Window {
    fn default_of(var: &Var<Number>, scope: Scope) -> Self {
        Self { size: var.default(scope), origin: Origin::Default }
    }

    fn read_shared(env: &mut Reader, var: &Var<Number>) -> Self {
        let size = env.read_or_default(var, Scope::Process);
        let is_default = env.origin(var, Scope::Process) == Some(&Origin::Default);
        let origin = if is_default { Origin::Default } else { Origin::Inherited(var.name(Scope::Process)) };
        Self { size, origin }
    }
}
