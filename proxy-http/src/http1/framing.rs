//! The framing of HTTP/1.1 messages, byte by byte, rejected where it has more than one meaning.

use crate::message::fields::is_length;
use std::mem;

/// Follows the framing of the messages of one connection.
#[derive(Debug, Default)]
pub(crate) struct FramingParser {
    pub(crate) state: ParseState,
    framing: BodyFraming,
    pub(crate) line: LineBuffer,
}

/// The part of a message that the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum ParseState {
    /// A line of a head.
    #[default]
    Head,
    /// A body, of which this many bytes are left.
    Body(u64),
    /// The line of a chunk's size.
    ChunkSize(ChunkSize),
    /// A chunk, of which this many bytes are left.
    Chunk(u64),
    /// The CR and the LF after a chunk.
    ChunkEnd { cr: bool },
    /// A line of the trailer section.
    Trailers,
    /// Bytes after CONNECT, which are no request whatever the response is.
    Tunnel,
    /// A byte was rejected, and nothing after it has a meaning.
    Rejected,
}

/// The line of a chunk's size (RFC 9112 section 7.1), as far as it is read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ChunkSize {
    bytes: u64,
    has_digit: bool,
    /// The digits are over.
    in_extension: bool,
    cr: bool,
}

/// The fields of a head that frame its body (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BodyFraming {
    /// A line other than an empty one has ended.
    has_line: bool,
    length: Option<u64>,
    chunked: bool,
    is_connect: bool,
}

/// The line that is being read.
#[derive(Debug)]
pub(crate) struct LineBuffer {
    /// Its start, which is long enough for the fields that frame a body.
    start: [u8; 64],
    len: usize,
    cr: bool,
}

/// A byte that the framing does not allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rejected;

const CONNECT: &[u8] = b"CONNECT ";
pub(super) const HEAD_END: &[u8] = b"\r\n\r\n";
const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";

// === impl FramingParser ===

impl FramingParser {
    /// Whether a head has begun that has not ended.
    pub(crate) fn is_in_head(&self) -> bool {
        self.state == ParseState::Head && (self.framing.has_line || !self.line.is_empty())
    }

    /// Whether the last message is whole, and no byte of another has come.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.state == ParseState::Head && !self.is_in_head()
    }

    /// Follows the bytes that were read, and puts a NUL in the place of the first that is rejected. Returns whether that
    /// was a byte of a head.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> bool {
        let (mut next, mut in_head) = (0, false);
        while next < bytes.len() && !matches!(self.state, ParseState::Rejected | ParseState::Tunnel) {
            let skipped = self.skip(&bytes[next..]);
            if skipped > 0 {
                next += skipped;
                continue;
            }
            self.state = self.step(bytes[next]).unwrap_or_else(|Rejected| {
                bytes[next] = 0;
                in_head = self.state == ParseState::Head;
                ParseState::Rejected
            });
            next += 1;
        }
        in_head
    }

    /// Passes over data, and over a line up to its end. Returns how many bytes.
    pub(crate) fn skip(&mut self, bytes: &[u8]) -> usize {
        let (ParseState::Body(left) | ParseState::Chunk(left)) = &mut self.state else {
            return if matches!(self.state, ParseState::Head | ParseState::Trailers) {
                self.line.extend(bytes)
            } else {
                0
            };
        };
        let skipped = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= skipped as u64;
        if *left == 0 {
            self.state = if matches!(self.state, ParseState::Body(_)) {
                ParseState::Head
            } else {
                ParseState::ChunkEnd { cr: false }
            };
        }
        skipped
    }

    /// Follows one byte that [`skip`](Self::skip) leaves. Returns the state of the next one.
    pub(crate) fn step(&mut self, byte: u8) -> Result<ParseState, Rejected> {
        match self.state {
            ParseState::Head => self.head(byte),
            ParseState::Trailers => {
                Ok(if self.line.push(byte)? == Some(0) { ParseState::Head } else { ParseState::Trailers })
            }
            ParseState::ChunkSize(size) => size.push(byte),
            ParseState::ChunkEnd { cr: false } if byte == b'\r' => Ok(ParseState::ChunkEnd { cr: true }),
            ParseState::ChunkEnd { cr: true } if byte == b'\n' => Ok(ParseState::ChunkSize(ChunkSize::default())),
            ParseState::ChunkEnd { .. } => Err(Rejected),
            ParseState::Body(_) | ParseState::Chunk(_) | ParseState::Tunnel | ParseState::Rejected => Ok(self.state),
        }
    }

    fn head(&mut self, byte: u8) -> Result<ParseState, Rejected> {
        // A field is read at its CR: where it is rejected, the NUL takes the place of the CR, and breaks the line's end.
        if byte == b'\r' && self.framing.has_line {
            self.framing.read_field(self.line.start(), self.line.is_whole())?;
        } else if byte == b'\r' {
            self.framing.is_connect = self.line.start().starts_with(CONNECT);
        }
        match self.line.push(byte)? {
            // Empty lines before a request are ignored (RFC 9112 section 2.2).
            Some(0) if self.framing.has_line => Ok(mem::take(&mut self.framing).body_state()),
            Some(len) => {
                self.framing.has_line |= len > 0;
                Ok(ParseState::Head)
            }
            None => Ok(ParseState::Head),
        }
    }
}

// === impl ChunkSize ===

impl ChunkSize {
    fn push(mut self, byte: u8) -> Result<ParseState, Rejected> {
        match byte {
            b'\n' if self.cr => {
                return Ok(if self.bytes == 0 { ParseState::Trailers } else { ParseState::Chunk(self.bytes) });
            }
            _ if self.cr => return Err(Rejected),
            // hyper rejects LF here by itself, and would take a NUL for a part of an extension.
            b'\n' => return Ok(ParseState::Rejected),
            b'\r' if self.has_digit => self.cr = true,
            b';' | b' ' | b'\t' if self.has_digit => self.in_extension = true,
            _ if self.in_extension => {}
            _ => {
                let digit = char::from(byte).to_digit(16).ok_or(Rejected)?;
                let shifted = self.bytes.checked_mul(16).ok_or(Rejected)?;
                (self.bytes, self.has_digit) = (shifted + u64::from(digit), true);
            }
        }
        Ok(ParseState::ChunkSize(self))
    }
}

// === impl BodyFraming ===

impl BodyFraming {
    /// Reads a field line, or its start if it is not whole.
    pub(crate) fn read_field(&mut self, line: &[u8], is_whole: bool) -> Result<(), Rejected> {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_length = name.eq_ignore_ascii_case(CONTENT_LENGTH);
        if !is_length && !name.eq_ignore_ascii_case(TRANSFER_ENCODING) {
            return Ok(());
        }
        // Either field, and once: a second has another meaning for other readers (RFC 9112 section 6.3).
        if !is_whole || self.chunked || self.length.is_some() {
            return Err(Rejected);
        }
        if is_length {
            self.length = Some(length(value).ok_or(Rejected)?);
        } else if value.eq_ignore_ascii_case(b"chunked") {
            self.chunked = true;
        } else {
            return Err(Rejected);
        }
        Ok(())
    }

    /// Whether the head has neither content-length nor transfer-encoding.
    pub(crate) fn is_none(self) -> bool {
        self.length.is_none() && !self.chunked
    }

    /// The state after the head.
    pub(crate) fn body_state(self) -> ParseState {
        match self.length {
            _ if self.is_connect => ParseState::Tunnel,
            _ if self.chunked => ParseState::ChunkSize(ChunkSize::default()),
            Some(length) if length > 0 => ParseState::Body(length),
            _ => ParseState::Head,
        }
    }
}

fn length(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok().filter(|_| is_length(value))?.parse().ok()
}

// === impl LineBuffer ===

impl Default for LineBuffer {
    fn default() -> Self {
        Self { start: [0; 64], len: 0, cr: false }
    }
}

impl LineBuffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && !self.cr
    }

    /// Its start, as far as it is kept.
    pub(crate) fn start(&self) -> &[u8] {
        &self.start[..self.len.min(self.start.len())]
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.len <= self.start.len()
    }

    /// Takes the bytes before the next CR or LF, and returns how many.
    fn extend(&mut self, bytes: &[u8]) -> usize {
        if self.cr {
            return 0;
        }
        let count = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        if let Some(room) = self.start.get_mut(self.len..) {
            let kept = count.min(room.len());
            room[..kept].copy_from_slice(&bytes[..kept]);
        }
        self.len = self.len.saturating_add(count);
        count
    }

    /// Takes a byte. `Some`: it ends the line, with the line's length in bytes.
    pub(crate) fn push(&mut self, byte: u8) -> Result<Option<usize>, Rejected> {
        match (byte, self.cr) {
            (b'\n', true) => {
                self.cr = false;
                return Ok(Some(mem::take(&mut self.len)));
            }
            (b'\n', false) | (_, true) => return Err(Rejected),
            (b'\r', false) => self.cr = true,
            (byte, false) => {
                if let Some(place) = self.start.get_mut(self.len) {
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

    /// `bytes` as they leave the parser, read in pieces of size `piece`; the NUL shows as `~`.
    fn parsed(bytes: &str, piece: usize) -> (String, FramingParser) {
        let mut parser = FramingParser::default();
        let mut bytes = bytes.as_bytes().to_vec();
        bytes.chunks_mut(piece).for_each(|piece| _ = parser.read(piece));
        (String::from_utf8(bytes).unwrap().replace('\0', "~"), parser)
    }

    #[track_caller]
    fn check(bytes: &str, expect: &str) {
        for piece in [1, 3, bytes.len()] {
            let (seen, parser) = parsed(&bytes.replace('|', "\r\n"), piece);
            assert_eq!(seen.replace("\r\n", "|"), expect, "pieces of {piece}");
            assert_eq!(parser.state == ParseState::Rejected, bytes != expect, "pieces of {piece}: {:?}", parser.state);
            assert!(
                parser.state == ParseState::Rejected || (parser.state == ParseState::Head && !parser.is_in_head()),
                "{:?}",
                parser.state
            );
        }
    }

    #[track_caller]
    fn passes(bytes: &str) {
        check(bytes, bytes);
    }

    #[test]
    fn requests_pass_unchanged() {
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
    fn bytes_after_connect_are_not_parsed() {
        let head = "||CONNECT a:80 HTTP/1.1|host: a|content-length: 5||".replace('|', "\r\n");
        let after = "\ncontent-length: 5\r~";
        let (seen, parser) = parsed(&format!("{head}{after}"), 1);
        assert_eq!((seen, parser.state, parser.is_in_head()), (format!("{head}{after}"), ParseState::Tunnel, false));
        // Only the method counts.
        check("GET /CONNECT HTTP/1.1|a: CONNECT ||\n", "GET /CONNECT HTTP/1.1|a: CONNECT ||~");
        check("CONNECTS a:80 HTTP/1.1|CONNECT : 1||\n", "CONNECTS a:80 HTTP/1.1|CONNECT : 1||~");
        let (seen, _) = parsed("CONNECT a:80 HTTP/1.1\r\nhost: a\n", 1);
        assert_eq!(seen, "CONNECT a:80 HTTP/1.1\r\nhost: a~");
    }

    #[test]
    fn the_first_byte_that_has_two_meanings_is_rejected() {
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
    fn chunks_that_have_two_meanings_are_rejected() {
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
            let (seen, parser) = parsed(&format!("{head}{body}").replace('|', "\r\n"), 1);
            assert_eq!(seen.replace("\r\n", "|"), format!("{head}{expect}"));
            assert_eq!(parser.state, ParseState::Rejected, "{body:?}");
        }
    }

    #[test]
    fn a_head_lasts_from_its_first_byte_to_its_last() {
        let in_head = |bytes: &str| parsed(&bytes.replace('|', "\r\n"), 1).1.is_in_head();
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
