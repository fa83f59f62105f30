//! The process from outside: the binary, and the library on real sockets.

mod admin;
mod bad_input;
mod balancer;
mod connections;
mod crates;
mod deployments;
mod destinations;
mod dns;
mod docs;
mod drain;
mod grpc;
mod http1;
mod lifetime;
mod linkerd;
mod listener;
mod logs;
mod loops;
mod matrix;
mod protection;
mod rooms;
mod routes;
mod stalls;
mod support;
mod tls;
mod tunnels;
mod words;
