//! Translates the error code that ends a stream on one side into the code for the other side (RFC 9113 section 7).

use crate::{message::stream_error::StreamError, stats::Side};
use h2::Reason;
use std::error::Error as StdError;

impl Side {
    /// The code a stream is reset with on the other side after this side reset it with `reason`.
    ///
    /// NO_ERROR says that all went well and some peers take it for a clean end, so it is never passed on. Codes that
    /// speak of the connection to the endpoint mean nothing to the client.
    pub(crate) fn passed_on(self, reason: Reason) -> Reason {
        match (self, reason) {
            (Self::Client, Reason::NO_ERROR) => Reason::CANCEL,
            (Self::Endpoint, Reason::NO_ERROR | Reason::PROTOCOL_ERROR | Reason::HTTP_1_1_REQUIRED) => {
                Reason::INTERNAL_ERROR
            }
            (_, reason) => reason,
        }
    }

    /// The same for a reset in the middle of a message. Of a response, node's clients take CANCEL for a clean end, too.
    pub(crate) fn passed_on_in_body(self, reason: Reason) -> Reason {
        match (self, reason) {
            (Self::Endpoint, Reason::CANCEL) => Reason::INTERNAL_ERROR,
            _ => self.passed_on(reason),
        }
    }

    /// The code a stream is reset with on the other side when this side's connection was lost.
    pub(crate) fn lost(self) -> Reason {
        match self {
            Self::Client => Reason::CANCEL,
            Self::Endpoint => Reason::INTERNAL_ERROR,
        }
    }
}

/// The code of the first [`StreamError`] in a chain of causes.
pub(crate) fn first(error: &(dyn StdError + 'static)) -> Option<Reason> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<StreamError>() {
            return Some(error.reason());
        }
        next = error.source();
    }
    None
}

/// The code of the peer's RST_STREAM. `None`: the stream ended otherwise.
pub(crate) fn remote_reset(error: &h2::Error) -> Option<Reason> {
    error.reason().filter(|_| error.is_reset() && error.is_remote())
}

/// Whether the proxy itself reset the stream, and not the peer or h2.
pub(crate) fn is_ours(error: &h2::Error) -> bool {
    error.is_reset() && !error.is_remote() && !error.is_library()
}
