//! The whole process: its listeners, workers, admin server, and how it ends.

use crate::{
    LogLevel,
    accept::{Listener, Workers, accept},
    access_log,
    access_log::AccessLog,
    admin,
    authorities::Authorities,
    backend::{self, Backend, Source},
    build, client_addr,
    connector::OwnListeners,
    destination::Destination,
    dns,
    handover::{self, Handover},
    linkerd::{Control, Linkerd},
    listener::{BindError, SocketFile, StreamListener},
    metrics::Metrics,
    observers::Observers,
    proxy_protocol::Receiver,
    reload::{self, Reload},
    routing::{self, Routing},
    sockets::Sockets,
    systemd,
    tls::{self, Tls},
    traces::Traces,
    window_limits,
    worker::{Maxima, Plan, Worker},
};
use app_env::{Config, Direction, DiscoverySource, Loaded, StreamAddr};
use proxy_http::{
    BufferLimit, Server, http1,
    proxy::{self, retry},
};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::sleep,
};
use tracing::field::DisplayValue;

/// A proxy that listens.
#[derive(Debug)]
pub struct Process {
    listeners: Vec<Listener>,
    workers: Workers,
    admin: Arc<StreamListener>,
    /// Of the listeners that are Unix domain sockets, with their names.
    files: Vec<(&'static str, SocketFile)>,
    admin_state: Arc<admin::State>,
    /// All that is made of files.
    reloads: Vec<Arc<dyn Reload>>,
    reload: Reloader,
    observers: Observers,
    stop: watch::Sender<bool>,
    lame_duck: Duration,
    grace: Duration,
    upgrade_timeout: Duration,
}

/// Has a process read its certificates again; clones do the same.
#[derive(Clone, Debug, Default)]
pub struct Reloader(Arc<Notify>);

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct StartError(#[from] StartErrorKind);

#[derive(Debug, thiserror::Error)]
enum StartErrorKind {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot use the routes")]
    Routes(#[from] routing::Errors),
    #[error("cannot use TLS")]
    Tls(#[from] tls::Errors),
    #[error("cannot write the access log")]
    AccessLog(#[from] access_log::Error),
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
}

// === impl Process ===

impl Process {
    /// Binds all addresses and starts the workers. Must be called in a tokio runtime; connections are accepted once
    /// [`run`](Self::run) is polled.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened on, a certificate or key cannot be used, or a thread cannot be started.
    pub fn start(loaded: Loaded, log: LogLevel) -> Result<Self, StartError> {
        Self::start_on(Sockets::default(), loaded, log)
    }

    /// The same, with listeners that need not be bound.
    pub(crate) fn start_on(mut sockets: Sockets, loaded: Loaded, log: LogLevel) -> Result<Self, StartError> {
        let Loaded { config, settings, .. } = loaded;
        // app's test `crates` holds that no field is forgotten: the patterns of non-exhaustive structs end in `..`.
        let Config {
            inbound,
            outbound,
            dns,
            control_plane,
            admin_listen_addr,
            shutdown_grace_period,
            shutdown_lame_duck_period,
            shutdown_endpoint_enabled,
            upgrade_timeout,
            admin_remote_control,
            cores,
            log: _,
            log_format: _,
            access_log,
            traces,
            ..
        } = config;
        let resolver = dns::Resolver::system();
        let own = OwnListeners::default();
        let control = control_plane.map(|settings| Control::new(settings, own.clone(), dns, &resolver));
        let access_log = AccessLog::start(access_log).map_err(StartErrorKind::from)?;
        let traces = Traces::start(traces, own.clone(), dns, &resolver);
        let observers = Observers { access_log, traces };
        let mut listeners = Vec::new();
        let mut plans = Vec::new();
        let mut names = Vec::new();
        for (name, direction) in [("inbound", inbound), ("outbound", outbound)] {
            let Some(direction) = direction else { continue };
            let shared = (&resolver, &own, control.as_ref());
            let (listener, mut plan) = plan(name, direction, dns, shared, cores, &mut sockets)?;
            plan.server = plan.server.drain_timeout(shutdown_grace_period);
            plan.observers = observers.clone();
            listeners.push(listener);
            plans.push(plan);
            names.push(name);
        }
        let admin = sockets.listen("admin", &admin_listen_addr, None, ADMIN_BACKLOG).map_err(StartErrorKind::from)?;
        let admin = Arc::new(admin);
        let bound = listeners.iter().map(|listener| &*listener.listener).chain([&*admin]);
        own.set(bound.filter_map(StreamListener::addr).collect());
        let files = sockets.into_files();
        let (stop, stopping) = watch::channel(false);
        let (workers, connections): (Vec<_>, Vec<_>) = (0..cores.get())
            .map(|index| Worker::spawn(index, &plans, stopping.clone()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(StartErrorKind::Worker)?
            .into_iter()
            .unzip();
        let workers = Workers { workers: workers.into(), connections: connections.into() };
        let metrics = Metrics::new(&names, &plans, &workers.workers, &log, control, observers.clone());
        let admin_state = Arc::new(admin::State {
            settings,
            log,
            metrics,
            directions: names.clone(),
            workers: Arc::clone(&workers.workers),
            shutdown: Notify::new(),
            shutdown_enabled: shutdown_endpoint_enabled,
            remote_control: admin_remote_control,
            draining: AtomicBool::new(false),
            large_page: Arc::default(),
        });
        let from_files = |plan: &Plan| {
            let routing = plan.destination.routing().map(|routing| Arc::clone(routing) as Arc<dyn Reload>);
            plan.tls.reloads().chain(routing).collect::<Vec<_>>()
        };
        let log = observers.access_log.clone().map(|log| log as Arc<dyn Reload>);
        let reloads = plans.iter().flat_map(from_files).chain(log).collect();
        let reload = Reloader::default();
        let (lame_duck, grace) = (shutdown_lame_duck_period, shutdown_grace_period);
        Ok(Self {
            listeners,
            workers,
            admin,
            files,
            admin_state,
            reloads,
            reload,
            observers,
            stop,
            lame_duck,
            grace,
            upgrade_timeout,
        })
    }

    /// Reads certificates, keys and routes again on demand, without waiting for their files to change.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        self.reload.clone()
    }

    /// Where the inbound direction listens. `None`: it is off, or listens on a Unix domain socket.
    #[must_use]
    pub fn inbound_addr(&self) -> Option<SocketAddr> {
        self.addr("inbound")
    }

    /// Where the outbound direction listens. `None`: it is off, or listens on a Unix domain socket.
    #[must_use]
    pub fn outbound_addr(&self) -> Option<SocketAddr> {
        self.addr("outbound")
    }

    /// Where the admin server listens. `None`: on a Unix domain socket.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.addr()?.tcp()
    }

    fn addr(&self, name: &str) -> Option<SocketAddr> {
        self.listeners.iter().find(|listener| listener.name == name)?.listener.addr()?.tcp()
    }

    /// Serves until `shutdown` completes with its reason, which is logged, or the admin server is asked to shut down, and
    /// drains then. The process is not ready from that moment on. After the lame-duck period listeners close, clients are told
    /// by GOAWAY, and requests in flight finish. Returns when the last connection has closed, or two seconds after the end of
    /// the grace period at most, in which the streams that are open are reset. When it is dropped all ends at once.
    pub async fn run<F: Future<Output = &'static str>>(self, shutdown: F) {
        self.run_with(shutdown, Handover::default()).await;
    }

    /// The same, with processes before and after it. Once another has taken over, this one drains without the lame-duck period.
    pub(crate) async fn run_with<F: Future<Output = &'static str>>(self, shutdown: F, mut handover: Handover) {
        let Self { listeners, workers, admin, mut files, admin_state, reloads, reload, observers, stop, .. } = self;
        let (lame_duck, grace, upgrade_timeout) = (self.lame_duck, self.grace, self.upgrade_timeout);
        let (version, pid) = (build::VERSION, std::process::id());
        tracing::info!(version, pid, workers = workers.workers.len(), "starting");
        for Listener { name, listener, endpoints, .. } in &listeners {
            tracing::info!(direction = name, addr = shown(listener), endpoints, "listening");
        }
        tracing::info!(addr = shown(&admin), "admin server listening");
        let named = listeners.iter().map(|listener| (listener.name, Arc::clone(&listener.listener)));
        let has_file = |name| files.iter().any(|(of, _)| *of == name);
        let named = named.chain([("admin", Arc::clone(&admin))]);
        let is_kept = |name, listener: &StreamListener| matches!(listener, StreamListener::Unix(_)) && !has_file(name);
        let bound: handover::Listeners =
            named.map(|(name, listener)| (name, Arc::clone(&listener), is_kept(name, &listener))).collect();
        handover.take_over(|| admin_state.is_ready()).await;
        // Until then the process before serves on, if this one fails.
        files.iter_mut().for_each(|(_, file)| file.own());
        systemd::notify(systemd::READY);
        let (replaced, is_replaced) = watch::channel(false);
        let admin_task = tokio::spawn(admin::serve(admin, Arc::clone(&admin_state), is_replaced.clone()));
        let reload_task = tokio::spawn(reload::watch(reloads, reload.0));
        let names = listeners.iter().map(|listener| listener.name).collect();
        let limits_task = tokio::spawn(window_limits::watch(names, Arc::clone(&workers.workers)));
        let accepting: Vec<_> = listeners
            .into_iter()
            .enumerate()
            .map(|(direction, listener)| {
                tokio::spawn(accept(direction, listener, workers.clone(), stop.subscribe(), is_replaced.clone()))
            })
            .collect();
        drop(workers);
        let end = tokio::select! {
            reason = shutdown => End::Told(reason),
            () = admin_state.shutdown.notified() => End::Told("POST /shutdown"),
            successor = handover.successor(&bound, upgrade_timeout, || admin_state.is_ready()) => End::Replaced(successor),
        };
        drop(bound);
        admin_state.draining.store(true, Relaxed);
        match &end {
            End::Told(reason) => {
                tracing::info!(reason, ?lame_duck, ?grace, "draining");
                systemd::notify(systemd::STOPPING);
                // Load balancers see that the process is not ready, and send no more, before its listeners refuse anybody.
                sleep(lame_duck).await;
                // From here on another process may listen on the same paths.
                files.retain(|(name, _)| *name == "admin");
                stop.send_replace(true);
            }
            End::Replaced(successor) => {
                files.iter_mut().for_each(|(_, file)| file.leave());
                tracing::info!(reason = "SIGUSR2", successor = successor.pid(), ?grace, "replaced, draining");
                // systemd follows the new process from here on, and heeds this one no more.
                systemd::notify(&format!("MAINPID={}", successor.pid()));
                replaced.send_replace(true);
            }
        }
        for task in accepting {
            let _ = task.await;
        }
        if let End::Replaced(successor) = end {
            successor.go().await;
            stop.send_replace(true);
        }
        let refuse_task = tokio::spawn(async move { handover.refuse("this process drains").await });
        // Only open connections, and connections on their way to a worker, hold the channel now.
        match tokio::time::timeout(grace, stop.closed()).await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => {
                tracing::warn!(connections = stop.receiver_count(), "grace period is over, closing the rest");
                // Workers reset the streams that are open, so that no cut response looks whole.
                let _ = tokio::time::timeout(CLOSING_TIME, stop.closed()).await;
            }
        }
        observers.close().await;
        admin_task.abort();
        reload_task.abort();
        limits_task.abort();
        refuse_task.abort();
    }
}

/// The reason why a process drains.
enum End {
    Told(&'static str),
    /// Another process has its listeners.
    Replaced(handover::Successor),
}

/// A listener's address, in the log.
fn shown(listener: &StreamListener) -> Option<DisplayValue<StreamAddr>> {
    listener.addr().map(tracing::field::display)
}

/// Binds a direction's listener, and turns its settings into settings of the workers' stacks.
fn plan(
    name: &'static str,
    direction: Direction,
    dns: app_env::Dns,
    (resolver, own, control): (&dns::Resolver, &OwnListeners, Option<&Arc<Control>>),
    cores: NonZeroUsize,
    sockets: &mut Sockets,
) -> Result<(Listener, Plan), StartErrorKind> {
    let tls = Tls::load(name, &direction)?;
    let maxima = Maxima::of(&direction);
    let Direction {
        listen_addr,
        listen_mode,
        endpoints,
        routes,
        discovery,
        discovery_idle_timeout,
        max_destinations,
        detect_timeout,
        server_http1_header_read_timeout,
        server,
        accept,
        accept_backlog,
        accept_proxy_protocol_networks,
        max_connections,
        server_tls: _,
        connect,
        breaker,
        slow_start,
        http_queue_capacity,
        http_failfast_timeout,
        http_request_timeout,
        http_max_headers_count,
        http_max_uri_length,
        http_forwarded,
        http_rate_limit,
        http_retry,
        max_in_flight,
        max_buffered_bytes,
        ..
    } = direction;
    let listener = Arc::new(sockets.listen(name, &listen_addr, listen_mode, accept_backlog)?);
    let listed = match (&routes, &discovery) {
        (Some(routes), _) => format!("by {}", routes.display()),
        (None, Some(discovery)) => match discovery.source {
            DiscoverySource::Dns => "by authority".to_owned(),
            DiscoverySource::Linkerd => "by Linkerd's control plane".to_owned(),
        },
        (None, None) => endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    };
    let limits = proxy::Limits::new(proxy::Params {
        queue_capacity: http_queue_capacity,
        failfast_timeout: http_failfast_timeout,
        max_in_flight,
        max_headers_count: http_max_headers_count,
        max_uri_length: http_max_uri_length,
        request_timeout: http_request_timeout,
        drop_request_trailers: connect.drop_request_trailers,
        retry: retry_params(&http_retry),
    });
    let buffers = Arc::new(BufferLimit::new(max_buffered_bytes));
    let http1 = http1::Params {
        header_read_timeout: server_http1_header_read_timeout,
        https: tls.server.is_some(),
        max_headers_count: http_max_headers_count,
    };
    let server = Server::new(&server)
        .expect("params are checked when they are read")
        .buffer_in(Arc::clone(&buffers))
        .http1(&http1)
        .detect_timeout(detect_timeout);
    let shared = backend::Shared {
        breaker,
        slow_start,
        cores,
        buffers: Arc::clone(&buffers),
        max_headers_count: http_max_headers_count,
        log: Arc::default(),
        dns,
        resolver: resolver.clone(),
        own: own.clone(),
    };
    let bounds = proxy::Bounds { max: max_destinations, idle: discovery_idle_timeout };
    let client = tls.client.clone();
    let destination = match (routes, discovery) {
        (None, None) => Destination::One(Arc::new(Backend::new(
            listed.clone(),
            Source::Endpoints(&endpoints),
            connect,
            client,
            shared,
        ))),
        (Some(routes), _) => {
            let routing = Arc::new(Routing::load(name, routes, connect, client, shared)?);
            Destination::Routed { routing, bounds }
        }
        (None, Some(discovery)) => {
            let control = control.filter(|_| discovery.source == DiscoverySource::Linkerd);
            let linkerd =
                control.map(|control| Linkerd::new(Arc::clone(control), name, connect.backoff, dns, resolver.clone()));
            let default_port = if tls.server.is_some() { 443 } else { 80 };
            let authorities = Authorities::new(discovery, default_port, connect, client, shared, linkerd);
            Destination::Named { authorities, default_port, bounds }
        }
    };
    let plan = Plan {
        accept,
        limits: Arc::new(limits),
        buffers,
        server,
        forwarded: http_forwarded.map(client_addr::field),
        rates: http_rate_limit.map(client_addr::rates).map(Arc::new),
        proxy_protocol: Receiver::new(name, accept_proxy_protocol_networks, detect_timeout).map(Arc::new),
        tls,
        destination,
        by_destination: Arc::default(),
        name,
        maxima,
        observers: Observers::default(),
    };
    let places = Arc::new(Semaphore::new(max_connections));
    Ok((Listener { name, listener, endpoints: listed, places }, plan))
}

fn retry_params(retry: &app_env::Retry) -> retry::Params {
    let app_env::Retry {
        gateway_errors,
        refused_non_idempotent,
        grpc_unavailable,
        budget_ratio,
        budget_min_per_second,
        buffer_size,
    } = *retry;
    retry::Params {
        buffer: buffer_size,
        budget_ratio,
        budget_min_per_second,
        gateway_errors,
        refused_non_idempotent,
        unavailable: grpc_unavailable,
    }
}

// === impl Reloader ===

impl Reloader {
    /// Does it, soon.
    pub fn reload(&self) {
        self.0.notify_one();
    }
}

/// The admin server has few clients.
const ADMIN_BACKLOG: u32 = 128;
/// How long connections may take at most to reset their streams and close, once the grace period is over.
const CLOSING_TIME: Duration = Duration::from_secs(2);
