//! Why a destination has no endpoints.

use crate::message::answer::Answer;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a back end has no endpoints; see [`Backend::absence`](super::Backend::absence). Each has a reason, for clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Absence {
    /// It may have some, but none is known yet. Requests wait as for an endpoint that is not connected to, and then get 503, gRPC
    /// status 14, with this reason.
    Unknown(Arc<str>),
    /// There is none, as when its name does not exist. Requests get 503, gRPC status 14, at once.
    Unavailable(Arc<str>),
    /// Requests may not go there. They get 403, gRPC status 7, at once.
    Forbidden(Arc<str>),
}

/// The absence of one back end's endpoints, as it changes. `None`: none is ever known.
#[derive(Clone, Debug)]
pub(super) struct AbsenceWatch(pub(super) Option<watch::Receiver<Option<Absence>>>);

// === impl Absence ===

impl Absence {
    /// Its reason, which clients get in the field `proxy-error`.
    #[must_use]
    pub fn reason(&self) -> &str {
        let (Self::Unknown(reason) | Self::Unavailable(reason) | Self::Forbidden(reason)) = self;
        reason
    }

    /// Whether requests need not wait for endpoints.
    fn is_final(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }

    pub(super) fn answer(&self) -> Answer {
        match self {
            Self::Unknown(_) | Self::Unavailable(_) => Answer::no_endpoint(self.reason()),
            Self::Forbidden(_) => Answer::forbidden(self.reason()),
        }
    }
}

// === impl AbsenceWatch ===

impl AbsenceWatch {
    pub(super) fn current(&self) -> Option<Absence> {
        self.0.as_ref()?.borrow().clone()
    }

    /// Whether it is known that there are no endpoints.
    pub(super) fn is_final(&self) -> bool {
        self.0.as_ref().is_some_and(|absence| absence.borrow().as_ref().is_some_and(Absence::is_final))
    }

    /// Waits until it is known that there are no endpoints. `None`: that will never be.
    pub(super) async fn known(&self) -> Option<Absence> {
        let mut absence = self.0.clone()?;
        let known = absence.wait_for(|absence| absence.as_ref().is_some_and(Absence::is_final)).await;
        known.ok()?.clone()
    }
}
