//! The admin server: health, metrics, connections, destinations, settings, log level and shutdown, over HTTP/1.1.

mod connections;
mod destinations;
mod form;
mod table;

use self::{
    connections::{Format, Page},
    form::Form,
};
use crate::{
    LogLevel,
    client_addr::PeerAddr,
    descriptors::Use,
    destination::Connected,
    dns::NameState,
    listener::{self, StreamListener},
    metrics::Metrics,
    settings,
    worker::Worker,
};
use app_env::Effective;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::spawn_blocking,
};

/// The state that the admin server shows and changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Vec<Effective>,
    pub(crate) log: LogLevel,
    pub(crate) metrics: Metrics,
    /// The names of the directions that are on.
    pub(crate) directions: Vec<&'static str>,
    pub(crate) workers: Arc<[Worker]>,
    pub(crate) shutdown: Notify,
    /// Whether `POST /shutdown` ends the process.
    pub(crate) shutdown_enabled: bool,
    /// Whether other hosts may change the log level and end the process.
    pub(crate) remote_control: bool,
    /// The process has been told to end.
    pub(crate) draining: AtomicBool,
    /// Held while a page about all connections is made.
    pub(crate) large_page: Arc<Mutex<()>>,
}

/// The longest log filter that is read, in bytes.
const MAX_FILTER: usize = 8 * 1024;

/// Serves until it is aborted, or until the process has been replaced: clients that are connected then are asked to connect anew.
pub(crate) async fn serve(listener: Arc<StreamListener>, state: Arc<State>, mut replaced: watch::Receiver<bool>) {
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            _ = replaced.wait_for(|replaced| *replaced) => return,
            accepted = listener::accept(&listener, Use::Rest) => accepted,
        };
        let (state, mut replaced) = (Arc::clone(&state), replaced.clone());
        // Ends when the client closes, or with the process.
        tokio::spawn(async move {
            let service = service_fn(move |req| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.answer(req, peer).await) }
            });
            let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            let mut served = pin!(served);
            let ended = tokio::select! {
                ended = served.as_mut() => ended,
                () = async { _ = replaced.wait_for(|replaced| *replaced).await } => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "admin connection failed");
            }
        });
    }
}

// === impl State ===

impl State {
    async fn answer(self: &Arc<Self>, req: Request<Incoming>, peer: PeerAddr) -> Response<Full<Bytes>> {
        let allowed = match req.uri().path() {
            "/live" | "/ready" | "/metrics" | "/connections" | "/destinations" | "/config" => {
                [Method::GET, Method::HEAD].as_slice()
            }
            "/proxy-log-level" => &[Method::GET, Method::PUT],
            "/shutdown" => &[Method::POST],
            _ => {
                return text(
                    StatusCode::NOT_FOUND,
                    "no such page; there are /live, /ready, /metrics, /connections, /destinations, /config, \
                     /proxy-log-level and /shutdown\n",
                );
            }
        };
        if !allowed.contains(req.method()) {
            let names: Vec<_> = allowed.iter().map(Method::as_str).collect();
            let mut rsp = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {}\n", names.join(" or ")));
            rsp.headers_mut().extend(HeaderValue::try_from(names.join(", ")).map(|names| (header::ALLOW, names)));
            return rsp;
        }
        if !matches!(*req.method(), Method::GET | Method::HEAD)
            && let Err(reason) = self.admit_command(&req, peer)
        {
            tracing::warn!(%peer, path = req.uri().path(), reason, "admin server refused a command");
            return text(StatusCode::FORBIDDEN, format!("{reason}\n"));
        }
        match req.uri().path() {
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => self.ready(),
            "/metrics" => {
                let form = Form::asked(req.headers());
                self.large_page(move |state| state.metrics(form)).await
            }
            path @ ("/connections" | "/destinations") => match Format::asked(req.uri(), req.headers()) {
                Some(format) if path == "/connections" => self.large_page(move |state| state.connections(format)).await,
                Some(format) => self.large_page(move |state| state.destinations(format)).await,
                None => text(StatusCode::BAD_REQUEST, "format must be json or text\n"),
            },
            "/config" => typed("application/json", settings::json(&self.settings)),
            "/proxy-log-level" if req.method() == Method::PUT => self.set_log_level(req.into_body()).await,
            "/proxy-log-level" => match self.log.show() {
                Ok(filter) => text(StatusCode::OK, format!("{filter}\n")),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => {
                tracing::info!(%peer, "shutdown was requested");
                self.shutdown.notify_one();
                text(StatusCode::ACCEPTED, "draining\n")
            }
        }
    }

    /// Whether a request may change the process. The port is open to probes and to Prometheus, so the address decides.
    fn admit_command(&self, req: &Request<Incoming>, peer: PeerAddr) -> Result<(), &'static str> {
        if req.uri().path() == "/shutdown" && !self.shutdown_enabled {
            return Err("LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED is false");
        }
        // Pages of any site may have a browser on this host send a POST; its Origin says so (Fetch section 3.2).
        if req.headers().contains_key(header::ORIGIN) {
            return Err("browsers may not do this");
        }
        if self.remote_control || peer.is_local() {
            Ok(())
        } else {
            Err("only loopback may do this; LINKERD2_PROXY_ADMIN_REMOTE_CONTROL=true allows others")
        }
    }

    /// Makes a page that has to look at all connections on a thread of its own, since this one accepts connections. One at a
    /// time, however many are asked for.
    async fn large_page<F>(self: &Arc<Self>, make: F) -> Response<Full<Bytes>>
    where
        F: FnOnce(&Self) -> Response<Full<Bytes>> + Send + 'static,
    {
        let (state, turn) = (Arc::clone(self), Arc::clone(&self.large_page).lock_owned().await);
        let made = spawn_blocking(move || {
            let page = make(&state);
            drop(turn);
            page
        });
        made.await.unwrap_or_else(|error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))
    }

    fn connections(&self, format: Format) -> Response<Full<Bytes>> {
        let page = Page::new(&self.directions, &self.workers);
        match format {
            Format::Json => typed("application/json", page.json()),
            Format::Text => text(StatusCode::OK, page.text()),
        }
    }

    fn destinations(&self, format: Format) -> Response<Full<Bytes>> {
        let page = destinations::Page::new(&self.directions, &self.workers);
        match format {
            Format::Json => typed("application/json", page.json()),
            Format::Text => text(StatusCode::OK, page.text()),
        }
    }

    /// Whether each worker can reach an endpoint in each direction.
    pub(crate) fn is_ready(&self) -> bool {
        self.workers.iter().flat_map(|worker| &worker.connected).all(Connected::is_ready)
    }

    /// Says which directions reach no endpoint, and which names have a problem, also when the process is ready because of other
    /// endpoints.
    fn ready(&self) -> Response<Full<Bytes>> {
        let (status, line) = if self.draining.load(Relaxed) {
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else if self.is_ready() {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not every direction can reach an endpoint\n")
        };
        let mut body = line.to_owned();
        for (index, direction) in self.directions.iter().enumerate() {
            if !self.workers.iter().all(|worker| worker.connected[index].is_ready()) {
                body.push_str(&format!(
                    "{direction}: not every worker can reach an endpoint; /destinations says why\n"
                ));
            }
        }
        // Names are the same on all workers.
        let connected = self.workers.first().map_or_else(Default::default, |worker| &*worker.connected);
        for (direction, connected) in self.directions.iter().zip(connected) {
            for (endpoint, status) in connected.names() {
                let problem = match status.state {
                    NameState::Resolved => continue,
                    NameState::Kept => "cannot be looked up, its last addresses are in use",
                    NameState::Held => "has no address any more, its last ones are in use for a time",
                    NameState::Gone => "has no address: there is no such name, or it has none",
                    NameState::Unresolved => "has no address: it cannot be looked up, or has not been yet",
                };
                body.push_str(&format!("{direction}: {endpoint} {problem}\n"));
            }
        }
        text(status, body)
    }

    fn metrics(&self, form: Form) -> Response<Full<Bytes>> {
        match self.metrics.encode() {
            Ok(text) => form.page(text),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    async fn set_log_level(&self, body: Incoming) -> Response<Full<Bytes>> {
        let Ok(body) = Limited::new(body, MAX_FILTER).collect().await else {
            return text(StatusCode::BAD_REQUEST, format!("the filter must be at most {MAX_FILTER} bytes\n"));
        };
        let body = body.to_bytes();
        let Ok(filter) = std::str::from_utf8(&body) else {
            return text(StatusCode::BAD_REQUEST, "the filter must be UTF-8\n");
        };
        match self.log.replace(filter.trim()) {
            Ok(()) => {
                tracing::info!(filter = filter.trim(), "log level changed");
                text(StatusCode::OK, "changed\n")
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut rsp = typed("text/plain; charset=utf-8", body);
    *rsp.status_mut() = status;
    rsp
}

fn typed(content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut rsp = Response::new(Full::new(body.into()));
    rsp.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    rsp
}
