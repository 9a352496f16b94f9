//! The exposition as a whole, held by a snapshot: names and labels are an interface.

use std::time::Duration;

use tensorpool_driver_core::config::QuotaSpec;
use tensorpool_driver_core::{
    BaseId, ClassStatus, ConsumerQos, ConsumerStatus, Counters as CoreCounters, DropReason,
    EpochStatus, Lifecycle, ProducerStatus, QuotaStatus, QuotaUse, StatusSnapshot, StreamPhase,
    StreamStatus, Uris, Way,
};
use tensorpool_wire::{ClientId, ConnectionId, Epoch, LeaseId, Mode, MonoNanos, StreamId};

use super::*;
use crate::attachments::calls::{Outcome, Rpc};

fn stream() -> StreamStatus {
    StreamStatus {
        stream_id: StreamId(10_000),
        name: "camera".into(),
        namespace: String::new(),
        uid: String::new(),
        class: String::new(),
        priority: 0,
        dynamic: false,
        phase: StreamPhase::Ready,
        epoch: Some(Epoch(7)),
        error: None,
        error_reason: None,
        waits_for_memory: false,
        layout_version: 1,
        uris: Uris::default(),
        epoch_bytes: 8192,
        nslots: 64,
        directory: "/dev/shm/tensorpool/7".into(),
        producer: Some(ProducerStatus {
            lease: LeaseId(1),
            client: ClientId(11),
            way: Way::Aeron,
            node: None,
            expiry: MonoNanos(5),
            frames: Some(600),
            qos_at: Some(MonoNanos(4)),
        }),
        consumers: vec![ConsumerStatus {
            lease: LeaseId(2),
            client: ClientId(12),
            way: Way::Socket {
                connection: ConnectionId(1),
                pid: 42,
            },
            node: None,
            expiry: MonoNanos(5),
            qos: Some(ConsumerQos {
                at: MonoNanos(4),
                epoch: Epoch(7),
                last_seq: 598,
                drops_gap: 3,
                drops_late: 2,
                mode: Mode::Stream,
            }),
            descriptor_stream_id: None,
            control_stream_id: None,
        }],
        pending_attaches: 0,
        memory: vec![
            EpochStatus {
                epoch: Epoch(6),
                bytes: 4096,
                current: false,
            },
            EpochStatus {
                epoch: Epoch(7),
                bytes: 8192,
                current: true,
            },
        ],
    }
}

fn snapshot() -> Snapshot {
    let core = CoreCounters {
        drops: [((DropReason::NoLease, "QosProducer"), 5)].into(),
        attaches: [("ok", 2), ("producer_attached", 1)].into(),
        leases_ended: [("expired", 1)].into(),
        epochs: [("producer_attached", 2)].into(),
        epochs_removed: [("collected", 1)].into(),
        forwarded: [("QosConsumer", 9)].into(),
        discoveries: [("ok", 1)].into(),
        stalls: 1,
        stalled_ns: 1_500_000_000,
        keepalives: 30,
        ..CoreCounters::default()
    };
    Snapshot {
        status: StatusSnapshot {
            now: MonoNanos(6),
            instance_id: "driver-01".into(),
            lifecycle: Lifecycle::Running,
            leases: 2,
            pending_attaches: 0,
            connections: 1,
            memory_bytes: 12_288,
            streams: vec![stream()],
            departed: vec![],
            bases: vec![],
            classes: vec![ClassStatus {
                name: "default".into(),
                base: "2Mi".into(),
                size_bytes: 8 << 20,
                current_bytes: 4 << 20,
                old_bytes: 2 << 20,
            }],
            quotas: vec![QuotaStatus {
                name: "vision/small".into(),
                hard: QuotaSpec {
                    bytes: Some(6 << 20),
                    leases: Some(4),
                    ..QuotaSpec::default()
                },
                used: QuotaUse {
                    bytes: 6 << 20,
                    producers: 1,
                    consumers: 2,
                    leases: 3,
                },
            }],
            counters: core,
        },
        bases: vec![BaseFacts {
            base: BaseId(0),
            name: "2Mi".into(),
            directory: "/run/tensorpool/shm/2Mi".into(),
            page_bytes: 2 << 20,
            hugepages: true,
            total_bytes: 16 << 20,
            free_bytes: 8 << 20,
            wanted_bytes: 8 << 20,
            pinned_bytes: 2 << 20,
        }],
        counters: Counters {
            cycles: 100,
            busy_cycles: 10,
            longest_cycle_ns: 250_000,
            received: [(WayIn::Aeron, 4), (WayIn::Socket, 6)].into(),
            sent: [(WayIn::Socket, 8)].into(),
            unsent: [((WayIn::Aeron, "not_connected"), 1)].into(),
            relayed: [(StreamId(10_000), 590)].into(),
            relay_drops: [((StreamId(10_000), "relay_lapped"), 10)].into(),
            drained: 12,
            media_driver_connects: 1,
            media_driver_losses: [("gone", 1)].into(),
            epochs_persisted: 2,
            file_failures: [("create", 1)].into(),
        },
        socket: Some(Stats::default()),
        media_driver: true,
        given_up: Some([("unheard", 3), ("lost", 0)]),
        requests: [(("status", "ok"), 4), (("status", "timeout"), 1)].into(),
        calls: vec![published()],
    }
}

/// One that took 3 ms, and one that took two minutes.
fn published() -> Calls {
    let mut calls = Calls::none(Rpc::NodePublishVolume, Outcome::Ok);
    calls.add(Duration::from_millis(3));
    calls.add(Duration::from_secs(120));
    calls
}

#[test]
fn names_labels_and_numbers_are_as_documented() {
    let text = render(snapshot()).replace(env!("CARGO_PKG_VERSION"), "VERSION");
    insta::assert_snapshot!(text);
}

#[test]
fn a_name_with_quotes_and_newlines_cannot_break_the_exposition() {
    let mut hostile = snapshot();
    hostile.status.counters.attaches = [("a\"b\nc", 1)].into();
    let text = render(hostile);
    assert!(text.contains(r#"result="a\"b\nc""#), "{text}");
}
