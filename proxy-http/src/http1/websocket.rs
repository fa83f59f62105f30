//! The WebSocket handshake: in HTTP/1.1 an upgrade (RFC 6455 section 4), in HTTP/2 an extended CONNECT (RFC 8441 section 5).
//! Between its two sides the proxy has the latter.

use crate::message::{
    connect_protocol::ConnectProtocol,
    fields::{self, Invalid},
};
use data_encoding::BASE64;
use http::{HeaderMap, HeaderValue, Request, header};
use sha1_smol::Sha1;

/// The value of a message's `upgrade` field, which names WebSocket.
#[derive(Clone, Debug)]
pub(crate) struct Upgrade(HeaderValue);

/// A `sec-websocket-key`. The answer to it shows that the server speaks WebSocket; the key is no secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Key(HeaderValue);

/// The only upgrade that is forwarded: `h2c` would change the protocol of one side, and of other protocols the proxy
/// does not know that they are tunnels.
const WEBSOCKET: &str = "websocket";
/// Appended to the key before it is hashed (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;

// === impl Upgrade ===

impl Upgrade {
    /// The value in a message that the proxy converts.
    const OURS: Self = Self(HeaderValue::from_static(WEBSOCKET));

    /// The upgrade that a request offers. Of a list of protocols, from which the server may choose, only WebSocket goes on (RFC
    /// 9110 section 7.8).
    pub(crate) fn offered(headers: &HeaderMap) -> Option<Self> {
        Self::of(headers).or_else(|| {
            let is_offered = fields::has_token(headers, &header::UPGRADE, WEBSOCKET);
            (is_offered && fields::has_token(headers, &header::CONNECTION, "upgrade")).then_some(Self::OURS)
        })
    }

    /// The upgrade in a message's `connection` and `upgrade` fields, if it is to WebSocket and nothing else.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = only(headers, &header::UPGRADE)?;
        let named = fields::has_token(headers, &header::CONNECTION, "upgrade");
        (named && value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes())).then(|| Self(value.clone()))
    }

    /// Adds the `connection` and `upgrade` fields to a message.
    pub(crate) fn put(self, headers: &mut HeaderMap) {
        headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, self.0);
    }
}

/// Whether extended CONNECT asks for a WebSocket.
pub(crate) fn is_websocket(protocol: &ConnectProtocol) -> bool {
    protocol.as_str().eq_ignore_ascii_case(WEBSOCKET)
}

/// Makes an HTTP/1.1 client's handshake one of HTTP/2, which has an authority and no key.
pub(crate) fn to_http2<B>(req: &mut Request<B>) -> Result<(), &'static str> {
    req.uri().authority().ok_or("host is empty")?;
    Key::of(req.headers()).ok_or("sec-websocket-key is malformed")?;
    req.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
    Ok(())
}

/// Adds the fields of an HTTP/1.1 handshake to an HTTP/2 client's request, with a key of the proxy's own.
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
    /// The message's only key, if it is 16 bytes in base64.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let key = only(headers, &header::SEC_WEBSOCKET_KEY)?;
        // 24 characters of base64 are 18 bytes at most.
        let mut bytes = [0; 18];
        let whole = key.len() == BASE64_KEY && BASE64.decode_mut(key.as_bytes(), &mut bytes) == Ok(KEY_BYTES);
        whole.then(|| Self(key.clone()))
    }

    /// Checks that a response has the answer to the key.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Invalid> {
        let accept = only(headers, &header::SEC_WEBSOCKET_ACCEPT);
        if accept == Some(&self.accept()) { Ok(()) } else { Err(Invalid("its sec-websocket-accept is wrong")) }
    }

    /// Adds the answer to the key to a response.
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

/// Lengths in base64 of a key's 16 bytes and of a hash's 20.
const BASE64_KEY: usize = 24;
const BASE64_HASH: usize = 28;

fn encode<const LENGTH: usize>(bytes: &[u8]) -> HeaderValue {
    let mut text = [0; LENGTH];
    BASE64.encode_mut(bytes, &mut text);
    HeaderValue::from_bytes(&text).expect("base64 is text")
}

/// The value of a field, if the message has exactly one.
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
