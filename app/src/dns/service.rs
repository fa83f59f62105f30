//! The endpoints of a service by its SRV records (RFC 2782).
//!
//! The name has a task, which looks the records up when their TTL is over, and follows the addresses of each target as of any other
//! name. The endpoints have the priorities of the records. A target's weight is divided among its addresses.

use super::{
    Discovery, NameState, Names, Resolver, Status, Target, discover_as, name,
    resolver::{Answer, LookupError, ServiceRecord},
    set_absence,
};
use app_env::{Dns, HostPort, StreamAddr};
use hickory_resolver::proto::rr::RecordType;
use proxy_http::Endpoint;
use proxy_http::proxy::Absence;
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    mem,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

/// Keeps the endpoints of one service up to date.
#[derive(Debug)]
struct Follower {
    name: String,
    dns: Dns,
    resolver: Resolver,
    /// The host of its targets, if they have one.
    host: Option<Arc<str>>,
    list: watch::Sender<Vec<Endpoint<Target>>>,
    names: Names,
    absence: watch::Sender<Option<Absence>>,
}

/// The records that are in use.
#[derive(Debug, Default)]
struct Records {
    /// By priority.
    in_use: Vec<ServiceRecord>,
    last: Last,
    /// When there was the first of the answers that there is no record. `None`: since then, there were some.
    none_since: Option<Instant>,
    /// Look-ups in a row that found none.
    failures: u32,
}

/// How the last look-up ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Last {
    #[default]
    Never,
    Found,
    None,
    Failed,
}

/// Targets by their names and ports, each with the addresses that it has now.
type Targets = BTreeMap<HostPort, Discovery>;

/// Records that are used at most, which bounds the look-ups of one service.
const MAX_RECORDS: usize = 100;

/// How long the addresses of new targets are waited for, so that a target of a higher priority is not used for lack of an answer.
const RESOLUTION_DELAY: Duration = Duration::from_millis(100);

/// The weight of an endpoint is this for each unit of its target's. A target of weight zero among others has one in all, a share that is
/// next to nothing, as RFC 2782 asks for.
const SCALE: u64 = 1_000;

/// Follows the endpoints of a service, as `_grpc._tcp.example.com`. Must be called in a tokio runtime.
///
/// The list is empty until there is an answer. With `hosts` targets have the service's domain as their host, not their own names: DNS,
/// which can be forged, must not choose the name that a certificate has to have (RFC 9525 section 6.1).
#[must_use]
pub fn discover_service(name: &str, hosts: bool, dns: Dns, resolver: &Resolver) -> Discovery {
    let ((list, receiver), (absence, absent)) = (watch::channel(Vec::new()), watch::channel(None));
    let names = Names::default();
    names.set(name.to_owned(), Status { state: NameState::Unresolved, addresses: 0 });
    let host = if hosts { name.splitn(3, '.').nth(2).map(Into::into) } else { None };
    let (name, resolver) = (name.to_owned(), resolver.clone());
    let follower = Follower { name, dns, resolver, host, list, names: names.clone(), absence };
    tokio::spawn(async move {
        tokio::select! {
            () = follower.list.closed() => {}
            () = follower.follow() => {}
        }
    });
    Discovery { list: receiver, names, absence: absent }
}

/// Whether a name is one of a service: its first two labels start with `_`.
#[must_use]
pub fn is_service(name: &str) -> bool {
    let mut labels = name.splitn(3, '.');
    let mut starts = || labels.next().is_some_and(|label| label.len() > 1 && label.starts_with('_'));
    starts() && starts() && labels.next().is_some_and(|domain| !domain.is_empty())
}

// === impl Follower ===

impl Follower {
    /// Never returns.
    async fn follow(&self) {
        let (mut records, mut targets) = (Records::default(), Targets::new());
        let changed = Arc::<Notify>::default();
        loop {
            let result = self.resolver.lookup(&self.name, RecordType::SRV, |_| false).await;
            let due = self.take(&mut records, result);
            // A target that stays keeps its addresses.
            let mut before = mem::take(&mut targets);
            for ServiceRecord { target, .. } in &records.in_use {
                targets.entry(target.clone()).or_insert_with(|| {
                    let follow = || {
                        discover_as(
                            &[target.clone().into()],
                            false,
                            self.dns,
                            &self.resolver,
                            Names::default(),
                            Some(&changed),
                        )
                    };
                    before.remove(target).unwrap_or_else(follow)
                });
            }
            let delay = Instant::now() + RESOLUTION_DELAY;
            while targets.values().any(is_unresolved) && timeout_at(delay, changed.notified()).await.is_ok() {}
            self.publish(&records, &targets);
            while timeout_at(due, changed.notified()).await.is_ok() {
                self.publish(&records, &targets);
            }
        }
    }

    /// Takes a look-up's result, logs news, and says when the next one is due.
    fn take(&self, records: &mut Records, result: Result<Answer, LookupError>) -> Instant {
        let (service, last) = (&self.name, records.last);
        let (error, due) = records.take(result, Instant::now(), &self.dns);
        if let Some(error) = error {
            let (kept, error) = (records.in_use.len(), &error as &dyn Error);
            if last == Last::Failed {
                tracing::debug!(%service, error, "service cannot be looked up");
            } else {
                tracing::warn!(%service, error, kept, "service cannot be looked up, its last records are kept");
            }
        } else if records.last == Last::None && last != Last::None {
            tracing::warn!(%service, kept = records.in_use.len(), "there is no such service, or it has no target");
        }
        due
    }

    fn publish(&self, records: &Records, targets: &Targets) {
        let endpoints = endpoints(&records.in_use, targets, self.host.as_ref());
        let mut names: BTreeMap<_, _> = targets.values().flat_map(|target| target.names.status()).collect();
        names.insert(self.name.clone(), Status { state: records.name_state(), addresses: endpoints.len() });
        self.names.replace(names);
        // New targets, which are looked up still, do not leave requests without any endpoint.
        if !(endpoints.is_empty() && targets.values().any(is_unresolved)) {
            self.list.send_if_modified(|current| {
                let changed = *current != endpoints;
                if changed {
                    tracing::info!(service = %self.name, addresses = endpoints.len(), "endpoints changed");
                    *current = endpoints;
                }
                changed
            });
        }
        let are_absent = targets.values().all(|target| target.absence.borrow().is_some());
        let is_absent = self.list.borrow().is_empty() && matches!(records.last, Last::Found | Last::None) && are_absent;
        set_absence(&self.absence, is_absent.then_some(&*self.name));
    }
}

// === impl Records ===

impl Records {
    /// Takes the result of a look-up. Returns the error, and when the next look-up is due.
    fn take(&mut self, result: Result<Answer, LookupError>, now: Instant, dns: &Dns) -> (Option<LookupError>, Instant) {
        let Answer { reply, .. } = match result {
            Ok(answer) => answer,
            Err(error) => {
                self.last = Last::Failed;
                self.failures += 1;
                return (Some(error), now + name::wait_after_failure(dns, self.failures));
            }
        };
        if reply.services.is_empty() && !reply.has_no_service {
            self.last = Last::None;
            self.failures += 1;
            let hold_end = *self.none_since.get_or_insert(now) + dns.negative_hold;
            if now >= hold_end {
                self.in_use.clear();
            }
            let due = now + name::wait_after_failure(dns, self.failures);
            let due = if self.in_use.is_empty() { due } else { due.min(hold_end.max(now + name::LEAST_WAIT)) };
            return (None, due);
        }
        // A target of "." says that there is no such service (RFC 2782), which is nothing to wait out.
        self.last = if reply.services.is_empty() { Last::None } else { Last::Found };
        self.in_use = reply.services;
        self.in_use.truncate(MAX_RECORDS);
        (self.none_since, self.failures) = (None, 0);
        (None, now + name::wait_after_answer(dns, reply.ttl.unwrap_or_default()))
    }

    fn name_state(&self) -> NameState {
        match self.last {
            Last::Found => NameState::Resolved,
            _ if !self.in_use.is_empty() && self.none_since.is_some() => NameState::Held,
            _ if !self.in_use.is_empty() => NameState::Kept,
            Last::None => NameState::Gone,
            Last::Never | Last::Failed => NameState::Unresolved,
        }
    }
}

fn is_unresolved(target: &Discovery) -> bool {
    target.names.status().iter().any(|(_, status)| status.state == NameState::Unresolved)
}

/// The addresses of all targets, each with its share of the weight, at the lowest number of the priorities that it has.
fn endpoints(records: &[ServiceRecord], targets: &Targets, host: Option<&Arc<str>>) -> Vec<Endpoint<Target>> {
    let mut endpoints = Vec::<Endpoint<Target>>::new();
    let mut known = BTreeSet::new();
    for group in records.chunk_by(|one, other| one.priority == other.priority) {
        let has_weight = group.iter().any(|record| record.weight > 0);
        let mut weights = BTreeMap::<StreamAddr, u64>::new();
        for ServiceRecord { weight, target, .. } in group {
            let Some(found) = targets.get(target) else { continue };
            let found = found.list.borrow();
            let share = match u64::from(*weight) {
                0 if has_weight => 1,
                0 => SCALE,
                weight => weight * SCALE,
            };
            for endpoint in &*found {
                *weights.entry(endpoint.addr.addr.clone()).or_default() += (share / found.len() as u64).max(1);
            }
        }
        weights.retain(|addr, _| known.insert(addr.clone()));
        endpoints.extend(weights.into_iter().map(|(addr, weight)| Endpoint {
            weight: u32::try_from(weight).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX),
            priority: group[0].priority,
            ..Endpoint::new(Target { addr, host: host.cloned() })
        }));
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_two_labels_of_its_own() {
        for (name, expect) in [
            ("_grpc._tcp.example.com", true),
            ("_grpc._tcp.example", true),
            ("_grpc._tcp", false),
            ("_grpc._tcp.", false),
            ("_._tcp.example.com", false),
            ("_grpc.tcp.example.com", false),
            ("grpc._tcp.example.com", false),
            ("example.com", false),
        ] {
            assert_eq!(is_service(name), expect, "{name}");
        }
    }
}
