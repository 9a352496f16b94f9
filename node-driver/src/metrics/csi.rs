//! Kubelet's calls, which the `csi` container counts and the driver shows: that container has no port.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

use super::{Families, Kind, Labels, Number, label};
use crate::attachments::calls::{Calls, LIMITS_MS};

/// What was counted.
#[derive(Debug)]
pub(super) struct Csi(pub(super) Vec<Calls>);

fn labels(calls: &Calls) -> Labels {
    vec![
        label("rpc", calls.rpc.label()),
        label("code", calls.outcome.label()),
    ]
}

impl Collector for Csi {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut out = Families(encoder);
        let mut requests = out.0.encode_descriptor(
            "requests",
            "Calls of kubelet by gRPC code",
            None,
            MetricType::Counter,
        )?;
        for calls in &self.0 {
            let count = Number::Whole(calls.count());
            count.encode(Kind::Counter, requests.encode_family(&labels(calls))?)?;
        }
        let mut durations = out.0.encode_descriptor(
            "duration_seconds",
            "Time that calls of kubelet took",
            None,
            MetricType::Histogram,
        )?;
        for calls in &self.0 {
            let limits = LIMITS_MS.map(|millis| f64::from(millis) / 1_000.0);
            let limits = limits.into_iter().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = limits.zip(calls.counts).collect();
            let sum = std::time::Duration::from_nanos(calls.sum_ns).as_secs_f64();
            durations
                .encode_family(&labels(calls))?
                .encode_histogram::<NoLabelSet>(sum, calls.count(), &buckets, None)?;
        }
        Ok(())
    }
}
