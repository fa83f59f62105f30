//! The task of a destination.

use super::{
    Linkerd,
    control::{Client, Control, Registered},
    endpoints::{EndpointSet, Refused},
    profile::Profile,
    stream::{self, Event},
};
use crate::{
    dns::{self, Discovery, Names, Target},
    grpc::describe,
};
use app_env::HostPort;
use linkerd2_proxy_api::destination::{NoEndpoints, Update, update::Update as Kind};
use proxy_http::{Endpoint, proxy::Absence};
use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tonic::{Code, Status};

/// Keeps the list of one destination's endpoints.
pub(super) struct Follower {
    linkerd: Linkerd,
    destination: HostPort,
    /// Whether requests may go to the addresses of its host.
    is_allowed: bool,
    hosts: bool,
    list: watch::Sender<Vec<Endpoint<Target>>>,
    names: Names,
    absence: watch::Sender<Option<Absence>>,
    profile: watch::Sender<Profile>,
    /// Whether the control plane was not there when it was asked for the profile last.
    is_away: AtomicBool,
    known: Mutex<Known>,
    /// Notified when DNS is to be followed, or not any more.
    has_changed: Notify,
    registered: Registered,
}

/// The state of the destination by the last update.
#[derive(Debug)]
enum Known {
    /// Nothing, and why.
    Nothing(String),
    /// Its endpoints.
    Endpoints(EndpointSet),
    /// It takes no HTTP.
    Opaque,
    /// The control plane does not know it.
    Unknown,
}

// === impl Follower ===

impl Follower {
    pub(super) fn new(
        linkerd: Linkerd,
        destination: HostPort,
        is_allowed: bool,
        hosts: bool,
        list: watch::Sender<Vec<Endpoint<Target>>>,
        names: Names,
        absence: watch::Sender<Option<Absence>>,
    ) -> Self {
        let registered = linkerd.control.register(linkerd.direction, destination.clone());
        let suffixes = &linkerd.control.settings.profile_suffixes;
        let has_profile = suffixes.iter().any(|suffix| suffix.contains(destination.host()));
        let profile = if has_profile { Profile::Waiting } else { Profile::Name(None) };
        Self {
            linkerd,
            destination,
            is_allowed,
            hosts,
            list,
            names,
            absence,
            profile: watch::Sender::new(profile),
            is_away: AtomicBool::new(false),
            known: Mutex::new(Known::Nothing("the control plane has not answered yet".to_owned())),
            has_changed: Notify::new(),
            registered,
        }
    }

    /// Ends when nobody needs the list any more.
    pub(super) async fn follow(self) {
        tokio::select! {
            () = self.list.closed() => {}
            () = self.follow_profile() => {}
            () = self.follow_endpoints() => {}
            () = self.follow_dns() => {}
        }
        self.names.clear();
    }

    fn control(&self) -> &Arc<Control> {
        &self.linkerd.control
    }

    /// Asks for the profile, if there may be one. Never returns.
    async fn follow_profile(&self) {
        if !self.profile.borrow().is_waiting() {
            return pending().await;
        }
        let path = self.destination.to_string();
        let allow_plaintext = self.control().settings.allow_plaintext;
        let open = |mut client: Client| {
            let question = self.control().question(&path);
            async move { client.destinations.get_profile(question).await }
        };
        let rejected =
            stream::follow(self.control(), &self.registered, self.linkerd.backoff, open, |event| match event {
                Event::Message { message, .. } => _ = self.profile.send_replace(Profile::new(message, allow_plaintext)),
                // A control plane may be without profiles. Any other failure, as of a connection that is cut, says nothing of them.
                Event::Failed(status) if status.code() == Code::Unimplemented => self.go_on_without_profile(),
                Event::Failed(status) => {
                    self.is_away.store(status.code() == Code::Unavailable, Relaxed);
                    self.note_failure(&status);
                }
            });
        let status = rejected.await;
        tracing::debug!(destination = %self.destination, message = status.message(), "the destination has no profile");
        self.profile.send_replace(Profile::Name(None));
        pending().await
    }

    /// A profile that comes later counts all the same.
    fn go_on_without_profile(&self) {
        self.profile.send_if_modified(|profile| {
            let waits = profile.is_waiting();
            if waits {
                *profile = Profile::Name(None);
            }
            waits
        });
    }

    /// Follows the endpoints of the profile, or of the name in it. Never returns.
    async fn follow_endpoints(&self) {
        let mut profiles = self.profile.subscribe();
        loop {
            let profile = profiles.borrow_and_update().clone();
            match profile {
                Profile::Waiting => {
                    let limit = self.control().settings.initial_timeout;
                    // One that is away could not say either whether the destination's own name has endpoints. Asked for them first when
                    // it is back, it would reject a name that has them by its profile alone.
                    if timeout(limit, profiles.changed()).await.is_err() && !self.is_away.load(Relaxed) {
                        self.go_on_without_profile();
                    }
                }
                Profile::Name(name) => {
                    let host = name.as_deref().map(|name| format!("{name}:{}", self.destination.port()));
                    let path = host.unwrap_or_else(|| self.destination.to_string());
                    tokio::select! {
                        () = self.follow_name(&path) => {}
                        () = name_changed(&mut profiles, name.as_deref()) => {}
                    }
                }
                Profile::Endpoint(set) => {
                    self.set(Known::Endpoints(set));
                    let _ = profiles.changed().await;
                }
                Profile::Opaque => {
                    self.set(Known::Opaque);
                    let _ = profiles.changed().await;
                }
            }
        }
    }

    /// Follows the endpoints of a name. Never returns.
    async fn follow_name(&self, path: &str) {
        let open = |mut client: Client| {
            let question = self.control().question(path);
            async move { client.destinations.get(question).await }
        };
        let mut is_initial = true;
        let rejected =
            stream::follow(self.control(), &self.registered, self.linkerd.backoff, open, |event| match event {
                Event::Message { message, is_first } => is_initial = !self.update(message, is_initial || is_first),
                Event::Failed(status) => self.note_failure(&status),
            });
        let status = rejected.await;
        tracing::debug!(destination = %self.destination, message = status.message(), "it is no destination of the control plane");
        self.set(Known::Unknown);
        pending().await
    }

    /// While nothing is known, clients are told why.
    fn note_failure(&self, status: &Status) {
        let mut known = self.lock();
        if let Known::Nothing(reason) = &mut *known {
            *reason = format!("the control plane cannot be asked: {}", describe(status));
            drop(known);
            self.publish();
        }
    }

    /// Takes an update, and returns whether it says anything. The first one of a stream that does replaces all that was known before.
    fn update(&self, Update { update }: Update, is_initial: bool) -> bool {
        let allow_plaintext = self.control().settings.allow_plaintext;
        let mut set = match &*self.lock() {
            Known::Endpoints(set) if !is_initial => set.clone(),
            _ => EndpointSet::default(),
        };
        let known = match update {
            Some(Kind::Add(added)) => {
                if !set.add(added, allow_plaintext) {
                    return false;
                }
                Known::Endpoints(set)
            }
            // Nothing has been added on the stream that could be removed.
            Some(Kind::Remove(_)) if is_initial => return false,
            Some(Kind::Remove(removed)) => {
                set.remove(removed);
                Known::Endpoints(set)
            }
            Some(Kind::NoEndpoints(NoEndpoints { exists: true })) => Known::Endpoints(EndpointSet::default()),
            Some(Kind::NoEndpoints(NoEndpoints { exists: false })) => Known::Unknown,
            None => return false,
        };
        self.set(known);
        true
    }

    fn set(&self, known: Known) {
        *self.lock() = known;
        self.publish();
        self.has_changed.notify_one();
    }

    /// Publishes the endpoints, or their absence. If the control plane does not know the destination, `follow_dns` publishes.
    fn publish(&self) {
        let destination = &self.destination;
        let unavailable = |reason: &str| (Vec::new(), Some(Absence::Unavailable(reason.into())));
        let mut left_out = 0;
        let (list, absence) = match &*self.lock() {
            Known::Nothing(reason) => (Vec::new(), Some(Absence::Unknown(reason.as_str().into()))),
            Known::Endpoints(set) => {
                left_out = set.refused();
                match set.list(destination, self.hosts) {
                    Ok(list) if list.is_empty() => {
                        unavailable(&format!("the control plane has no endpoints of {destination}"))
                    }
                    Ok(list) => (list, None),
                    Err(refused) => unavailable(refused.reason()),
                }
            }
            Known::Opaque => unavailable(Refused::Opaque.reason()),
            Known::Unknown if self.is_allowed => return,
            Known::Unknown => (Vec::new(), Some(Absence::Forbidden("the destination is not allowed".into()))),
        };
        self.send(list, absence, left_out);
    }

    fn send(&self, list: Vec<Endpoint<Target>>, absence: Option<Absence>, left_out: usize) {
        self.absence.send_if_modified(|current| {
            let is_news = *current != absence;
            if is_news && let Some(Absence::Unavailable(reason)) = &absence {
                tracing::warn!(destination = %self.destination, left_out, "no endpoint to send requests to: {reason}");
            }
            *current = absence;
            is_news
        });
        self.list.send_if_modified(|current| {
            let has_changed = *current != list;
            if has_changed && left_out > 0 {
                let endpoints = list.len();
                tracing::warn!(destination = %self.destination, endpoints, left_out, "endpoints get no requests");
            }
            *current = list;
            has_changed
        });
    }

    /// Follows the addresses of the destination's host while the control plane does not know it. Never returns.
    async fn follow_dns(&self) {
        let is_followed = || self.is_allowed && matches!(*self.lock(), Known::Unknown);
        loop {
            while !is_followed() {
                self.has_changed.notified().await;
            }
            let (dns, resolver) = (self.linkerd.dns, &self.linkerd.resolver);
            let destination = [self.destination.clone().into()];
            let Discovery { mut list, mut absence, .. } =
                dns::discover_as(&destination, self.hosts, dns, resolver, self.names.clone(), None);
            while is_followed() {
                let found = list.borrow_and_update().clone();
                let absent = absence.borrow_and_update().clone();
                self.send(found, absent, 0);
                tokio::select! {
                    // One that is an address never changes.
                    Ok(()) = list.changed() => {}
                    Ok(()) = absence.changed() => {}
                    () = self.has_changed.notified() => {}
                }
            }
            drop(list);
            self.names.clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Completes when the endpoints are no longer the ones of `name`.
async fn name_changed(profiles: &mut watch::Receiver<Profile>, name: Option<&str>) {
    let is_other = |profile: &Profile| !matches!(profile, Profile::Name(same) if same.as_deref() == name);
    let _ = profiles.wait_for(is_other).await;
}
