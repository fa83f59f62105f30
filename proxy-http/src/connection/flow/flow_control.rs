//! The flow control of DATA that one connection receives, and its PINGs, as the connection's task runs them.

use crate::{
    connection::{
        flow::{
            buffer_limit::BufferLimit,
            ping::{MIN_RECEIVED, PingEvent, Pings},
            windows::{Engine, Windows},
        },
        state::ConnectionState,
    },
    stats::Side,
};
use http_h2::{ClientKeepAlive, FlowControl};
use std::{
    sync::Arc,
    task::{Context, Poll},
};

/// Grants windows to the peer of one connection, and measures the path to it.
#[derive(Debug)]
pub(crate) struct Flow {
    windows: Windows,
    pings: Pings,
}

/// A PING was not acknowledged in time.
#[derive(Debug)]
pub(crate) struct KeepAliveTimedOut;

// === impl Flow ===

impl Flow {
    pub(crate) fn new(
        buffers: Arc<BufferLimit>,
        flow_control: FlowControl,
        keep_alive: Option<ClientKeepAlive>,
        peer: Side,
    ) -> Self {
        let windows = Windows::new(buffers, flow_control, peer);
        let pings = Pings::new(keep_alive, windows.is_adaptive());
        Self { windows, pings }
    }

    /// The window of a stream, for the engine's builder.
    pub(crate) fn stream_window(&self) -> u32 {
        self.windows.stream()
    }

    /// To be called once the connection is established.
    pub(crate) fn start(&mut self, engine: &mut impl Engine, state: &ConnectionState) {
        self.windows.start(engine, state);
        self.pings.start();
    }

    /// To be called in each poll of the connection, before the engine's.
    #[inline]
    pub(crate) fn poll_windows(&mut self, engine: &mut impl Engine, state: &ConnectionState, cx: &mut Context<'_>) {
        self.windows.poll(engine, state, cx);
    }

    /// To be called in each poll of the connection, after the engine's.
    pub(crate) fn poll_pings(
        &mut self,
        engine: &mut impl Engine,
        state: &ConnectionState,
        cx: &mut Context<'_>,
    ) -> Poll<KeepAliveTimedOut> {
        while let Poll::Ready(event) = self.pings.poll(engine, state, cx) {
            match event {
                PingEvent::KeepAliveTimedOut => return Poll::Ready(KeepAliveTimedOut),
                PingEvent::Measured(received) if self.windows.is_adaptive() => {
                    if received >= MIN_RECEIVED {
                        self.windows.fit_path(received, engine, state);
                    }
                }
                PingEvent::Measured(received) => state.measured_fixed(received),
            }
        }
        Poll::Pending
    }
}
