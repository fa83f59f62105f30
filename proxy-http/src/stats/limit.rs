//! Limits of connections and of streams.

use h2::Reason;

/// What limits a client's connection, and what is asked on it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Limit {
    /// It was as old as it may get, and so it was drained.
    Age,
    /// It was still open at the end of the grace after that, and so it was closed.
    AgeGrace,
    /// It had been without a stream for too long, and so it was drained.
    Idle,
    /// One connection too many: it was closed at once.
    Connections,
    /// Its preface and first frame did not come in time, and so it was closed, as it was for all of the next.
    Handshake,
    /// A header block took too long.
    HeaderBlock,
    /// Too many streams were reset too soon.
    PrematureResets,
    /// Too many PRIORITY frames.
    PriorityFrames,
    /// Too many RST_STREAM frames, most of them on streams that had ended.
    ResetFrames,
    /// Too many SETTINGS frames.
    SettingsFrames,
    /// Too many PINGs, or answers to PINGs that nobody had sent.
    PingFrames,
    /// Too many WINDOW_UPDATE frames.
    WindowUpdateFrames,
    /// Too many frames of other kinds that carry no request.
    OtherFrames,
    /// What the engine limits by itself: streams reset before they were accepted or for protocol errors, frames of one
    /// header block, header lists far too large, tiny DATA that waits to be read.
    Engine,
    /// A request had too many fields, or too large a head, and so it was answered with 431.
    HeadersCount,
    /// A request's path and query were too long, and so it was answered with 414.
    UriLength,
    /// Its client took too long to say which protocol it speaks, and so it was closed.
    Detect,
    /// Its client took too long to send the head of an HTTP/1.1 request, and so it was closed.
    HeaderRead,
    /// Too many DATA frames that are empty and not final.
    EmptyDataFrames,
    /// It came near to what the engine bears over a connection's life, and so it was drained.
    EngineLifetime,
}

/// What limits how long a stream may stand still.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StreamLimit {
    /// The peer took nothing of what was to be sent to it.
    WriteStall,
    /// Nothing moved in either direction.
    Idle,
}

// === impl Limit ===

impl Limit {
    /// In the order of their declaration, by which they index counters.
    pub(super) const ALL: [Self; 20] = [
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
    ];

    /// The code of the GOAWAY that closes a connection for it. `None`: it is drained, or stays.
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
            | Self::EngineLifetime => None,
            // Our SETTINGS are out, and have no answer.
            Self::Handshake => Some(Reason::SETTINGS_TIMEOUT),
            _ => Some(Reason::ENHANCE_YOUR_CALM),
        }
    }
}

// === impl StreamLimit ===

impl StreamLimit {
    /// In the order of their declaration, by which they index counters.
    pub(super) const ALL: [Self; 2] = [Self::WriteStall, Self::Idle];
}
