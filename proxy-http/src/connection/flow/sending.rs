//! A stream on which DATA is sent, and a client that does not take it.

use crate::connection::state::ConnectionState;
use http::uri::PathAndQuery;
use std::{mem, sync::Arc};

/// A stream on which DATA is sent, and whether it is blocked.
#[derive(Debug)]
pub(crate) struct SendingStream {
    connection_state: Arc<ConnectionState>,
    path: Option<PathAndQuery>,
    /// `None`: it is not blocked.
    blocked: Option<u32>,
    /// Bytes that the head of its request counts for. 0: the response has begun, or the stream is one to an endpoint.
    head: usize,
}

/// Marks a request of a client that does not read other responses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoppedClient;

// === impl SendingStream ===

impl SendingStream {
    pub(crate) fn new(connection_state: &Arc<ConnectionState>, path: Option<PathAndQuery>) -> Self {
        Self { connection_state: Arc::clone(connection_state), path, blocked: None, head: 0 }
    }

    /// Counts bytes for the head of the stream's request.
    pub(super) fn hold_head(&mut self, bytes: usize) {
        self.connection_state.add_head(bytes);
        self.head = bytes;
    }

    /// To be called when the response begins: the head of the request is not needed any more.
    pub(crate) fn drop_head(&mut self) {
        if self.head > 0 {
            self.connection_state.remove_head(mem::take(&mut self.head));
        }
    }

    /// The largest payload of a frame that the peer takes, in bytes.
    #[inline]
    pub(crate) fn peer_max_frame(&self) -> usize {
        self.connection_state.path().peer_max_frame() as usize
    }

    /// Notes that the stream has DATA and cannot send it.
    #[inline]
    pub(crate) fn block(&mut self, id: impl FnOnce() -> u32) {
        if self.blocked.is_none() {
            let id = id();
            self.blocked = Some(id);
            let state = &self.connection_state;
            state.sending().block(id, self.path.clone(), state.blocked_reason());
        }
    }

    /// Notes that it can, or has nothing to send.
    #[inline]
    pub(crate) fn unblock(&mut self) {
        if let Some(id) = self.blocked.take() {
            self.connection_state.sending().unblock(id);
        }
    }
}

impl Drop for SendingStream {
    fn drop(&mut self) {
        self.unblock();
        self.drop_head();
    }
}
