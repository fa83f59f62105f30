//! The form of the metrics page that a scraper asks for.

use super::typed;
use crate::metrics::to_plain_text;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, VARY},
};
use http_body_util::Full;
use std::io::Write as _;

/// A format, and whether it is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Form {
    is_openmetrics: bool,
    is_gzip: bool,
}

const OPENMETRICS: &str = "application/openmetrics-text";
const PLAIN: &str = "text/plain";

// === impl Form ===

impl Form {
    /// The form that `accept` and `accept-encoding` prefer (RFC 9110 section 12.5).
    pub(super) fn asked(headers: &HeaderMap) -> Self {
        let weight = |field, name| weight(headers, &field, name);
        let openmetrics = weight(ACCEPT, OPENMETRICS).unwrap_or(0.0);
        let plain = weight(ACCEPT, PLAIN).or(weight(ACCEPT, "text/*")).or(weight(ACCEPT, "*/*")).unwrap_or(0.0);
        let gzip = weight(ACCEPT_ENCODING, "gzip").or(weight(ACCEPT_ENCODING, "*"));
        Self { is_openmetrics: openmetrics > 0.0 && openmetrics >= plain, is_gzip: gzip.is_some_and(|gzip| gzip > 0.0) }
    }

    /// The page of a text in OpenMetrics.
    pub(super) fn page(self, openmetrics: String) -> Response<Full<Bytes>> {
        let (content_type, text) = if self.is_openmetrics {
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", openmetrics)
        } else {
            ("text/plain; version=0.0.4; charset=utf-8", to_plain_text(&openmetrics))
        };
        let mut rsp = match self.is_gzip.then(|| gzip(text.as_bytes())).flatten() {
            None => typed(content_type, text),
            Some(bytes) => {
                let mut rsp = typed(content_type, bytes);
                rsp.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                rsp
            }
        };
        rsp.headers_mut().insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
        rsp
    }
}

/// The weight of a name in a field, at most 1. `None`: the field does not have it.
fn weight(headers: &HeaderMap, field: &HeaderName, name: &str) -> Option<f32> {
    let values = headers.get_all(field).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = values.flat_map(|value| value.split(','));
    ranges.find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        parts.next().filter(|found| found.eq_ignore_ascii_case(name))?;
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map(|weight| weight.parse().unwrap_or(0.0));
        Some(weight.unwrap_or(1.0))
    })
}

/// `None`: memory was short, or the like.
fn gzip(text: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_preferred_one() {
        // The first two are the headers of Prometheus and VictoriaMetrics.
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, encoding, is_openmetrics, is_gzip) in [
            (prometheus, "gzip", true, true),
            ("text/plain;version=0.0.4;q=1,*/*;q=0.1", "identity", false, false),
            ("*/*", "", false, false),
            ("", "gzip;q=0", false, false),
            ("application/openmetrics-text", "deflate, GZIP;q=0.5", true, true),
            ("application/openmetrics-text;q=0.1, text/plain", "*", false, true),
            ("application/openmetrics-text;q=nothing", "", false, false),
        ] {
            let headers = HeaderMap::from_iter([
                (ACCEPT, HeaderValue::from_static(accept)),
                (ACCEPT_ENCODING, HeaderValue::from_static(encoding)),
            ]);
            assert_eq!(Form::asked(&headers), Form { is_openmetrics, is_gzip }, "{accept} {encoding}");
        }
        assert_eq!(Form::asked(&HeaderMap::new()), Form { is_openmetrics: false, is_gzip: false });
    }
}
