//! The name servers of a resolv.conf: one resolver for each, the first usable answer counts.
//!
//! hickory ends a look-up at the first error response, also where another server would have an answer. So each server
//! has a resolver of its own, and the order of asking is ours, as in glibc: a server is asked once all before it have
//! failed. glibc waits five seconds for a silent one; here, the next one is asked after [`HEAD_START`].

use super::resolver::Reply;
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use std::{
    fmt::Display,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// All name servers, in the order of resolv.conf.
#[derive(Debug)]
pub(super) struct Servers(Vec<Arc<Server>>);

#[derive(Debug)]
struct Server {
    ip: IpAddr,
    resolver: TokioResolver,
    health: Mutex<Health>,
}

/// How a server has done lately.
#[derive(Debug, Default)]
struct Health {
    /// It has been silent, and has no head start until then. `None`: it has answered since.
    silent_until: Option<Instant>,
    /// When the log last said that it does not answer. `None`: it has answered since.
    warned: Option<Instant>,
}

/// How long a server is waited for before the next one is asked too: one retransmission, which hickory sends after
/// 333 ms, and its answer.
const HEAD_START: Duration = Duration::from_millis(500);

/// How long a silent server has no head start. After that one look-up tells whether it answers again.
const SILENCE: Duration = Duration::from_secs(30);

/// The log says of a server once in this time that it does not answer.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

const REFERRAL: &str = "a referral to other name servers";

// === impl Servers ===

impl Servers {
    pub(super) fn new(servers: Vec<NameServerConfig>, options: &ResolverOpts) -> Result<Self, NetError> {
        let servers = servers.into_iter().map(|server| Server::new(server, options).map(Arc::new));
        servers.collect::<Result<_, _>>().map(Self)
    }

    /// Asks for the addresses of one family, or for SRV records.
    ///
    /// # Errors
    ///
    /// When no server has a usable answer: an error response if there was one, else another error.
    pub(super) async fn query(&self, name: &Name, family: RecordType) -> Result<Reply, NetError> {
        let mut replies = JoinSet::new();
        // The servers that were asked so far; `None` once a server has replied.
        let mut waiting = Vec::new();
        let mut next = Instant::now();
        let mut failure = None;
        loop {
            tokio::select! {
                biased;
                Some(reply) = replies.join_next() => {
                    let (index, reply): (usize, _) = match reply {
                        Ok(reply) => reply,
                        Err(error) => return Err(NetError::from(error.to_string())),
                    };
                    waiting[index] = None;
                    match reply {
                        Ok(reply) => {
                            self.0[index].answered();
                            self.note_silence(&waiting[..index], name);
                            return Ok(reply);
                        }
                        Err(error) => {
                            self.0[index].failed(&error, name);
                            failure = Some(match failure {
                                Some(failure) if is_response(&failure) || !is_response(&error) => failure,
                                _ => error,
                            });
                            next = Instant::now();
                        }
                    }
                }
                () = sleep_until(next), if waiting.len() < self.0.len() => {
                    let index = waiting.len();
                    let (server, name) = (Arc::clone(&self.0[index]), name.clone());
                    let now = Instant::now();
                    waiting.push(Some(now));
                    next = now + server.head_start(now);
                    replies.spawn(async move { (index, server.query(name, family).await) });
                }
                else => return Err(failure.unwrap_or(NetError::NoConnections)),
            }
        }
    }

    /// Notes that servers have used up their head start, while a later one has answered.
    fn note_silence(&self, waiting: &[Option<Instant>], name: &Name) {
        let now = Instant::now();
        for (server, asked) in self.0.iter().zip(waiting) {
            if asked.is_some_and(|asked| now - asked >= HEAD_START) {
                server.silent(&format!("nothing came within {HEAD_START:?}"), name);
            }
        }
    }
}

/// Whether a server has responded, though not with an answer.
pub(super) fn is_response(error: &NetError) -> bool {
    matches!(error, NetError::Dns(DnsError::ResponseCode(_)) | NetError::Message(REFERRAL))
}

// === impl Server ===

impl Server {
    fn new(config: NameServerConfig, options: &ResolverOpts) -> Result<Self, NetError> {
        let ip = config.ip;
        let resolver = TokioResolver::builder_with_config(
            ResolverConfig::from_parts(None, Vec::new(), vec![config]),
            TokioRuntimeProvider::default(),
        )
        .with_options(options.clone())
        .build()?;
        Ok(Self { ip, resolver, health: Mutex::default() })
    }

    async fn query(&self, name: Name, family: RecordType) -> Result<Reply, NetError> {
        match self.resolver.lookup(name, family).await {
            Ok(found) => Ok(Reply::new(found.answers())),
            // RFC 2308 section 2.2: name servers without an SOA are a referral, not an answer without data.
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code: ResponseCode::NoError,
                soa: None,
                ns: Some(_),
                ..
            }))) => Err(NetError::Message(REFERRAL)),
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code: ResponseCode::NoError | ResponseCode::NXDomain,
                negative_ttl,
                ..
            }))) => Ok(Reply::none(negative_ttl)),
            // A code that hickory does not know.
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. }))) => {
                Err(DnsError::ResponseCode(response_code).into())
            }
            Err(error) => Err(error),
        }
    }

    fn head_start(&self, now: Instant) -> Duration {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.silent_until.is_some_and(|until| now < until) { Duration::ZERO } else { HEAD_START }
    }

    fn answered(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.silent_until = None;
        // At most as often as the warning: a server may fail for one name and answer for another.
        if health.warned.is_some_and(|warned| warned.elapsed() >= WARNING_INTERVAL) {
            health.warned = None;
            tracing::info!(server = %self.ip, "name server answers again");
        }
    }

    fn failed(&self, error: &NetError, name: &Name) {
        if !is_response(error) {
            return self.silent(error, name);
        }
        self.health.lock().unwrap_or_else(PoisonError::into_inner).silent_until = None;
        self.warn(error, name);
    }

    fn silent(&self, reason: &dyn Display, name: &Name) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.silent_until = Some(Instant::now() + SILENCE);
        drop(health);
        self.warn(reason, name);
    }

    fn warn(&self, reason: &dyn Display, name: &Name) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.warned.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL) {
            health.warned = Some(Instant::now());
            tracing::warn!(server = %self.ip, %name, %reason, "name server does not answer");
        } else {
            tracing::debug!(server = %self.ip, %name, %reason, "name server does not answer");
        }
    }
}
