//! An HTTP/2 and gRPC proxy, as a library, which the `app` binary runs.
//!
//! [`Process::start`] turns an [`app_env::Config`] into listeners, workers and an admin server, and
//! [`Process::run`] keeps them up until they are told to drain.
//!
//! ```no_run
//! use std::collections::HashMap;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let env = HashMap::from([("LINKERD2_PROXY_OUTBOUND_ENDPOINTS", "127.0.0.1:8080")]);
//! let process = app::Process::start(app_env::load(&env)?, app::LogLevel::fixed())?;
//! println!("listening on {:?}", process.outbound_addr());
//! process.run(std::future::pending()).await;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod accept;
mod access_log;
mod admin;
mod authorities;
mod backend;
mod build;
pub mod cli;
mod client_addr;
mod connector;
mod demo;
mod descriptors;
mod destination;
pub mod dns;
mod grpc;
mod handover;
mod health_check;
mod linkerd;
mod listener;
mod log;
mod metrics;
mod observers;
mod process;
mod proxy_protocol;
mod reload;
mod routes;
mod routing;
mod settings;
mod sockets;
mod systemd;
mod tls;
mod traces;
mod transport;
mod window_limits;
mod worker;

pub use listener::BindError;
pub use log::{LogGuard, LogLevel};
pub use process::{Process, Reloader, StartError};
