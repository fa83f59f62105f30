//! Priorities of endpoints: backups are left alone while others can be waited for.

use crate::balance::{endpoint_state::EndpointState, params::Params};
use tokio::time::Instant;

/// The endpoint that a retry avoids: the one of the attempt before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avoid {
    pub(super) endpoint: u64,
    /// Whether the retry rather goes to an endpoint of the next priority than there again.
    pub(super) leaves_priority: bool,
}

/// The priority that is in use: the lowest number of all endpoints that are [preferred](EndpointState::is_preferred) to the next.
/// For a retry after a failure it is the lowest number of the other endpoints that accept the request, if there are any. `None`: all
/// priorities are.
pub(super) fn in_use(
    endpoints: &[EndpointState],
    params: &Params,
    now: Instant,
    avoid: Option<Avoid>,
    is_stopped: bool,
) -> Option<u16> {
    if let Some(Avoid { endpoint: failed, leaves_priority: true }) = avoid {
        let accepts = |endpoint: &&EndpointState| {
            endpoint.id != failed && endpoint.can_accept(params, is_stopped, now) && endpoint.can_send(params, now)
        };
        if let Some(priority) = lowest(endpoints.iter().filter(accepts)) {
            return Some(priority);
        }
    }
    lowest(endpoints.iter().filter(|endpoint| endpoint.is_preferred(params, now)))
}

fn lowest<'a>(endpoints: impl Iterator<Item = &'a EndpointState>) -> Option<u16> {
    endpoints.map(|endpoint| endpoint.priority).min()
}
