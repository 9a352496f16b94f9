//! Every metric of the driver: names, help texts and labels, and the text that Prometheus reads.
//!
//! Names and labels are an interface: a snapshot test holds them. Labels are bounded: reasons,
//! roles and names of messages, which are enums of this project, and the ids and configured names of
//! the streams that exist, which `limits.streams` bounds; what was counted for a stream goes with it.

mod cluster;
mod csi;
mod metric;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tensorpool_driver_core::{
    DropReason, Lifecycle, RemoveReason, StatusSnapshot, StreamPhase, StreamStatus,
};
use tensorpool_transport::port::CloseReason;
use tensorpool_transport::socket::Stats;
use tensorpool_wire::StreamId;

use crate::attachments::calls::Calls;
use crate::control::BaseFacts;
use crate::counters::{Counters, ReportedDrops, WayIn};
use crate::requests::Counts;
use metric::{Kind, Metric};

/// All that one scrape shows, taken by the duty cycle at one instant.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// From the core.
    pub status: StatusSnapshot,
    /// From the kernel.
    pub bases: Vec<BaseFacts>,
    /// From the wiring.
    pub counters: Counters,
    /// From the socket, if there is one.
    pub socket: Option<Stats>,
    /// Whether a media driver is connected.
    pub media_driver: bool,
    /// Messages to Aeron that waited and were dropped, by reason.
    pub given_up: Option<[(&'static str, u64); 2]>,
    /// To the API server; empty stand-alone.
    pub requests: Counts,
    /// Kubelet's, as the `csi` container counted them.
    pub calls: Vec<Calls>,
}

/// The exposition text of one snapshot.
#[must_use]
pub(crate) fn render(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    let csi = csi::Csi(snapshot.calls.clone());
    let driver = registry.sub_registry_with_prefix("tensorpool_driver");
    driver.register_collector(Box::new(snapshot));
    registry
        .sub_registry_with_prefix("tensorpool_csi")
        .register_collector(Box::new(csi));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("writing to a String cannot fail");
    text
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut out = Families(encoder);
        self.encode_state(&mut out)?;
        self.encode_streams(&mut out)?;
        self.encode_cluster(&mut out)?;
        self.encode_core(&mut out)?;
        self.encode_transport(&mut out)?;
        self.encode_cycle(&mut out)
    }
}

type Labels = Vec<(&'static str, String)>;

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// Writes one family with all its samples, in the order given.
    fn family(
        &mut self,
        metric: Metric,
        samples: impl IntoIterator<Item = (Labels, Number)>,
    ) -> Result<(), fmt::Error> {
        let kind = match metric.kind() {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let mut family = self
            .0
            .encode_descriptor(metric.name(), metric.help(), None, kind)?;
        for (labels, number) in samples {
            number.encode(metric.kind(), family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes a family of one sample without labels.
    fn one(&mut self, metric: Metric, number: impl Into<Number>) -> Result<(), fmt::Error> {
        let kind = match metric.kind() {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let family = self
            .0
            .encode_descriptor(metric.name(), metric.help(), None, kind)?;
        number.into().encode(metric.kind(), family)
    }
}

#[derive(Clone, Copy)]
enum Number {
    Whole(u64),
    Seconds(f64),
}

impl Number {
    fn encode(self, kind: Kind, sample: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match (kind, self) {
            (Kind::Counter, Self::Whole(value)) => ConstCounter::new(value).encode(sample),
            (Kind::Counter, Self::Seconds(value)) => ConstCounter::new(value).encode(sample),
            (Kind::Gauge, Self::Whole(value)) => {
                ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(sample)
            }
            (Kind::Gauge, Self::Seconds(value)) => ConstGauge::new(value).encode(sample),
        }
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

fn seconds(nanos: u64) -> Number {
    Number::Seconds(std::time::Duration::from_nanos(nanos).as_secs_f64())
}

fn label(name: &'static str, value: impl ToString) -> (&'static str, String) {
    (name, value.to_string())
}

/// One sample per entry of a map with one label.
fn by<'a>(
    name: &'static str,
    counts: &'a BTreeMap<&'static str, u64>,
) -> impl Iterator<Item = (Labels, Number)> + 'a {
    counts
        .iter()
        .map(move |(value, count)| (vec![label(name, value)], Number::Whole(*count)))
}

/// The labels of one stream: its id, its configured name (empty for a dynamic one), and `more`.
fn of<const N: usize>(stream: &StreamStatus, more: [(&'static str, String); N]) -> Labels {
    labels_of(stream.stream_id, &stream.full_name(), more)
}

fn labels_of<const N: usize>(
    stream: StreamId,
    name: &str,
    more: [(&'static str, String); N],
) -> Labels {
    let mut labels = vec![label("stream", stream), label("name", name)];
    labels.extend(more);
    labels
}

impl Snapshot {
    fn by_id<const N: usize>(&self, stream: StreamId, more: [(&'static str, String); N]) -> Labels {
        let streams = &self.status.streams;
        let found = streams.binary_search_by_key(&stream, |known| known.stream_id);
        let found = found.ok().and_then(|at| streams.get(at));
        let name = found.map_or_else(String::new, StreamStatus::full_name);
        labels_of(stream, &name, more)
    }

    fn encode_state(&self, out: &mut Families<'_>) -> Result<(), fmt::Error> {
        let status = &self.status;
        let version = env!("CARGO_PKG_VERSION");
        out.family(
            Metric::Info,
            [(vec![label("version", version)], Number::Whole(1))],
        )?;
        let draining = match status.lifecycle {
            Lifecycle::Running => 0_u64,
            Lifecycle::Draining { .. } | Lifecycle::Stopped => 1,
        };
        out.one(Metric::Draining, draining)?;
        out.one(Metric::MediaDriverConnected, u64::from(self.media_driver))?;
        let phases = [
            StreamPhase::Absent,
            StreamPhase::Provisioning,
            StreamPhase::Ready,
            StreamPhase::Failed,
        ];
        out.family(
            Metric::Streams,
            phases.map(|phase| {
                let streams = status.streams.iter().filter(|s| s.phase == phase);
                (vec![label("phase", phase.label())], count(streams))
            }),
        )?;
        out.family(
            Metric::Leases,
            status.streams.iter().flat_map(|stream| {
                let lease =
                    |role: &'static str, number| (of(stream, [label("role", role)]), number);
                [
                    lease("producer", count(stream.producer.iter())),
                    lease("consumer", count(stream.consumers.iter())),
                ]
            }),
        )?;
        out.one(Metric::PendingAttaches, status.pending_attaches)?;
        out.one(Metric::Connections, status.connections)
    }

    fn encode_streams(&self, out: &mut Families<'_>) -> Result<(), fmt::Error> {
        let status = &self.status;
        out.family(
            Metric::MemoryBytes,
            status.streams.iter().map(|stream| {
                let bytes = stream.memory.iter().map(|epoch| epoch.bytes).sum();
                (of(stream, []), Number::Whole(bytes))
            }),
        )?;
        out.family(
            Metric::Frames,
            status.streams.iter().filter_map(|stream| {
                let frames = stream.producer.as_ref()?.frames?;
                Some((of(stream, []), Number::Whole(frames)))
            }),
        )?;
        out.family(
            Metric::ConsumerDrops,
            status.streams.iter().flat_map(|stream| {
                WayIn::ALL.into_iter().flat_map(move |way| {
                    let drops = ReportedDrops::of(stream, way);
                    [("gap", drops.gap), ("late", drops.late)].map(|(reason, number)| {
                        let more = [label("way", way.label()), label("reason", reason)];
                        (of(stream, more), Number::Whole(number))
                    })
                })
            }),
        )
    }

    fn encode_core(&self, out: &mut Families<'_>) -> Result<(), fmt::Error> {
        let core = &self.status.counters;
        out.family(Metric::Attaches, by("result", &core.attaches))?;
        out.family(Metric::LeasesEnded, by("reason", &core.leases_ended))?;
        out.one(Metric::Keepalives, core.keepalives)?;
        out.family(Metric::Epochs, by("cause", &core.epochs))?;
        out.one(Metric::EpochsFailed, core.epochs_failed)?;
        out.family(
            Metric::EpochsRemoved,
            RemoveReason::ALL.map(|reason| {
                let removed = core.epochs_removed.get(reason.label()).copied();
                (
                    vec![label("reason", reason.label())],
                    Number::Whole(removed.unwrap_or(0)),
                )
            }),
        )?;
        out.one(Metric::ForcedBytes, core.forced_bytes)?;
        out.one(Metric::SpaceReclaims, core.space_reclaims)?;
        let never = DropReason::ALL
            .into_iter()
            .filter(|reason| !core.drops.keys().any(|(seen, _)| seen == reason))
            .map(|reason| ((reason, "any"), 0));
        let drops = core.drops.iter().map(|(key, count)| (*key, *count));
        out.family(
            Metric::MessagesDropped,
            drops.chain(never).map(|((reason, message), count)| {
                let labels = vec![label("reason", reason.label()), label("message", message)];
                (labels, Number::Whole(count))
            }),
        )?;
        out.family(Metric::Forwarded, by("message", &core.forwarded))?;
        out.family(Metric::Discoveries, by("status", &core.discoveries))
    }

    fn encode_transport(&self, out: &mut Families<'_>) -> Result<(), fmt::Error> {
        let counters = &self.counters;
        for (metric, counts) in [
            (Metric::Received, &counters.received),
            (Metric::Sent, &counters.sent),
        ] {
            out.family(
                metric,
                WayIn::ALL.map(|way| {
                    let count = counts.get(&way).copied().unwrap_or(0);
                    (vec![label("way", way.label())], Number::Whole(count))
                }),
            )?;
        }
        out.family(
            Metric::Unsent,
            counters.unsent.iter().map(|((way, reason), count)| {
                let labels = vec![label("way", way.label()), label("reason", reason)];
                (labels, Number::Whole(*count))
            }),
        )?;
        if let Some(socket) = &self.socket {
            encode_socket(socket, out)?;
        }
        out.family(
            Metric::Relayed,
            counters
                .relayed
                .iter()
                .map(|(stream, count)| (self.by_id(*stream, []), Number::Whole(*count))),
        )?;
        out.family(
            Metric::RelayDrops,
            counters
                .relay_drops
                .iter()
                .map(|((stream, reason), count)| {
                    let labels = self.by_id(*stream, [label("reason", reason)]);
                    (labels, Number::Whole(*count))
                }),
        )?;
        out.family(
            Metric::GivenUp,
            self.given_up
                .iter()
                .flatten()
                .map(|(reason, count)| (vec![label("reason", reason)], Number::Whole(*count))),
        )?;
        out.one(Metric::Drained, counters.drained)?;
        out.one(Metric::MediaDriverConnects, counters.media_driver_connects)?;
        out.family(
            Metric::MediaDriverLosses,
            by("reason", &counters.media_driver_losses),
        )
    }

    fn encode_cycle(&self, out: &mut Families<'_>) -> Result<(), fmt::Error> {
        let counters = &self.counters;
        out.one(Metric::EpochsPersisted, counters.epochs_persisted)?;
        out.family(
            Metric::FileFailures,
            by("operation", &counters.file_failures),
        )?;
        let idle = counters.cycles.saturating_sub(counters.busy_cycles);
        out.family(
            Metric::Cycles,
            [("busy", counters.busy_cycles), ("idle", idle)]
                .map(|(kind, count)| (vec![label("kind", kind)], Number::Whole(count))),
        )?;
        out.one(Metric::LongestCycle, seconds(counters.longest_cycle_ns))?;
        out.one(Metric::Stalls, self.status.counters.stalls)?;
        out.one(
            Metric::StalledSeconds,
            seconds(self.status.counters.stalled_ns),
        )?;
        out.one(
            Metric::ClockRegressions,
            self.status.counters.clock_regressions,
        )
    }
}

fn encode_socket(socket: &Stats, out: &mut Families<'_>) -> Result<(), fmt::Error> {
    out.one(Metric::ConnectionsOpened, socket.opened)?;
    out.one(Metric::ConnectionsRefused, socket.refused)?;
    out.family(
        Metric::ConnectionsClosed,
        CloseReason::ALL
            .iter()
            .zip(socket.closed)
            .map(|(reason, count)| (vec![label("reason", reason.label())], Number::Whole(count))),
    )?;
    out.family(
        Metric::Superseded,
        [
            ("replaced", socket.replaced),
            ("evicted", socket.evicted),
            ("connection_ended", socket.unsent),
        ]
        .map(|(reason, count)| (vec![label("reason", reason)], Number::Whole(count))),
    )
}

fn count(items: impl Iterator) -> Number {
    Number::Whole(u64::try_from(items.count()).unwrap_or(u64::MAX))
}
