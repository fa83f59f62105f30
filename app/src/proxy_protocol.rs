//! The PROXY protocol (<https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>): a header before the first byte of a
//! connection, by which a load balancer tells whose connection it passes on. [`Receiver`] reads it from clients, [`Sender`] has it sent to
//! endpoints.
//!
//! No byte that follows the header is read with it: TLS and the detection of HTTP's version find the connection as if it had
//! begun there.

mod header;
mod receiver;
mod sender;

pub(crate) use header::encode;
pub(crate) use receiver::Receiver;
pub(crate) use sender::Sender;
