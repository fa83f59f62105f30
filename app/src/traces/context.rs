//! Trace contexts in the fields of requests: the W3C's, and b3 in one field or in several.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The trace that a request goes on, and its two spans.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Trace {
    pub(super) id: [u8; 16],
    /// The client's span.
    pub(super) parent: [u8; 8],
    /// Our span of kind server.
    pub(super) server: [u8; 8],
    /// Our span of kind client.
    pub(super) client: [u8; 8],
    /// The flags of `traceparent`; of b3, sampled alone.
    pub(super) flags: u8,
    /// `tracestate`, as it came. Empty: none, or the context is not the W3C's.
    pub(super) state: String,
}

/// A context as one format has it.
struct Context {
    id: [u8; 16],
    parent: [u8; 8],
    flags: u8,
}

/// A format of contexts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    W3c,
    B3,
    /// b3 in several fields.
    B3Multi,
}

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static B3: HeaderName = HeaderName::from_static("b3");
static B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
static B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
static B3_PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

const SAMPLED: u8 = 1;
/// The length of `traceparent` of version 00, and where its parent is.
const TRACEPARENT_LEN: usize = 55;
const PARENT: std::ops::Range<usize> = 36..52;
/// Bytes of `tracestate` that a span keeps; the W3C has receivers pass on at least as many.
const MAX_STATE: usize = 512;

// === impl Trace ===

impl Trace {
    /// Goes on with the trace that a request belongs to, and puts our span of kind client in the place of its parent. Where there
    /// are contexts in several formats, the first that is well-formed counts, in the order of [`Format`], and all of the same
    /// trace are changed. `None`: there is no context, or it is not sampled; no field is changed.
    pub(super) fn resume(headers: &mut HeaderMap) -> Option<Self> {
        let formats = Format::maybe_sampled(headers)?;
        let (format, found) = formats.into_iter().flatten().find_map(|format| Some((format, format.read(headers)?)))?;
        let Context { id, parent, flags } = found;
        if flags & SAMPLED == 0 {
            return None;
        }
        let state = if format == Format::W3c { trace_state(headers) } else { String::new() };
        let trace = Self { id, parent, server: span_id(), client: span_id(), flags, state };
        for format in formats.into_iter().flatten() {
            if format.read(headers).is_some_and(|context| context.id == id && context.flags & SAMPLED != 0) {
                format.write(headers, &trace);
            }
        }
        Some(trace)
    }
}

// === impl Format ===

impl Format {
    /// The formats that a request has fields of, by their order. `None`: none of them can be of a sampled trace. Most are not, so
    /// that is found in one pass: a look-up for each format would hash its name.
    fn maybe_sampled(headers: &HeaderMap) -> Option<[Option<Self>; 3]> {
        let (mut w3c, mut b3, mut b3_multi, mut maybe) = (None, None, None, false);
        for (name, value) in headers {
            maybe |= match name.as_str() {
                "traceparent" => {
                    w3c = Some(Self::W3c);
                    // The last digit of the flags.
                    let digit =
                        value.as_bytes().get(TRACEPARENT_LEN - 1).and_then(|digit| char::from(*digit).to_digit(16));
                    digit.is_some_and(|digit| digit & u32::from(SAMPLED) != 0)
                }
                "b3" => b3.replace(Self::B3).is_none(),
                "x-b3-traceid" => b3_multi.replace(Self::B3Multi).is_none(),
                _ => false,
            };
        }
        maybe.then_some([w3c, b3, b3_multi])
    }

    /// `None`: there is no context in this format, or it is malformed.
    fn read(self, headers: &HeaderMap) -> Option<Context> {
        match self {
            Self::W3c => read_traceparent(one(headers, &TRACEPARENT)?),
            Self::B3 => read_b3(one(headers, &B3)?),
            Self::B3Multi => {
                let trace = b3_trace_id(one(headers, &B3_TRACE_ID)?)?;
                let parent = id(one(headers, &B3_SPAN_ID)?)?;
                let is_sampled = one(headers, &B3_SAMPLED).is_some_and(|value| value == b"1" || value == b"true");
                // Debug implies sampled.
                let is_debug = one(headers, &B3_FLAGS).is_some_and(|value| value == b"1");
                Some(Context { id: trace, parent, flags: u8::from(is_sampled || is_debug) })
            }
        }
    }

    /// Puts our span in the place of the one that `read` has found. All else stays as it is.
    fn write(self, headers: &mut HeaderMap, trace: &Trace) {
        let set = |headers: &mut HeaderMap, name: &HeaderName, value: &[u8]| {
            if let Some(field) = headers.get_mut(name) {
                *field = HeaderValue::from_bytes(value).expect("it has the bytes of a value, and digits");
            }
        };
        let Some(value) = headers.get(self.field()).map(|value| value.as_bytes().to_vec()) else { return };
        match self {
            Self::W3c if value.starts_with(b"00") => {
                let value = [&value[..PARENT.start], &*hex(&trace.client), &value[PARENT.end..]].concat();
                set(headers, &TRACEPARENT, &value);
            }
            Self::W3c => {
                // As the W3C has it, the field goes on in the version that is known here, without unknown flags.
                let (start, flags) = (&value[2..PARENT.start], hex(&[trace.flags & SAMPLED]));
                set(headers, &TRACEPARENT, &[b"00", start, &*hex(&trace.client), b"-", &*flags].concat());
            }
            Self::B3 => {
                let mut parts: Vec<_> = value.split(|byte| *byte == b'-').collect();
                let (client, server) = (hex(&trace.client), hex(&trace.server));
                parts[1] = &client;
                if let Some(parent) = parts.get_mut(3) {
                    *parent = &server;
                }
                set(headers, &B3, &parts.join(&b'-'));
            }
            Self::B3Multi => {
                set(headers, &B3_SPAN_ID, &hex(&trace.client));
                set(headers, &B3_PARENT_SPAN_ID, &hex(&trace.server));
            }
        }
    }

    /// The field with the parent.
    fn field(self) -> &'static HeaderName {
        match self {
            Self::W3c => &TRACEPARENT,
            Self::B3 => &B3,
            Self::B3Multi => &B3_SPAN_ID,
        }
    }
}

/// `version-traceid-parentid-flags`. Later versions may have more behind it.
fn read_traceparent(value: &[u8]) -> Option<Context> {
    let (start, rest) = value.split_at_checked(TRACEPARENT_LEN)?;
    if start.iter().any(u8::is_ascii_uppercase) || start[2] != b'-' || start[35] != b'-' || start[52] != b'-' {
        return None;
    }
    let version: [u8; 1] = bytes(&start[..2])?;
    let is_whole = rest.is_empty() || (version[0] > 0 && rest[0] == b'-');
    if version[0] == 0xff || !is_whole {
        return None;
    }
    let [flags] = bytes(&start[53..])?;
    Some(Context { id: id(&start[3..35])?, parent: id(&start[PARENT])?, flags })
}

/// `traceid-spanid`, and behind it the state of sampling and a parent, which may be missing.
fn read_b3(value: &[u8]) -> Option<Context> {
    let mut parts = value.split(|byte| *byte == b'-');
    let (trace, span) = (b3_trace_id(parts.next()?)?, id(parts.next()?)?);
    let flags = match parts.next() {
        Some(b"1" | b"d") => SAMPLED,
        Some(b"0") | None => 0,
        Some(_) => return None,
    };
    if let Some(parent) = parts.next() {
        id::<8>(parent)?;
    }
    parts.next().is_none().then_some(Context { id: trace, parent: span, flags })
}

/// An id of 8 bytes is one of 16 that starts with zeros.
fn b3_trace_id(text: &[u8]) -> Option<[u8; 16]> {
    let Some(short) = id::<8>(text) else { return id(text) };
    let mut long = [0; 16];
    long[8..].copy_from_slice(&short);
    Some(long)
}

/// An id, which is not zero.
fn id<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    bytes(text).filter(|id| id.iter().any(|byte| *byte != 0))
}

fn bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}

fn span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// The value of a field that there is once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
}

/// The start of `tracestate`. Several fields are one list.
fn trace_state(headers: &HeaderMap) -> String {
    let values: Vec<_> = headers.get_all(&TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut state = values.join(",");
    // Half a member is none.
    if state.len() > MAX_STATE {
        state.truncate(state[..MAX_STATE].rfind(',').unwrap_or(0));
    }
    state
}

#[cfg(test)]
mod tests;
