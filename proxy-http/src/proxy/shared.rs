//! What the requests of a proxy share, and which of them it refuses.

use crate::{
    Endpoints, IncomingBody, Replay, Stats,
    http1::websocket,
    message::{answer::Answer, grpc, validate},
    proxy::{
        limits::{Limits, Params},
        retry::{self, Budget, Tries},
    },
    stats::{Limit, Side},
};
use h2::ext::Protocol;
use http::{Method, Request, Version, uri::PathAndQuery};
use std::sync::Arc;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) endpoints: Endpoints,
    /// Where requests of HTTP/1.1 clients go. `None`: where all go.
    pub(super) http1: Option<Endpoints>,
    pub(super) limits: Arc<Limits>,
    pub(super) stats: Arc<Stats>,
    pub(super) budget: Budget,
}

impl Shared {
    /// The answer to a request that may not go on.
    pub(super) fn refuse(&self, req: &mut Request<IncomingBody>, denied: bool) -> Option<Answer> {
        if denied {
            self.stats.count_denied();
            return Some(Answer::forbidden("client is not allowed"));
        }
        let Params { max_in_flight, max_headers_count, max_uri_length, .. } = self.limits.params;
        if self.limits.in_flight() >= max_in_flight {
            self.stats.count_shed();
            return Some(Answer::unavailable("too many requests in flight"));
        }
        let client = self.stats.transport(Side::Client);
        if req.headers().len() > max_headers_count {
            client.limit(Limit::HeadersCount);
            return Some(Answer::too_many_fields());
        }
        if req.uri().path_and_query().map_or("", PathAndQuery::as_str).len() > max_uri_length {
            client.limit(Limit::UriLength);
            return Some(Answer::uri_too_long());
        }
        if req.method() == Method::CONNECT {
            return self.refuse_tunnel(req);
        }
        if self.endpoints(is_http1(req.version())).is_http1() && grpc::is_grpc(req.headers()) {
            return Some(Answer::unimplemented("gRPC needs HTTP/2, and the endpoint is spoken to in HTTP/1.1"));
        }
        let malformed = validate::request(req).err()?;
        client.count_malformed();
        Some(Answer::bad_request(malformed))
    }

    /// The answer to a request for a tunnel that may not go on. It goes to an endpoint like others, whatever it names.
    fn refuse_tunnel(&self, req: &mut Request<IncomingBody>) -> Option<Answer> {
        let from_http1 = is_http1(req.version());
        let endpoints = self.endpoints(from_http1);
        let checked = match req.extensions().get::<Protocol>() {
            None => validate::connect(req),
            Some(protocol) if endpoints.is_http1() && !websocket::is_websocket(protocol) => {
                return Some(Answer::unimplemented("of extended CONNECT, HTTP/1.1 has a form for WebSocket alone"));
            }
            Some(_) if endpoints.refuse_extended_connect() => return Some(Answer::no_extended_connect()),
            Some(_) if from_http1 && !endpoints.is_http1() => {
                validate::request(req).and_then(|()| websocket::to_http2(req))
            }
            Some(_) => validate::request(req),
        };
        let malformed = checked.err()?;
        self.stats.transport(Side::Client).count_malformed();
        Some(Answer::bad_request(malformed))
    }

    /// Where requests go, of clients of HTTP/1.1 or of HTTP/2.
    pub(super) fn endpoints(&self, http1: bool) -> &Endpoints {
        match &self.http1 {
            Some(endpoints) if http1 => endpoints,
            _ => &self.endpoints,
        }
    }

    /// Makes a request ready to be sent again, if it may be.
    pub(super) fn may_retry(&self, body: &mut Replay, reason: retry::Reason, tries: &mut Tries) -> bool {
        // Trailers are what some endpoints end a connection for: those would end the next one.
        let is_culprit = tries.ended_by_error && body.has_trailers();
        if !body.rewind() || !tries.has_left(reason) || is_culprit {
            return false;
        }
        let params = &self.limits.params.retry;
        if reason.is_budgeted() && !self.budget.take(params, self.stats.requests(), Instant::now()) {
            self.stats.count_over_budget();
            return false;
        }
        tries.take(reason);
        self.stats.count_retry(reason);
        true
    }
}

/// Whether the client speaks HTTP/1.1.
pub(super) fn is_http1(version: Version) -> bool {
    version < Version::HTTP_2
}
