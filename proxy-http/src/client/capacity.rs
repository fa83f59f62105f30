//! The signal that a connection has capacity.

use std::sync::Arc;

/// Called when a connection may accept one more request.
pub(crate) type OnCapacity = Arc<dyn Fn() + Send + Sync>;
