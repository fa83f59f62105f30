//! One direction: its listener, its endpoints and the bounds between them.

use crate::{
    Backoff, Connect, Direction, Error, HostPort, Origin, TcpParams,
    error::plain,
    grammar::{Grammar, Number, Time},
    http2::{self, Shared},
    reader::Reader,
    table::{
        ACCEPT_BACKLOG, ACCEPT_KEEPALIVE, ACCEPT_USER_TIMEOUT, CONNECT_EXP_BACKOFF_JITTER, CONNECT_EXP_BACKOFF_MAX,
        CONNECT_EXP_BACKOFF_MIN, CONNECT_KEEPALIVE, CONNECT_TIMEOUT, CONNECT_USER_TIMEOUT, ENDPOINTS,
        HTTP_FAILFAST_TIMEOUT, HTTP_QUEUE_CAPACITY, HTTP_REQUEST_TIMEOUT, LISTEN_ADDR, MAX_IN_FLIGHT,
    },
    variable::{Scope, Var},
};

/// Reads a direction. `None`: it is off, and nothing but its errors matters.
pub(crate) fn read(env: &mut Reader, scope: Scope, shared: &Shared) -> Option<Direction> {
    let endpoints = read_endpoints(env, scope);
    let direction = Direction {
        listen_addr: env.read_or_default(&LISTEN_ADDR, scope),
        endpoints: endpoints.unwrap_or_default(),
        server: http2::read_server(env, scope),
        accept: read_tcp(env, scope, &ACCEPT_KEEPALIVE, &ACCEPT_USER_TIMEOUT),
        accept_backlog: env.read_or_default(&ACCEPT_BACKLOG, scope),
        connect: Connect {
            http2: http2::read_client(env, scope, shared),
            timeout: env.read_or_default(&CONNECT_TIMEOUT, scope),
            backoff: read_backoff(env, scope),
            tcp: read_tcp(env, scope, &CONNECT_KEEPALIVE, &CONNECT_USER_TIMEOUT),
        },
        http_queue_capacity: read_bound(env, scope, &HTTP_QUEUE_CAPACITY),
        http_failfast_timeout: env.read_or_default(&HTTP_FAILFAST_TIMEOUT, scope),
        http_request_timeout: env.read(&HTTP_REQUEST_TIMEOUT, scope),
        max_in_flight: read_bound(env, scope, &MAX_IN_FLIGHT),
    };
    if !env.is_set(&ENDPOINTS, scope) {
        env.warn_without_effect(scope, &ENDPOINTS);
        return None;
    }
    Some(direction)
}

fn read_endpoints(env: &mut Reader, scope: Scope) -> Option<Vec<HostPort>> {
    let listed = env.read(&ENDPOINTS, scope)?;
    let mut endpoints: Vec<HostPort> = Vec::with_capacity(listed.len());
    let mut repeated: Vec<HostPort> = Vec::new();
    for endpoint in listed {
        let list = if endpoints.contains(&endpoint) { &mut repeated } else { &mut endpoints };
        list.push(endpoint);
    }
    if !repeated.is_empty() {
        repeated.sort();
        repeated.dedup();
        let message = format!("has more than once, and uses once: {}", plain(&ENDPOINTS.grammar.print(&repeated)));
        env.warn(ENDPOINTS.name(scope), message);
    }
    Some(env.fall_back(&ENDPOINTS, scope, endpoints, Origin::Environment))
}

fn read_tcp(env: &mut Reader, scope: Scope, keepalive: &Var<Time>, user_timeout: &Var<Time>) -> TcpParams {
    TcpParams { keepalive: env.read(keepalive, scope), user_timeout: env.read(user_timeout, scope) }
}

fn read_backoff(env: &mut Reader, scope: Scope) -> Backoff {
    let backoff = Backoff {
        min: env.read_or_default(&CONNECT_EXP_BACKOFF_MIN, scope),
        max: env.read_or_default(&CONNECT_EXP_BACKOFF_MAX, scope),
        jitter: env.read_or_default(&CONNECT_EXP_BACKOFF_JITTER, scope),
    };
    let one_is_wrong = env.is_wrong(&CONNECT_EXP_BACKOFF_MIN, scope) || env.is_wrong(&CONNECT_EXP_BACKOFF_MAX, scope);
    if backoff.min > backoff.max && !one_is_wrong {
        let (min, max) = (&CONNECT_EXP_BACKOFF_MIN, &CONNECT_EXP_BACKOFF_MAX);
        let (min_text, max_text) = (min.grammar.print(&backoff.min), max.grammar.print(&backoff.max));
        // The one that is set is the one to change; a default alone is not at fault.
        env.error(if env.is_set(max, scope) {
            let expected = format!("at least {min_text}, the value of {}", min.name(scope));
            Error::new(max.name(scope), format!("is {max_text}"), expected)
        } else {
            let expected = format!("at most {max_text}, the value of {}", max.name(scope));
            Error::new(min.name(scope), format!("is {min_text}"), expected)
        });
    }
    backoff
}

fn read_bound(env: &mut Reader, scope: Scope, var: &Var<Number>) -> usize {
    usize::try_from(env.read_or_default(var, scope)).unwrap_or(usize::MAX)
}
