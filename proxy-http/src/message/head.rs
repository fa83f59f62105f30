//! Request heads that may be needed again, for a retry.

use crate::message::client_cert;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    request::{Parts, Request},
    uri::{self, Authority, PathAndQuery, Scheme},
};
use std::mem;

/// A request's head, which can be sent more than once.
///
/// h2 consumes a head, so the first [`take`](Self::take) gives away the head that was received and keeps a copy. The copy is
/// bytes: a clone would add a reference to each field, and each reference count costs as much as copying hundreds of bytes.
pub(crate) enum Head {
    Whole {
        head: Parts,
        /// Whether the client's [`CLIENT_CERT`](client_cert::CLIENT_CERT) is removed when the head is taken. Looking for it costs nothing while fields are copied.
        strip: bool,
    },
    Taken(HeadCopy),
}

/// A head whose fields are in one allocation.
pub(crate) struct HeadCopy {
    method: Method,
    /// As it was received: among the byte strings an empty one could not be told from none.
    scheme: Option<Scheme>,
    version: Version,
    extensions: Extensions,
    /// Header fields, without scheme, authority and path.
    count: usize,
    /// Scheme, authority and path; then names and values, in turn.
    fields: ByteStrings,
}

/// Byte strings, each with its length before it.
struct ByteStrings(Vec<u8>);

/// Bytes that each field adds to the size of a header list beside its name and value (RFC 9113 section 6.5.2).
pub(crate) const FIELD_OVERHEAD: usize = 32;
/// The initial capacity in bytes, enough for most heads.
const CAPACITY: usize = 256;
/// The bit set in a value's length if the value is never-indexed (RFC 7541 section 7.1.3).
const SENSITIVE: u32 = 1 << 31;
const VALID: &str = "it is a copy of a valid head";

/// The size of a request's header list, in bytes as RFC 9113 section 6.5.2 counts them.
pub(crate) fn list_size(head: &Parts) -> usize {
    let uri = &head.uri;
    let pseudo = |name: &str, value: &str| field_size(name.len(), value.len());
    let mut size = pseudo(":method", head.method.as_str()) + fields_size(&head.headers);
    size += uri.scheme_str().map_or(0, |scheme| pseudo(":scheme", scheme));
    size += uri.authority().map_or(0, |authority| pseudo(":authority", authority.as_str()));
    size += uri.path_and_query().map_or(0, |path| pseudo(":path", path.as_str()));
    size
}

/// The size of a header list without pseudo-fields.
pub(crate) fn fields_size(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| field_size(name.as_str().len(), value.len())).sum()
}

/// The bytes that a field adds to the size of a header list, by the lengths of its name and value.
#[inline]
pub(crate) const fn field_size(name: usize, value: usize) -> usize {
    name + value + FIELD_OVERHEAD
}

// === impl Head ===

impl Head {
    /// Takes the head, and keeps a copy.
    pub(crate) fn take(&mut self) -> Parts {
        let copy = match self {
            Self::Whole { head, strip } => Self::Taken(HeadCopy::new(head, *strip)),
            Self::Taken(copy) => return copy.to_parts(),
        };
        mem::replace(self, copy).into_parts()
    }

    pub(crate) fn method(&self) -> &Method {
        match self {
            Self::Whole { head, .. } => &head.method,
            Self::Taken(copy) => &copy.method,
        }
    }

    pub(crate) fn extensions(&self) -> &Extensions {
        match self {
            Self::Whole { head, .. } => &head.extensions,
            Self::Taken(copy) => &copy.extensions,
        }
    }

    /// The size of the header list, as RFC 9113 section 6.5.2 counts it. `None`: the head has not been taken.
    pub(crate) fn list_size(&self) -> Option<usize> {
        match self {
            Self::Whole { .. } => None,
            Self::Taken(copy) => Some(copy.list_size()),
        }
    }

    pub(crate) fn into_parts(self) -> Parts {
        match self {
            Self::Whole { head, .. } => head,
            Self::Taken(copy) => copy.to_parts(),
        }
    }
}

// === impl HeadCopy ===

impl HeadCopy {
    /// Copies the head; `strip`: [`CLIENT_CERT`](client_cert::CLIENT_CERT) is removed from both.
    fn new(head: &mut Parts, strip: bool) -> Self {
        let mut stripped = false;
        let mut fields = ByteStrings(Vec::with_capacity(CAPACITY));
        let uri = &head.uri;
        fields.push(uri.scheme_str().unwrap_or_default().as_bytes(), false);
        fields.push(uri.authority().map_or("", Authority::as_str).as_bytes(), false);
        fields.push(uri.path_and_query().map_or("", PathAndQuery::as_str).as_bytes(), false);
        for (name, value) in &head.headers {
            let name = name.as_str();
            if strip && client_cert::is_client_cert(name) {
                stripped = true;
                continue;
            }
            fields.push(name.as_bytes(), false);
            fields.push(value.as_bytes(), value.is_sensitive());
        }
        if stripped {
            client_cert::strip(&mut head.headers);
        }
        let (method, extensions) = (head.method.clone(), head.extensions.clone());
        let scheme = head.uri.scheme().cloned();
        Self { method, scheme, version: head.version, extensions, count: head.headers.len(), fields }
    }

    fn list_size(&self) -> usize {
        let strings = 3 + 2 * self.count;
        let pseudo = ":method:scheme:authority:path".len() + self.method.as_str().len();
        self.fields.0.len() - strings * size_of::<u32>() + pseudo + (4 + self.count) * FIELD_OVERHEAD
    }

    fn to_parts(&self) -> Parts {
        let mut fields = self.fields.iter();
        let mut part = || fields.next().map(|(part, _)| part).filter(|part| !part.is_empty());
        let mut uri = uri::Parts::default();
        // The scheme is among the byte strings only to be counted in their size.
        let _ = part();
        uri.scheme.clone_from(&self.scheme);
        uri.authority = part().map(|authority| Authority::try_from(authority).expect(VALID));
        uri.path_and_query = part().map(|path| PathAndQuery::try_from(path).expect(VALID));
        let mut headers = HeaderMap::new();
        while let (Some((name, _)), Some((value, sensitive))) = (fields.next(), fields.next()) {
            let mut value = HeaderValue::from_bytes(value).expect(VALID);
            value.set_sensitive(sensitive);
            // h2 makes names with `from_lowercase`, which accepts more names than `from_bytes`.
            headers.append(HeaderName::from_lowercase(name).expect(VALID), value);
        }
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method.clone();
        head.uri = Uri::from_parts(uri).expect(VALID);
        head.version = self.version;
        head.headers = headers;
        head.extensions = self.extensions.clone();
        head
    }
}

// === impl ByteStrings ===

impl ByteStrings {
    fn push(&mut self, bytes: &[u8], sensitive: bool) {
        let length = u32::try_from(bytes.len()).ok().filter(|length| length & SENSITIVE == 0).expect("heads are small");
        let length = if sensitive { length | SENSITIVE } else { length };
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn iter(&self) -> impl Iterator<Item = (&[u8], bool)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let length = u32::from_ne_bytes(*length);
            let (bytes, after) = after.split_at((length & !SENSITIVE) as usize);
            rest = after;
            Some((bytes, length & SENSITIVE != 0))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::client_cert::CLIENT_CERT;
    use http::header::{AUTHORIZATION, COOKIE};

    #[track_caller]
    fn check(head: &Parts) {
        let mut taken = Head::Whole { head: head.clone(), strip: true };
        let times = [taken.take(), taken.take(), taken.into_parts()];
        for again in times {
            assert_eq!((&again.method, &again.uri, again.version), (&head.method, &head.uri, head.version));
            let sensitive = |headers: &HeaderMap| headers.values().map(HeaderValue::is_sensitive).collect::<Vec<_>>();
            assert_eq!(again.headers.iter().collect::<Vec<_>>(), head.headers.iter().collect::<Vec<_>>());
            assert_eq!(sensitive(&again.headers), sensitive(&head.headers));
            assert_eq!(again.extensions.get::<u8>(), head.extensions.get());
        }
    }

    #[test]
    fn copies_are_like_the_head() {
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        for uri in ["http://a.example:80/x?y", "/only/a/path", "*", "http://a.example"] {
            let req = Request::options(uri)
                .version(Version::HTTP_2)
                .extension(7_u8)
                .header(COOKIE, "a=1")
                .header("x-bytes", HeaderValue::from_bytes(b"\xff\x80 ").unwrap())
                .header("x-empty", "")
                .header(HeaderName::from_lowercase(b"x-quote\"").unwrap(), "1")
                .header(COOKIE, "b=2")
                .header(AUTHORIZATION, secret.clone())
                .header("x-long", "v".repeat(70_000));
            check(&req.body(()).unwrap().into_parts().0);
        }
        let mut odd = uri::Parts::default();
        odd.scheme = Some("".parse().unwrap());
        odd.authority = Some("a.example".parse().unwrap());
        odd.path_and_query = Some("/".parse().unwrap());
        check(&Request::get(Uri::from_parts(odd).unwrap()).body(()).unwrap().into_parts().0);
        check(&Request::new(()).into_parts().0);
    }

    #[test]
    fn list_size_counts_names_values_and_32_for_each_field() {
        let req = Request::post("http://a.test/path").header("x", "1").header("x", "23").header("y", "");
        let mut head = Head::Whole { head: req.body(()).unwrap().into_parts().0, strip: true };
        assert_eq!(head.list_size(), None);
        let parts = head.take();
        let pseudo = 7 + 4 + 7 + 4 + 10 + 6 + 5 + 5;
        assert_eq!(list_size(&parts), pseudo + 2 + 3 + 1 + 7 * 32);
        assert_eq!(head.list_size(), Some(pseudo + 2 + 3 + 1 + 7 * 32));
    }

    #[test]
    fn a_client_cert_field_is_removed_if_strip_is_set() {
        for (strip, left) in [(true, 0), (false, 2)] {
            let req = Request::get("http://a.example/").header(CLIENT_CERT, "a").header(CLIENT_CERT, "b");
            let (head, ()) = req.header(COOKIE, "c").body(()).unwrap().into_parts();
            let mut head = Head::Whole { head, strip };
            for again in [head.take(), head.take()] {
                assert_eq!(again.headers.get_all(CLIENT_CERT).iter().count(), left);
                assert_eq!(again.headers[COOKIE], "c");
            }
        }
    }
}
