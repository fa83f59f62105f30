//! Makes connections to endpoints.

use crate::{
    BoxError,
    client::{
        error::ConnectError,
        http1,
        http2::{Driver, builder, settings, windows},
        log::EndpointLog,
        room::OnRoom,
        send_request::{Engine, SendRequest},
    },
    connection::{
        detect::Protocol,
        io::Io,
        state::ConnectionState,
        window_credit::{BufferLimit, WindowCredit},
    },
    stats::Transport,
};
use http_h2::{ClientParams, FlowControl, OutOfRange};
use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tower_service::Service;

/// Makes connections to targets: a `Service<Target>` whose response is the connection's service.
///
/// A connection of HTTP/2 is made when its peer's SETTINGS have come, even if they say that it takes no streams yet.
///
/// `C` is the connector, a tower service that turns a target into an `AsyncRead + AsyncWrite`. `B` is the body of the
/// requests to be sent.
pub struct Connect<C, B> {
    connector: C,
    params: ClientParams,
    protocol: Protocol,
    builder: h2::client::Builder,
    timeout: Option<Duration>,
    handshake_timeout: Option<Duration>,
    transport: Arc<Transport>,
    buffers: Arc<BufferLimit>,
    log: Arc<EndpointLog>,
    on_transport: OnRoom,
    on_room: OnRoom,
    body: PhantomData<fn(B)>,
}

/// A connection that is being made.
pub type ConnectFuture<B> = Pin<Box<dyn Future<Output = Result<SendRequest<B>, ConnectError>> + Send>>;

// === impl Connect ===

impl<C, B> Connect<C, B> {
    /// Connections over what `connector` makes, tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of its range.
    pub fn new(connector: C, params: &ClientParams) -> Result<Self, OutOfRange> {
        params.validate()?;
        Ok(Self {
            connector,
            params: *params,
            protocol: Protocol::Http2,
            builder: builder(params),
            timeout: None,
            handshake_timeout: None,
            transport: Arc::default(),
            buffers: Arc::default(),
            log: Arc::default(),
            on_transport: Arc::new(|| {}),
            on_room: Arc::new(|| {}),
            body: PhantomData,
        })
    }

    /// The same with other params, where `overrides` sets them.
    ///
    /// # Errors
    ///
    /// The first of the params that is out of its range.
    pub fn override_from(self, overrides: &ClientParams) -> Result<Self, OutOfRange> {
        let params = self.params.override_from(overrides);
        params.validate()?;
        Ok(Self { params, builder: builder(&params), ..self })
    }

    /// Speaks `protocol`. Not set: HTTP/2. Of the params, `max_header_list_size` alone holds for HTTP/1.1.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    pub(crate) fn is_http1(&self) -> bool {
        self.protocol == Protocol::Http1
    }

    /// Gives up when the transport, with its TLS, takes longer than `timeout`. Not set: no limit.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Gives up when the peer's SETTINGS take longer than `timeout` once there is a transport. Not set: no limit.
    ///
    /// Requests wait meanwhile, under time-outs of their own. HTTP/1.1 has no such handshake.
    #[must_use]
    pub fn handshake_timeout(self, timeout: Duration) -> Self {
        Self { handshake_timeout: Some(timeout), ..self }
    }

    /// Reports the states of endpoints in `log`, which several share that connect to the same ones. Not set: each in its own.
    #[must_use]
    pub fn log_to(self, log: Arc<EndpointLog>) -> Self {
        Self { log, ..self }
    }

    pub(crate) fn log(&self) -> &Arc<EndpointLog> {
        &self.log
    }

    /// Calls `on_transport` when there is a transport, but no handshake yet. Not set: nobody is told.
    pub(crate) fn on_transport(self, on_transport: OnRoom) -> Self {
        Self { on_transport, ..self }
    }

    /// Calls `on_room` when a connection may have room for one more request. Not set: nobody is told.
    pub(crate) fn on_room(self, on_room: OnRoom) -> Self {
        Self { on_room, ..self }
    }

    /// Doubles the interval of keep-alive PINGs of connections made from now on; returns the new one. `None`: none are sent.
    pub(crate) fn slow_keep_alive(&mut self) -> Option<Duration> {
        let keep_alive = self.params.keep_alive.as_mut()?;
        keep_alive.interval = keep_alive.interval.saturating_mul(2);
        Some(keep_alive.interval)
    }

    /// Counts connections and their bytes on `transport`.
    #[must_use]
    pub fn count_on(self, transport: Arc<Transport>) -> Self {
        Self { transport, ..self }
    }

    /// Has connections take what they hold for readers that have stopped from `buffers`. Not set: there is no bound.
    #[must_use]
    pub fn buffer_in(self, buffers: Arc<BufferLimit>) -> Self {
        Self { buffers, ..self }
    }
}

impl<C, B, T> Service<T> for Connect<C, B>
where
    C: Service<T>,
    C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = SendRequest<B>;
    type Error = ConnectError;
    // Boxed once a connection.
    type Future = ConnectFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.connector.poll_ready(cx).map_err(ConnectError::transport)
    }

    fn call(&mut self, target: T) -> ConnectFuture<B> {
        let connecting = self.connector.call(target);
        let builder = self.builder.clone();
        let transport = Arc::clone(&self.transport);
        let buffers = Arc::clone(&self.buffers);
        let ClientParams {
            keep_alive,
            flow_control,
            max_local_error_reset_streams,
            max_header_list_size,
            write_stall_timeout,
            ..
        } = self.params;
        let max_malformed =
            max_local_error_reset_streams.unwrap_or(ClientParams::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS) / 2;
        let write_stall = write_stall_timeout.unwrap_or(ClientParams::DEFAULT_WRITE_STALL_TIMEOUT);
        let adaptive = flow_control == Some(FlowControl::Adaptive);
        let Self { timeout, handshake_timeout, protocol, .. } = *self;
        let (on_transport, on_room) = (Arc::clone(&self.on_transport), Arc::clone(&self.on_room));
        Box::pin(async move {
            let io = match timeout {
                None => connecting.await,
                Some(limit) => {
                    tokio::time::timeout(limit, connecting).await.map_err(|_| ConnectError::timed_out(limit))?
                }
            };
            let io = io.map_err(ConnectError::transport)?;
            on_transport();
            let connection_state = ConnectionState::new(adaptive);
            let (open, closed) = watch::channel(());
            let max_header_list = max_header_list_size.unwrap_or(ClientParams::DEFAULT_MAX_HEADER_LIST_SIZE);
            let max_head = usize::try_from(max_header_list).unwrap_or(usize::MAX);
            let engine = match protocol {
                Protocol::Http2 => {
                    connection_state.set_max_list(max_head);
                    let io = Io::new(io, &transport, &connection_state).with_http2_endpoint(max_header_list);
                    let (h2, mut connection) = builder.handshake(io).await.map_err(ConnectError::handshake)?;
                    connection_state.start_pings(connection.ping_pong(), keep_alive);
                    let mut credit = WindowCredit::new(buffers, windows(flow_control));
                    let settings = settings(&mut connection, &h2, &connection_state, &mut credit);
                    match handshake_timeout {
                        None => settings.await?,
                        Some(limit) => {
                            let settings = tokio::time::timeout(limit, settings).await;
                            settings.map_err(|_| ConnectError::no_settings(limit))??;
                        }
                    }
                    let driver = Driver {
                        connection,
                        connection_state: Arc::clone(&connection_state),
                        credit,
                        transport,
                        on_room,
                        max_malformed,
                    };
                    tokio::spawn(driver.drive(h2.clone(), open));
                    Engine::Http2(h2)
                }
                Protocol::Http1 => {
                    let interim = Arc::default();
                    let io = Io::new(io, &transport, &connection_state).with_http1_endpoint(Arc::clone(&interim));
                    let made = http1::connect(io, max_head, interim, open, on_room).await;
                    Engine::Http1(made.map_err(ConnectError::handshake)?)
                }
            };
            Ok(SendRequest { engine, connection_state, closed, write_stall, body: PhantomData })
        })
    }
}

impl<C: Clone, B> Clone for Connect<C, B> {
    fn clone(&self) -> Self {
        Self {
            connector: self.connector.clone(),
            params: self.params,
            protocol: self.protocol,
            builder: self.builder.clone(),
            timeout: self.timeout,
            handshake_timeout: self.handshake_timeout,
            transport: Arc::clone(&self.transport),
            buffers: Arc::clone(&self.buffers),
            log: Arc::clone(&self.log),
            on_transport: Arc::clone(&self.on_transport),
            on_room: Arc::clone(&self.on_room),
            body: PhantomData,
        }
    }
}

impl<C: fmt::Debug, B> fmt::Debug for Connect<C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("connector", &self.connector).field("timeout", &self.timeout).finish()
    }
}
