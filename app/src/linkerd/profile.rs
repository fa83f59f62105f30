//! The profile of a destination: its canonical name, its only endpoint, or that it takes no HTTP.

use super::endpoints::EndpointSet;
use linkerd2_proxy_api::destination::DestinationProfile;

/// A destination's profile, as far as it counts here.
#[derive(Clone, Debug, Default)]
pub(super) enum Profile {
    /// It is not known yet.
    #[default]
    Waiting,
    /// There is none, or it says nothing of the endpoints: they are asked for by this name, or by the destination's own.
    Name(Option<String>),
    /// Its only endpoint.
    Endpoint(EndpointSet),
    /// It takes no HTTP.
    Opaque,
}

// === impl Profile ===

impl Profile {
    pub(super) fn new(profile: DestinationProfile, allow_plaintext: bool) -> Self {
        let DestinationProfile { fully_qualified_name: name, opaque_protocol, endpoint, .. } = profile;
        if opaque_protocol {
            return Self::Opaque;
        }
        if let Some(set) = endpoint.and_then(|endpoint| EndpointSet::one(endpoint, allow_plaintext)) {
            return Self::Endpoint(set);
        }
        let name = name.trim_end_matches('.');
        Self::Name((!name.is_empty()).then(|| name.to_owned()))
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting)
    }
}
