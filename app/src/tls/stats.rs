//! Counters of one side's TLS, for the metrics page.

use super::{Errors, cert::unix_time};
use proxy_http::stats::Latency;
use rustls::{AlertDescription as Alert, InvalidMessage, ProtocolVersion};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::time::Instant;

/// Handshakes, the certificate and its reloads. All workers share one: it is touched once a connection.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    done: [AtomicU64; Version::ALL.len()],
    failed: [AtomicU64; Failure::ALL.len()],
    latency: Latency,
    expires: AtomicU64,
    reloads: [AtomicU64; 2],
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    V1_2,
    V1_3,
}

/// Why a handshake failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// It took too long.
    Timeout,
    /// The peer was gone.
    Closed,
    /// The peer does not speak TLS.
    Plaintext,
    /// One side does not take the other's certificate, or gets none.
    Certificate,
    /// ALPN found no protocol that both speak.
    Alpn,
    Other,
}

/// A handshake. If it is dropped before its end it took too long, and its time-out was over.
#[derive(Debug)]
pub(crate) struct Handshake<'a> {
    stats: &'a Stats,
    started: Instant,
    ended: bool,
}

// === impl Stats ===

impl Stats {
    pub(crate) fn start(&self) -> Handshake<'_> {
        Handshake { stats: self, started: Instant::now(), ended: false }
    }

    /// Handshakes by result and, where they came to one, version.
    pub(crate) fn handshakes(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let done = Version::ALL.into_iter().zip(&self.done).map(|(version, count)| ("ok", version.name(), count));
        let failed = Failure::ALL.into_iter().zip(&self.failed).map(|(failure, count)| (failure.name(), "", count));
        done.chain(failed).map(|(result, version, count)| (result, version, count.load(Relaxed)))
    }

    /// How long complete handshakes took.
    pub(crate) fn latency(&self) -> &Latency {
        &self.latency
    }

    /// When our own certificate expires, in Unix time. `None`: there is none, or it does not say.
    pub(crate) fn expires(&self) -> Option<u64> {
        Some(self.expires.load(Relaxed)).filter(|expires| *expires > 0)
    }

    /// Notes the expiry of our own certificate, and warns if it has expired: others will refuse it.
    pub(crate) fn set_expires(&self, direction: &str, expires: Option<u64>) {
        if expires.is_some_and(|expires| expires < unix_time()) {
            tracing::warn!(direction, "our own certificate has expired");
        }
        self.expires.store(expires.unwrap_or(0), Relaxed);
    }

    /// Files taken over, by result.
    pub(crate) fn reloads(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ["ok", "failed"].into_iter().zip(&self.reloads).map(|(result, count)| (result, count.load(Relaxed)))
    }

    /// Counts and logs the result of a reload.
    pub(crate) fn reloaded(&self, direction: &str, result: &Result<(), Errors>) {
        self.reloads[usize::from(result.is_err())].fetch_add(1, Relaxed);
        match result {
            Ok(()) => tracing::info!(direction, "certificates were read again"),
            Err(errors) => tracing::error!(direction, %errors, "new certificates cannot be used, the old ones stay"),
        }
    }
}

// === impl Handshake ===

impl Handshake<'_> {
    pub(crate) fn done(mut self, version: Option<ProtocolVersion>) {
        self.ended = true;
        let version = if version == Some(ProtocolVersion::TLSv1_2) { Version::V1_2 } else { Version::V1_3 };
        self.stats.done[version as usize].fetch_add(1, Relaxed);
        self.stats.latency.record(self.started.elapsed());
    }

    pub(crate) fn failed(mut self, failure: Failure) {
        self.ended = true;
        self.stats.failed[failure as usize].fetch_add(1, Relaxed);
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.stats.failed[Failure::Timeout as usize].fetch_add(1, Relaxed);
        }
    }
}

// === impl Version ===

impl Version {
    /// In the order of their declaration, by which they index counters.
    const ALL: [Self; 2] = [Self::V1_2, Self::V1_3];

    const fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

// === impl Failure ===

impl Failure {
    /// In the order of their declaration, by which they index counters.
    pub(super) const ALL: [Self; 6] =
        [Self::Timeout, Self::Closed, Self::Plaintext, Self::Certificate, Self::Alpn, Self::Other];

    const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Plaintext => "plaintext",
            Self::Certificate => "certificate",
            Self::Alpn => "alpn",
            Self::Other => "error",
        }
    }

    /// The class of a handshake's error.
    pub(crate) fn of(error: &io::Error) -> Self {
        use rustls::Error::{
            AlertReceived, InvalidCertificate, InvalidMessage as Message, NoApplicationProtocol,
            NoCertificatesPresented,
        };
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            None => Self::Closed,
            Some(Message(InvalidMessage::InvalidContentType)) => Self::Plaintext,
            Some(NoApplicationProtocol | AlertReceived(Alert::NoApplicationProtocol)) => Self::Alpn,
            Some(InvalidCertificate(_) | NoCertificatesPresented) => Self::Certificate,
            Some(AlertReceived(
                Alert::NoCertificate
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::CertificateRequired,
            )) => Self::Certificate,
            Some(_) => Self::Other,
        }
    }
}
