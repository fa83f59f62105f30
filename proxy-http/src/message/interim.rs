//! Interim responses (1xx, RFC 9110 section 15.2) on their way from an endpoint to a client of HTTP/2.
//!
//! A response future resolves once, with the final response. So interim responses pass beside it, through a thread-local:
//! the poll of the endpoint's stream puts them there, and the task of the client's stream, which polls that future on the
//! same call stack, takes them when the poll returns.

use crate::message::{fields, head::fields_size, validate};
use http::{
    HeaderMap, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TE},
};
use std::cell::Cell;

/// The bytes of interim responses that may still be forwarded for one request.
///
/// HEADERS frames are not flow-controlled (RFC 9113 section 5.2), so h2 buffers them without bound for a client that reads
/// nothing. The budget bounds them.
#[derive(Debug)]
pub(crate) struct InterimBudget(usize);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Handoff {
    /// No stream's task is on the call stack.
    Closed,
    Open,
    /// Interim responses have been put down.
    Filled,
}

thread_local! {
    static HANDOFF: Cell<Handoff> = const { Cell::new(Handoff::Closed) };
    static HEADS: Cell<Vec<Response<()>>> = const { Cell::new(Vec::new()) };
}

/// Bytes for one request: enough for the links of a large page, or for the progress of an upload in 64 steps.
const BUDGET: usize = 64 << 10;
/// Bytes that each interim response counts for at least.
const MIN_COST: usize = 1 << 10;

/// To be called before a response future is polled, so that interim responses can be put down meanwhile.
pub(crate) fn open() {
    HANDOFF.set(Handoff::Open);
}

/// To be called after a response future was polled. Returns whether interim responses came meanwhile; [`take`] has them.
pub(crate) fn close() -> bool {
    HANDOFF.replace(Handoff::Closed) == Handoff::Filled
}

/// Takes the interim responses, in their order.
pub(crate) fn take() -> Vec<Response<()>> {
    HEADS.take()
}

// === impl InterimBudget ===

impl InterimBudget {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn new() -> Self {
        Self(BUDGET)
    }

    /// Forwards an interim response, if it is valid, within the budget, and a client's stream takes it.
    pub(crate) fn pass(&mut self, mut rsp: Response<()>) {
        // HTTP/2 has no 101 (RFC 9113 section 8.6), and malformed responses are not forwarded.
        if HANDOFF.get() == Handoff::Closed
            || rsp.status() == StatusCode::SWITCHING_PROTOCOLS
            || validate::response(&mut rsp, BUDGET).is_err()
        {
            return;
        }
        // A 1xx response must not have one (RFC 9110 section 8.6).
        rsp.headers_mut().remove(CONTENT_LENGTH);
        let Some(left) = self.0.checked_sub(fields_size(rsp.headers()).max(MIN_COST)) else { return };
        self.0 = left;
        let mut heads = if HANDOFF.replace(Handoff::Filled) == Handoff::Filled { take() } else { Vec::new() };
        heads.push(rsp);
        HEADS.set(heads);
    }
}

/// Translates an interim response of HTTP/1.1 into one of HTTP/2.
pub(crate) fn from_http1(status: StatusCode, headers: &HeaderMap) -> Response<()> {
    let mut rsp = Response::new(());
    (*rsp.status_mut(), *rsp.version_mut()) = (status, Version::HTTP_2);
    *rsp.headers_mut() = headers.clone();
    fields::strip(rsp.headers_mut());
    rsp.headers_mut().remove(TE);
    rsp
}
