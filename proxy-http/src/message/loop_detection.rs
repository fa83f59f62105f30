//! Requests that come back to this proxy: a field of theirs counts how often they have passed.
//!
//! RFC 9110 section 7.6.3 has `via` for this. Proxies for HTTP/2 add none by default, since servers answer requests that have it in
//! another way (nginx does not compress), so the field is one of ours. Each request would have a field more to be held, encoded and
//! decoded; so it is added while it looks as if requests were coming back: each pass of a loop is a request in flight,
//! until there are many. Even then one request of some gets the field, for a request that comes back has its turn
//! soon; from there on each pass counts.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The passes of a request, in decimal.
const HOPS: HeaderName = HeaderName::from_static("proxy-hops");
/// Requests in flight from which on requests may be coming back.
const MIN_IN_FLIGHT: usize = 128;
/// Of so many requests one gets the field.
const INTERVAL: usize = 64;
/// Passes that a request may make. Few requests pass more than a handful of proxies, and few of these are this one.
const MAX_HOPS: u16 = 16;

/// A request that has passed too often.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TooManyHops;

/// Counts a request's pass if requests may be coming back, with so many in flight.
pub(crate) fn pass(headers: &mut HeaderMap, in_flight: usize) -> Result<(), TooManyHops> {
    if in_flight < MIN_IN_FLIGHT {
        return Ok(());
    }
    // A value that is no number is of another program's field.
    let hops = headers.get(HOPS).and_then(|hops| hops.to_str().ok()?.parse().ok()).unwrap_or(0);
    if hops >= MAX_HOPS {
        return Err(TooManyHops);
    }
    if hops > 0 || in_flight.is_multiple_of(INTERVAL) {
        headers.insert(HOPS, HeaderValue::from(hops + 1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(hops: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HOPS, HeaderValue::from_static(hops))])
    }

    #[test]
    fn nothing_is_added_as_long_as_few_are_in_flight() {
        for in_flight in 0..MIN_IN_FLIGHT {
            let mut headers = headers("99");
            assert_eq!(pass(&mut headers, in_flight), Ok(()));
            assert_eq!(headers[HOPS], "99");
        }
    }

    #[test]
    fn a_request_that_comes_back_is_found() {
        let mut headers = HeaderMap::new();
        let passes = (0..).take_while(|in_flight| pass(&mut headers, *in_flight).is_ok()).count();
        assert_eq!(passes, MIN_IN_FLIGHT + usize::from(MAX_HOPS));
        assert_eq!(headers[HOPS], "16");
    }

    #[test]
    fn passes_count_once_there_are_any() {
        for (before, after) in [("1", "2"), ("15", "16"), ("0", "0"), ("no number", "no number"), ("-1", "-1")] {
            let mut headers = headers(before);
            assert_eq!(pass(&mut headers, MIN_IN_FLIGHT + 1), Ok(()), "{before}");
            assert_eq!(headers[HOPS], after);
        }
        assert_eq!(pass(&mut headers("16"), MIN_IN_FLIGHT + 1), Err(TooManyHops));
        let mut none = HeaderMap::new();
        assert_eq!((pass(&mut none, MIN_IN_FLIGHT + 1), none.len()), (Ok(()), 0));
    }
}
