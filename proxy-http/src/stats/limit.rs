//! Limits of connections and of streams.

use h2::Reason;

/// Limits of a client's connection and of the requests on it.
///
/// Exhaustive, so that an exporter of metrics that has no label for a new limit does not compile.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Limit {
    /// The connection reached its maximum age and was drained.
    Age,
    /// The connection was still open at the end of the grace period after [`Age`](Self::Age), and was closed.
    AgeGrace,
    /// The connection had no stream for too long and was drained.
    Idle,
    /// There were too many connections: the new one was closed at once.
    Connections,
    /// The client's preface and SETTINGS did not come in time: the connection was closed, as it is for each limit from here
    /// to [`Engine`](Self::Engine).
    Handshake,
    /// A header block was not complete in time.
    HeaderBlock,
    /// The client reset too many streams too soon after their requests (rapid reset).
    PrematureResets,
    /// Too many PRIORITY frames came.
    PriorityFrames,
    /// Too many RST_STREAM frames came, most of them on streams that had ended.
    ResetFrames,
    /// Too many SETTINGS frames came.
    SettingsFrames,
    /// Too many PING frames came; a PING ACK counts for 100.
    PingFrames,
    /// Too many WINDOW_UPDATE frames came.
    WindowUpdateFrames,
    /// Too many frames of other types came that carry no request.
    OtherFrames,
    /// A limit of the HTTP/2 engine itself: streams reset before they were accepted or for protocol errors, frames of one
    /// header block, header lists far too large, small DATA frames that wait to be read.
    Engine,
    /// A request had too many header fields or too large a header section, and was answered with 431.
    HeadersCount,
    /// A request's path and query were too long, and it was answered with 414.
    UriLength,
    /// The client's first bytes, which tell its protocol, did not come in time: the connection was closed.
    Detect,
    /// The header section of an HTTP/1.1 request was not complete in time: the connection was closed.
    HeaderRead,
    /// Too many empty DATA frames without END_STREAM came: the connection was closed.
    EmptyDataFrames,
    /// The connection came near a count that the engine keeps for a connection's whole life, and was drained before the
    /// engine would have ended it with all its streams.
    EngineLifetime,
    /// A request had come back to this proxy too often, and was answered with 508.
    Hops,
    /// The heads of open requests were too large together: a request was answered with 431 or 503.
    BufferedHeads,
    /// A client sent more requests than its rate allows: one was answered with 429.
    Rate,
    /// A route got more requests than its rate allows: one was answered with 429.
    RouteRate,
}

/// Timeouts of a stream on which nothing moves.
///
/// Exhaustive, as [`Limit`] is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StreamLimit {
    /// The peer took none of the data that waits to be sent to it.
    WriteStall,
    /// Nothing was received or sent in either direction.
    Idle,
}

// === impl Limit ===

impl Limit {
    /// All limits, in the order of their declaration, which is the index of their counters.
    pub(super) const ALL: [Self; 24] = [
        Self::Age,
        Self::AgeGrace,
        Self::Idle,
        Self::Connections,
        Self::Handshake,
        Self::HeaderBlock,
        Self::PrematureResets,
        Self::PriorityFrames,
        Self::ResetFrames,
        Self::SettingsFrames,
        Self::PingFrames,
        Self::WindowUpdateFrames,
        Self::OtherFrames,
        Self::Engine,
        Self::HeadersCount,
        Self::UriLength,
        Self::Detect,
        Self::HeaderRead,
        Self::EmptyDataFrames,
        Self::EngineLifetime,
        Self::Hops,
        Self::BufferedHeads,
        Self::Rate,
        Self::RouteRate,
    ];

    /// The error code of the GOAWAY that closes a connection at this limit. `None`: the connection is drained, stays open,
    /// or is closed without GOAWAY.
    pub(crate) fn code(self) -> Option<Reason> {
        match self {
            Self::Age
            | Self::AgeGrace
            | Self::Idle
            | Self::Connections
            | Self::HeadersCount
            | Self::UriLength
            | Self::Detect
            | Self::HeaderRead
            | Self::EngineLifetime
            | Self::Hops
            | Self::BufferedHeads
            | Self::Rate
            | Self::RouteRate => None,
            // The server's SETTINGS are sent and are not acknowledged (RFC 9113 section 6.5.3).
            Self::Handshake => Some(Reason::SETTINGS_TIMEOUT),
            _ => Some(Reason::ENHANCE_YOUR_CALM),
        }
    }
}

// === impl StreamLimit ===

impl StreamLimit {
    /// All limits, in the order of their declaration, which is the index of their counters.
    pub(super) const ALL: [Self; 2] = [Self::WriteStall, Self::Idle];
}
