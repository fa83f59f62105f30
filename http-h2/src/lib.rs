//! Plain values that describe how to tune HTTP/2.
//!
//! [`ServerParams`] tunes connections that a proxy accepts, [`ClientParams`] connections that it opens. Both are data:
//! public fields, no behaviour but defaults, merging and one range check, and no dependencies. Crates that know an
//! HTTP/2 engine turn them into its settings.
//!
//! ```
//! use http_h2::{FlowControl, ServerParams};
//!
//! let params = ServerParams {
//!     flow_control: Some(FlowControl::Fixed {
//!         initial_stream_window_size: 262_144,
//!         initial_connection_window_size: 4 << 20,
//!     }),
//!     ..ServerParams::DEFAULT
//! };
//! params.validate()?;
//!
//! let typo = ServerParams { max_frame_size: Some(4), ..params };
//! assert_eq!(typo.validate().unwrap_err().to_string(), "max_frame_size is 4, must be 16384..=16777215");
//! # Ok::<(), http_h2::OutOfRange>(())
//! ```
#![forbid(unsafe_code)]

mod params;
mod protection;
mod range;

pub use params::{
    ClientKeepAlive, ClientParams, DEFAULT_INITIAL_CONNECTION_WINDOW_SIZE, DEFAULT_INITIAL_STREAM_WINDOW_SIZE,
    FlowControl, KeepAlive, MaxConnectionAge, RESET_STREAM_DURATION, ServerParams,
};
pub use protection::Protection;
pub use range::{OutOfRange, Setting};
