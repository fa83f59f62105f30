//! The endpoints of a destination, as the control plane's messages describe them.

use crate::dns::Target;
use app_env::HostPort;
use http::uri::Authority;
use http_h2::{ClientKeepAlive, ClientParams, FlowControl};
use linkerd2_proxy_api::{
    destination::{
        AddrSet, AuthorityOverride, Http2ClientParams, WeightedAddr, WeightedAddrSet, protocol_hint::Protocol,
    },
    net::TcpAddress,
};
use proxy_http::Endpoint;
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

/// Endpoints by address.
#[derive(Clone, Debug, Default)]
pub(super) struct EndpointSet(BTreeMap<SocketAddr, Member>);

/// An endpoint without its address.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Member {
    weight: u32,
    params: ClientParams,
    labels: Vec<(String, String)>,
    authority: Option<Authority>,
    /// `None`: requests may go there.
    refused: Option<Refused>,
}

/// Why no requests go to an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// It has a TLS identity, which cannot be verified.
    TlsIdentity,
    /// It takes no HTTP.
    Opaque,
}

// === impl EndpointSet ===

impl EndpointSet {
    /// Adds endpoints, of which the ones that are there are replaced, and returns whether there was any.
    pub(super) fn add(&mut self, set: WeightedAddrSet, allow_plaintext: bool) -> bool {
        let WeightedAddrSet { addrs, metric_labels } = set;
        let mut has_added = false;
        for addr in addrs {
            if let Some((addr, member)) = read(addr, &metric_labels, allow_plaintext) {
                self.0.insert(addr, member);
                has_added = true;
            }
        }
        has_added
    }

    /// Removes endpoints; addresses that are not in the set are ignored.
    pub(super) fn remove(&mut self, set: AddrSet) {
        for addr in set.addrs.into_iter().filter_map(socket_addr) {
            self.0.remove(&addr);
        }
    }

    /// One endpoint alone. `None`: it has no address.
    pub(super) fn one(addr: WeightedAddr, allow_plaintext: bool) -> Option<Self> {
        let (addr, member) = read(addr, &HashMap::new(), allow_plaintext)?;
        Some(Self(BTreeMap::from([(addr, member)])))
    }

    /// The endpoints that requests go to. Ones of weight zero are left out, unless all are: some senders set no weights.
    ///
    /// An error: why there is none, though there are endpoints.
    pub(super) fn list(&self, destination: &HostPort, hosts: bool) -> Result<Vec<Endpoint<Target>>, Refused> {
        let usable = || self.0.iter().filter(|(_, member)| member.refused.is_none());
        let has_weights = usable().any(|(_, member)| member.weight > 0);
        let list: Vec<_> = usable()
            .filter_map(|(addr, Member { weight, params, labels, authority, refused: _ })| {
                let weight = if has_weights { NonZeroU32::new(*weight)? } else { NonZeroU32::MIN };
                let host = hosts.then(|| destination.host().into());
                let target = Target { addr: (*addr).into(), host };
                let (labels, authority) = (labels.clone(), authority.clone());
                Some(Endpoint { weight, params: *params, authority, labels, ..Endpoint::new(target) })
            })
            .collect();
        match self.0.values().find_map(|member| member.refused) {
            Some(refused) if list.is_empty() => Err(refused),
            _ => Ok(list),
        }
    }

    /// Endpoints that no requests go to for a reason.
    pub(super) fn refused(&self) -> usize {
        self.0.values().filter(|member| member.refused.is_some()).count()
    }
}

// === impl Refused ===

impl Refused {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::TlsIdentity => {
                "the control plane says that endpoints have a TLS identity, which this proxy cannot verify, and \
                 DESTINATION_ALLOW_PLAINTEXT is not set"
            }
            Self::Opaque => "the control plane says that endpoints take opaque TCP, not HTTP",
        }
    }
}

/// `None`: it has no address.
fn read(
    addr: WeightedAddr,
    set_labels: &HashMap<String, String>,
    allow_plaintext: bool,
) -> Option<(SocketAddr, Member)> {
    let WeightedAddr {
        addr,
        weight,
        metric_labels,
        tls_identity,
        protocol_hint,
        authority_override,
        http2,
        resource_ref: _,
    } = addr;
    let addr = addr.and_then(socket_addr)?;
    let labels: BTreeMap<_, _> = set_labels.clone().into_iter().chain(metric_labels).collect();
    let params = http2.map(params).unwrap_or_default();
    let params = params.validate().map(|()| params).unwrap_or_else(|error| {
        tracing::warn!(endpoint = %addr, %error, "the control plane's HTTP/2 params of an endpoint are wrong and not used");
        ClientParams::DEFAULT
    });
    let refused = match protocol_hint.and_then(|hint| hint.protocol) {
        Some(Protocol::Opaque(_)) => Some(Refused::Opaque),
        _ if tls_identity.is_some() && !allow_plaintext => Some(Refused::TlsIdentity),
        _ => None,
    };
    let authority = authority_override.and_then(authority);
    Some((addr, Member { weight, params, labels: labels.into_iter().collect(), authority, refused }))
}

/// `None`: it is malformed, and requests keep their own, as for linkerd2-proxy. Userinfo has no place in a request.
fn authority(AuthorityOverride { authority_override: text }: AuthorityOverride) -> Option<Authority> {
    text.parse().ok().filter(|_| !text.contains('@'))
}

fn socket_addr(TcpAddress { ip, port }: TcpAddress) -> Option<SocketAddr> {
    let ip = IpAddr::try_from(ip?).ok()?;
    Some(SocketAddr::new(ip, u16::try_from(port).ok().filter(|port| *port > 0)?))
}

/// A zero is an unset field, and half a pair is none, as for linkerd2-proxy.
fn params(params: Http2ClientParams) -> ClientParams {
    let Http2ClientParams { flow_control, keep_alive, internals } = params;
    let size = |size: u32| usize::try_from(size).ok().filter(|size| *size > 0);
    let internals = internals.unwrap_or_default();
    ClientParams {
        flow_control: flow_control.and_then(|windows| {
            let (stream, connection) = (windows.initial_stream_window_size, windows.initial_connection_window_size);
            if windows.adaptive_flow_control {
                return Some(FlowControl::Adaptive);
            }
            (stream > 0 && connection > 0).then_some(FlowControl::Fixed {
                initial_stream_window_size: stream,
                initial_connection_window_size: connection,
            })
        }),
        keep_alive: keep_alive.and_then(|keep_alive| {
            Some(ClientKeepAlive {
                interval: Duration::try_from(keep_alive.interval?).ok()?,
                timeout: Duration::try_from(keep_alive.timeout?).ok()?,
                while_idle: keep_alive.while_idle,
            })
        }),
        max_concurrent_reset_streams: size(internals.max_concurrent_reset_streams),
        max_frame_size: Some(internals.max_frame_size).filter(|size| *size > 0),
        max_send_buf_size: size(internals.max_send_buf_size),
        ..ClientParams::DEFAULT
    }
}
