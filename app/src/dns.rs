//! Discovery: the addresses that endpoints have now, and the news when DNS says otherwise.
//!
//! Each name has a task, which looks it up when its TTL is over and puts what it finds into one list. Nothing but an
//! answer with other addresses changes the list: failures of any kind leave a name with the ones it had.

use app_env::{Dns, HostPort};
use hickory_resolver::{
    Hosts, TokioResolver,
    config::{ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        ProtoError,
        op::Query,
        rr::{Name, Record, RecordType},
    },
    system_conf,
};
use proxy_http::Endpoint;
use std::{
    collections::BTreeSet,
    error::Error,
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time};

/// Looks names up: in a hosts file first, then at the name servers of a `resolv.conf`.
///
/// Clones share what was read from both. Either is read anew once it has changed, which is noticed when a name is looked
/// up; an entry of the hosts file, which has no TTL, counts for a day.
#[derive(Clone, Debug)]
pub struct Resolver {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    port: u16,
    current: Arc<Mutex<Option<Arc<System>>>>,
}

/// What both files said when they were read last.
#[derive(Debug)]
struct System {
    /// As they were read, resolv.conf first. `None`: it could not be read.
    files: [Option<Vec<u8>>; 2],
    hosts: Hosts,
    servers: Result<Servers, NetError>,
}

/// What resolv.conf says.
#[derive(Debug)]
struct Servers {
    /// The domain or, which is one of several, the search list.
    search: Vec<Name>,
    /// A name of at least so many dots is tried as it is before it is tried in the domains of `search`.
    ndots: usize,
    resolver: TokioResolver,
}

/// What is connected to: an endpoint's address.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Target {
    /// The address.
    pub addr: SocketAddr,
    /// The host that it was found by, an IP address without brackets or a name. `None`: nobody has asked for it.
    pub host: Option<Arc<str>>,
}

/// The addresses of a name.
#[derive(Debug)]
struct Answer {
    /// IPv4 and IPv6. `None`: this family could not be looked up, while the other one was found.
    families: [Option<Vec<IpAddr>>; 2],
    ttl: Duration,
}

/// Why a name has no answer.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("cannot use {0}")]
    ResolvConf(PathBuf, #[source] NetError),
    #[error("not a DNS name")]
    Name(#[from] ProtoError),
    #[error("cannot be looked up")]
    Query(#[source] NetError),
    #[error("there is no such name, or it has no address")]
    NoAddress,
}

/// The list, and what each endpoint adds to it.
#[derive(Debug)]
struct Discovered {
    /// In the order of the endpoints.
    by_endpoint: Mutex<Vec<Vec<Target>>>,
    list: watch::Sender<Vec<Endpoint<Target>>>,
    /// Whether targets have their hosts.
    hosts: bool,
}

/// However short a TTL or a wait, a name is not looked up more often than this.
const LEAST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait after a failure.
const MOST_BACKOFF: Duration = Duration::from_secs(30);

/// Follows the addresses of `endpoints`. Must be called in a tokio runtime if one of them is a name.
///
/// The list starts with the endpoints that are IP addresses. A name adds all its IPv4 and IPv6 addresses once it is
/// looked up, which starts at once and goes on, bounded by `bounds`, until all receivers are dropped. No address is in
/// the list twice; receivers are told of a change only when another set of addresses is the result. Without names
/// nothing will ever change, and [`changed`](watch::Receiver::changed) is an error.
///
/// With `hosts` targets have the host that they were found by, which belongs to them: an address that another endpoint
/// has now is another target. Of an address that several have at once, the first endpoint's host counts.
#[must_use]
pub fn discover(
    endpoints: &[HostPort],
    hosts: bool,
    bounds: Dns,
    resolver: &Resolver,
) -> watch::Receiver<Vec<Endpoint<Target>>> {
    let literal = |endpoint: &HostPort| endpoint.ip().map(|ip| Target::new(endpoint, ip, hosts));
    let by_endpoint: Vec<Vec<_>> = endpoints.iter().map(|endpoint| Vec::from_iter(literal(endpoint))).collect();
    let (list, receiver) = watch::channel(merge(&by_endpoint));
    let discovered = Arc::new(Discovered { by_endpoint: Mutex::new(by_endpoint), list, hosts });
    for (index, endpoint) in endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.ip().is_none()) {
        let (endpoint, resolver, discovered) = (endpoint.clone(), resolver.clone(), Arc::clone(&discovered));
        tokio::spawn(async move {
            tokio::select! {
                () = discovered.list.closed() => {}
                () = follow(index, &endpoint, bounds, &resolver, &discovered) => {}
            }
        });
    }
    receiver
}

/// Keeps the addresses of one name up to date. Never returns.
async fn follow(index: usize, endpoint: &HostPort, bounds: Dns, resolver: &Resolver, discovered: &Discovered) {
    let mut families = [Vec::new(), Vec::new()];
    let mut failures = 0;
    loop {
        let wait = match resolver.lookup(endpoint.host()).await {
            Ok(answer) => {
                for (known, found) in families.iter_mut().zip(answer.families) {
                    if let Some(found) = found {
                        *known = found;
                    }
                }
                if failures > 0 {
                    tracing::info!(%endpoint, "name resolves again");
                    failures = 0;
                }
                discovered.set(index, endpoint, &families.concat());
                wait_after_answer(bounds, answer.ttl)
            }
            Err(error) => {
                let error = &error as &dyn Error;
                if failures == 0 {
                    let kept = families.iter().map(Vec::len).sum::<usize>();
                    tracing::warn!(%endpoint, error, kept, "name does not resolve, its last addresses are kept");
                } else {
                    tracing::debug!(%endpoint, error, failures, "name does not resolve");
                }
                failures += 1;
                wait_after_failure(bounds, failures)
            }
        };
        time::sleep(wait).await;
    }
}

fn wait_after_answer(bounds: Dns, ttl: Duration) -> Duration {
    let Dns { min_ttl, max_ttl } = bounds;
    ttl.max(min_ttl.unwrap_or_default()).min(max_ttl.unwrap_or(Duration::MAX)).max(LEAST_WAIT)
}

/// Doubles from a second, to the longest TTL at most.
fn wait_after_failure(bounds: Dns, failures: u32) -> Duration {
    let most = MOST_BACKOFF.min(bounds.max_ttl.unwrap_or(Duration::MAX)).max(LEAST_WAIT);
    LEAST_WAIT.saturating_mul(2_u32.saturating_pow(failures - 1)).min(most)
}

/// All targets in the order of the endpoints, each address where it comes first.
fn merge(by_endpoint: &[Vec<Target>]) -> Vec<Endpoint<Target>> {
    let mut seen = BTreeSet::new();
    by_endpoint.iter().flatten().filter(|target| seen.insert(target.addr)).cloned().map(Endpoint::new).collect()
}

// === impl Target ===

impl Target {
    fn new(endpoint: &HostPort, ip: IpAddr, hosts: bool) -> Self {
        let host = hosts.then(|| endpoint.host().into());
        Self { addr: SocketAddr::new(ip, endpoint.port()), host }
    }
}

impl From<Target> for SocketAddr {
    fn from(target: Target) -> Self {
        target.addr
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

// === impl Resolver ===

impl Resolver {
    /// The system's: `/etc/hosts` and `/etc/resolv.conf`.
    #[must_use]
    pub fn system() -> Self {
        Self::new("/etc/resolv.conf", "/etc/hosts", 53)
    }

    /// One with files of its own, and name servers that listen on `port`, which `resolv.conf` cannot say.
    #[must_use]
    pub fn new(resolv_conf: impl Into<PathBuf>, hosts: impl Into<PathBuf>, port: u16) -> Self {
        Self { resolv_conf: resolv_conf.into(), hosts: hosts.into(), port, current: Arc::default() }
    }

    async fn lookup(&self, host: &str) -> Result<Answer, LookupError> {
        let name = Name::from_ascii(host)?;
        let system = self.current();
        if let Some(answer) = system.lookup_hosts(&name) {
            return Ok(answer);
        }
        let servers = system.servers.as_ref();
        let servers = servers.map_err(|error| LookupError::ResolvConf(self.resolv_conf.clone(), error.clone()))?;
        let mut failure = None;
        for name in servers.candidates(name) {
            let families = tokio::join!(servers.query(&name, RecordType::A), servers.query(&name, RecordType::AAAA));
            let families: [Result<Vec<Record>, NetError>; 2] = families.into();
            if families.iter().flatten().any(|records| !records.is_empty()) {
                if let Some(error) = families.iter().find_map(|family| family.as_ref().err()) {
                    tracing::debug!(%name, error = error as &dyn Error, "only one family of addresses is found");
                }
                return Ok(Answer::new(families.map(Result::ok)));
            }
            for error in families.into_iter().filter_map(Result::err) {
                // As glibc has it: a server that refuses to answer for one domain of the search list does not keep the
                // rest of them from being tried; one that cannot be reached does, since a later domain may have the
                // same name for something else.
                let answered = matches!(error, NetError::Dns(DnsError::ResponseCode(_)));
                failure.get_or_insert(error);
                if !answered {
                    return Err(failure.map_or(LookupError::NoAddress, LookupError::Query));
                }
            }
        }
        Err(failure.map_or(LookupError::NoAddress, LookupError::Query))
    }

    /// What the files say now. They are small and local, and read once a second at most: no thread is needed.
    fn current(&self) -> Arc<System> {
        let read = [&self.resolv_conf, &self.hosts].map(fs::read);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(system) if system.is_of(&read) => Arc::clone(system),
            _ => Arc::clone(current.insert(Arc::new(System::new(read, self.port)))),
        }
    }
}

// === impl System ===

impl System {
    fn new([resolv_conf, hosts_file]: [io::Result<Vec<u8>>; 2], port: u16) -> Self {
        let mut hosts = Hosts::default();
        // Without a hosts file, as in the smallest of containers, name servers are asked for all names.
        if let Ok(text) = &hosts_file {
            let text = String::from_utf8_lossy(text);
            hosts.read_hosts_conf(text.as_bytes()).expect("memory can be read, and the text is Unicode");
        }
        let (resolv_conf, servers) = match resolv_conf {
            Ok(text) => {
                let servers = Servers::new(&text, port);
                (Some(text), servers)
            }
            Err(error) => (None, Err(error.into())),
        };
        Self { files: [resolv_conf, hosts_file.ok()], hosts, servers }
    }

    fn is_of(&self, read: &[io::Result<Vec<u8>>; 2]) -> bool {
        self.files.iter().zip(read).all(|(file, read)| file.as_ref() == read.as_ref().ok())
    }

    /// `None`: the name is not in the hosts file.
    fn lookup_hosts(&self, name: &Name) -> Option<Answer> {
        let [v4, v6] = [RecordType::A, RecordType::AAAA].map(|family| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), family));
            found.map(|found| found.answers().to_vec()).unwrap_or_default()
        });
        (!v4.is_empty() || !v6.is_empty()).then(|| Answer::new([Some(v4), Some(v6)]))
    }
}

// === impl Servers ===

impl Servers {
    fn new(resolv_conf: &[u8], port: u16) -> Result<Self, NetError> {
        let (mut config, mut options) = system_conf::parse_resolv_conf(resolv_conf)?;
        for connection in config.name_servers.iter_mut().flat_map(|server| &mut server.connections) {
            connection.port = port;
        }
        // Each look-up is for news, and the hosts file is ours to ask: hickory would do so after the search list.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let (search, ndots) = (search_list(&config), options.ndots);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()?;
        Ok(Self { search, ndots, resolver })
    }

    /// What a name may stand for, likely ones first.
    fn candidates(&self, name: Name) -> Vec<Name> {
        if name.is_fqdn() {
            return vec![name];
        }
        let mut names: Vec<Name> =
            self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        let as_it_is_first = usize::from(name.num_labels()) > self.ndots || name.is_localhost();
        let mut as_it_is = name;
        as_it_is.set_fqdn(true);
        names.insert(if as_it_is_first { 0 } else { names.len() }, as_it_is);
        names
    }

    /// Asks the name servers. Empty: there is no such name, or it has no address of the family.
    async fn query(&self, name: &Name, family: RecordType) -> Result<Vec<Record>, NetError> {
        match self.resolver.lookup(name.clone(), family).await {
            Ok(found) => Ok(found.answers().to_vec()),
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// The domains to try a name in. The one that hickory takes from the host's name is for when there is no other.
fn search_list(config: &ResolverConfig) -> Vec<Name> {
    if config.search.is_empty() { Vec::from_iter(config.domain.clone()) } else { config.search.clone() }
}

// === impl Answer ===

impl Answer {
    /// An answer of records, among which may be aliases on the way to the addresses. Valid for the shortest TTL.
    fn new(families: [Option<Vec<Record>>; 2]) -> Self {
        let ttl = families.iter().flatten().flatten().map(|record| record.ttl).min().unwrap_or_default();
        let families = families.map(|records| {
            let mut ips: Vec<IpAddr> = records?.iter().filter_map(|record| record.data.ip_addr()).collect();
            // Servers rotate them, which is no change.
            ips.sort_unstable();
            Some(ips)
        });
        Self { families, ttl: Duration::from_secs(ttl.into()) }
    }
}

// === impl Discovered ===

impl Discovered {
    /// Replaces what one endpoint adds, and tells receivers if that makes a difference.
    fn set(&self, index: usize, endpoint: &HostPort, ips: &[IpAddr]) {
        let mut by_endpoint = self.by_endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        by_endpoint[index] = ips.iter().map(|ip| Target::new(endpoint, *ip, self.hosts)).collect();
        let list = merge(&by_endpoint);
        self.list.send_if_modified(|current| {
            let set_of = |list: &[Endpoint<Target>]| BTreeSet::from_iter(list.iter().map(|one| one.addr.clone()));
            let (before, set) = (set_of(current), set_of(&list));
            let changed = before != set;
            if changed {
                let added: Vec<_> = set.difference(&before).map(|target| target.addr).collect();
                let removed: Vec<_> = before.difference(&set).map(|target| target.addr).collect();
                tracing::info!(%endpoint, ?added, ?removed, addresses = set.len(), "addresses changed");
                *current = list;
            }
            changed
        });
    }
}
