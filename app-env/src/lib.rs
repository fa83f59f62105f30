//! Turns environment variables into the settings of a proxy, or into one readable error.
//!
//! [`load`] reads every variable that [`variables`] lists from a [`Source`], checks it, and returns a [`Config`] made
//! of plain values. It never stops at the first problem: [`Errors`] has one line for each, with the variable, its
//! value and the values that it accepts.
//!
//! ```
//! use std::{collections::BTreeMap, time::Duration};
//!
//! let mut vars = BTreeMap::from([
//!     ("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "10.0.0.1:8080, 10.0.0.2:8080"),
//!     ("LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT", "250ms"),
//! ]);
//! let loaded = app_env::load(&vars)?;
//! let outbound = loaded.config.outbound.expect("it has endpoints");
//! assert_eq!(outbound.connect.timeout, Duration::from_millis(250));
//! assert!(loaded.config.inbound.is_none());
//!
//! vars.insert("LINKERD2_PROXY_OUTBOUND_CONNECT_HTTP2_MAX_FRAME_SIZE", "4");
//! assert_eq!(
//!     app_env::load(&vars).unwrap_err().to_string(),
//!     r#"LINKERD2_PROXY_OUTBOUND_CONNECT_HTTP2_MAX_FRAME_SIZE: is "4", must be a whole number in 16384..=16777215"#,
//! );
//! # Ok::<(), app_env::Errors>(())
//! ```
//!
//! # Rules for all variables
//!
//! - White space around a value is ignored. Booleans are `true` or `false`, numbers decimal digits, durations digits
//!   and one of `ms`, `s`, `m`, `h`, `d`, or `0`; at most `36500d`.
//! - A value left unset takes its own default, also when it is one of a pair (windows, backoff). Where the other half
//!   alone would do nothing it is an error: `…KEEP_ALIVE_TIMEOUT`, or `…KEEP_ALIVE_WHILE_IDLE=true`, without
//!   `…KEEP_ALIVE_INTERVAL`, `…MAX_CONNECTION_AGE_GRACE` without `…MAX_CONNECTION_AGE`, and variables of TLS without the
//!   ones that turn it on (`…SERVER_TLS_CERT` and `…SERVER_TLS_KEY`, `…CONNECT_TLS=on`) or ask clients for certificates
//!   (`…SERVER_TLS_CLIENT_CA`).
//! - An empty value is an error, but for `…ENDPOINTS`, `CORES`, `LOG_FORMAT`, `ACCESS_LOG`,
//!   `TRACE_EXTRA_ATTRIBUTES` and `OTEL_RESOURCE_ATTRIBUTES`, where it counts as unset.
//! - Zero is refused where it would hang or fail every request: all durations but the two of grace (0
//!   ends requests at once), `SLOW_START`, `DNS_…_TTL` and `DNS_NEGATIVE_HOLD`, windows, queues, `MAX_CONCURRENT_STREAMS`.
//! - Adaptive flow control wins over windows set beside it, with a warning. `…CONNECT_HTTP2_` windows win over the
//!   shared `HTTP2_` ones, which win over the defaults.
//! - A direction is on when its `…ENDPOINTS` are set, or the file of its `…ROUTES`, which is not read here: see [`routes`].
//!   Both are an error. Variables of a direction that is off are checked all the same,
//!   and each gets a warning that it has no effect.
//! - An unknown variable with the [`PREFIX`] is a warning with the nearest known name, never an error.
//!
//! Names, grammar and defaults are linkerd2-proxy's where it has the variable; its README lists every difference.
//!
//! # Stability
//!
//! Names of variables and the meanings of valid values are stable. The wording of messages and of
//! [`Variable::accepts`] is not.
#![forbid(unsafe_code)]

mod client_name;
mod config;
mod direction;
mod discovery;
mod error;
mod grammar;
mod host_port;
mod http2;
mod linkerd;
mod load;
mod process;
mod reader;
pub mod routes;
mod source;
mod stream_addr;
mod table;
mod tls;
mod variable;

pub use client_name::{ClientName, InvalidClientName};
pub use config::{
    AccessLog, AccessLogFormat, Backoff, Breaker, ClientAuth, ClientCert, Config, Connect, ConnectHttp1, ConnectTls,
    ControlPlane, Direction, Dns, EndpointProtocol, Forwarded, HealthCheck, HealthCheckRequest, LogFormat,
    ProxyProtocol, RateLimit, Retry, ServerTls, TcpParams, TlsIdentity, Traces,
};
pub use discovery::{Discovery, DiscoverySource, DomainSuffix, InvalidNetwork, Network};
pub use error::{Error, Errors, Warning};
pub use host_port::{HostPort, InvalidHostPort};
pub use load::{EXIT_CODE, Loaded, load};
pub use reader::{Effective, Origin};
pub use source::{Process, Source};
pub use stream_addr::{EndpointAddr, StreamAddr, UnixAddr};
pub use variable::{PREFIX, Variable, markdown, variables};
