//! Room for more requests.

use std::sync::Arc;

/// Called when a connection may have room for one more request.
pub(crate) type OnRoom = Arc<dyn Fn() + Send + Sync>;
