//! Interim responses (1xx, RFC 9110 section 15.2) on their way from an endpoint to a client of HTTP/2.
//!
//! The future of a response has one result. What comes before it takes another way: it is put down where the endpoint is
//! asked, and taken up where the client's stream asks that future, further up on the same stack.

use crate::message::{fields, validate};
use http::{
    HeaderMap, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TE},
};
use std::cell::Cell;

/// What may still be passed on of one request's interim responses, in bytes: a client may take nothing of them, and they
/// wait for no window.
#[derive(Debug)]
pub(crate) struct Room(usize);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Nobody would take them up.
    Closed,
    Open,
    /// There are some.
    Come,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Closed) };
    static HEADS: Cell<Vec<Response<()>>> = const { Cell::new(Vec::new()) };
}

/// Enough for the links of a large page, or for the progress of an upload in 64 steps.
const ROOM: usize = 64 << 10;
/// What each counts for at least.
const LEAST: usize = 1 << 10;
/// What each field adds to the size of a header list beside its name and value.
const FIELD_OVERHEAD: usize = 32;

/// Polls the future of a response, and tells whether something came before it, which [`take`] has.
pub(crate) fn during<T>(poll: impl FnOnce() -> T) -> (T, bool) {
    STATE.set(State::Open);
    let polled = poll();
    (polled, STATE.replace(State::Closed) == State::Come)
}

/// What came, in turn.
pub(crate) fn take() -> Vec<Response<()>> {
    HEADS.take()
}

// === impl Room ===

impl Room {
    pub(crate) fn new() -> Self {
        Self(ROOM)
    }

    /// Puts one down, if that is allowed and someone takes it up.
    pub(crate) fn pass(&mut self, mut rsp: Response<()>) {
        // HTTP/2 has none (RFC 9113 section 8.6), and what is malformed is not passed on.
        if STATE.get() == State::Closed
            || rsp.status() == StatusCode::SWITCHING_PROTOCOLS
            || validate::response(&mut rsp, ROOM).is_err()
        {
            return;
        }
        // It says nothing here (RFC 9110 section 8.6).
        rsp.headers_mut().remove(CONTENT_LENGTH);
        let Some(left) = self.0.checked_sub(size(rsp.headers()).max(LEAST)) else { return };
        self.0 = left;
        let mut heads = if STATE.replace(State::Come) == State::Come { take() } else { Vec::new() };
        heads.push(rsp);
        HEADS.set(heads);
    }
}

/// One of HTTP/1.1 as HTTP/2 has it.
pub(crate) fn of_http1(status: StatusCode, headers: &HeaderMap) -> Response<()> {
    let mut rsp = Response::new(());
    (*rsp.status_mut(), *rsp.version_mut()) = (status, Version::HTTP_2);
    *rsp.headers_mut() = headers.clone();
    fields::strip(rsp.headers_mut());
    rsp.headers_mut().remove(TE);
    rsp
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD).sum()
}
