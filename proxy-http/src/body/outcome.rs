//! How the sending of a body goes.

use h2::Reason;

/// What there is to be sent when there is no window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Backpressure {
    /// Data, which is there or may come.
    Data,
    /// Trailers, or nothing but the end.
    End,
    /// Nothing: its deadline has passed.
    Expired,
}

/// How a pipe ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SendOutcome {
    /// All is sent.
    Done,
    /// The body broke, and so the stream is reset.
    Broken,
    /// The peer took nothing for too long, and so the stream is reset.
    Stalled,
    /// Nothing moved for too long, and so the stream is reset.
    Idle,
    /// The peer reset the stream.
    Reset(Reason),
    /// The connection is lost.
    Lost,
    /// The response has ended before the request, whose stream is reset.
    Answered,
}
