//! Makes connections to endpoints.

use crate::{
    BoxError,
    client::{
        capacity::OnCapacity,
        error::ConnectError,
        http1,
        http2::{Driver, builder, settings},
        log::EndpointLog,
        send_request::{Engine, SendRequest},
    },
    connection::{
        detect::Protocol,
        flow::{buffer_limit::BufferLimit, flow_control::Flow},
        io::Io,
        state::{ConnectionState, PeerName},
    },
    http1::params::max_headers,
    stats::{Side, Transport},
};
use http::uri::Authority;
use http_h2::{ClientParams, OutOfRange};
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
/// A connection of HTTP/2 is made when the peer's SETTINGS have come, even if their SETTINGS_MAX_CONCURRENT_STREAMS is zero.
///
/// `C` is the connector, a tower service that turns a target into an `AsyncRead + AsyncWrite`. `B` is the body of the
/// requests to be sent.
///
/// The [crate](crate#examples) has an example.
pub struct Connect<C, B> {
    connector: C,
    params: ClientParams,
    protocol: Protocol,
    builder: h2::client::Builder,
    timeout: Option<Duration>,
    handshake_timeout: Option<Duration>,
    transport: Arc<Transport>,
    buffers: Arc<BufferLimit>,
    max_headers_count: usize,
    log: Arc<EndpointLog>,
    peer: Option<Arc<str>>,
    authority: Option<Arc<Authority>>,
    on_transport: OnCapacity,
    on_capacity: OnCapacity,
    body: PhantomData<fn(B)>,
}

/// The future of a connection.
pub type ConnectFuture<B> = Pin<Box<dyn Future<Output = Result<SendRequest<B>, ConnectError>> + Send>>;

// === impl Connect ===

impl<C, B> Connect<C, B> {
    /// Connections over the transports that `connector` makes, tuned by `params`.
    ///
    /// # Errors
    ///
    /// The first of `params` that is out of range.
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
            max_headers_count: 0,
            log: Arc::default(),
            peer: None,
            authority: None,
            on_transport: Arc::new(|| {}),
            on_capacity: Arc::new(|| {}),
            body: PhantomData,
        })
    }

    /// Replaces the params that `overrides` sets.
    ///
    /// # Errors
    ///
    /// The first of the params that is out of range.
    pub(crate) fn override_from(self, overrides: &ClientParams) -> Result<Self, OutOfRange> {
        let params = self.params.override_from(overrides);
        params.validate()?;
        Ok(Self { params, builder: builder(&params), ..self })
    }

    /// The protocol of connections. Default: HTTP/2. Of the params, HTTP/1.1 uses `max_header_list_size` and
    /// `write_stall_timeout`.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    pub(crate) fn is_http1(&self) -> bool {
        self.protocol == Protocol::Http1
    }

    /// Fails if the transport, with its TLS handshake, takes longer than `timeout`. Default: no limit.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// Fails if the peer's SETTINGS take longer than `timeout` after the transport was made. Default: no limit.
    ///
    /// Requests wait meanwhile, under timeouts of their own. HTTP/1.1 has no such handshake.
    #[must_use]
    pub fn handshake_timeout(self, timeout: Duration) -> Self {
        Self { handshake_timeout: Some(timeout), ..self }
    }

    /// Limits log lines about endpoints by `log`, which services that connect to the same endpoints share. Default: a log of
    /// its own.
    #[must_use]
    pub fn log_to(self, log: Arc<EndpointLog>) -> Self {
        Self { log, ..self }
    }

    pub(crate) fn log(&self) -> &Arc<EndpointLog> {
        &self.log
    }

    /// The endpoint's name, for descriptions of its connections. Default: none.
    pub(crate) fn peer(self, peer: Arc<str>) -> Self {
        Self { peer: Some(peer), ..self }
    }

    /// Sends requests with this authority in place of their own. Default: with their own.
    pub(crate) fn authority(self, authority: Option<&Authority>) -> Self {
        Self { authority: authority.cloned().map(Arc::new), ..self }
    }

    /// Calls `on_transport` when the transport is made, before the handshake. Default: no call.
    pub(crate) fn on_transport(self, on_transport: OnCapacity) -> Self {
        Self { on_transport, ..self }
    }

    /// Calls `on_capacity` when a connection may accept one more request. Default: no call.
    pub(crate) fn on_capacity(self, on_capacity: OnCapacity) -> Self {
        Self { on_capacity, ..self }
    }

    /// Doubles the interval of keep-alive PINGs of connections made from now on, and returns the new interval. `None`: no
    /// PINGs are sent.
    pub(crate) fn double_keep_alive_interval(&mut self) -> Option<Duration> {
        let keep_alive = self.params.keep_alive.as_mut()?;
        keep_alive.interval = keep_alive.interval.saturating_mul(2);
        Some(keep_alive.interval)
    }

    /// Counts connections, their bytes, and the resets and GOAWAYs of peers in `transport`. Default: a new one.
    #[must_use]
    pub fn count_on(self, transport: Arc<Transport>) -> Self {
        Self { transport, ..self }
    }

    /// Counts data that connections hold for readers that have stopped against `buffers`. Default: no bound.
    #[must_use]
    pub fn buffer_in(self, buffers: Arc<BufferLimit>) -> Self {
        Self { buffers, ..self }
    }

    /// Takes responses of HTTP/1.1 with as many fields. hyper keeps a place for each in every head above 100, so that fewer cost
    /// less; it takes 100 at least. Default: 100.
    #[must_use]
    pub fn max_headers_count(self, count: usize) -> Self {
        Self { max_headers_count: count, ..self }
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
    // Boxed: one allocation a connection.
    type Future = ConnectFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.connector.poll_ready(cx).map_err(ConnectError::transport)
    }

    fn call(&mut self, target: T) -> ConnectFuture<B> {
        let connecting = self.connector.call(target);
        let builder = self.builder.clone();
        let (transport, buffers) = (Arc::clone(&self.transport), Arc::clone(&self.buffers));
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
        let flow_control = flow_control.unwrap_or(ClientParams::DEFAULT_FLOW_CONTROL);
        let Self { timeout, handshake_timeout, protocol, max_headers_count, ref peer, .. } = *self;
        let (peer, authority) = (peer.clone(), self.authority.clone());
        let (on_transport, on_capacity) = (Arc::clone(&self.on_transport), Arc::clone(&self.on_capacity));
        Box::pin(async move {
            let io = match timeout {
                None => connecting.await,
                Some(limit) => {
                    tokio::time::timeout(limit, connecting).await.map_err(|_| ConnectError::timed_out(limit))?
                }
            };
            let io = io.map_err(ConnectError::transport)?;
            on_transport();
            let connection_state = ConnectionState::new(&transport);
            connection_state.set_peer(peer.map(PeerName::Endpoint));
            let (open, closed) = watch::channel(());
            let max_header_list = max_header_list_size.unwrap_or(ClientParams::DEFAULT_MAX_HEADER_LIST_SIZE);
            let max_head = usize::try_from(max_header_list).unwrap_or(usize::MAX);
            let engine = match protocol {
                Protocol::Http2 => {
                    connection_state.set_local_max_header_list(max_head);
                    let io = Io::new(io, &transport, &connection_state).with_http2_endpoint(max_header_list);
                    let (h2, mut connection) = builder.handshake(io).await.map_err(ConnectError::handshake)?;
                    let mut flow = Flow::new(buffers, flow_control, keep_alive, Side::Endpoint);
                    flow.start(&mut connection, &connection_state);
                    let settings = settings(&mut connection, &h2, &connection_state, &mut flow);
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
                        flow,
                        transport,
                        on_capacity,
                        max_malformed,
                    };
                    driver.spawn(h2.clone(), open);
                    Engine::Http2(h2)
                }
                Protocol::Http1 => {
                    let interim = Arc::default();
                    let io = Io::new(io, &transport, &connection_state).with_http1_endpoint(Arc::clone(&interim));
                    let limits = (max_head, max_headers(max_headers_count, max_head));
                    let made = http1::connect(io, limits, interim, open, on_capacity).await;
                    Engine::Http1(made.map_err(ConnectError::handshake)?)
                }
            };
            Ok(SendRequest { engine, connection_state, closed, write_stall, authority, body: PhantomData })
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
            max_headers_count: self.max_headers_count,
            log: Arc::clone(&self.log),
            peer: self.peer.clone(),
            authority: self.authority.clone(),
            on_transport: Arc::clone(&self.on_transport),
            on_capacity: Arc::clone(&self.on_capacity),
            body: PhantomData,
        }
    }
}

impl<C: fmt::Debug, B> fmt::Debug for Connect<C, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("connector", &self.connector).field("timeout", &self.timeout).finish()
    }
}
