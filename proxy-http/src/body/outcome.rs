//! The states in which the sending of a body waits or ends.

use h2::Reason;

/// The frames that wait to be sent while the next hop gives no window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Backpressure {
    /// DATA, buffered or still to be received.
    Data,
    /// Trailers or END_STREAM alone, which are not flow-controlled.
    End,
    /// None: the request's deadline has passed.
    Expired,
}

/// How the sending of a body ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SendOutcome {
    /// All of the body is sent.
    Done,
    /// The body ended with an error, and the stream is reset.
    Broken,
    /// The peer took no data for too long, and the stream is reset.
    Stalled,
    /// Nothing was received or sent for too long, and the stream is reset.
    Idle,
    /// Nothing was received or sent for too long before the response, and the proxy has answered. `grpc`: in the form of gRPC.
    IdleBeforeHead { grpc: bool },
    /// The peer reset the stream.
    Reset(Reason),
    /// The connection is lost.
    Lost,
    /// The response ended before the request was sent whole, and the stream is reset.
    Answered,
}
