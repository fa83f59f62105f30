//! The settings of the process as a whole.

use crate::{
    Config, Direction, Dns, Error, Origin,
    grammar::Grammar as _,
    reader::Reader,
    table::{
        ADMIN_LISTEN_ADDR, ADMIN_REMOTE_CONTROL, CORES, DNS_MAX_TTL, DNS_MIN_TTL, DNS_NEGATIVE_HOLD, LOG, LOG_FORMAT,
        SHUTDOWN_ENDPOINT_ENABLED, SHUTDOWN_GRACE_PERIOD, SHUTDOWN_LAME_DUCK_PERIOD,
    },
    variable::Scope,
};
use std::{num::NonZeroUsize, thread::available_parallelism};

pub(crate) fn read(env: &mut Reader, inbound: Option<Direction>, outbound: Option<Direction>) -> Config {
    Config {
        inbound,
        outbound,
        dns: read_dns(env),
        admin_listen_addr: env.read_or_default(&ADMIN_LISTEN_ADDR, Scope::Process),
        shutdown_grace_period: env.read_or_default(&SHUTDOWN_GRACE_PERIOD, Scope::Process),
        shutdown_lame_duck_period: env.read_or_default(&SHUTDOWN_LAME_DUCK_PERIOD, Scope::Process),
        shutdown_endpoint_enabled: env.read_or_default(&SHUTDOWN_ENDPOINT_ENABLED, Scope::Process),
        admin_remote_control: env.read_or_default(&ADMIN_REMOTE_CONTROL, Scope::Process),
        cores: read_cores(env),
        log: env.read_or_default(&LOG, Scope::Process),
        log_format: env.read_or_default(&LOG_FORMAT, Scope::Process),
    }
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
