//! Look-ups: in a hosts file, then in the search list of a resolv.conf.

use super::servers::{Servers, is_response};
use app_env::HostPort;
use hickory_resolver::{
    Hosts,
    config::{ResolveHosts, ResolverConfig},
    net::NetError,
    proto::{
        ProtoError,
        op::Query,
        rr::{Name, RData, Record, RecordType, rdata::SRV},
    },
    system_conf,
};
use std::{
    fs, io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Looks names up: in a hosts file first, then at the name servers of a `resolv.conf`.
///
/// Clones share the contents of both. Either is read anew once it has changed, which is noticed when a name is looked
/// up; an entry of the hosts file, which has no TTL, counts for a day.
#[derive(Clone, Debug)]
pub struct Resolver {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    port: u16,
    current: Arc<Mutex<Option<Arc<System>>>>,
}

/// The contents of both files at the last read.
#[derive(Debug)]
struct System {
    /// As they were read, resolv.conf first. `None`: it could not be read.
    files: [Option<Vec<u8>>; 2],
    hosts: Hosts,
    dns: Result<ResolvConf, NetError>,
}

/// The settings of resolv.conf.
#[derive(Debug)]
struct ResolvConf {
    /// The domain or, which is one of several, the search list.
    search: Vec<Name>,
    /// A name with at least this many dots is tried as it is before it is tried in the domains of `search`.
    ndots: usize,
    servers: Servers,
}

/// The addresses of one family under one name, or its SRV records.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// Sorted. Empty: the name does not exist, or it has no address of this family.
    pub(super) ips: Vec<IpAddr>,
    /// By priority; without records that have no target.
    pub(super) services: Vec<ServiceRecord>,
    /// Whether a record says that there is no such service.
    pub(super) has_no_service: bool,
    /// How long that is valid. `None`: there are no addresses, and the server does not say how long.
    pub(super) ttl: Option<Duration>,
}

/// An SRV record that has a target.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct ServiceRecord {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) target: HostPort,
}

/// A reply, and the candidate that it is about.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// The candidate's index in the order of the search list. Of several that have addresses, the lowest counts.
    pub(super) rank: usize,
}

/// Why a name has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error("cannot use {0}")]
    ResolvConf(PathBuf, #[source] NetError),
    #[error("not a DNS name")]
    Name(#[from] ProtoError),
    #[error("cannot be looked up")]
    Query(#[source] NetError),
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

    /// Looks up the addresses of one family, or SRV records. The search ends at a candidate of which `is_taken` says, by its rank, that
    /// it has addresses of the other family: later candidates are other names.
    ///
    /// # Errors
    ///
    /// When the servers do not say whether there is an address.
    pub(super) async fn lookup(
        &self,
        host: &str,
        family: RecordType,
        is_taken: impl Fn(usize) -> bool,
    ) -> Result<Answer, LookupError> {
        let name = Name::from_ascii(host)?;
        let system = self.current();
        if family != RecordType::SRV
            && let Some(reply) = system.lookup_hosts(&name, family)
        {
            return Ok(Answer { reply, rank: 0 });
        }
        let dns = system.dns.as_ref();
        let dns = dns.map_err(|error| LookupError::ResolvConf(self.resolv_conf.clone(), error.clone()))?;
        let mut failure = None;
        let mut none = Answer { reply: Reply::none(None), rank: 0 };
        for (rank, name) in dns.candidates(name).into_iter().enumerate() {
            match dns.servers.query(&name, family).await {
                Ok(reply) if reply.is_empty() => {
                    let ttl = [none.reply.ttl, reply.ttl].into_iter().flatten().min();
                    none = Answer { reply: Reply { ttl, ..reply }, rank };
                }
                Ok(reply) => return Ok(Answer { reply, rank }),
                Err(error) => {
                    // As glibc has it: servers that refuse to answer for one domain of the search list do not keep the
                    // rest of them from being tried; ones that cannot be reached do, since a later domain may have the
                    // same name for something else.
                    let have_responded = is_response(&error);
                    failure.get_or_insert(error);
                    if !have_responded {
                        break;
                    }
                }
            }
            if is_taken(rank) {
                break;
            }
        }
        failure.map_or(Ok(none), |error| Err(LookupError::Query(error)))
    }

    /// The files' settings now. They are small and local, and a name reads them twice a second at most: no thread is
    /// needed.
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
        let (resolv_conf, dns) = match resolv_conf {
            Ok(text) => {
                let dns = ResolvConf::new(&text, port);
                (Some(text), dns)
            }
            Err(error) => (None, Err(error.into())),
        };
        Self { files: [resolv_conf, hosts_file.ok()], hosts, dns }
    }

    fn is_of(&self, read: &[io::Result<Vec<u8>>; 2]) -> bool {
        self.files.iter().zip(read).all(|(file, read)| file.as_ref() == read.as_ref().ok())
    }

    /// `None`: the name is not in the hosts file.
    fn lookup_hosts(&self, name: &Name, family: RecordType) -> Option<Reply> {
        let lookup = |family| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), family));
            found.map(|found| Reply::new(found.answers())).filter(|reply| !reply.ips.is_empty())
        };
        let other = if family == RecordType::A { RecordType::AAAA } else { RecordType::A };
        lookup(family).or_else(|| Some(Reply { ips: Vec::new(), ..lookup(other)? }))
    }
}

// === impl ResolvConf ===

impl ResolvConf {
    fn new(text: &[u8], port: u16) -> Result<Self, NetError> {
        let (mut config, mut options) = system_conf::parse_resolv_conf(text)?;
        for connection in config.name_servers.iter_mut().flat_map(|server| &mut server.connections) {
            connection.port = port;
        }
        // Each look-up is for news, and the hosts file is ours to ask: hickory would do so after the search list.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        // hickory would ask a server that fails again at once. Another server is asked instead, and a name that is not
        // found is looked up again in a second.
        options.attempts = 0;
        let (search, ndots) = (search_list(&config), options.ndots);
        Ok(Self { search, ndots, servers: Servers::new(config.name_servers, &options)? })
    }

    /// The names to look up for a name of the configuration, in this order.
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
}

/// The domains to try a name in. The domain that hickory takes from the host's name is used when there is no other.
fn search_list(config: &ResolverConfig) -> Vec<Name> {
    if config.search.is_empty() { Vec::from_iter(config.domain.clone()) } else { config.search.clone() }
}

// === impl Reply ===

impl Reply {
    /// A reply of records, among which may be aliases on the way to the addresses. Valid for the shortest TTL.
    pub(super) fn new(records: &[Record]) -> Self {
        let mut ips: Vec<IpAddr> = records.iter().filter_map(|record| record.data.ip_addr()).collect();
        // Servers rotate them, which is no change.
        ips.sort_unstable();
        let ttl = records.iter().map(|record| Duration::from_secs(record.ttl.into())).min();
        let services =
            || records.iter().filter_map(|record| if let RData::SRV(srv) = &record.data { Some(srv) } else { None });
        let mut targets: Vec<_> = services().filter_map(ServiceRecord::new).collect();
        targets.sort_unstable();
        let has_no_service = targets.is_empty() && services().next().is_some();
        Self { ips, services: targets, has_no_service, ttl }
    }

    /// The answer that there is no address, with its TTL in seconds.
    pub(super) fn none(ttl: Option<u32>) -> Self {
        let ttl = ttl.map(|ttl| Duration::from_secs(ttl.into()));
        Self { ips: Vec::new(), services: Vec::new(), has_no_service: false, ttl }
    }

    /// Whether it says nothing but that there is nothing.
    fn is_empty(&self) -> bool {
        self.ips.is_empty() && self.services.is_empty() && !self.has_no_service
    }
}

// === impl ServiceRecord ===

impl ServiceRecord {
    /// `None`: its target is the root, which says that there is no such service, or no target at all.
    fn new(SRV { priority, weight, port, target, .. }: &SRV) -> Option<Self> {
        let target = format!("{}:{port}", target.to_ascii()).parse().ok()?;
        Some(Self { priority: *priority, weight: *weight, target })
    }
}
