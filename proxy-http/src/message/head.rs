//! Heads of requests that may be needed again.

use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    request::{Parts, Request},
    uri::{self, Authority, PathAndQuery, Scheme},
};
use std::mem;

/// A request's head, which can be taken more than once.
///
/// h2 takes a head for good, so what is taken first is the head as it came, and a copy stays. The copy is bytes: a
/// clone would count one more reference of each field, and each such count costs as much as copying hundreds of bytes.
pub(crate) enum Head {
    Whole {
        head: Parts,
        /// Whether [`CLIENT_CERT`] is left out when it is taken. Looking for it costs nothing while fields are copied.
        strip: bool,
    },
    Taken(Copy),
}

/// A head in one piece of memory.
pub(crate) struct Copy {
    method: Method,
    /// As it came: an empty one is none to `http`'s parser.
    scheme: Option<Scheme>,
    version: Version,
    extensions: Extensions,
    /// Fields, without those of scheme, authority and path.
    count: usize,
    /// Scheme, authority and path; then names and values, in turn.
    fields: Fields,
}

/// Byte strings, each with its length before it.
struct Fields(Vec<u8>);

/// What each field adds to the size of a header list beside its name and value.
const FIELD_OVERHEAD: usize = 32;
/// What proxies tell of their clients' certificates. Whoever else sends it is not to be believed.
pub(crate) const CLIENT_CERT: &str = "x-forwarded-client-cert";
/// Enough for most heads.
const CAPACITY: usize = 256;
/// What a value's length has added to it if the value must not be compressed.
const SENSITIVE: u32 = 1 << 31;
const VALID: &str = "it is the copy of a valid one";

/// The size of a request's header list, in bytes as RFC 9113 section 6.5.2 counts them.
pub(crate) fn list_size(head: &Parts) -> usize {
    let uri = &head.uri;
    let pseudo = [
        Some((":method", head.method.as_str())),
        uri.scheme_str().map(|scheme| (":scheme", scheme)),
        uri.authority().map(|authority| (":authority", authority.as_str())),
        uri.path_and_query().map(|path| (":path", path.as_str())),
    ];
    let pseudo = pseudo.into_iter().flatten().map(|(name, value)| name.len() + value.len());
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    pseudo.chain(fields).map(|size| size + FIELD_OVERHEAD).sum()
}

// === impl Head ===

impl Head {
    /// The head, of which a copy stays.
    pub(crate) fn take(&mut self) -> Parts {
        let copy = match self {
            Self::Whole { head, strip } => Self::Taken(Copy::of(head, *strip)),
            Self::Taken(copy) => return copy.to_parts(),
        };
        mem::replace(self, copy).into_parts()
    }

    pub(crate) fn is_connect(&self) -> bool {
        let method = match self {
            Self::Whole { head, .. } => &head.method,
            Self::Taken(copy) => &copy.method,
        };
        *method == Method::CONNECT
    }

    pub(crate) fn extensions(&self) -> &Extensions {
        match self {
            Self::Whole { head, .. } => &head.extensions,
            Self::Taken(copy) => &copy.extensions,
        }
    }

    /// The size of a head that was taken, as RFC 9113 section 6.5.2 counts it.
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

// === impl Copy ===

impl Copy {
    /// A copy of what is left of the head.
    fn of(head: &mut Parts, strip: bool) -> Self {
        let mut stripped = false;
        let mut fields = Fields(Vec::with_capacity(CAPACITY));
        let uri = &head.uri;
        fields.push(uri.scheme_str().unwrap_or_default().as_bytes(), false);
        fields.push(uri.authority().map_or("", Authority::as_str).as_bytes(), false);
        fields.push(uri.path_and_query().map_or("", PathAndQuery::as_str).as_bytes(), false);
        for (name, value) in &head.headers {
            let name = name.as_str();
            if strip && name == CLIENT_CERT {
                stripped = true;
                continue;
            }
            fields.push(name.as_bytes(), false);
            fields.push(value.as_bytes(), value.is_sensitive());
        }
        if stripped {
            head.headers.remove(CLIENT_CERT);
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
        // It is among the fields for their size alone.
        let _ = part();
        uri.scheme.clone_from(&self.scheme);
        uri.authority = part().map(|authority| Authority::try_from(authority).expect(VALID));
        uri.path_and_query = part().map(|path| PathAndQuery::try_from(path).expect(VALID));
        let mut headers = HeaderMap::new();
        while let (Some((name, _)), Some((value, sensitive))) = (fields.next(), fields.next()) {
            let mut value = HeaderValue::from_bytes(value).expect(VALID);
            value.set_sensitive(sensitive);
            // As h2 makes them: what it takes is more than `from_bytes` does.
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

// === impl Fields ===

impl Fields {
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
    fn what_is_told_of_a_client_is_left_out_if_the_client_says_it() {
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
