//! Requests that come back to this proxy: `via` counts the proxies that a request has passed.
//!
//! RFC 9110 section 7.6.3 asks each proxy for an entry in `via`, and has it for this. Proxies for HTTP/2 add none by default,
//! since servers answer such requests in another way (nginx does not compress), and each request would have a field more to be
//! held, encoded and decoded. So entries are added while it looks as if requests were coming back: each pass of a loop is a request in flight,
//! until there are many. Even then one request of some gets its first entry, for a request that comes back has its turn
//! soon; from there on each pass adds one.

use http::{HeaderMap, HeaderValue, Version, header::VIA};

/// Requests in flight from which on requests may be coming back.
const MIN_IN_FLIGHT: usize = 128;
/// Of so many requests one gets its first entry.
const INTERVAL: usize = 64;
/// Entries that a request may have. A request from CDN to sidecar passes a handful of proxies.
const MAX_HOPS: usize = 16;

/// A request that has passed too many proxies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TooManyHops;

/// Adds an entry to a request's `via` if requests may be coming back, with so many in flight.
pub(super) fn pass(headers: &mut HeaderMap, version: Version, in_flight: usize) -> Result<(), TooManyHops> {
    if in_flight < MIN_IN_FLIGHT {
        return Ok(());
    }
    let hops = count(headers);
    if hops >= MAX_HOPS {
        return Err(TooManyHops);
    }
    if hops > 0 || in_flight.is_multiple_of(INTERVAL) {
        let entry = if version == Version::HTTP_2 { "2.0 proxy-http" } else { "1.1 proxy-http" };
        headers.append(VIA, HeaderValue::from_static(entry));
    }
    Ok(())
}

/// The entries of `via`. A comma in a comment counts as if an entry followed it.
fn count(headers: &HeaderMap) -> usize {
    let entries = |value: &HeaderValue| value.as_bytes().iter().filter(|byte| **byte == b',').count() + 1;
    headers.get_all(VIA).iter().map(entries).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(via: &[&'static str]) -> HeaderMap {
        via.iter().map(|value| (VIA, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn nothing_is_added_as_long_as_few_are_in_flight() {
        let mut headers = headers(&["1.1 a, 1.1 b"; MAX_HOPS]);
        for in_flight in 0..MIN_IN_FLIGHT {
            assert_eq!(pass(&mut headers, Version::HTTP_2, in_flight), Ok(()));
        }
        assert_eq!(headers.len(), MAX_HOPS);
    }

    #[test]
    fn a_request_that_comes_back_is_found() {
        for (version, entry) in [(Version::HTTP_2, "2.0 proxy-http"), (Version::HTTP_11, "1.1 proxy-http")] {
            let mut headers = HeaderMap::new();
            let passes = (0..).take_while(|in_flight| pass(&mut headers, version, *in_flight).is_ok()).count();
            assert_eq!(passes, MIN_IN_FLIGHT + MAX_HOPS);
            assert!(headers.get_all(VIA).iter().all(|value| value == entry));
        }
    }

    #[test]
    fn entries_of_others_count() {
        let many = "1.1 a,1.1 b, 1.1 c,1.1 d,1.1 e,1.1 f,1.1 g,1.1 h";
        assert_eq!(pass(&mut headers(&[many, many]), Version::HTTP_2, MIN_IN_FLIGHT + 1), Err(TooManyHops));
        let mut few = headers(&["1.1 a"]);
        assert_eq!((pass(&mut few, Version::HTTP_11, MIN_IN_FLIGHT + 1), count(&few)), (Ok(()), 2));
        let mut none = headers(&[]);
        assert_eq!((pass(&mut none, Version::HTTP_11, MIN_IN_FLIGHT + 1), count(&none)), (Ok(()), 0));
    }
}
