//! Frames that are read, or changed, beside h2: it does not tell of them, does not bound them, or cannot say them.

pub(crate) mod empty_data;
pub(crate) mod endpoint;
pub(crate) mod engine_counts;
pub(crate) mod head;
mod interim;
mod kinds;
pub(crate) mod local_settings;
mod peer_windows;
pub(crate) mod rapid_reset;
pub(crate) mod rate;
pub(crate) mod reader;
pub(crate) mod seen;
mod small_data;
