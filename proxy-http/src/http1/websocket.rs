//! The handshake of a WebSocket: as HTTP/1.1 has it, an upgrade (RFC 6455 section 4), and as HTTP/2 has it, extended CONNECT
//! (RFC 8441 section 5). Inside of the proxy it is the latter.

use crate::message::fields::{self, Invalid};
use data_encoding::BASE64;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderValue, Request, header};
use sha1_smol::Sha1;

/// A message's `upgrade`, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Upgrade(HeaderValue);

/// What a client sends for the server to answer to. It shows that the server speaks WebSocket, and is no secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Key(HeaderValue);

/// The only upgrade that is passed on: `h2c` would be another protocol, and others say nothing of the connection's bytes.
const WEBSOCKET: &str = "websocket";
/// What the key has behind it when it is hashed.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;

// === impl Upgrade ===

impl Upgrade {
    /// What extended CONNECT calls it.
    pub(crate) const PROTOCOL: Protocol = Protocol::from_static(WEBSOCKET);
    /// That of a message of the proxy's own.
    const OURS: Self = Self(HeaderValue::from_static(WEBSOCKET));

    /// The upgrade that a message's `connection` and `upgrade` fields speak of.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = only(headers, &header::UPGRADE)?;
        let named = fields::has_token(headers, &header::CONNECTION, "upgrade");
        (named && value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())).then(|| Self(value.clone()))
    }

    /// Says it in the fields of a message.
    pub(crate) fn put(self, headers: &mut HeaderMap) {
        headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.0);
    }
}

/// Whether extended CONNECT asks for a WebSocket.
pub(crate) fn is_websocket(protocol: &Protocol) -> bool {
    protocol.as_str().eq_ignore_ascii_case(WEBSOCKET)
}

/// Makes an HTTP/1.1 client's request one of HTTP/2, which has no key, but an authority.
pub(crate) fn to_http2<B>(req: &mut Request<B>) -> Result<(), &'static str> {
    req.uri().authority().ok_or("host is empty")?;
    Key::of(req.headers()).ok_or("sec-websocket-key is malformed")?;
    req.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
    Ok(())
}

/// Makes the fields of an HTTP/2 client's request those of HTTP/1.1, with a key of the proxy's own.
pub(crate) fn to_http1(headers: &mut HeaderMap) -> Key {
    let mut bytes = [0; KEY_BYTES];
    fastrand::fill(&mut bytes);
    let key = Key(encode::<BASE64_KEY>(&bytes));
    headers.insert(header::SEC_WEBSOCKET_KEY, key.0.clone());
    Upgrade::OURS.put(headers);
    key
}

// === impl Key ===

impl Key {
    /// The one key, if it is 16 bytes in base64.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let key = only(headers, &header::SEC_WEBSOCKET_KEY)?;
        // As many as 24 letters may be.
        let mut bytes = [0; 18];
        let whole = key.len() == BASE64_KEY && BASE64.decode_mut(key.as_bytes(), &mut bytes) == Ok(KEY_BYTES);
        whole.then(|| Self(key.clone()))
    }

    /// Whether a response's fields answer to it.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Invalid> {
        let accept = only(headers, &header::SEC_WEBSOCKET_ACCEPT);
        if accept == Some(&self.accept()) { Ok(()) } else { Err(Invalid("its sec-websocket-accept is wrong")) }
    }

    /// Answers to it in the fields of a response.
    pub(crate) fn answer(&self, headers: &mut HeaderMap) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept());
        Upgrade::OURS.put(headers);
    }

    fn accept(&self) -> HeaderValue {
        let mut hash = Sha1::from(self.0.as_bytes());
        hash.update(GUID);
        encode::<BASE64_HASH>(&hash.digest().bytes())
    }
}

/// What 16 bytes are in base64, and the 20 of a hash.
const BASE64_KEY: usize = 24;
const BASE64_HASH: usize = 28;

fn encode<const LENGTH: usize>(bytes: &[u8]) -> HeaderValue {
    let mut text = [0; LENGTH];
    BASE64.encode_mut(bytes, &mut text);
    HeaderValue::from_bytes(&text).expect("base64 is text")
}

/// The value of a field that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(keys: &[&'static str]) -> HeaderMap {
        keys.iter().map(|key| (header::SEC_WEBSOCKET_KEY, HeaderValue::from_static(key))).collect()
    }

    #[test]
    fn a_key_is_answered_as_rfc_6455_shows_it() {
        let mut headers = HeaderMap::new();
        Key::of(&keyed(&["dGhlIHNhbXBsZSBub25jZQ=="])).unwrap().answer(&mut headers);
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(
            (&headers["connection"], &headers["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }

    #[test]
    fn a_key_is_16_bytes_in_base64_once() {
        for bad in [
            &[][..],
            &[""],
            &["dGhlIHNhbXBsZSBub25jZQ"],
            &["dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="],
            &["dGhlIHNhbXBsZSBub25jZSEh"],
            &["dGhlIHNhbXBsZSBub25jZ!=="],
            &["dGhlIHNhbXBsZSBub25jZSE="],
        ] {
            assert_eq!(Key::of(&keyed(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn keys_of_our_own_are_keys_and_differ() {
        let [mut one, mut other] = [HeaderMap::new(), HeaderMap::new()];
        let keys = [to_http1(&mut one), to_http1(&mut other)];
        assert_eq!([Key::of(&one), Key::of(&other)], keys.clone().map(Some));
        assert_ne!(keys[0], keys[1]);
        for (key, expect) in [(&keys[0], true), (&keys[1], false)] {
            let mut answer = HeaderMap::new();
            key.answer(&mut answer);
            assert_eq!(keys[0].check(&answer).is_ok(), expect);
        }
        assert!(keys[0].check(&HeaderMap::new()).is_err());
    }
}
