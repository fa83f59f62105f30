//! The framing of messages of HTTP/1.1, byte by byte, where it has one meaning.

use crate::message::fields::is_length;
use std::mem;

/// Follows the framing of requests.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) at: At,
    framing: Framing,
    pub(crate) line: Line,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum At {
    /// A line of a head.
    #[default]
    Head,
    /// So many bytes of a body.
    Body(u64),
    /// The line of a chunk's size.
    Size(Size),
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The CR and the LF behind a chunk.
    ChunkEnd { cr: bool },
    /// A line of trailers.
    Trailers,
    /// What follows CONNECT, whatever becomes of that: no request.
    Tunnel,
    /// It does not matter any more.
    Spoilt,
}

/// How far a chunk's size is read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Size {
    bytes: u64,
    /// Whether there was a digit.
    some: bool,
    /// The digits are over.
    extension: bool,
    cr: bool,
}

/// What a head has said of its body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Framing {
    /// There was a line other than an empty one.
    begun: bool,
    length: Option<u64>,
    chunked: bool,
    connect: bool,
}

/// The line that is being read.
#[derive(Debug)]
pub(crate) struct Line {
    /// The start of it, enough for the fields that matter.
    kept: [u8; 64],
    len: usize,
    cr: bool,
}

/// A byte that will not do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spoilt;

const CONNECT: &[u8] = b"CONNECT ";
pub(super) const HEAD_END: &[u8] = b"\r\n\r\n";
const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";

// === impl Scan ===

impl Scan {
    /// Whether a head has begun that has not ended.
    pub(crate) fn is_in_head(&self) -> bool {
        self.at == At::Head && (self.framing.begun || !self.line.is_empty())
    }

    /// Follows what was read, and spoils the first byte that will not do. Tells whether it was one of a head.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> bool {
        let (mut next, mut in_head) = (0, false);
        while next < bytes.len() && !matches!(self.at, At::Spoilt | At::Tunnel) {
            let skipped = self.skip(&bytes[next..]);
            if skipped > 0 {
                next += skipped;
                continue;
            }
            self.at = self.step(bytes[next]).unwrap_or_else(|Spoilt| {
                bytes[next] = 0;
                in_head = self.at == At::Head;
                At::Spoilt
            });
            next += 1;
        }
        in_head
    }

    /// Passes over data, and over what a line has before its end. Tells how many bytes.
    pub(crate) fn skip(&mut self, bytes: &[u8]) -> usize {
        let (At::Body(left) | At::Chunk(left)) = &mut self.at else {
            return if matches!(self.at, At::Head | At::Trailers) { self.line.extend(bytes) } else { 0 };
        };
        let skipped = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= skipped as u64;
        if *left == 0 {
            self.at = if matches!(self.at, At::Body(_)) { At::Head } else { At::ChunkEnd { cr: false } };
        }
        skipped
    }

    /// Takes a byte that is not passed over. Tells what the next one belongs to.
    pub(crate) fn step(&mut self, byte: u8) -> Result<At, Spoilt> {
        match self.at {
            At::Head => self.head(byte),
            At::Trailers => Ok(if self.line.push(byte)? == Some(0) { At::Head } else { At::Trailers }),
            At::Size(size) => size.push(byte),
            At::ChunkEnd { cr: false } if byte == b'\r' => Ok(At::ChunkEnd { cr: true }),
            At::ChunkEnd { cr: true } if byte == b'\n' => Ok(At::Size(Size::default())),
            At::ChunkEnd { .. } => Err(Spoilt),
            At::Body(_) | At::Chunk(_) | At::Tunnel | At::Spoilt => Ok(self.at),
        }
    }

    fn head(&mut self, byte: u8) -> Result<At, Spoilt> {
        // Looked at before the line's end, which must not be a line's end then.
        if byte == b'\r' && self.framing.begun {
            self.framing.field(self.line.start(), self.line.is_whole())?;
        } else if byte == b'\r' {
            self.framing.connect = self.line.start().starts_with(CONNECT);
        }
        match self.line.push(byte)? {
            // Empty lines before a request are passed over (RFC 9112 section 2.2).
            Some(0) if self.framing.begun => Ok(mem::take(&mut self.framing).body()),
            Some(len) => {
                self.framing.begun |= len > 0;
                Ok(At::Head)
            }
            None => Ok(At::Head),
        }
    }
}

// === impl Size ===

impl Size {
    fn push(mut self, byte: u8) -> Result<At, Spoilt> {
        match byte {
            b'\n' if self.cr => return Ok(if self.bytes == 0 { At::Trailers } else { At::Chunk(self.bytes) }),
            _ if self.cr => return Err(Spoilt),
            // It ends the body with an error as it is, where hyper would take a NUL for a part of an extension.
            b'\n' => return Ok(At::Spoilt),
            b'\r' if self.some => self.cr = true,
            b';' | b' ' | b'\t' if self.some => self.extension = true,
            _ if self.extension => {}
            _ => {
                let digit = char::from(byte).to_digit(16).ok_or(Spoilt)?;
                let shifted = self.bytes.checked_mul(16).ok_or(Spoilt)?;
                (self.bytes, self.some) = (shifted + u64::from(digit), true);
            }
        }
        Ok(At::Size(self))
    }
}

// === impl Framing ===

impl Framing {
    /// Takes notice of a field, of which the line's start may be all that is known.
    pub(crate) fn field(&mut self, line: &[u8], whole: bool) -> Result<(), Spoilt> {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_length = name.eq_ignore_ascii_case(CONTENT_LENGTH);
        if !is_length && !name.eq_ignore_ascii_case(TRANSFER_ENCODING) {
            return Ok(());
        }
        // Only one of them, only once.
        if !whole || self.chunked || self.length.is_some() {
            return Err(Spoilt);
        }
        if is_length {
            self.length = Some(length(value).ok_or(Spoilt)?);
        } else if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
        } else {
            return Err(Spoilt);
        }
        Ok(())
    }

    /// Whether nothing was said.
    pub(crate) fn is_none(self) -> bool {
        self.length.is_none() && !self.chunked
    }

    /// What follows the head.
    pub(crate) fn body(self) -> At {
        match self.length {
            _ if self.connect => At::Tunnel,
            _ if self.chunked => At::Size(Size::default()),
            Some(length) if length > 0 => At::Body(length),
            _ => At::Head,
        }
    }
}

fn length(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok().filter(|_| is_length(value))?.parse().ok()
}

// === impl Line ===

impl Default for Line {
    fn default() -> Self {
        Self { kept: [0; 64], len: 0, cr: false }
    }
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && !self.cr
    }

    /// As much of it as is kept.
    pub(crate) fn start(&self) -> &[u8] {
        &self.kept[..self.len.min(self.kept.len())]
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.len <= self.kept.len()
    }

    /// Takes bytes up to one that may end the line, and tells how many.
    fn extend(&mut self, bytes: &[u8]) -> usize {
        if self.cr {
            return 0;
        }
        let count = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        if let Some(room) = self.kept.get_mut(self.len..) {
            let kept = count.min(room.len());
            room[..kept].copy_from_slice(&bytes[..kept]);
        }
        self.len = self.len.saturating_add(count);
        count
    }

    /// Takes a byte. `Some`: it ends the line, which has so many bytes.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Option<usize>, Spoilt> {
        match (byte, self.cr) {
            (b'\n', true) => {
                self.cr = false;
                return Ok(Some(mem::take(&mut self.len)));
            }
            (b'\n', false) | (_, true) => return Err(Spoilt),
            (b'\r', false) => self.cr = true,
            (byte, false) => {
                if let Some(place) = self.kept.get_mut(self.len) {
                    *place = byte;
                }
                self.len = self.len.saturating_add(1);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of bytes, read in pieces of that size; a spoilt byte shows as `~`.
    fn scanned(bytes: &str, piece: usize) -> (String, Scan) {
        let mut scan = Scan::default();
        let mut bytes = bytes.as_bytes().to_vec();
        bytes.chunks_mut(piece).for_each(|piece| _ = scan.read(piece));
        (String::from_utf8(bytes).unwrap().replace('\0', "~"), scan)
    }

    #[track_caller]
    fn check(bytes: &str, expect: &str) {
        for piece in [1, 3, bytes.len()] {
            let (seen, scan) = scanned(&bytes.replace('|', "\r\n"), piece);
            assert_eq!(seen.replace("\r\n", "|"), expect, "pieces of {piece}");
            assert_eq!(scan.at == At::Spoilt, bytes != expect, "pieces of {piece}: {:?}", scan.at);
            assert!(scan.at == At::Spoilt || (scan.at == At::Head && !scan.is_in_head()), "{:?}", scan.at);
        }
    }

    #[track_caller]
    fn passes(bytes: &str) {
        check(bytes, bytes);
    }

    #[test]
    fn requests_pass_as_they_are() {
        passes("GET / HTTP/1.1|host: a||");
        passes("||GET / HTTP/1.1|host: a||");
        passes("POST / HTTP/1.1|Content-Length: 5||a\nb\u{1}cGET / HTTP/1.1||");
        passes("POST / HTTP/1.1|content-length:\t 007 ||POST / ");
        passes("POST / HTTP/1.1|content-length: 0||GET / HTTP/1.1||");
        passes("POST / HTTP/1.1|Transfer-Encoding:  Chunked ||6|a\nb|c|A;x=\"y\";z|0123456789|0|||GET / HTTP/1.1||");
        passes("POST / HTTP/1.1|transfer-encoding: chunked||0|a: b|content-length: 7|||GET / HTTP/1.1||");
        passes("content-length: 5|x: y||GET / HTTP/1.1||");
    }

    #[test]
    fn what_follows_connect_is_not_looked_at() {
        let head = "||CONNECT a:80 HTTP/1.1|host: a|content-length: 5||".replace('|', "\r\n");
        let after = "\ncontent-length: 5\r~";
        let (seen, scan) = scanned(&format!("{head}{after}"), 1);
        assert_eq!((seen, scan.at, scan.is_in_head()), (format!("{head}{after}"), At::Tunnel, false));
        // It is the method alone.
        check("GET /CONNECT HTTP/1.1|a: CONNECT ||\n", "GET /CONNECT HTTP/1.1|a: CONNECT ||~");
        check("CONNECTS a:80 HTTP/1.1|CONNECT : 1||\n", "CONNECTS a:80 HTTP/1.1|CONNECT : 1||~");
        let (seen, _) = scanned("CONNECT a:80 HTTP/1.1\r\nhost: a\n", 1);
        assert_eq!(seen, "CONNECT a:80 HTTP/1.1\r\nhost: a~");
    }

    #[test]
    fn the_first_byte_that_has_two_meanings_is_spoilt() {
        check("GET / HTTP/1.1\nhost: a||", "GET / HTTP/1.1~host: a||");
        check("\nGET / HTTP/1.1||", "~GET / HTTP/1.1||");
        check("GET / HTTP/1.1|a: b\n\nGET", "GET / HTTP/1.1|a: b~\nGET");
        check("GET / HTTP/1.1|a: b\rc||", "GET / HTTP/1.1|a: b\r~||");
        for (first, second) in [
            ("content-length: 5", "content-length: 6"),
            ("content-length: 5", "Content-Length: 5"),
            ("content-length: 5", "transfer-encoding: chunked"),
            ("transfer-encoding: chunked", "content-length: 5"),
            ("transfer-encoding: chunked", "transfer-encoding: chunked"),
            ("a: b", "content-length: 5, 5"),
            ("a: b", "content-length: +5"),
            ("a: b", "content-length:"),
            ("a: b", "content-length: 99999999999999999999"),
            ("a: b", "transfer-encoding: gzip, chunked"),
            ("a: b", "transfer-encoding: chunked, identity"),
            ("a: b", "transfer-encoding:                                                        chunked"),
        ] {
            let head = format!("POST / HTTP/1.1|{first}|a: b|{second}");
            check(&format!("{head}||"), &format!("{head}~\n|"));
        }
    }

    #[test]
    fn chunks_that_have_two_meanings_are_spoilt() {
        let head = "POST / HTTP/1.1|transfer-encoding: chunked||";
        for (body, expect) in [
            ("5\nabcde", "5\nabcde"),
            ("5;x\nabcde", "5;x\nabcde"),
            ("5\rabcde", "5\r~bcde"),
            ("|5", "~\n5"),
            ("0x5|", "0~5|"),
            ("-5|", "~5|"),
            ("11111111111111111|", "1111111111111111~|"),
            ("5|abcdef|", "5|abcde~|"),
            ("5|abcde\n0", "5|abcde~0"),
            ("0|a: b\n\n", "0|a: b~\n"),
        ] {
            let (seen, scan) = scanned(&format!("{head}{body}").replace('|', "\r\n"), 1);
            assert_eq!(seen.replace("\r\n", "|"), format!("{head}{expect}"));
            assert_eq!(scan.at, At::Spoilt, "{body:?}");
        }
    }

    #[test]
    fn a_head_lasts_from_its_first_byte_to_its_last() {
        let in_head = |bytes: &str| scanned(&bytes.replace('|', "\r\n"), 1).1.is_in_head();
        for (bytes, expect) in [
            ("", false),
            ("|", false),
            ("G", true),
            ("GET / HTTP/1.1|", true),
            ("GET / HTTP/1.1|a: b|\r", true),
            ("GET / HTTP/1.1||", false),
            ("GET / HTTP/1.1||G", true),
            ("POST / HTTP/1.1|content-length: 5||abcd", false),
            ("POST / HTTP/1.1|transfer-encoding: chunked||", false),
        ] {
            assert_eq!(in_head(bytes), expect, "{bytes:?}");
        }
    }
}
