//! The parameter types, their defaults and how they merge.

use crate::{
    protection::Protection,
    range::{OutOfRange, Setting},
};
use std::time::Duration;

/// The stream window of [`FlowControl::DEFAULT`]: 65,535 bytes, as linkerd2-proxy has it and RFC 9113 (section 6.9.2).
pub const DEFAULT_INITIAL_STREAM_WINDOW_SIZE: u32 = 65_535;

/// The connection window of [`FlowControl::DEFAULT`]: 1,048,576 bytes, as linkerd2-proxy has it.
pub const DEFAULT_INITIAL_CONNECTION_WINDOW_SIZE: u32 = 1_048_576;

/// How long a stream is remembered after this side has reset it: five seconds, longer than a pause of the peer or a lost
/// packet delays the frames that it had sent. With h2's default of a second, each delay would cost some of the errors that a
/// connection survives.
pub const RESET_STREAM_DURATION: Duration = Duration::from_secs(5);

/// Tunes the HTTP/2 connections that a server accepts.
///
/// A setting that is `None` has the default that its field names.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ServerParams {
    /// How much a client may send before it is told that it may go on. `None`:
    /// [fixed windows](Self::DEFAULT_FLOW_CONTROL), 1 MiB each.
    pub flow_control: Option<FlowControl>,
    /// PINGs that find dead clients, also while no stream is open. `None`: none are sent.
    pub keep_alive: Option<KeepAlive>,
    /// SETTINGS_MAX_CONCURRENT_STREAMS: streams a client may have open at once; 0 admits none. `None`:
    /// [200](Self::DEFAULT_MAX_CONCURRENT_STREAMS).
    pub max_concurrent_streams: Option<u32>,
    /// SETTINGS_MAX_FRAME_SIZE: the largest frame accepted, in bytes, 16384..=16777215. `None`:
    /// [16384](Self::DEFAULT_MAX_FRAME_SIZE).
    pub max_frame_size: Option<u32>,
    /// SETTINGS_HEADER_TABLE_SIZE: the HPACK table a client may use, in bytes. `None`: 4096.
    pub header_table_size: Option<u32>,
    /// SETTINGS_MAX_HEADER_LIST_SIZE: the largest header list accepted, in bytes with 32 more a field; more is
    /// answered with 431, and much more ends the connection: above four times as much, and above 64 KiB. `None`:
    /// [16384](Self::DEFAULT_MAX_HEADER_LIST_SIZE).
    pub max_header_list_size: Option<u32>,
    /// Streams that a client reset before they were accepted; one more ends the connection with ENHANCE_YOUR_CALM.
    /// `None`: [200](Self::DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS), as many as it may have open, so
    /// that it may cancel all of them at once.
    pub max_pending_accept_reset_streams: Option<usize>,
    /// Streams this side has reset and still remembers, for five seconds, so that frames that a client had sent by then
    /// are no protocol error. Each costs some 700 bytes. `None`: [10,000](Self::DEFAULT_MAX_CONCURRENT_RESET_STREAMS).
    pub max_concurrent_reset_streams: Option<usize>,
    /// Streams this side may reset over a connection's life because the client broke the protocol; one more ends the
    /// connection with ENHANCE_YOUR_CALM, and half as many have it drained. `None`:
    /// [1024](Self::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS).
    pub max_local_error_reset_streams: Option<usize>,
    /// Bytes buffered for sending on each stream before its source is held up. `None`:
    /// [400 KiB](Self::DEFAULT_MAX_SEND_BUF_SIZE).
    pub max_send_buf_size: Option<usize>,
    /// How old a connection may get, so that clients connect again and thereby elsewhere, too. `None`: any age.
    pub max_connection_age: Option<MaxConnectionAge>,
    /// How long a connection may go without an open stream before its client is told by GOAWAY to open no more, and it
    /// closes; above zero. PINGs do not count as use. `None`: as long as the client likes.
    pub max_connection_idle: Option<Duration>,
    /// How long a client may take nothing of a response that waits for its window, or less than 16 KiB, before the
    /// stream is reset with CANCEL; above zero. `None`: [5 minutes](Self::DEFAULT_WRITE_STALL_TIMEOUT).
    pub write_stall_timeout: Option<Duration>,
    /// How long nothing may move on a stream, in either direction, before it is reset with CANCEL, or answered with 504
    /// where the response has not started; above zero. `None`: for ever, as streams of gRPC may well be silent.
    pub stream_idle_timeout: Option<Duration>,
    /// The limits of one client's cost; all have defaults.
    pub protection: Protection,
}

/// Tunes the HTTP/2 connections that a client opens.
///
/// A setting that is `None` has the default that its field names.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ClientParams {
    /// How much a server may send before it is told that it may go on. `None`:
    /// [fixed windows](Self::DEFAULT_FLOW_CONTROL), 2 MiB a stream and 5 MiB a connection.
    pub flow_control: Option<FlowControl>,
    /// PINGs that find dead servers. `None`: none are sent.
    pub keep_alive: Option<ClientKeepAlive>,
    /// Streams this side has reset and still remembers, for five seconds, so that late frames on them are not taken for
    /// protocol errors. `None`: [10,000](Self::DEFAULT_MAX_CONCURRENT_RESET_STREAMS); h2's own 50 can be exceeded by
    /// cancelled requests on a shared connection.
    pub max_concurrent_reset_streams: Option<usize>,
    /// Streams this side may reset over a connection's life because the server broke the protocol; one more ends the
    /// connection. `None`: [1024](Self::DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS).
    pub max_local_error_reset_streams: Option<usize>,
    /// SETTINGS_MAX_FRAME_SIZE: the largest frame accepted, in bytes, 16384..=16777215. `None`:
    /// [65536](Self::DEFAULT_MAX_FRAME_SIZE).
    pub max_frame_size: Option<u32>,
    /// SETTINGS_HEADER_TABLE_SIZE: the HPACK table a server may use, in bytes. `None`: 4096.
    pub header_table_size: Option<u32>,
    /// SETTINGS_MAX_HEADER_LIST_SIZE: the largest header or trailer list accepted, in bytes with 32 more a field. A
    /// response with more is malformed, and much more may end the connection: above four times as much, and above 64
    /// KiB, each with as many times more as [`max_frame_size`](Self::max_frame_size) has 16 KiB, four at most. Trailers
    /// with more have their stream reset, whatever their size. `None`: [65536](Self::DEFAULT_MAX_HEADER_LIST_SIZE).
    pub max_header_list_size: Option<u32>,
    /// Bytes buffered for sending on each stream before its source is held up. `None`:
    /// [1 MiB](Self::DEFAULT_MAX_SEND_BUF_SIZE).
    pub max_send_buf_size: Option<usize>,
    /// How long a server may take nothing of a request that waits for its window, or less than 16 KiB, before the
    /// stream is reset with CANCEL; above zero. `None`: [5 minutes](Self::DEFAULT_WRITE_STALL_TIMEOUT).
    pub write_stall_timeout: Option<Duration>,
}

/// Windows of received data: how much a peer may send before it is told that it may go on.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FlowControl {
    /// Windows that fill long paths: 16 MiB a stream at once, or as much as a client's connection can reserve, up to 64 MiB with the
    /// measured bandwidth-delay product, and less, as far as 65,535 bytes, while readers that have stopped hold much. hyper's,
    /// as `proxy_http::hyper` builds them, start at 65,535 bytes, grow up to 16 MiB, and never shrink.
    Adaptive,
    /// Windows of a fixed size, each in 1..=2147483647 bytes.
    Fixed {
        /// SETTINGS_INITIAL_WINDOW_SIZE: unread bytes on one stream.
        initial_stream_window_size: u32,
        /// Unread bytes on all streams of a connection together.
        initial_connection_window_size: u32,
    },
}

/// PINGs that a server sends to find dead connections.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct KeepAlive {
    /// Silence after which a PING is sent; above zero.
    pub interval: Duration,
    /// How long the answer may take before the connection is closed; above zero.
    pub timeout: Duration,
}

/// How old a connection may get.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct MaxConnectionAge {
    /// When the client is told by GOAWAY to open no more streams, counted from when the connection was accepted; above
    /// zero. Each connection has its own, up to a tenth shorter or longer at random, so that connections that were
    /// made together do not end together.
    pub age: Duration,
    /// How long streams may go on after that, before the connection is closed with the streams that are still
    /// open; zero closes it at once.
    pub grace: Duration,
}

/// PINGs that a client sends to find dead connections.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ClientKeepAlive {
    /// Silence after which a PING is sent; above zero.
    pub interval: Duration,
    /// How long the answer may take before the connection is closed; above zero.
    pub timeout: Duration,
    /// Whether PINGs are sent while no stream is open, too.
    pub while_idle: bool,
}

// === impl ServerParams ===

impl ServerParams {
    /// Windows where [`flow_control`](Self::flow_control) is not set: 1 MiB each, as hyper's servers have.
    pub const DEFAULT_FLOW_CONTROL: FlowControl =
        FlowControl::Fixed { initial_stream_window_size: 1 << 20, initial_connection_window_size: 1 << 20 };
    /// [`max_concurrent_streams`](Self::max_concurrent_streams) where it is not set.
    pub const DEFAULT_MAX_CONCURRENT_STREAMS: u32 = 200;
    /// [`max_frame_size`](Self::max_frame_size) where it is not set: the initial value of RFC 9113.
    pub const DEFAULT_MAX_FRAME_SIZE: u32 = 16 << 10;
    /// [`max_header_list_size`](Self::max_header_list_size) where it is not set.
    pub const DEFAULT_MAX_HEADER_LIST_SIZE: u32 = 16 << 10;
    /// [`max_pending_accept_reset_streams`](Self::max_pending_accept_reset_streams) where it is not set.
    pub const DEFAULT_MAX_PENDING_ACCEPT_RESET_STREAMS: usize = Self::DEFAULT_MAX_CONCURRENT_STREAMS as usize;
    /// [`max_concurrent_reset_streams`](Self::max_concurrent_reset_streams) where it is not set: as toward endpoints. Uploads
    /// that are answered early count only if their clients send on.
    pub const DEFAULT_MAX_CONCURRENT_RESET_STREAMS: usize = 10_000;
    /// [`max_local_error_reset_streams`](Self::max_local_error_reset_streams) where it is not set.
    pub const DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1_024;
    /// [`max_send_buf_size`](Self::max_send_buf_size) where it is not set.
    pub const DEFAULT_MAX_SEND_BUF_SIZE: usize = 400 << 10;
    /// [`write_stall_timeout`](Self::write_stall_timeout) where it is not set.
    pub const DEFAULT_WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);

    /// `ServerParams::default()`, usable in a `const`: nothing is set, all is by default.
    pub const DEFAULT: Self = Self {
        flow_control: None,
        keep_alive: None,
        max_concurrent_streams: None,
        max_frame_size: None,
        header_table_size: None,
        max_header_list_size: None,
        max_pending_accept_reset_streams: None,
        max_concurrent_reset_streams: None,
        max_local_error_reset_streams: None,
        max_send_buf_size: None,
        max_connection_age: None,
        max_connection_idle: None,
        write_stall_timeout: None,
        stream_idle_timeout: None,
        protection: Protection::DEFAULT,
    };

    /// Checks every value that is set against the range HTTP/2 and its engine accept.
    ///
    /// # Errors
    ///
    /// The first value that is out of its range, by [`Setting`].
    pub fn validate(&self) -> Result<(), OutOfRange> {
        // No `..`: a new field must not compile until it is checked here or named as free.
        let Self {
            flow_control,
            keep_alive,
            max_concurrent_streams: _,
            max_frame_size,
            header_table_size: _,
            max_header_list_size,
            max_pending_accept_reset_streams: _,
            max_concurrent_reset_streams: _,
            max_local_error_reset_streams: _,
            max_send_buf_size,
            max_connection_age,
            max_connection_idle,
            write_stall_timeout,
            stream_idle_timeout,
            protection,
        } = *self;
        check_flow_control(flow_control)?;
        if let Some(KeepAlive { interval, timeout }) = keep_alive {
            check_keep_alive(interval, timeout)?;
        }
        if let Some(MaxConnectionAge { age, grace: _ }) = max_connection_age {
            Setting::MaxConnectionAge.check(nanos(age))?;
        }
        if let Some(idle) = max_connection_idle {
            Setting::MaxConnectionIdle.check(nanos(idle))?;
        }
        if let Some(timeout) = stream_idle_timeout {
            Setting::StreamIdleTimeout.check(nanos(timeout))?;
        }
        check_write_stall(write_stall_timeout)?;
        protection.validate()?;
        check_sizes(max_frame_size, max_header_list_size, max_send_buf_size)
    }
}

// === impl ClientParams ===

impl ClientParams {
    /// Windows where [`flow_control`](Self::flow_control) is not set: 2 MiB a stream and 5 MiB a connection, as hyper's
    /// clients have.
    pub const DEFAULT_FLOW_CONTROL: FlowControl =
        FlowControl::Fixed { initial_stream_window_size: 2 << 20, initial_connection_window_size: 5 << 20 };
    /// [`max_concurrent_reset_streams`](Self::max_concurrent_reset_streams) where it is not set: enough that cancelled requests
    /// whose responses come late do not end the connection for all others.
    pub const DEFAULT_MAX_CONCURRENT_RESET_STREAMS: usize = 10_000;
    /// [`max_local_error_reset_streams`](Self::max_local_error_reset_streams) where it is not set.
    pub const DEFAULT_MAX_LOCAL_ERROR_RESET_STREAMS: usize = 1_024;
    /// [`max_frame_size`](Self::max_frame_size) where it is not set: four times the initial value of RFC 9113, so that large
    /// responses take fewer frames and reads.
    pub const DEFAULT_MAX_FRAME_SIZE: u32 = 64 << 10;
    /// [`max_header_list_size`](Self::max_header_list_size) where it is not set: four times that of servers, and
    /// about Envoy's 60 KiB, as h2 leaves out the fields of trailers that are above it.
    pub const DEFAULT_MAX_HEADER_LIST_SIZE: u32 = 64 << 10;
    /// [`max_send_buf_size`](Self::max_send_buf_size) where it is not set.
    pub const DEFAULT_MAX_SEND_BUF_SIZE: usize = 1 << 20;
    /// [`write_stall_timeout`](Self::write_stall_timeout) where it is not set.
    pub const DEFAULT_WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(5 * 60);

    /// `ClientParams::default()`, usable in a `const`: nothing is set, all is by default.
    pub const DEFAULT: Self = Self {
        flow_control: None,
        keep_alive: None,
        max_concurrent_reset_streams: None,
        max_local_error_reset_streams: None,
        max_frame_size: None,
        header_table_size: None,
        max_header_list_size: None,
        max_send_buf_size: None,
        write_stall_timeout: None,
    };

    /// These params with every value that `overrides` sets put in place of their own.
    ///
    /// ```
    /// use http_h2::ClientParams;
    ///
    /// let direction =
    ///     ClientParams { max_frame_size: Some(16_384), header_table_size: Some(0), ..ClientParams::DEFAULT };
    /// let endpoint = ClientParams { max_frame_size: Some(65_536), ..ClientParams::DEFAULT };
    /// let merged = direction.override_from(&endpoint);
    /// assert_eq!(merged.max_frame_size, Some(65_536));
    /// assert_eq!(merged.header_table_size, Some(0));
    /// ```
    #[must_use]
    pub fn override_from(self, overrides: &Self) -> Self {
        Self {
            flow_control: overrides.flow_control.or(self.flow_control),
            keep_alive: overrides.keep_alive.or(self.keep_alive),
            max_concurrent_reset_streams: overrides.max_concurrent_reset_streams.or(self.max_concurrent_reset_streams),
            max_local_error_reset_streams: overrides
                .max_local_error_reset_streams
                .or(self.max_local_error_reset_streams),
            max_frame_size: overrides.max_frame_size.or(self.max_frame_size),
            header_table_size: overrides.header_table_size.or(self.header_table_size),
            max_header_list_size: overrides.max_header_list_size.or(self.max_header_list_size),
            max_send_buf_size: overrides.max_send_buf_size.or(self.max_send_buf_size),
            write_stall_timeout: overrides.write_stall_timeout.or(self.write_stall_timeout),
        }
    }

    /// Checks every value that is set against the range HTTP/2 and its engine accept.
    ///
    /// # Errors
    ///
    /// The first value that is out of its range, by [`Setting`].
    pub fn validate(&self) -> Result<(), OutOfRange> {
        // No `..`: a new field must not compile until it is checked here or named as free.
        let Self {
            flow_control,
            keep_alive,
            max_concurrent_reset_streams: _,
            max_local_error_reset_streams: _,
            max_frame_size,
            header_table_size: _,
            max_header_list_size,
            max_send_buf_size,
            write_stall_timeout,
        } = *self;
        check_write_stall(write_stall_timeout)?;
        check_flow_control(flow_control)?;
        if let Some(ClientKeepAlive { interval, timeout, while_idle: _ }) = keep_alive {
            check_keep_alive(interval, timeout)?;
        }
        check_sizes(max_frame_size, max_header_list_size, max_send_buf_size)
    }
}

// === impl FlowControl ===

impl FlowControl {
    /// linkerd2-proxy's fixed windows, which `app-env` starts from. Params whose flow control is not set have larger
    /// ones.
    pub const DEFAULT: Self = Self::Fixed {
        initial_stream_window_size: DEFAULT_INITIAL_STREAM_WINDOW_SIZE,
        initial_connection_window_size: DEFAULT_INITIAL_CONNECTION_WINDOW_SIZE,
    };
}

impl Default for FlowControl {
    fn default() -> Self {
        Self::DEFAULT
    }
}

fn check_flow_control(flow_control: Option<FlowControl>) -> Result<(), OutOfRange> {
    if let Some(FlowControl::Fixed { initial_stream_window_size, initial_connection_window_size }) = flow_control {
        Setting::InitialStreamWindowSize.check(initial_stream_window_size.into())?;
        Setting::InitialConnectionWindowSize.check(initial_connection_window_size.into())?;
    }
    Ok(())
}

fn check_keep_alive(interval: Duration, timeout: Duration) -> Result<(), OutOfRange> {
    Setting::KeepAliveInterval.check(nanos(interval))?;
    Setting::KeepAliveTimeout.check(nanos(timeout))
}

fn check_write_stall(timeout: Option<Duration>) -> Result<(), OutOfRange> {
    timeout.map_or(Ok(()), |timeout| Setting::WriteStallTimeout.check(nanos(timeout)))
}

fn check_sizes(frame: Option<u32>, header_list: Option<u32>, send_buf: Option<usize>) -> Result<(), OutOfRange> {
    if let Some(size) = frame {
        Setting::MaxFrameSize.check(size.into())?;
    }
    if let Some(size) = header_list {
        Setting::MaxHeaderListSize.check(size.into())?;
    }
    if let Some(size) = send_buf {
        Setting::MaxSendBufSize.check(u64::try_from(size).unwrap_or(u64::MAX))?;
    }
    Ok(())
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientParams = ClientParams {
        flow_control: Some(FlowControl::Adaptive),
        keep_alive: Some(ClientKeepAlive {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            while_idle: true,
        }),
        max_concurrent_reset_streams: Some(1),
        max_local_error_reset_streams: Some(2),
        max_frame_size: Some(20_000),
        header_table_size: Some(3),
        max_header_list_size: Some(4),
        max_send_buf_size: Some(5),
        write_stall_timeout: Some(Duration::from_secs(6)),
    };

    #[test]
    fn defaults_are_linkerds() {
        let windows = (DEFAULT_INITIAL_STREAM_WINDOW_SIZE, DEFAULT_INITIAL_CONNECTION_WINDOW_SIZE);
        assert_eq!(windows, (65_535, 1_048_576));
        assert_eq!(ServerParams::default(), ServerParams::DEFAULT);
        assert_eq!(ClientParams::default(), ClientParams::DEFAULT);
        assert_eq!(FlowControl::default(), FlowControl::DEFAULT);
    }

    #[test]
    fn unset_overrides_change_nothing() {
        assert_eq!(CLIENT.override_from(&ClientParams::DEFAULT), CLIENT);
    }

    #[test]
    fn set_overrides_win_in_every_field() {
        assert_eq!(ClientParams::DEFAULT.override_from(&CLIENT), CLIENT);
        let other = ClientParams {
            flow_control: Some(FlowControl::DEFAULT),
            keep_alive: Some(ClientKeepAlive {
                interval: Duration::from_secs(9),
                timeout: Duration::from_secs(9),
                while_idle: false,
            }),
            max_concurrent_reset_streams: Some(11),
            max_local_error_reset_streams: Some(12),
            max_frame_size: Some(30_000),
            header_table_size: Some(13),
            max_header_list_size: Some(14),
            max_send_buf_size: Some(15),
            write_stall_timeout: Some(Duration::from_secs(16)),
        };
        assert_eq!(other.override_from(&CLIENT), CLIENT);
    }

    #[track_caller]
    fn refuses(server: &ServerParams, client: &ClientParams, setting: Setting) {
        assert_eq!(server.validate().unwrap_err().setting(), setting);
        assert_eq!(client.validate().unwrap_err().setting(), setting);
    }

    #[test]
    fn validate_names_what_is_out_of_range() {
        let zero = Some(FlowControl::Fixed { initial_stream_window_size: 0, initial_connection_window_size: 1 });
        let large = Some(FlowControl::Fixed { initial_stream_window_size: 1, initial_connection_window_size: 1 << 31 });
        let server = ServerParams::DEFAULT;
        let client = ClientParams::DEFAULT;
        for (flow_control, setting) in
            [(zero, Setting::InitialStreamWindowSize), (large, Setting::InitialConnectionWindowSize)]
        {
            refuses(&ServerParams { flow_control, ..server }, &ClientParams { flow_control, ..client }, setting);
        }
        for (interval, timeout, setting) in [(0, 1, Setting::KeepAliveInterval), (1, 0, Setting::KeepAliveTimeout)] {
            let (interval, timeout) = (Duration::from_secs(interval), Duration::from_secs(timeout));
            refuses(
                &ServerParams { keep_alive: Some(KeepAlive { interval, timeout }), ..server },
                &ClientParams { keep_alive: Some(ClientKeepAlive { interval, timeout, while_idle: false }), ..client },
                setting,
            );
        }
        for size in [16_383, 16_777_216] {
            let max_frame_size = Some(size);
            refuses(
                &ServerParams { max_frame_size, ..server },
                &ClientParams { max_frame_size, ..client },
                Setting::MaxFrameSize,
            );
        }
        let max_header_list_size = Some(0);
        refuses(
            &ServerParams { max_header_list_size, ..server },
            &ClientParams { max_header_list_size, ..client },
            Setting::MaxHeaderListSize,
        );
        for size in [0, usize::MAX] {
            let max_send_buf_size = Some(size);
            refuses(
                &ServerParams { max_send_buf_size, ..server },
                &ClientParams { max_send_buf_size, ..client },
                Setting::MaxSendBufSize,
            );
        }
    }

    #[test]
    fn a_stream_may_not_be_over_at_once() {
        for (timeout, in_range) in [(Duration::ZERO, false), (Duration::from_nanos(1), true)] {
            let write_stall_timeout = Some(timeout);
            let server = ServerParams { write_stall_timeout, ..ServerParams::DEFAULT };
            let client = ClientParams { write_stall_timeout, ..ClientParams::DEFAULT };
            let idling = ServerParams { stream_idle_timeout: Some(timeout), ..ServerParams::DEFAULT };
            if in_range {
                server.validate().unwrap();
                client.validate().unwrap();
                idling.validate().unwrap();
            } else {
                refuses(&server, &client, Setting::WriteStallTimeout);
                assert_eq!(idling.validate().unwrap_err().setting(), Setting::StreamIdleTimeout);
            }
        }
    }

    #[test]
    fn a_connection_may_not_be_over_at_once() {
        let server = ServerParams::DEFAULT;
        let max_connection_age = |age| Some(MaxConnectionAge { age, grace: Duration::ZERO });
        let nanosecond = Duration::from_nanos(1);
        ServerParams {
            max_connection_age: max_connection_age(nanosecond),
            max_connection_idle: Some(nanosecond),
            ..server
        }
        .validate()
        .unwrap();
        let young = ServerParams { max_connection_age: max_connection_age(Duration::ZERO), ..server };
        assert_eq!(young.validate().unwrap_err().setting(), Setting::MaxConnectionAge);
        let hasty = ServerParams { max_connection_idle: Some(Duration::ZERO), ..server };
        assert_eq!(hasty.validate().unwrap_err().setting(), Setting::MaxConnectionIdle);
    }

    #[test]
    fn validate_accepts_both_bounds() {
        for window in [1, (1 << 31) - 1] {
            for frame in [16_384, 16_777_215] {
                let flow_control = Some(FlowControl::Fixed {
                    initial_stream_window_size: window,
                    initial_connection_window_size: window,
                });
                let max_frame_size = Some(frame);
                ServerParams { flow_control, max_frame_size, ..ServerParams::DEFAULT }.validate().unwrap();
                ClientParams { flow_control, max_frame_size, ..ClientParams::DEFAULT }.validate().unwrap();
            }
        }
        ServerParams::DEFAULT.validate().unwrap();
        CLIENT.validate().unwrap();
    }
}
