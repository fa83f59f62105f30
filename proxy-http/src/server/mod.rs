//! Connections from clients, served by a tower service.
//!
//! The [crate](crate#examples) has an example.

mod adapter;
mod builder;
mod error;
mod http1;
mod http2;
mod serve;
mod stream;
mod task_slots;

pub use self::{
    builder::{Accepted, Server},
    error::Error,
};
pub use crate::connection::detect::Protocol;
