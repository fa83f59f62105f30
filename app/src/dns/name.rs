//! One name's addresses over time.
//!
//! Each family has its own queries, TTL and failures; the list has the addresses of both. It is news that there is no
//! address (NXDOMAIN, or no data), whereas an error response or silence leaves a family with the addresses it had.

use super::{
    Discovered,
    resolver::{Answer, LookupError, Reply, Resolver},
};
use app_env::{Dns, HostPort};
use hickory_resolver::proto::rr::RecordType;
use std::{error::Error, net::IpAddr, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

/// A name's state by its name servers, and which addresses are in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NameState {
    /// At least one family has been answered with addresses, which are in use.
    Resolved,
    /// The look-up fails. The last addresses are in use until it does not.
    Kept,
    /// The name no longer exists, or it has no address. The last addresses are in use for
    /// [`negative_hold`](Dns::negative_hold).
    Held,
    /// The name does not exist, or it has no address: none is in use.
    Gone,
    /// The look-up fails, or has not come to an end, and there are no addresses from before.
    Unresolved,
}

/// Keeps the addresses of one name up to date.
#[derive(Debug)]
pub(super) struct Follower<'a> {
    index: usize,
    endpoint: &'a HostPort,
    dns: Dns,
    resolver: &'a Resolver,
    discovered: &'a Discovered,
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    /// IPv4 and IPv6.
    families: [Family; 2],
    /// Look-ups that have ended, of both families.
    results: u64,
}

#[derive(Debug)]
struct Family {
    /// In use, unless the other family has some of a lower rank.
    ips: Vec<IpAddr>,
    /// The rank of the candidate that has `ips`, see [`Answer`].
    rank: usize,
    last: Last,
    /// When the last look-up ended.
    at: Instant,
    /// When there was the first of the answers that there is no address. `None`: since then, there were addresses.
    none_since: Option<Instant>,
    /// How long the answer that there is no address is valid. `None`: there was none, or it has no TTL.
    none_ttl: Option<Duration>,
    /// Look-ups in a row that found no address.
    failures: u32,
    is_asking: bool,
    /// The next look-up.
    due: Instant,
}

/// How the last look-up of a family ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Last {
    Never,
    Found,
    None,
    Failed,
}

const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

/// How long one family waits for the other before it is used alone, as in RFC 8305 section 3.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// However short a TTL or a wait, a name is not looked up more often than this.
pub(super) const LEAST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait after a failure.
const MOST_BACKOFF: Duration = Duration::from_secs(30);

// === impl NameState ===

impl NameState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Resolved, Self::Kept, Self::Held, Self::Gone, Self::Unresolved];

    /// A word for it, which is its label on the metrics page.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Kept => "kept",
            Self::Held => "held",
            Self::Gone => "gone",
            Self::Unresolved => "unresolved",
        }
    }
}

// === impl Follower ===

impl<'a> Follower<'a> {
    pub(super) fn new(
        index: usize,
        endpoint: &'a HostPort,
        dns: Dns,
        resolver: &'a Resolver,
        discovered: &'a Discovered,
    ) -> Self {
        let (state, _) = watch::channel(State::new(Instant::now()));
        Self { index, endpoint, dns, resolver, discovered, state }
    }

    /// Never returns.
    pub(super) async fn follow(&self) {
        // In this order: addresses that both families find at once come to the list at once.
        tokio::join!(biased; self.keep(0), self.keep(1), self.publish());
    }

    /// Looks one family up, again and again.
    async fn keep(&self, family: usize) {
        let mut state = self.state.subscribe();
        loop {
            self.state.send_modify(|state| state.families[family].is_asking = true);
            let is_taken = |rank| self.state.borrow().families[1 - family].is_found_at(rank);
            let result = self.resolver.lookup(self.endpoint.host(), FAMILIES[family], is_taken).await;
            self.take(family, result);
            loop {
                // The other family's answer may bring it forward, or put it off.
                let due = state.borrow_and_update().families[family].due;
                tokio::select! {
                    () = sleep_until(due) => break,
                    _ = state.changed() => {}
                }
            }
        }
    }

    /// Takes a look-up's result, and logs news.
    fn take(&self, family: usize, result: Result<Answer, LookupError>) {
        let (endpoint, now) = (self.endpoint, Instant::now());
        let record_type = FAMILIES[family];
        let is_none = result.as_ref().is_ok_and(|answer| answer.reply.ips.is_empty());
        self.state.send_modify(|state| {
            let (before, last) = (state.name_state(), state.families[family].last);
            let error = state.take(family, result, now, &self.dns);
            let (after, kept) = (state.name_state(), state.ips().len());
            if let Some(error) = error {
                let error = &error as &dyn Error;
                if last == Last::Failed {
                    tracing::debug!(%endpoint, %record_type, error, "name does not resolve");
                } else {
                    let message = "name does not resolve, its last addresses are kept";
                    tracing::warn!(%endpoint, %record_type, error, kept, message);
                }
            } else if !is_none {
                if last == Last::Failed || !matches!(before, NameState::Resolved | NameState::Unresolved) {
                    tracing::info!(%endpoint, %record_type, "name resolves again");
                }
            } else if before != after && after == NameState::Held {
                let hold = self.dns.negative_hold;
                tracing::warn!(%endpoint, kept, ?hold, "name has no address any more, its last ones are kept for a time");
            } else if before != after && after == NameState::Gone {
                tracing::warn!(%endpoint, "there is no such name, or it has no address");
            }
        });
    }

    /// Puts the addresses that are found into the list.
    async fn publish(&self) {
        let mut state = self.state.subscribe();
        let mut seen = 0;
        loop {
            let _ = state.wait_for(|state| state.results > seen).await;
            let both = state.wait_for(|state| state.families.iter().all(|family| !family.is_asking));
            let _ = timeout(RESOLUTION_DELAY, both).await;
            let (ips, name_state) = {
                let state = state.borrow_and_update();
                seen = state.results;
                (state.ips(), state.name_state())
            };
            self.discovered.set(self.index, self.endpoint, &ips, name_state);
        }
    }
}

// === impl State ===

impl State {
    fn new(now: Instant) -> Self {
        let family = || Family {
            ips: Vec::new(),
            rank: 0,
            last: Last::Never,
            at: now,
            none_since: None,
            none_ttl: None,
            failures: 0,
            is_asking: false,
            due: now,
        };
        Self { families: [family(), family()], results: 0 }
    }

    /// Takes the result of a look-up, and decides when both families are looked up next. Returns the error.
    fn take(
        &mut self,
        family: usize,
        result: Result<Answer, LookupError>,
        now: Instant,
        dns: &Dns,
    ) -> Option<LookupError> {
        self.results += 1;
        let [v4, v6] = &mut self.families;
        let (own, other) = if family == 0 { (v4, v6) } else { (v6, v4) };
        own.is_asking = false;
        own.at = now;
        match result {
            Ok(Answer { reply: Reply { ips, ttl, .. }, rank }) if !ips.is_empty() => {
                // The other family may have another answer at the new candidate.
                let has_moved = !own.ips.is_empty() && own.rank != rank;
                (own.ips, own.rank, own.last) = (ips, rank, Last::Found);
                (own.none_since, own.failures) = (None, 0);
                own.due = now + wait_after_answer(dns, ttl.unwrap_or_default());
                if other.last == Last::None && (other.ips.is_empty() || other.is_fresh(now)) {
                    other.take_that_other_has_addresses(own.due, dns);
                } else if (other.last == Last::None || has_moved) && !other.is_asking {
                    other.due = now;
                }
                None
            }
            Ok(Answer { reply, .. }) => {
                (own.last, own.none_ttl) = (Last::None, reply.ttl);
                let hold_end = *own.none_since.get_or_insert(now) + dns.negative_hold;
                if now >= hold_end {
                    own.ips.clear();
                }
                own.failures += 1;
                own.due = now + wait_after_failure(dns, own.failures);
                if !own.ips.is_empty() {
                    // Only another answer without addresses ends the hold.
                    own.due = own.due.min(hold_end.max(now + LEAST_WAIT));
                }
                if other.last == Last::Found {
                    if own.ips.is_empty() || other.is_fresh(now) {
                        own.take_that_other_has_addresses(other.due.max(now + LEAST_WAIT), dns);
                    } else if !other.is_asking {
                        // Is it the name that is gone, or only this family?
                        other.due = now;
                    }
                }
                None
            }
            Err(error) => {
                own.last = Last::Failed;
                own.failures += 1;
                own.due = now + wait_after_failure(dns, own.failures);
                Some(error)
            }
        }
    }

    /// The addresses in use, which are of the lowest rank.
    fn ips(&self) -> Vec<IpAddr> {
        let found = || self.families.iter().filter(|family| !family.ips.is_empty());
        let rank = found().map(|family| family.rank).min();
        found().filter(|family| Some(family.rank) == rank).flat_map(|family| family.ips.iter().copied()).collect()
    }

    fn name_state(&self) -> NameState {
        let any = |is: fn(&Family) -> bool| self.families.iter().any(is);
        if any(|family| family.last == Last::Found) {
            NameState::Resolved
        } else if any(|family| !family.ips.is_empty() && family.none_since.is_some()) {
            NameState::Held
        } else if any(|family| !family.ips.is_empty()) {
            NameState::Kept
        } else if any(|family| family.last != Last::None) {
            NameState::Unresolved
        } else {
            NameState::Gone
        }
    }
}

// === impl Family ===

impl Family {
    /// Has no address, while the other family has: the name exists, and there is nothing to hold. The other family is
    /// looked up next at `other_due`.
    fn take_that_other_has_addresses(&mut self, other_due: Instant, dns: &Dns) {
        self.ips.clear();
        self.failures = 0;
        if !self.is_asking {
            // Without a TTL of its own (RFC 2308 section 5: without an SOA), it goes by the other's.
            self.due = self.none_ttl.map_or(other_due, |ttl| self.at + wait_after_answer(dns, ttl));
        }
    }

    /// Whether its last answer is so new that another one would say the same.
    fn is_fresh(&self, now: Instant) -> bool {
        !self.is_asking && now - self.at < LEAST_WAIT
    }

    fn is_found_at(&self, rank: usize) -> bool {
        self.last == Last::Found && self.rank <= rank
    }
}

pub(super) fn wait_after_answer(dns: &Dns, ttl: Duration) -> Duration {
    let Dns { min_ttl, max_ttl, negative_hold: _ } = *dns;
    ttl.max(min_ttl.unwrap_or_default()).min(max_ttl.unwrap_or(Duration::MAX)).max(LEAST_WAIT)
}

/// Doubles from a second, to the longest TTL at most.
pub(super) fn wait_after_failure(dns: &Dns, failures: u32) -> Duration {
    let most = MOST_BACKOFF.min(dns.max_ttl.unwrap_or(Duration::MAX)).max(LEAST_WAIT);
    LEAST_WAIT.saturating_mul(2_u32.saturating_pow(failures - 1)).min(most)
}
