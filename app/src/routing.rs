//! Routes from a file, and the back ends that they name.

use crate::{
    backend::{self, Backend, Source},
    reload::Reload,
    routes,
    tls::{self, Stamp},
};
use app_env::{
    RateLimit,
    routes::{Retry, Rule},
};
use proxy_http::proxy::{Action, Policy, Rate, RouteRate, Routes};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::watch;

/// The routes of a direction, which are read again when their file changes.
#[derive(Debug)]
pub(crate) struct Routing {
    direction: &'static str,
    path: PathBuf,
    /// The settings of back ends, unless the file sets others.
    connect: app_env::Connect,
    tls: Option<Arc<tls::Client>>,
    shared: backend::Shared,
    /// The routes that count.
    made: watch::Sender<Arc<Routes<Backend>>>,
    loaded: Mutex<Loaded>,
    reloads: Reloads,
}

/// The state of the last load.
#[derive(Debug)]
struct Loaded {
    /// Of the file when it was read last, be it in vain.
    stamp: Stamp,
    /// The mistakes then. A certificate that is not there yet may come later, without a change of the file.
    errors: Vec<String>,
    made: Made,
}

/// The parts of routes that stay when the file changes and says the same of them.
#[derive(Debug, Default)]
struct Made {
    backends: Backends,
    rates: Rates,
}

/// The back ends by name, each with its settings in the file.
type Backends = BTreeMap<String, (app_env::routes::Backend, Arc<Backend>)>;

/// The rate limits of rules, by their names on metrics.
type Rates = BTreeMap<String, Arc<RouteRate>>;

/// How often the file was read again.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// All that is wrong with a file, or with the certificates that it names.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct Errors(Vec<String>);

// === impl Routing ===

impl Routing {
    /// Reads the file of a direction's routes, and follows the endpoints of its back ends. Must be called in a tokio runtime.
    pub(crate) fn load(
        direction: &'static str,
        path: PathBuf,
        connect: app_env::Connect,
        tls: Option<Arc<tls::Client>>,
        shared: backend::Shared,
    ) -> Result<Self, Errors> {
        let (made, _) = watch::channel(Arc::new(Routes::new([])));
        // Before it is read: if it changes in between, it is read again.
        let loaded = Mutex::new(Loaded { stamp: Stamp::of(&path), errors: Vec::new(), made: Made::default() });
        let routing = Self { direction, path, connect, tls, shared, made, loaded, reloads: Reloads::default() };
        // `app` has said the warnings before.
        let (made, _) = routing.read(&Made::default())?;
        routing.lock().made = made;
        Ok(routing)
    }

    /// The routes that count, now and later.
    pub(crate) fn routes(&self) -> watch::Receiver<Arc<Routes<Backend>>> {
        self.made.subscribe()
    }

    pub(crate) fn reloads(&self) -> &Reloads {
        &self.reloads
    }

    /// Reads the file and has its routes count. Back ends with the settings that they had before stay, as do rate limits.
    fn read(&self, before: &Made) -> Result<(Made, Vec<String>), Errors> {
        let routes::Loaded { routes: spec, warnings } = routes::load(&self.path, &self.connect).map_err(Errors)?;
        let mut backends = Backends::new();
        let mut errors = Vec::new();
        for (name, backend) in &spec.backends {
            if let Some(known) = before.backends.get(name).filter(|known| known.0 == *backend) {
                backends.insert(name.clone(), known.clone());
                continue;
            }
            let tls = if backend.connect.tls == self.connect.tls {
                Ok(self.tls.clone())
            } else {
                routes::client(self.direction, &self.path, name, backend)
            };
            match tls {
                Ok(tls) => {
                    let made = Backend::new(
                        name.clone(),
                        Source::Endpoints(&backend.endpoints),
                        backend.connect.clone(),
                        tls,
                        self.shared.clone(),
                    );
                    backends.insert(name.clone(), (backend.clone(), Arc::new(made)));
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(Errors(errors));
        }
        let rules = routes::rules(&spec).map_err(|error| Errors(vec![format!("{}:{error}", self.path.display())]))?;
        let mut rates = Rates::new();
        let mut actions = Vec::with_capacity(rules.len());
        for (matches, place) in rules {
            let (name, rule) = (routes::name(&spec, place), &spec.routes[place.route].rules[place.rule]);
            // A route may be named as another is numbered.
            let known = before.rates.get(&name).filter(|_| !rates.contains_key(&name));
            let rate = rule.rate_limit.map(|limit| route_rate(limit, known));
            if let Some(rate) = &rate {
                rates.insert(name.clone(), Arc::clone(rate));
            }
            actions.push((matches, action(name, rule, rate, &backends)));
        }
        self.made.send_replace(Arc::new(Routes::new(actions)));
        Ok((Made { backends, rates }, warnings))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reload for Routing {
    fn reload(&self, forced: bool) {
        let mut loaded = self.lock();
        for (_, backend) in loaded.made.backends.values() {
            if let Some(tls) = &backend.tls
                && !self.tls.as_ref().is_some_and(|shared| Arc::ptr_eq(shared, tls))
            {
                tls.reload(forced);
            }
        }
        let stamp = Stamp::of(&self.path);
        let is_same = stamp == loaded.stamp && !forced;
        if is_same && loaded.errors.is_empty() {
            return;
        }
        loaded.stamp = stamp;
        let (direction, path) = (self.direction, self.path.display());
        match self.read(&loaded.made) {
            Ok((made, warnings)) => {
                for warning in warnings {
                    tracing::warn!(direction, "{warning}");
                }
                tracing::info!(direction, %path, backends = made.backends.len(), "routes were read again");
                loaded.made = made;
                loaded.errors.clear();
                self.reloads.succeeded.fetch_add(1, Relaxed);
            }
            Err(Errors(errors)) if is_same && errors == loaded.errors => {}
            Err(Errors(errors)) => {
                for error in &errors {
                    tracing::warn!(direction, "{error}");
                }
                loaded.errors = errors;
                tracing::warn!(direction, %path, "routes stay as they were");
                self.reloads.failed.fetch_add(1, Relaxed);
            }
        }
    }
}

fn action(name: String, rule: &Rule, rate: Option<Arc<RouteRate>>, backends: &Backends) -> Action<Backend> {
    // The parser refuses names of back ends that there are not.
    let shares = rule.backend_refs.iter().filter_map(|share| {
        let (_, backend) = backends.get(&share.name)?;
        Some((Arc::clone(backend), share.weight))
    });
    Action { name, backends: shares.collect(), policy: policy(rule), rate }
}

/// The rate limit of a rule; the one that it had before, with its count, unless the limit is another.
fn route_rate(RateLimit { per_second, burst }: RateLimit, before: Option<&Arc<RouteRate>>) -> Arc<RouteRate> {
    let rate = Rate { per_second, burst };
    before.filter(|before| before.rate() == rate).map_or_else(|| Arc::new(RouteRate::new(rate)), Arc::clone)
}

fn policy(rule: &Rule) -> Policy {
    let Retry { attempts, gateway_errors, .. } = rule.retry.unwrap_or_default();
    Policy {
        request_timeout: rule.timeouts.request,
        backend_request_timeout: rule.timeouts.backend_request,
        retries: attempts,
        retry_gateway_errors: gateway_errors,
    }
}

// === impl Reloads ===

impl Reloads {
    /// How often it went well and how often not, by the name of each.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 2] {
        [("success", self.succeeded.load(Relaxed)), ("failure", self.failed.load(Relaxed))]
    }
}
