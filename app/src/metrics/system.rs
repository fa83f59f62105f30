//! Figures of this process, which have no direction.

use super::NO_EXEMPLAR;
use crate::{access_log::AccessLog, build, log::Lost};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};
use std::{fmt, sync::Arc};

/// The logs'.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) lost: Arc<Lost>,
    pub(super) access_log: Option<Arc<AccessLog>>,
}

/// Metrics of the build.
#[derive(Debug)]
pub(super) struct Build;

/// Metrics of the system, from `/proc`.
#[derive(Debug)]
pub(super) struct System;

impl Collector for Build {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // An empty label is the same as none.
        let commit = build::COMMIT.unwrap_or_default();
        let labels = [("version", build::VERSION), ("commit", commit), ("profile", build::PROFILE)];
        encoder
            .encode_descriptor("proxy_build_info", "The build of the proxy", None, MetricType::Gauge)?
            .encode_family(&labels)?
            .encode_gauge(&1_u64)
    }
}

impl Collector for Log {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Log lines that were not written: too many of their kind, too many that waited, or an error";
        let mut family = encoder.encode_descriptor("log_lines_lost", help, None, MetricType::Counter)?;
        for (reason, lines) in self.lost.counts() {
            family.encode_family(&[("reason", reason)])?.encode_counter(&lines, NO_EXEMPLAR)?;
        }
        let Some(access_log) = &self.access_log else { return Ok(()) };
        let help = "Lines of the access log that were not written: too many that waited, or an error";
        let mut family = encoder.encode_descriptor("access_log_lines_lost", help, None, MetricType::Counter)?;
        for (reason, lines) in access_log.lost() {
            family.encode_family(&[("reason", reason)])?.encode_counter(&lines, NO_EXEMPLAR)?;
        }
        Ok(())
    }
}

impl Collector for System {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without /proc there is nothing to say.
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        let Ok(stat) = process.stat() else { return Ok(()) };
        let ticks = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        encoder
            .encode_descriptor("process_cpu_seconds", "CPU time spent, user and system", None, MetricType::Counter)?
            .encode_counter(&ticks, NO_EXEMPLAR)?;
        let started = procfs::boot_time_secs().ok().map(|boot| boot + stat.starttime / procfs::ticks_per_second());
        let open = process.fd_count().unwrap_or(0) as u64;
        let most = process.limits().ok().and_then(|limits| match limits.max_open_files.soft_limit {
            procfs::process::LimitValue::Value(most) => Some(most),
            procfs::process::LimitValue::Unlimited => None,
        });
        let gauges = [
            ("process_start_time_seconds", "When the process started, in Unix time", started),
            ("process_resident_memory_bytes", "Resident memory", Some(stat.rss * procfs::page_size())),
            ("process_virtual_memory_bytes", "Virtual memory", Some(stat.vsize)),
            ("process_open_fds", "Open file descriptors", Some(open)),
            ("process_max_fds", "Most file descriptors that may be open", most),
            ("process_threads", "Threads", u64::try_from(stat.num_threads).ok()),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}
