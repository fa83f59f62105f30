//! State that the requests of a proxy share, and the checks before a request is forwarded.

use crate::{
    Endpoints, IncomingBody, Replay, Stats,
    balance::{balancer::Attempt, priority::Avoid},
    client::send_request::OutgoingRequest,
    http1::websocket,
    message::{answer::Answer, connect_protocol::ConnectProtocol, fields, grpc, loop_detection, validate},
    proxy::{
        absence::{Absence, AbsenceWatch},
        limits::{Limits, Params},
        retry::{self, Budget, RetryState},
    },
    stats::{Limit, ProxyError, Side},
};
use http::{Method, Request, Version, uri::PathAndQuery};
use std::sync::Arc;
use tokio::time::Instant;

/// The endpoints of a back end.
#[derive(Clone, Debug)]
pub struct BackendEndpoints {
    /// For all requests, or the ones of HTTP/2.
    pub endpoints: Endpoints,
    /// For requests of HTTP/1.1. `None`: `endpoints` are for them, too.
    pub http1: Option<Endpoints>,
    /// In place of the proxy's [`Params::drop_request_trailers`].
    pub drop_request_trailers: bool,
}

/// State that the requests of a proxy to one destination share.
#[derive(Debug)]
pub(super) struct ProxyShared {
    pub(super) endpoints: Endpoints,
    /// Endpoints for the requests of HTTP/1.1 clients. `None`: `endpoints`.
    pub(super) http1: Option<Endpoints>,
    /// See [`Params::drop_request_trailers`].
    pub(super) drop_request_trailers: bool,
    pub(super) limits: Arc<Limits>,
    pub(super) stats: Arc<Stats>,
    pub(super) budget: Arc<Budget>,
    pub(super) absence: AbsenceWatch,
}

/// Why a client's request is not forwarded, whatever it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// The client is not allowed, for a reason.
    Denied(&'static str),
    /// The client has sent too many requests.
    RateLimited,
}

impl ProxyShared {
    /// A proxy to a destination, with a retry budget of its own.
    pub(super) fn new(endpoints: BackendEndpoints, limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        Self::with_budget(endpoints, limits, stats, Arc::new(Budget::new()), AbsenceWatch(None))
    }

    /// For requests that are answered without a destination, and with the limits, counters and budget of all destinations.
    pub(super) fn without_destination(limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        let endpoints = BackendEndpoints { endpoints: Endpoints::none(), http1: None, drop_request_trailers: false };
        Self::new(endpoints, limits, stats)
    }

    /// A proxy to another destination, with the same limits, counters and budget.
    pub(super) fn for_destination(&self, endpoints: BackendEndpoints, absence: AbsenceWatch) -> Self {
        let Self { limits, stats, budget, .. } = self;
        Self::with_budget(endpoints, Arc::clone(limits), Arc::clone(stats), Arc::clone(budget), absence)
    }

    fn with_budget(
        endpoints: BackendEndpoints,
        limits: Arc<Limits>,
        stats: Arc<Stats>,
        budget: Arc<Budget>,
        absence: AbsenceWatch,
    ) -> Self {
        let BackendEndpoints { endpoints, http1, drop_request_trailers } = endpoints;
        Self { endpoints, http1, drop_request_trailers, limits, stats, budget, absence }
    }

    /// Checks a request before its destination is looked for. Returns the answer if it is rejected. `refusal`: why none of the
    /// client's requests is forwarded now.
    pub(super) fn refuse(&self, req: &mut Request<IncomingBody>, refusal: Option<Refusal>) -> Option<Answer> {
        match refusal {
            Some(Refusal::Denied(reason)) => {
                self.stats.count_denied();
                return Some(Answer::forbidden(reason));
            }
            Some(Refusal::RateLimited) => {
                self.stats.transport(Side::Client).limit(Limit::Rate);
                return Some(Answer::rate_limited());
            }
            None => {}
        }
        let Params { max_in_flight, max_headers_count, max_uri_length, .. } = self.limits.params;
        let in_flight = self.limits.in_flight();
        if in_flight >= max_in_flight {
            self.stats.count_shed();
            return Some(Answer::unavailable(ProxyError::InFlight, "too many requests in flight"));
        }
        let client = self.stats.transport(Side::Client);
        if req.headers().len() > max_headers_count && fields::count(req.headers()) > max_headers_count {
            client.limit(Limit::HeadersCount);
            return Some(Answer::too_many_fields());
        }
        if req.uri().path_and_query().map_or("", PathAndQuery::as_str).len() > max_uri_length {
            client.limit(Limit::UriLength);
            return Some(Answer::uri_too_long());
        }
        if loop_detection::pass(req.headers_mut(), in_flight).is_err() {
            client.limit(Limit::Hops);
            if self.limits.may_log_loop() {
                let host = req.uri().authority().map(tracing::field::display);
                tracing::warn!(host, "a request comes back to this proxy: do endpoints send to it?");
            }
            return Some(Answer::loop_detected());
        }
        let is_connect = req.method() == Method::CONNECT;
        let is_plain_connect = is_connect && req.extensions().get::<ConnectProtocol>().is_none();
        let checked = if is_plain_connect { validate::connect(req) } else { validate::request(req) };
        if let Err(malformed) = checked {
            client.count_malformed();
            return Some(Answer::bad_request(malformed));
        }
        let is_options = req.method() == Method::OPTIONS;
        if !(is_options || req.method() == Method::TRACE) || !fields::count_forward(req.headers_mut()) {
            return None;
        }
        Some(if is_options { Answer::options() } else { Answer::unimplemented("TRACE ends here") })
    }

    /// Checks whether the destination's endpoints take a request. Returns the answer if they do not.
    pub(super) fn refuse_for_endpoints(&self, req: &mut Request<IncomingBody>) -> Option<Answer> {
        if req.method() == Method::CONNECT {
            return self.refuse_tunnel(req);
        }
        if self.endpoints(is_http1(req.version())).is_http1() && grpc::is_grpc(req.headers()) {
            return Some(Answer::unimplemented("gRPC needs HTTP/2, and the endpoint is spoken to in HTTP/1.1"));
        }
        None
    }

    /// The same for a CONNECT. Like other requests it goes to an endpoint, and not to the host that it names.
    fn refuse_tunnel(&self, req: &mut Request<IncomingBody>) -> Option<Answer> {
        let from_http1 = is_http1(req.version());
        let endpoints = self.endpoints(from_http1);
        let protocol = req.extensions().get::<ConnectProtocol>()?;
        if endpoints.is_http1() {
            let other = "of extended CONNECT, HTTP/1.1 has a form for WebSocket alone";
            return (!websocket::is_websocket(protocol)).then(|| Answer::unimplemented(other));
        }
        if endpoints.has_endpoint_without_extended_connect() {
            return Some(Answer::no_extended_connect());
        }
        if from_http1 && let Err(malformed) = websocket::to_http2(req) {
            self.stats.transport(Side::Client).count_malformed();
            return Some(Answer::bad_request(malformed));
        }
        None
    }

    /// The endpoints for a client's requests. `http1`: the client uses HTTP/1.1.
    pub(super) fn endpoints(&self, http1: bool) -> &Endpoints {
        match &self.http1 {
            Some(endpoints) if http1 => endpoints,
            _ => &self.endpoints,
        }
    }

    /// Sends a request as soon as an endpoint has a free stream, as [`Endpoints::send_when_ready`] does. An error is also the answer
    /// if there are no endpoints, and none are expected.
    pub(super) async fn send_when_ready(
        &self,
        http1: bool,
        request: &mut OutgoingRequest<Replay>,
        avoid: Option<Avoid>,
        number: &mut Option<u64>,
    ) -> Result<Option<Attempt>, Answer> {
        let failfast = self.limits.params.failfast_timeout;
        let (absence, error) = tokio::select! {
            biased;
            sent = self.endpoints(http1).send_when_ready(request, avoid, number, failfast) => match sent {
                Ok(sent) => return Ok(sent),
                Err(error) => (self.absence.current(), error),
            },
            Some(absence) = self.absence.known() => {
                let answer = absence.answer();
                (Some(absence), answer)
            }
        };
        match &absence {
            Some(Absence::Forbidden(_)) => self.stats.count_denied(),
            _ => self.stats.count_failfast(),
        }
        Err(absence.map_or(error, |absence| absence.answer()))
    }

    /// Prepares a retry: rewinds the body, and takes one from the request's retries and from the budget. False: no retry.
    pub(super) fn prepare_retry(&self, body: &mut Replay, reason: retry::Reason, retry_state: &mut RetryState) -> bool {
        // Some endpoints end a connection for trailers: a retry with trailers would end the next one.
        let is_culprit = retry_state.ended_by_error && body.has_trailers();
        if !body.rewind() || !retry_state.has_left(reason) || is_culprit {
            return false;
        }
        let params = &self.limits.params.retry;
        if reason.is_budgeted() && !self.budget.take(params, self.stats.requests(), Instant::now()) {
            self.stats.count_over_budget();
            return false;
        }
        retry_state.take(reason);
        self.stats.count_retry(reason);
        true
    }
}

/// Whether a request's version is HTTP/1.1 or lower.
pub(super) fn is_http1(version: Version) -> bool {
    version < Version::HTTP_2
}
