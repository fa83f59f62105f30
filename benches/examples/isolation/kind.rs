//! Requests: their tokens, and how they are to be answered.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// How an endpoint answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// With a length.
    Plain,
    Chunked,
    Trailers,
    /// After 100 and 103.
    Interim,
    /// After some milliseconds.
    Late,
    /// In pieces.
    Slow,
    /// Before it has read the request, which it then reads.
    Early,
    /// Before it has read the request, of which it reads no more.
    EarlyClose,
    /// And says that it closes the connection.
    Close,
    /// And closes the connection without a word.
    Leave,
    /// To the end of the connection.
    UntilClose,
    /// Not at all.
    Silent,
    Reset,
    /// Half.
    Cut,
    InterimOnly,
    /// Twice at once.
    Twice,
    /// With some bytes behind the end.
    Behind,
    // The rest of these comes when the next request does.
    BothLengths,
    TwoCodings,
    ListOfCodings,
    ListOfLengths,
    LengthTwice,
    LineFeeds,
    EmptyLine,
    NoContentWithLength,
    InterimWithLength,
    OldVersion,
    /// A chunk's size that breaks.
    BadChunk,
}

/// What a request has that no other has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Token(u64);

/// The field with a request's token, and the other way.
pub(crate) const TOKEN: &str = "x-token";
/// How many times the token is in the body of the response.
pub(crate) const TIMES: &str = "x-times";
/// Digits of a token.
pub(crate) const LEN: usize = 16;
/// Kinds and how often they are asked for.
const KINDS: &[(Kind, u32)] = &[
    (Kind::Plain, 500),
    (Kind::Chunked, 100),
    (Kind::Trailers, 30),
    (Kind::Interim, 20),
    (Kind::Late, 30),
    (Kind::Slow, 20),
    (Kind::Early, 20),
    (Kind::EarlyClose, 10),
    (Kind::Close, 20),
    (Kind::Leave, 20),
    (Kind::UntilClose, 10),
    (Kind::Silent, 2),
    (Kind::Reset, 10),
    (Kind::Cut, 10),
    (Kind::InterimOnly, 5),
    (Kind::Twice, 20),
    (Kind::Behind, 10),
    (Kind::BothLengths, 5),
    (Kind::TwoCodings, 5),
    (Kind::ListOfCodings, 5),
    (Kind::ListOfLengths, 5),
    (Kind::LengthTwice, 5),
    (Kind::LineFeeds, 5),
    (Kind::EmptyLine, 5),
    (Kind::NoContentWithLength, 5),
    (Kind::InterimWithLength, 5),
    (Kind::OldVersion, 5),
    (Kind::BadChunk, 5),
];

// === impl Kind ===

impl Kind {
    pub(crate) fn random() -> Self {
        let all: u32 = KINDS.iter().map(|(_, weight)| weight).sum();
        let mut at = fastrand::u32(..all);
        for (kind, weight) in KINDS {
            match at.checked_sub(*weight) {
                None => return *kind,
                Some(rest) => at = rest,
            }
        }
        unreachable!("a number below the sum of the weights")
    }
}

// === impl Token ===

impl Token {
    /// One that says how its request is to be answered.
    pub(crate) fn new(kind: Kind) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let code = KINDS.iter().position(|(other, _)| *other == kind).expect("all kinds are in the list");
        Self(NEXT.fetch_add(1, Relaxed) << 8 | code as u64)
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() == LEN)?;
        u64::from_str_radix(text, 16).ok().map(Self).filter(|token| token.kind().is_some())
    }

    pub(crate) fn kind(self) -> Option<Kind> {
        KINDS.get(usize::from(self.0 as u8)).map(|(kind, _)| *kind)
    }

    /// The body of a response.
    pub(crate) fn body(self, times: usize) -> Vec<u8> {
        self.to_string().repeat(times).into_bytes()
    }

    /// Whether all of a body that has come so far is of this token.
    pub(crate) fn is_in(self, body: &[u8]) -> bool {
        let text = self.to_string();
        body.chunks(LEN).all(|chunk| text.as_bytes().starts_with(chunk))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
