//! Every metric of the driver: names, help texts and labels, and the text that Prometheus reads.
//!
//! Names and labels are an interface: a snapshot test holds them. Labels are bounded: reasons,
//! roles and names of messages, which are enums of this project, and the ids of streams, which
//! `limits.streams` bounds.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tensorpool_driver_core::{DropReason, Lifecycle, RemoveReason, StatusSnapshot, StreamPhase};
use tensorpool_transport::port::CloseReason;
use tensorpool_transport::socket::Stats;

use crate::counters::{Counters, WayIn};

/// All that one scrape shows, taken by the duty cycle at one instant.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// From the core.
    pub status: StatusSnapshot,
    /// From the wiring.
    pub counters: Counters,
    /// From the socket, if there is one.
    pub socket: Option<Stats>,
    /// Whether a media driver is connected.
    pub media_driver: bool,
}

/// One metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Constant 1 with the version.
    Info,
    /// Whether attaches are refused.
    Draining,
    /// Whether Aeron is served.
    MediaDriverConnected,
    /// Streams by phase.
    Streams,
    /// Live leases by stream and role.
    Leases,
    /// Attaches that wait for files.
    PendingAttaches,
    /// Open connections.
    Connections,
    /// Bytes of epochs by stream.
    MemoryBytes,
    /// Frames as producers report them.
    Frames,
    /// Drops as consumers report them.
    ConsumerDrops,
    /// Answers to attaches.
    Attaches,
    /// Ends of leases.
    LeasesEnded,
    /// Keepalives that counted.
    Keepalives,
    /// New epochs.
    Epochs,
    /// Epochs that could not be made.
    EpochsFailed,
    /// Epoch directories removed.
    EpochsRemoved,
    /// Passes for lack of space.
    SpaceReclaims,
    /// Messages dropped by the core.
    MessagesDropped,
    /// Messages that crossed between the worlds.
    Forwarded,
    /// Answers to discovery.
    Discoveries,
    /// Messages in.
    Received,
    /// Messages out.
    Sent,
    /// Messages not sent.
    Unsent,
    /// Connections accepted.
    ConnectionsOpened,
    /// Connections turned away.
    ConnectionsRefused,
    /// Connections ended.
    ConnectionsClosed,
    /// Messages that gave way to newer ones of their kind.
    Superseded,
    /// Descriptors relayed.
    Relayed,
    /// Frames not relayed.
    RelayDrops,
    /// Descriptors read for nobody.
    Drained,
    /// Media drivers connected to.
    MediaDriverConnects,
    /// Media drivers lost.
    MediaDriverLosses,
    /// Epochs in the journal.
    EpochsPersisted,
    /// Failed file operations.
    FileFailures,
    /// Rounds of the duty cycle.
    Cycles,
    /// The longest round.
    LongestCycle,
    /// Stalls of the duty cycle.
    Stalls,
    /// Time in them.
    StalledSeconds,
    /// Times that went backwards.
    ClockRegressions,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

impl Metric {
    /// Name without the prefix `tensorpool_driver_` and without `_total`.
    const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Draining => "draining",
            Self::MediaDriverConnected => "media_driver_connected",
            Self::Streams => "streams",
            Self::Leases => "leases",
            Self::PendingAttaches => "pending_attaches",
            Self::Connections => "connections",
            Self::MemoryBytes => "memory_bytes",
            Self::Frames => "stream_frames",
            Self::ConsumerDrops => "consumer_drops",
            Self::Attaches => "attaches",
            Self::LeasesEnded => "leases_ended",
            Self::Keepalives => "keepalives",
            Self::Epochs => "epochs",
            Self::EpochsFailed => "epochs_failed",
            Self::EpochsRemoved => "epochs_removed",
            Self::SpaceReclaims => "space_reclaims",
            Self::MessagesDropped => "messages_dropped",
            Self::Forwarded => "messages_forwarded",
            Self::Discoveries => "discoveries",
            Self::Received => "messages_received",
            Self::Sent => "messages_sent",
            Self::Unsent => "messages_unsent",
            Self::ConnectionsOpened => "connections_opened",
            Self::ConnectionsRefused => "connections_refused",
            Self::ConnectionsClosed => "connections_closed",
            Self::Superseded => "messages_superseded",
            Self::Relayed => "relay_descriptors",
            Self::RelayDrops => "relay_drops",
            Self::Drained => "drained_descriptors",
            Self::MediaDriverConnects => "media_driver_connects",
            Self::MediaDriverLosses => "media_driver_losses",
            Self::EpochsPersisted => "journal_epochs",
            Self::FileFailures => "file_failures",
            Self::Cycles => "cycles",
            Self::LongestCycle => "longest_cycle_seconds",
            Self::Stalls => "stalls",
            Self::StalledSeconds => "stalled_seconds",
            Self::ClockRegressions => "clock_regressions",
        }
    }

    const fn help(self) -> &'static str {
        match self {
            Self::Info => "Version of the driver",
            Self::Draining => "1 while attaches are refused before the end",
            Self::MediaDriverConnected => "1 while Aeron clients are served",
            Self::Streams => "Streams by phase",
            Self::Leases => "Live leases",
            Self::PendingAttaches => "Attaches that wait for files",
            Self::Connections => "Open socket connections",
            Self::MemoryBytes => "Bytes of all epochs that exist",
            Self::Frames => "Frames of the current epoch, as the producer last reported",
            Self::ConsumerDrops => {
                "Frames that consumers with a live lease missed in the current epoch, as they last reported"
            }
            Self::Attaches => "Attach requests by answer",
            Self::LeasesEnded => "Leases that ended",
            Self::Keepalives => "Keepalives that extended a lease",
            Self::Epochs => "Epochs announced first",
            Self::EpochsFailed => "Epochs that could not be made",
            Self::EpochsRemoved => "Epoch directories removed",
            Self::SpaceReclaims => "Times that all old epochs were removed for lack of space",
            Self::MessagesDropped => "Inbound messages that were not acted on",
            Self::Forwarded => "Messages that crossed between Aeron and sockets",
            Self::Discoveries => "Discovery requests by answer",
            Self::Received => "Messages that arrived",
            Self::Sent => "Messages that went out",
            Self::Unsent => "Messages that could not be sent",
            Self::ConnectionsOpened => "Socket connections accepted",
            Self::ConnectionsRefused => "Socket connections closed at once because of a limit",
            Self::ConnectionsClosed => "Socket connections that ended",
            Self::Superseded => {
                "Waiting announces, QoS and metadata that gave way to a newer or more important message"
            }
            Self::Relayed => "Descriptors published for socket producers",
            Self::RelayDrops => {
                "Frames of socket producers without a descriptor for Aeron consumers"
            }
            Self::Drained => "Descriptors of Aeron producers read so that they see a subscriber",
            Self::MediaDriverConnects => "Connections made to a media driver",
            Self::MediaDriverLosses => "Media drivers that were lost",
            Self::EpochsPersisted => "Epochs written to the journal",
            Self::FileFailures => "File operations that failed",
            Self::Cycles => "Rounds of the duty cycle",
            Self::LongestCycle => "The longest round of the duty cycle since the last scrape",
            Self::Stalls => "Gaps between rounds longer than a keepalive interval",
            Self::StalledSeconds => "Sum of those gaps",
            Self::ClockRegressions => "Times that the monotonic clock went backwards",
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Info
            | Self::Draining
            | Self::MediaDriverConnected
            | Self::Streams
            | Self::Leases
            | Self::PendingAttaches
            | Self::Connections
            | Self::MemoryBytes
            | Self::Frames
            | Self::ConsumerDrops
            | Self::LongestCycle => Kind::Gauge,
            Self::Attaches
            | Self::LeasesEnded
            | Self::Keepalives
            | Self::Epochs
            | Self::EpochsFailed
            | Self::EpochsRemoved
            | Self::SpaceReclaims
            | Self::MessagesDropped
            | Self::Forwarded
            | Self::Discoveries
            | Self::Received
            | Self::Sent
            | Self::Unsent
            | Self::ConnectionsOpened
            | Self::ConnectionsRefused
            | Self::ConnectionsClosed
            | Self::Superseded
            | Self::Relayed
            | Self::RelayDrops
            | Self::Drained
            | Self::MediaDriverConnects
            | Self::MediaDriverLosses
            | Self::EpochsPersisted
            | Self::FileFailures
            | Self::Cycles
            | Self::Stalls
            | Self::StalledSeconds
            | Self::ClockRegressions => Kind::Counter,
        }
    }
}

/// The exposition text of one snapshot.
#[must_use]
pub(crate) fn render(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("tensorpool_driver");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("writing to a String cannot fail");
    text
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut out = Families(encoder);
        self.encode_state(&mut out)?;
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
            let sample = family.encode_family(&labels)?;
            match (metric.kind(), number) {
                (Kind::Counter, Number::Whole(value)) => ConstCounter::new(value).encode(sample)?,
                (Kind::Counter, Number::Seconds(value)) => {
                    ConstCounter::new(value).encode(sample)?;
                }
                (Kind::Gauge, Number::Whole(value)) => {
                    let value = i64::try_from(value).unwrap_or(i64::MAX);
                    ConstGauge::new(value).encode(sample)?;
                }
                (Kind::Gauge, Number::Seconds(value)) => ConstGauge::new(value).encode(sample)?,
            }
        }
        Ok(())
    }

    fn one(&mut self, metric: Metric, value: u64) -> Result<(), fmt::Error> {
        self.family(metric, [(Vec::new(), Number::Whole(value))])
    }
}

#[derive(Clone, Copy)]
enum Number {
    Whole(u64),
    Seconds(f64),
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

impl Snapshot {
    fn encode_state(&self, out: &mut Families<'_>) -> Result<(), fmt::Error> {
        let status = &self.status;
        let version = env!("CARGO_PKG_VERSION");
        out.family(
            Metric::Info,
            [(vec![label("version", version)], Number::Whole(1))],
        )?;
        let draining = match status.lifecycle {
            Lifecycle::Running => 0,
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
                let lease = |role: &'static str, number| {
                    (
                        vec![label("stream", stream.stream_id), label("role", role)],
                        number,
                    )
                };
                [
                    lease("producer", count(stream.producer.iter())),
                    lease("consumer", count(stream.consumers.iter())),
                ]
            }),
        )?;
        out.one(Metric::PendingAttaches, status.pending_attaches.into())?;
        out.one(Metric::Connections, status.connections.into())?;
        out.family(
            Metric::MemoryBytes,
            status.streams.iter().map(|stream| {
                let bytes = stream.memory.iter().map(|epoch| epoch.bytes).sum();
                (
                    vec![label("stream", stream.stream_id)],
                    Number::Whole(bytes),
                )
            }),
        )?;
        out.family(
            Metric::Frames,
            status.streams.iter().filter_map(|stream| {
                let frames = stream.producer.as_ref()?.frames?;
                Some((
                    vec![label("stream", stream.stream_id)],
                    Number::Whole(frames),
                ))
            }),
        )?;
        out.family(
            Metric::ConsumerDrops,
            status.streams.iter().flat_map(|stream| {
                let qos = || stream.consumers.iter().filter_map(|c| c.qos);
                let drops = |reason: &'static str, number: u64| {
                    let labels = vec![label("stream", stream.stream_id), label("reason", reason)];
                    (labels, Number::Whole(number))
                };
                [
                    drops("gap", qos().map(|qos| qos.drops_gap).sum()),
                    drops("late", qos().map(|qos| qos.drops_late).sum()),
                ]
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
        out.one(Metric::SpaceReclaims, core.space_reclaims)?;
        let never = DropReason::ALL
            .into_iter()
            .filter(|reason| !core.drops.keys().any(|(seen, _)| seen == reason))
            .map(|reason| ((reason, ""), 0));
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
                .map(|(stream, count)| (vec![label("stream", stream)], Number::Whole(*count))),
        )?;
        out.family(
            Metric::RelayDrops,
            counters
                .relay_drops
                .iter()
                .map(|((stream, reason), count)| {
                    let labels = vec![label("stream", stream), label("reason", reason)];
                    (labels, Number::Whole(*count))
                }),
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
        out.family(
            Metric::LongestCycle,
            [(Vec::new(), seconds(counters.longest_cycle_ns))],
        )?;
        out.one(Metric::Stalls, self.status.counters.stalls)?;
        out.family(
            Metric::StalledSeconds,
            [(Vec::new(), seconds(self.status.counters.stalled_ns))],
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
