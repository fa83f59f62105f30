//! Discovery: the addresses that endpoints have now, and the news when DNS says otherwise.
//!
//! Each name has a task (`name`), which looks both families of addresses up when their TTLs are over (`resolver`, which
//! asks `servers`) and puts the addresses into one list. A `service` has a list of its own, by its SRV records.

use app_env::{Dns, EndpointAddr, HostPort, StreamAddr};
use proxy_http::{Endpoint, proxy::Absence};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Notify, watch};

mod name;
mod resolver;
mod servers;
mod service;

pub use name::NameState;
pub use resolver::Resolver;
pub use service::{discover_service, is_service};

use name::Follower;

/// An endpoint's address.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Target {
    /// The address.
    pub addr: StreamAddr,
    /// The host that it was found by, an IP address without brackets or a name. `None`: nobody has asked for it, or it is a Unix
    /// domain socket.
    pub host: Option<Arc<str>>,
}

/// Endpoints that are followed.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// The addresses that they have now.
    pub list: watch::Receiver<Vec<Endpoint<Target>>>,
    /// How their names are doing.
    pub names: Names,
    /// Why there is no address, once name servers say of each name that it does not exist or has none.
    pub absence: watch::Receiver<Option<Absence>>,
}

/// How the endpoints that are names are doing. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<BTreeMap<String, Status>>>);

/// How a name is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Status {
    /// The state by its name servers' last answers.
    pub state: NameState,
    /// Its addresses that are in use.
    pub addresses: usize,
}

/// The list, and the addresses that each endpoint adds to it.
#[derive(Debug)]
struct Discovered {
    /// In the order of the endpoints.
    by_endpoint: Mutex<Vec<Vec<Target>>>,
    list: watch::Sender<Vec<Endpoint<Target>>>,
    names: Names,
    absence: watch::Sender<Option<Absence>>,
    /// Whether targets have their hosts.
    hosts: bool,
    /// Notified after each look-up.
    looked_up: Option<Arc<Notify>>,
}

/// Follows the addresses of `endpoints`. Must be called in a tokio runtime if one of them is a name.
///
/// The list starts with the endpoints that are IP addresses or Unix domain sockets. A name adds all its addresses once it is
/// looked up, which starts at once and goes on, as `dns` says, until all receivers are dropped; a family of addresses
/// waits 50 ms for the other one, and no longer. No address is in the list twice; receivers are told of a change only
/// when another set of addresses is the result. Without names nothing will ever change, and
/// [`changed`](watch::Receiver::changed) is an error.
///
/// With `hosts` targets have the host that they were found by, which belongs to them: an address that another endpoint
/// has now is another target. Of an address that several have at once, the first endpoint's host counts.
#[must_use]
pub fn discover(endpoints: &[EndpointAddr], hosts: bool, dns: Dns, resolver: &Resolver) -> Discovery {
    discover_as(endpoints, hosts, dns, resolver, Names::default(), None)
}

/// The same with `names` that others know already, and a notification of `looked_up` after each look-up.
pub(crate) fn discover_as(
    endpoints: &[EndpointAddr],
    hosts: bool,
    dns: Dns,
    resolver: &Resolver,
    names: Names,
    looked_up: Option<&Arc<Notify>>,
) -> Discovery {
    let literal = |endpoint: &EndpointAddr| match endpoint {
        EndpointAddr::HostPort(endpoint) => endpoint.ip().map(|ip| Target::new(endpoint, ip, hosts)),
        EndpointAddr::Unix(unix) => Some(Target { addr: StreamAddr::Unix(unix.clone()), host: None }),
    };
    let by_endpoint: Vec<Vec<_>> = endpoints.iter().map(|endpoint| Vec::from_iter(literal(endpoint))).collect();
    let (list, receiver) = watch::channel(merge(&by_endpoint));
    let (absence, absent) = watch::channel(None);
    let by_endpoint = Mutex::new(by_endpoint);
    let discovered =
        Arc::new(Discovered { by_endpoint, list, names: names.clone(), absence, hosts, looked_up: looked_up.cloned() });
    let hosts_and_ports =
        endpoints.iter().enumerate().filter_map(|(index, endpoint)| Some((index, endpoint.host_port()?)));
    for (index, endpoint) in hosts_and_ports.filter(|(_, endpoint)| endpoint.ip().is_none()) {
        names.set(endpoint.to_string(), Status { state: NameState::Unresolved, addresses: 0 });
        let (endpoint, resolver, discovered) = (endpoint.clone(), resolver.clone(), Arc::clone(&discovered));
        tokio::spawn(async move {
            let follower = Follower::new(index, &endpoint, dns, &resolver, &discovered);
            tokio::select! {
                () = discovered.list.closed() => {}
                () = follower.follow() => {}
            }
        });
    }
    Discovery { list: receiver, names, absence: absent }
}

/// All targets in the order of the endpoints, each address where it comes first.
fn merge(by_endpoint: &[Vec<Target>]) -> Vec<Endpoint<Target>> {
    let mut seen = BTreeSet::new();
    let targets = by_endpoint.iter().flatten().filter(|target| seen.insert(&target.addr));
    let mut merged: Vec<_> = targets.cloned().map(Endpoint::new).collect();
    // Most destinations have one, and a vector that grows begins with room for four.
    merged.shrink_to_fit();
    merged
}

// === impl Target ===

impl Target {
    pub(crate) fn new(endpoint: &HostPort, ip: IpAddr, hosts: bool) -> Self {
        let host = hosts.then(|| endpoint.host().into());
        Self { addr: SocketAddr::new(ip, endpoint.port()).into(), host }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

// === impl Names ===

impl Names {
    /// All of them, in order.
    #[must_use]
    pub fn status(&self) -> Vec<(String, Status)> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().map(|(name, status)| (name.clone(), *status)).collect()
    }

    /// Forgets all of them, which are no longer followed.
    pub(crate) fn clear(&self) {
        self.replace(BTreeMap::new());
    }

    fn set(&self, name: String, status: Status) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, status);
    }

    fn replace(&self, names: BTreeMap<String, Status>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// Whether there are any, and all of them have no address.
    fn are_gone(&self) -> bool {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !names.is_empty() && names.values().all(|status| status.state == NameState::Gone)
    }
}

// === impl Discovered ===

impl Discovered {
    /// Replaces the addresses of one endpoint, and notifies receivers if the list changes.
    fn set(&self, index: usize, endpoint: &HostPort, ips: &[IpAddr], state: NameState) {
        self.names.set(endpoint.to_string(), Status { state, addresses: ips.len() });
        let mut by_endpoint = self.by_endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        by_endpoint[index] = ips.iter().map(|ip| Target::new(endpoint, *ip, self.hosts)).collect();
        let list = merge(&by_endpoint);
        self.list.send_if_modified(|current| {
            let set_of = |list: &[Endpoint<Target>]| BTreeSet::from_iter(list.iter().map(|one| one.addr.clone()));
            let (before, set) = (set_of(current), set_of(&list));
            let changed = before != set;
            if changed {
                let added: Vec<_> = set.difference(&before).filter_map(|target| target.addr.tcp()).collect();
                let removed: Vec<_> = before.difference(&set).filter_map(|target| target.addr.tcp()).collect();
                tracing::info!(%endpoint, ?added, ?removed, addresses = set.len(), "addresses changed");
                *current = list;
            }
            changed
        });
        let is_absent = self.list.borrow().is_empty() && self.names.are_gone();
        set_absence(&self.absence, is_absent.then_some(endpoint.host()));
        self.looked_up.iter().for_each(|looked_up| looked_up.notify_one());
    }
}

/// Notes that a host has no address, or that this is not known of any.
fn set_absence(absence: &watch::Sender<Option<Absence>>, host: Option<&str>) {
    absence.send_if_modified(|current| {
        let changed = current.is_some() != host.is_some();
        if changed {
            let reason = |host| format!("{host}: there is no such name, or it has no address").into();
            *current = host.map(|host| Absence::Unavailable(reason(host)));
        }
        changed
    });
}
