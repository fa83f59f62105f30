//! What came of all requests.

use crate::{
    PROTOCOLS,
    kind::{LEN, Token},
};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// A way through a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// That of its endpoints.
    pub(crate) protocol: &'static str,
    /// What the client speaks.
    pub(crate) http2: bool,
}

/// Counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    checked: [[AtomicU64; 2]; 3],
    mixed: AtomicU64,
    /// Answers of the proxy, and no answers.
    others: AtomicU64,
}

/// A response as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) token: Option<Vec<u8>>,
    pub(crate) body: Vec<u8>,
    /// Bytes that came behind it.
    pub(crate) behind: Vec<u8>,
}

/// How many are shown.
const SHOWN: u64 = 10;

// === impl Tally ===

impl Tally {
    /// Checks a response to the request of this token.
    pub(crate) fn check(&self, cell: Cell, token: Token, seen: &Seen) {
        let Seen { status, token: named, body, behind } = seen;
        let right = match named {
            Some(named) => Token::parse(named) == Some(token) && token.is_in(body),
            // The proxy answers in the endpoint's place. It has no reason for 408, and an endpoint's ended a wait.
            None if *status >= 400 && *status != 408 && Self::first(body).is_none() => {
                if behind.is_empty() {
                    self.other();
                    return;
                }
                false
            }
            None => false,
        };
        if right && behind.is_empty() {
            let index = PROTOCOLS.iter().position(|protocol| *protocol == cell.protocol).expect("it is one of them");
            self.checked[index][usize::from(cell.http2)].fetch_add(1, Relaxed);
        } else if self.mixed.fetch_add(1, Relaxed) < SHOWN {
            let from = named.as_deref().and_then(Token::parse).or_else(|| Self::first(body));
            let named = named.as_deref().map(String::from_utf8_lossy);
            eprintln!(
                "mixed up, {cell:?}: {token} ({:?}) got {status}, {named:?}, {} bytes of {:?}, and {:?}",
                token.kind(),
                body.len(),
                from.map(|token| (token.to_string(), token.kind())),
                String::from_utf8_lossy(&behind[..behind.len().min(80)])
            );
        }
    }

    /// A request has no answer of an endpoint.
    pub(crate) fn other(&self) {
        self.others.fetch_add(1, Relaxed);
    }

    fn first(body: &[u8]) -> Option<Token> {
        body.get(..LEN).and_then(Token::parse)
    }

    pub(crate) fn checked(&self, cell: Cell) -> u64 {
        let index = PROTOCOLS.iter().position(|protocol| *protocol == cell.protocol).expect("it is one of them");
        self.checked[index][usize::from(cell.http2)].load(Relaxed)
    }

    pub(crate) fn all_checked(&self) -> u64 {
        self.checked.iter().flatten().map(|count| count.load(Relaxed)).sum()
    }

    pub(crate) fn mixed(&self) -> u64 {
        self.mixed.load(Relaxed)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "isolation: {} responses checked (", self.all_checked())?;
        for (protocol, [http1, http2]) in PROTOCOLS.iter().zip(&self.checked) {
            write!(f, "{protocol}: {} of HTTP/1.1, {} of HTTP/2; ", http1.load(Relaxed), http2.load(Relaxed))?;
        }
        write!(f, "none for {} requests), {} mixed up", self.others.load(Relaxed), self.mixed())
    }
}
