//! Metrics of the streams of Linkerd's control plane.

use super::NO_EXEMPLAR;
use crate::linkerd::{Control, Status};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};
use std::{fmt, sync::Arc};

#[derive(Debug)]
pub(super) struct ControlPlane(pub(super) Arc<Control>);

impl Collector for ControlPlane {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(control) = self;
        let help = "Updates of destinations that Linkerd's control plane has sent";
        let family = encoder.encode_descriptor("control_destination_updates", help, None, MetricType::Counter)?;
        let mut family = family;
        family.encode_counter(&control.updates(), NO_EXEMPLAR)?;
        let help = "Streams that the control plane has ended, or that could not be opened, by gRPC status";
        let mut family =
            encoder.encode_descriptor("control_destination_stream_ends", help, None, MetricType::Counter)?;
        for (status, count) in control.ends() {
            family.encode_family(&[("grpc_status", status)])?.encode_counter(&count, NO_EXEMPLAR)?;
        }
        let destinations: Vec<_> =
            control.destinations().into_iter().map(|status| (status.destination.to_string(), status)).collect();
        let labels = |name, status: &Status| [("direction", status.direction.to_owned()), ("destination", name)];
        let help = "Streams of a destination that are open and have brought an update; with none, what is known is old";
        let mut family = encoder.encode_descriptor("control_destination_streams", help, None, MetricType::Gauge)?;
        for (name, status) in &destinations {
            family.encode_family(&labels(name.clone(), status))?.encode_gauge(&status.streams())?;
        }
        let help = "Seconds since the last update of a destination";
        let name = "control_destination_update_age_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (name, status) in &destinations {
            if let Some(age) = status.age() {
                family.encode_family(&labels(name.clone(), status))?.encode_gauge(&age.as_secs_f64())?;
            }
        }
        Ok(())
    }
}
