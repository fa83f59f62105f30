//! The settings of the process as a whole.

use crate::{
    AccessLog, Config, ControlPlane, Direction, DiscoverySource, Dns, Error, Origin, Traces,
    grammar::Grammar as _,
    reader::Reader,
    table::{
        ACCESS_LOG, ACCESS_LOG_ERRORS_ONLY, ACCESS_LOG_FILE, ACCESS_LOG_SAMPLE, ADMIN_LISTEN_ADDR,
        ADMIN_REMOTE_CONTROL, CONTROL_STREAM_IDLE_TIMEOUT, CONTROL_STREAM_INITIAL_TIMEOUT, CORES,
        DESTINATION_ALLOW_PLAINTEXT, DESTINATION_CONTEXT, DESTINATION_PROFILE_SUFFIXES, DESTINATION_SVC_ADDR,
        DISCOVERY, DNS_MAX_TTL, DNS_MIN_TTL, DNS_NEGATIVE_HOLD, LOG, LOG_FORMAT, OTEL_RESOURCE_ATTRIBUTES,
        SHUTDOWN_ENDPOINT_ENABLED, SHUTDOWN_GRACE_PERIOD, SHUTDOWN_LAME_DUCK_PERIOD, TRACE_COLLECTOR_SVC_ADDR,
        TRACE_EXTRA_ATTRIBUTES, TRACE_SERVICE_NAME, UPGRADE_TIMEOUT,
    },
    variable::Scope,
};
use std::{collections::BTreeMap, num::NonZeroUsize, thread::available_parallelism};

pub(crate) fn read(env: &mut Reader, inbound: Option<Direction>, outbound: Option<Direction>) -> Config {
    let control_plane = read_control_plane(env, inbound.as_ref(), outbound.as_ref());
    Config {
        inbound,
        outbound,
        dns: read_dns(env),
        control_plane,
        admin_listen_addr: env.read_or_default(&ADMIN_LISTEN_ADDR, Scope::Process),
        shutdown_grace_period: env.read_or_default(&SHUTDOWN_GRACE_PERIOD, Scope::Process),
        shutdown_lame_duck_period: env.read_or_default(&SHUTDOWN_LAME_DUCK_PERIOD, Scope::Process),
        upgrade_timeout: env.read_or_default(&UPGRADE_TIMEOUT, Scope::Process),
        shutdown_endpoint_enabled: env.read_or_default(&SHUTDOWN_ENDPOINT_ENABLED, Scope::Process),
        admin_remote_control: env.read_or_default(&ADMIN_REMOTE_CONTROL, Scope::Process),
        cores: read_cores(env),
        log: env.read_or_default(&LOG, Scope::Process),
        log_format: env.read_or_default(&LOG_FORMAT, Scope::Process),
        access_log: read_access_log(env),
        traces: read_traces(env),
    }
}

/// `None`: no direction asks it, or its address is missing.
fn read_control_plane(
    env: &mut Reader,
    inbound: Option<&Direction>,
    outbound: Option<&Direction>,
) -> Option<ControlPlane> {
    let scope = Scope::Process;
    let addr = env.read(&DESTINATION_SVC_ADDR, scope);
    let context = env.read(&DESTINATION_CONTEXT, scope).unwrap_or_default();
    let profile_suffixes = env.read_or_default(&DESTINATION_PROFILE_SUFFIXES, scope);
    let allow_plaintext = env.read_or_default(&DESTINATION_ALLOW_PLAINTEXT, scope);
    let initial_timeout = env.read_or_default(&CONTROL_STREAM_INITIAL_TIMEOUT, scope);
    let idle_timeout = env.read_or_default(&CONTROL_STREAM_IDLE_TIMEOUT, scope);
    let asks = |direction: Option<&Direction>| {
        let discovery = direction.and_then(|direction| direction.discovery.as_ref());
        discovery.is_some_and(|discovery| discovery.source == DiscoverySource::Linkerd)
    };
    let asking = [(Scope::Inbound, inbound), (Scope::Outbound, outbound)];
    let Some((asking, _)) = asking.into_iter().find(|(_, direction)| asks(*direction)) else {
        let set = [
            (env.is_set(&DESTINATION_SVC_ADDR, scope), &DESTINATION_SVC_ADDR.words),
            (env.is_set(&DESTINATION_CONTEXT, scope), &DESTINATION_CONTEXT.words),
            (env.is_set(&DESTINATION_PROFILE_SUFFIXES, scope), &DESTINATION_PROFILE_SUFFIXES.words),
            (env.is_set(&DESTINATION_ALLOW_PLAINTEXT, scope), &DESTINATION_ALLOW_PLAINTEXT.words),
            (env.is_set(&CONTROL_STREAM_INITIAL_TIMEOUT, scope), &CONTROL_STREAM_INITIAL_TIMEOUT.words),
            (env.is_set(&CONTROL_STREAM_IDLE_TIMEOUT, scope), &CONTROL_STREAM_IDLE_TIMEOUT.words),
        ];
        for (_, words) in set.into_iter().filter(|(is_set, _)| *is_set) {
            let either = [Scope::Inbound, Scope::Outbound].map(|scope| DISCOVERY.name(scope)).join(" or ");
            env.warn(words.name(scope), format!("is not used without {either}=linkerd"));
        }
        return None;
    };
    if addr.is_none() && !env.is_wrong(&DESTINATION_SVC_ADDR, scope) {
        let expected = format!("set for {}=linkerd", DISCOVERY.name(asking));
        env.error(Error::new(DESTINATION_SVC_ADDR.name(scope), "is unset", expected));
    }
    Some(ControlPlane { addr: addr?, context, profile_suffixes, allow_plaintext, initial_timeout, idle_timeout })
}

/// `None`: there is none.
fn read_access_log(env: &mut Reader) -> Option<AccessLog> {
    let scope = Scope::Process;
    let format = env.read(&ACCESS_LOG, scope);
    let file = env.read(&ACCESS_LOG_FILE, scope);
    let sample = env.read_or_default(&ACCESS_LOG_SAMPLE, scope);
    let errors_only = env.read_or_default(&ACCESS_LOG_ERRORS_ONLY, scope);
    let Some(format) = format else {
        let set = [
            (env.is_set(&ACCESS_LOG_FILE, scope), &ACCESS_LOG_FILE.words),
            (env.is_set(&ACCESS_LOG_SAMPLE, scope), &ACCESS_LOG_SAMPLE.words),
            (env.is_set(&ACCESS_LOG_ERRORS_ONLY, scope), &ACCESS_LOG_ERRORS_ONLY.words),
        ];
        let is_wrong = env.is_wrong(&ACCESS_LOG, scope);
        for (_, words) in set.into_iter().filter(|(is_set, _)| *is_set && !is_wrong) {
            env.warn(words.name(scope), format!("is not used without {}", ACCESS_LOG.name(scope)));
        }
        return None;
    };
    Some(AccessLog { format, file, sample, errors_only })
}

/// `None`: there are none.
fn read_traces(env: &mut Reader) -> Option<Traces> {
    let scope = Scope::Process;
    let collector = env.read(&TRACE_COLLECTOR_SVC_ADDR, scope);
    let service = env.read_or_default(&TRACE_SERVICE_NAME, scope);
    let extra = env.read(&TRACE_EXTRA_ATTRIBUTES, scope).unwrap_or_default();
    let Some(collector) = collector else {
        // It may be there for other programs.
        env.note(OTEL_RESOURCE_ATTRIBUTES.name(scope), None, Origin::Default);
        let set = [
            (env.is_set(&TRACE_SERVICE_NAME, scope), &TRACE_SERVICE_NAME.words),
            (env.is_set(&TRACE_EXTRA_ATTRIBUTES, scope), &TRACE_EXTRA_ATTRIBUTES.words),
        ];
        let is_wrong = env.is_wrong(&TRACE_COLLECTOR_SVC_ADDR, scope);
        for (_, words) in set.into_iter().filter(|(is_set, _)| *is_set && !is_wrong) {
            env.warn(words.name(scope), format!("is not used without {}", TRACE_COLLECTOR_SVC_ADDR.name(scope)));
        }
        return None;
    };
    let shared = env
        .read(&OTEL_RESOURCE_ATTRIBUTES, scope)
        .map_or(Some(Vec::new()), |text| percent_decoded(&text))
        .unwrap_or_else(|| {
            let message = "is not used, since it is not name=value,name=value in percent-encoding";
            env.warn(OTEL_RESOURCE_ATTRIBUTES.name(scope), message);
            Vec::new()
        });
    let service = [("service.name".to_owned(), service)];
    let attributes: BTreeMap<_, _> = service.into_iter().chain(extra).chain(shared).collect();
    Some(Traces { collector, attributes: attributes.into_iter().collect() })
}

/// Attributes as OpenTelemetry's specification has them. `None`: one of them is malformed, which makes all of them void.
fn percent_decoded(text: &str) -> Option<Vec<(String, String)>> {
    let members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
    members
        .map(|member| {
            let (name, value) = member.split_once('=')?;
            let (name, value) = (decoded(name.trim())?, decoded(value.trim())?);
            (!name.is_empty()).then_some((name, value))
        })
        .collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

fn read_dns(env: &mut Reader) -> Dns {
    let (min, max, scope) = (&DNS_MIN_TTL, &DNS_MAX_TTL, Scope::Process);
    let dns = Dns {
        min_ttl: env.read(min, scope),
        max_ttl: env.read(max, scope),
        negative_hold: env.read_or_default(&DNS_NEGATIVE_HOLD, scope),
    };
    if let (Some(min_ttl), Some(max_ttl)) = (dns.min_ttl, dns.max_ttl)
        && min_ttl > max_ttl
    {
        let expected = format!("at least {}, the value of {}", min.grammar.print(&min_ttl), min.name(scope));
        env.error(Error::new(max.name(scope), format!("is {}", max.grammar.print(&max_ttl)), expected));
    }
    dns
}

fn read_cores(env: &mut Reader) -> NonZeroUsize {
    let cores = env.read(&CORES, Scope::Process).unwrap_or_else(|| {
        // Where the system does not say, one worker is always right.
        let available = available_parallelism().map_or(1, NonZeroUsize::get);
        let available = u32::try_from(available).unwrap_or(u32::MAX);
        env.fall_back(&CORES, Scope::Process, available, Origin::Default)
    });
    usize::try_from(cores).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
}
