//! Fields whose values hardly ever come twice, so that HPACK's table is no place for them.
//!
//! h2 puts the value of each field that it does not know into the table, and compares a value with all that the table holds for
//! the name. Where each request belongs to a trace of its own, that was some 40 comparisons for each of its fields, and each of
//! them displaced a field that does come again. A literal that is never indexed (RFC 7541 section 6.2.3) is as long on the wire
//! as one that is. A response of an HTTP/1.1 endpoint is passed on as it is: its fields are not gone through for this alone.

use http::{HeaderMap, HeaderName};

/// Has the fields of this kind sent as literals that are never indexed.
#[cold]
pub(crate) fn mark(headers: &mut HeaderMap) {
    for (name, value) in headers.iter_mut() {
        if has_new_values(name) {
            value.set_sensitive(true);
        }
    }
}

/// Whether values of this field are made for each message: contexts of traces, ids of requests, the time that is left.
pub(crate) fn has_new_values(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "b3" | "grpc-timeout"
            | "grpc-trace-bin"
            | "traceparent"
            | "tracestate"
            | "uber-trace-id"
            | "x-amzn-trace-id"
            | "x-b3-parentspanid"
            | "x-b3-spanid"
            | "x-b3-traceid"
            | "x-cloud-trace-context"
            | "x-correlation-id"
            | "x-request-id"
    )
}
