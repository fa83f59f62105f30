//! Frames that are read, or changed, beside the engine: what it does not tell, does not bound, or cannot say.

pub(crate) mod empty_data;
pub(crate) mod engine_counts;
pub(crate) mod head;
mod kinds;
pub(crate) mod local_settings;
pub(crate) mod peer;
pub(crate) mod rapid_reset;
pub(crate) mod rate;
mod scan;
pub(crate) mod seen;
mod small_data;
