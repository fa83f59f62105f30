//! Discovery by Linkerd's control plane: the endpoints of destinations, as its destination service streams them.
//!
//! Each destination has a task (`follower`), for all workers, which holds its streams over the one connection (`control`) and
//! keeps a list of endpoints (`endpoints`) up to date. It ends when no worker is connected to the destination any more.

mod control;
mod endpoints;
mod follower;
mod profile;
mod stream;

pub(crate) use control::{Control, Status};

use crate::dns::{self, Names, Target};
use app_env::{Backoff, HostPort};
use follower::Follower;
use proxy_http::{Endpoint, balance, proxy::Absence};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::watch};

/// Follows destinations for one direction. Clones share the connection to the control plane.
#[derive(Clone)]
pub(crate) struct Linkerd {
    control: Arc<Control>,
    direction: &'static str,
    backoff: balance::Backoff,
    dns: app_env::Dns,
    resolver: dns::Resolver,
    /// Where destinations are followed: apart from the workers.
    runtime: Handle,
}

/// A destination that is followed, until all receivers of the list are dropped.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) list: watch::Receiver<Vec<Endpoint<Target>>>,
    /// The destination's host, while its addresses come from DNS.
    pub(crate) names: Names,
    /// Why the list is empty, if it is.
    pub(crate) absence: watch::Receiver<Option<Absence>>,
}

/// The longest wait between questions that failed: the control plane is one host for all destinations, and may be back soon.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

// === impl Linkerd ===

impl Linkerd {
    /// Must be called in the tokio runtime that destinations are to be followed in.
    pub(crate) fn new(
        control: Arc<Control>,
        direction: &'static str,
        backoff: Backoff,
        dns: app_env::Dns,
        resolver: dns::Resolver,
    ) -> Self {
        let Backoff { min, max, jitter } = backoff;
        let backoff = balance::Backoff { min, max: max.min(MAX_BACKOFF), jitter };
        Self { control, direction, backoff, dns, resolver, runtime: Handle::current() }
    }

    /// Starts following a destination. If the control plane does not know it, its endpoints are the addresses of its host, if
    /// that `is_allowed`. `hosts`: targets have it as their host.
    pub(crate) fn follow(&self, destination: HostPort, is_allowed: bool, hosts: bool) -> Followed {
        let (sender, list) = watch::channel(Vec::new());
        let reason = format!("the control plane has not answered yet about {destination}");
        let (names, (absences, absence)) = (Names::default(), watch::channel(Some(Absence::Unknown(reason.into()))));
        let follower = Follower::new(self.clone(), destination, is_allowed, hosts, sender, names.clone(), absences);
        self.runtime.spawn(follower.follow());
        Followed { list, names, absence }
    }
}

impl fmt::Debug for Linkerd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linkerd").field("control", &self.control).finish_non_exhaustive()
    }
}
