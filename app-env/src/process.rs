//! What belongs to the process as a whole.

use crate::{
    Config, Direction, Origin,
    reader::Reader,
    table::{ADMIN_LISTEN_ADDR, CORES, LOG, LOG_FORMAT, SHUTDOWN_GRACE_PERIOD},
    variable::Scope,
};
use std::{num::NonZeroUsize, thread::available_parallelism};

pub(crate) fn read(env: &mut Reader, inbound: Option<Direction>, outbound: Option<Direction>) -> Config {
    Config {
        inbound,
        outbound,
        admin_listen_addr: env.read_or_default(&ADMIN_LISTEN_ADDR, Scope::Process),
        shutdown_grace_period: env.read_or_default(&SHUTDOWN_GRACE_PERIOD, Scope::Process),
        cores: read_cores(env),
        log: env.read_or_default(&LOG, Scope::Process),
        log_format: env.read_or_default(&LOG_FORMAT, Scope::Process),
    }
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
