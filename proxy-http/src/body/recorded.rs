//! The record of a request goes with its body from the server to the proxy.
//!
//! An extension of the head would be three allocations for each request, and one more for each copy of the head.

use crate::{IncomingBody, stats::Record};
use std::mem;

impl IncomingBody {
    /// The body of a request that has `record`.
    pub(crate) fn with_record(mut self, record: Record) -> Self {
        self.record = record;
        self
    }

    /// The record of the request. A body without frames does not keep it.
    pub(crate) fn record(&mut self) -> Record {
        if self.ended { mem::take(&mut self.record) } else { self.record.clone() }
    }
}
