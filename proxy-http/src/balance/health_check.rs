//! Active health checks: each endpoint is asked at an interval whether it can take requests.
//!
//! [`spawn`] stands between service discovery and [`Endpoints`](crate::Endpoints): the list that it returns has the reports of
//! the checks, so all balancers that follow the list share one check of each endpoint.

pub use super::report::{Report, Reports, Verdict};

use crate::{
    BoxError, Connect, Endpoint, SendRequest,
    balance::{endpoint_state::AbortOnDrop, error_chain::Chain},
    client,
};
use bytes::Bytes;
use http_body::Body;
use std::{
    fmt,
    future::{Future, poll_fn},
    mem,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{sleep, timeout},
};
use tower_service::Service;

/// How often endpoints are checked, and how many checks change the verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Params {
    /// The pause between two checks of an endpoint, give or take a tenth. Default: 10 s.
    pub interval: Duration,
    /// How long a check may take, with the connection that it may need. Default: 1 s.
    pub timeout: Duration,
    /// Consecutive failed checks after which a healthy endpoint is unhealthy. Default: 3.
    pub unhealthy_threshold: NonZeroU32,
    /// Consecutive passed checks after which an unhealthy endpoint is healthy. Default: 2.
    pub healthy_threshold: NonZeroU32,
}

/// Why a check failed.
#[derive(Debug)]
pub enum Failure {
    /// The request got no response.
    NoResponse(client::Error),
    /// The response says that the endpoint is unhealthy, or says nothing; in words.
    Response(String),
}

/// The checks of one endpoint.
struct Checker<A, C, B, K> {
    target: A,
    addr: Arc<str>,
    connect: Connect<C, B>,
    check: K,
    params: Params,
    report: watch::Sender<Report>,
    /// The connection of the last check. `None`: there is none, or it is not used again, as in HTTP/1.1.
    connection: Option<SendRequest<B>>,
    /// Consecutive checks that contradict the verdict.
    contradictions: u32,
}

/// The first checks of many endpoints are spread over this time for each of them, up to an interval.
const SPREAD: Duration = Duration::from_millis(1);

/// Checks the endpoints that `discovered` holds, now and whenever it changes, until all receivers of the returned list are
/// dropped. Each endpoint in that list has the [`Reports`] of its checks.
///
/// `check` gets an endpoint's address and a connection to it, and sends one request. Each endpoint has one connection for its
/// checks alone, made by `connect`. In HTTP/2 it stays open. In HTTP/1.1 it is closed after each check, since some servers
/// have a thread for each connection. A check that gets no response on a connection of an earlier check is repeated once on a
/// new one, within its timeout: the endpoint may have closed the connection meanwhile.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn spawn<A, C, B, K, F>(
    mut discovered: watch::Receiver<Vec<Endpoint<A>>>,
    connect: Connect<C, B>,
    params: Params,
    check: K,
) -> watch::Receiver<Vec<Endpoint<A>>>
where
    A: Clone + PartialEq + fmt::Display + Send + Sync + 'static,
    C: Service<A> + Clone + Send + Sync + 'static,
    C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    K: Fn(&A, SendRequest<B>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send,
{
    let mut checked: Vec<(Endpoint<A>, AbortOnDrop)> = Vec::new();
    let mut update = move |endpoints: &[Endpoint<A>]| {
        let mut before = mem::take(&mut checked);
        checked.reserve(endpoints.len());
        let spread = SPREAD.saturating_mul(u32::try_from(endpoints.len()).unwrap_or(u32::MAX)).min(params.interval);
        for endpoint in endpoints {
            let mut endpoint = endpoint.clone();
            let known = before.iter().position(|(known, _)| known.has_same_connections(&endpoint));
            let task = if let Some(index) = known {
                let (known, task) = before.swap_remove(index);
                endpoint.reports = known.reports;
                task
            } else {
                let (task, reports) = Checker::spawn(&endpoint, &connect, params, check.clone(), spread);
                endpoint.reports = Some(reports);
                task
            };
            checked.push((endpoint, task));
        }
        checked.iter().map(|(endpoint, _)| endpoint.clone()).collect()
    };
    let (list, receiver) = watch::channel(update(&discovered.borrow_and_update()));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = list.closed() => return,
                // Once it does not change any more, the checks go on.
                Ok(()) = discovered.changed() => {
                    let endpoints = update(&discovered.borrow_and_update());
                    list.send_replace(endpoints);
                }
            }
        }
    });
    receiver
}

// === impl Params ===

impl Default for Params {
    /// Every 10 s, for 1 s at most; 3 failures and 2 successes count.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: NonZeroU32::new(3).expect("3 is not zero"),
            healthy_threshold: NonZeroU32::new(2).expect("2 is not zero"),
        }
    }
}

// === impl Failure ===

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoResponse(error) => Chain(error).fmt(f),
            Self::Response(text) => f.write_str(text),
        }
    }
}

// === impl Checker ===

impl<A, C, B, K, F> Checker<A, C, B, K>
where
    A: Clone + fmt::Display + Send + Sync + 'static,
    C: Service<A> + Clone + Send + Sync + 'static,
    C::Response: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    K: Fn(&A, SendRequest<B>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send,
{
    /// Starts the task of an endpoint's checks, whose first one is made within `spread`.
    fn spawn(
        endpoint: &Endpoint<A>,
        connect: &Connect<C, B>,
        params: Params,
        check: K,
        spread: Duration,
    ) -> (AbortOnDrop, Reports) {
        let (report, reports) = watch::channel(Report::default());
        let addr = Arc::<str>::from(endpoint.addr.to_string());
        let connect = connect.clone().override_from(&endpoint.params);
        let (target, authority) = (endpoint.addr.clone(), endpoint.authority.clone());
        let task = tokio::spawn(async move {
            // Wrong params are logged by the balancers, which do not use the endpoint then.
            let Ok(connect) = connect else { return };
            let connect = connect.peer(Arc::clone(&addr)).authority(authority.as_ref());
            let mut checker =
                Self { target, addr, connect, check, params, report, connection: None, contradictions: 0 };
            sleep(spread.mul_f64(fastrand::f64())).await;
            checker.check().await;
            // Endpoints that are listed together are checked at different times from here on.
            sleep(params.interval.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            loop {
                checker.check().await;
                sleep(params.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
            }
        });
        (AbortOnDrop(task.abort_handle()), Reports(reports))
    }

    async fn check(&mut self) {
        let result = match timeout(self.params.timeout, self.ask()).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", self.params.timeout)),
        };
        if result.is_err() {
            self.connection = None;
        }
        self.record(result.err().map(Arc::from));
    }

    async fn ask(&mut self) -> Result<(), String> {
        if let Some(connection) = self.connection.take().filter(|connection| !connection.is_closed()) {
            match (self.check)(&self.target, connection.clone()).await {
                Err(Failure::NoResponse(error)) => {
                    tracing::debug!(endpoint = %self.addr, error = %Chain(&error), "health check is repeated");
                }
                result => {
                    self.connection = Some(connection);
                    return result.map_err(|failure| failure.to_string());
                }
            }
        }
        let made = match poll_fn(|cx| self.connect.poll_ready(cx)).await {
            Ok(()) => self.connect.call(self.target.clone()).await,
            Err(error) => Err(error),
        };
        let connection = made.map_err(|error| Chain(&error).to_string())?;
        let result = (self.check)(&self.target, connection.clone()).await;
        self.connection = Some(connection).filter(|_| !self.connect.is_http1());
        result.map_err(|failure| failure.to_string())
    }

    /// Counts a check. `error`: why it failed.
    fn record(&mut self, error: Option<Arc<str>>) {
        let (before, found, threshold) = {
            let verdict = self.report.borrow().verdict;
            match error {
                None => (verdict, Verdict::Healthy, self.params.healthy_threshold),
                Some(_) => (verdict, Verdict::Unhealthy, self.params.unhealthy_threshold),
            }
        };
        self.contradictions = if found == before { 0 } else { self.contradictions.saturating_add(1) };
        let is_change = found != before && (before == Verdict::Unchecked || self.contradictions >= threshold.get());
        match &error {
            None if is_change => tracing::info!(endpoint = %self.addr, "endpoint is healthy"),
            Some(error) if is_change => tracing::warn!(endpoint = %self.addr, %error, "endpoint is unhealthy"),
            Some(error) => tracing::debug!(endpoint = %self.addr, %error, "health check failed"),
            None => {}
        }
        self.report.send_if_modified(|report| {
            report.checks += 1;
            report.failures += u64::from(error.is_some());
            report.error = error;
            if is_change {
                (report.verdict, self.contradictions) = (found, 0);
            }
            is_change
        });
    }
}
