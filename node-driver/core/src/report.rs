//! The state as `status` and metrics show it.

use tensorpool_wire::{ConnectionId, Origin, StreamId};

use crate::access::Visible;
use crate::action::EpochKey;
use crate::config::BaseId;
use crate::counters::Counters;
use crate::driver::Driver;
use crate::epoch::Record;
use crate::layout::LAYOUT_VERSION;
use crate::lease::Lease;
use crate::status::{
    BaseStatus, ClassStatus, ConsumerStatus, DepartedStatus, EpochStatus, ProducerStatus,
    QuotaStatus, StatusSnapshot, StreamStatus, Uris, Way,
};
use crate::stream::{Place, Stream};

impl Driver {
    /// Everything, or what one connection may see.
    // spec: X-2-51
    pub(crate) fn snapshot(&self, viewer: Option<ConnectionId>) -> StatusSnapshot {
        let access = viewer.map(|viewer| self.connections.get(viewer));
        let sees = |id: &StreamId| match &access {
            None => true,
            Some(None) => false,
            Some(Some(connection)) => connection.access.sees(*id),
        };
        let sees_all = match &access {
            None => true,
            Some(None) => false,
            Some(Some(connection)) => connection.access.visible == Visible::All,
        };
        let streams = self
            .streams
            .iter()
            .filter(|(id, _)| sees(id))
            .map(|(id, stream)| self.stream_status(*id, stream))
            .collect();
        let memory_bytes = self
            .epochs
            .iter()
            .filter(|(key, _)| sees_all || sees(&key.stream))
            .fold(0u64, |sum, (_, record)| sum.saturating_add(record.bytes));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        StatusSnapshot {
            now: self.now,
            instance_id: self.config.identity.instance_id.clone(),
            lifecycle: self.life.status(),
            leases: count(self.leases.len()),
            pending_attaches: count(self.pending.len()),
            connections: count(self.connections.len()),
            memory_bytes,
            streams,
            departed: if sees_all {
                self.departed()
            } else {
                Vec::new()
            },
            bases: if sees_all { self.bases() } else { Vec::new() },
            classes: if sees_all { self.classes() } else { Vec::new() },
            quotas: if sees_all { self.quotas() } else { Vec::new() },
            counters: if sees_all {
                self.counters.clone()
            } else {
                Counters::default()
            },
        }
    }

    fn departed(&self) -> Vec<DepartedStatus> {
        let departed = self.departed.iter().map(|(id, stream)| DepartedStatus {
            stream_id: *id,
            namespace: stream.namespace.clone(),
            name: stream.name.clone(),
            uid: stream.uid.clone(),
            bytes: self.sum(|key, _| key.stream == *id),
            in_use_bytes: self.sum(|key, record| key.stream == *id && record.was_in_use),
        });
        departed.collect()
    }

    fn bases(&self) -> Vec<BaseStatus> {
        let classes = &self.policy.spec().classes;
        let bases = self.config.identity.bases.iter().zip(0..);
        let status = bases.map(|(base, at)| BaseStatus {
            base: BaseId(at),
            name: base.name.clone(),
            directory: base.directory.clone(),
            page_bytes: base.page_size_bytes,
            hugepages: base.hugepages,
            wanted_bytes: classes
                .values()
                .filter(|class| class.base == base.name)
                .fold(0u64, |sum, class| sum.saturating_add(class.size_bytes)),
            used_bytes: self.sum(|_, record| record.base == BaseId(at) && !record.was_in_use),
        });
        status.collect()
    }

    fn classes(&self) -> Vec<ClassStatus> {
        let classes = self.policy.spec().classes.iter();
        let status = classes.map(|(name, class)| ClassStatus {
            name: name.clone(),
            base: class.base.clone(),
            size_bytes: class.size_bytes,
            current_bytes: self
                .sum(|key, record| record.charge.class == *name && self.is_present(key)),
            old_bytes: self
                .sum(|key, record| record.charge.class == *name && !self.is_present(key)),
        });
        status.collect()
    }

    fn quotas(&self) -> Vec<QuotaStatus> {
        let quotas = self.policy.spec().quotas.iter();
        let status = quotas.map(|(name, hard)| QuotaStatus {
            name: name.clone(),
            hard: *hard,
            used: self.quota_use(name),
        });
        status.collect()
    }

    fn sum(&self, counts: impl Fn(&EpochKey, &Record) -> bool) -> u64 {
        self.epochs
            .iter()
            .filter(|(key, record)| counts(key, record))
            .fold(0u64, |sum, (_, record)| sum.saturating_add(record.bytes))
    }

    /// Whether an epoch is announced or being made.
    fn is_present(&self, key: &EpochKey) -> bool {
        self.streams.get(&key.stream).is_some_and(|stream| {
            let current = stream.current().map(|current| current.epoch);
            let making = stream.making().map(|making| making.key.epoch);
            current == Some(key.epoch) || making == Some(key.epoch)
        })
    }

    fn stream_status(&self, id: StreamId, stream: &Stream) -> StreamStatus {
        let identity = &self.config.identity;
        let epoch = stream.current().map(|current| current.epoch);
        let producer = stream
            .producer
            .and_then(|lease| self.leases.get(lease))
            .map(|lease| self.producer_status(stream, lease));
        let consumers = stream
            .consumers
            .keys()
            .filter_map(|lease| self.leases.get(*lease))
            .map(|lease| self.consumer_status(lease))
            .collect();
        let memory = self
            .epochs
            .of_stream(id)
            .map(|(of, record)| EpochStatus {
                epoch: of,
                bytes: record.bytes,
                current: epoch == Some(of),
            })
            .collect();
        StreamStatus {
            stream_id: id,
            name: stream.name.clone(),
            namespace: stream.namespace.clone(),
            uid: stream.uid.clone(),
            class: stream.charge.class.clone(),
            priority: stream.priority,
            dynamic: stream.dynamic,
            phase: stream.status_phase(),
            epoch,
            error: stream.last_error.as_ref().map(|it| it.text.clone()),
            error_reason: stream.last_error.as_ref().map(|it| it.reason),
            waits_for_memory: stream.claim.is_some_and(|claim| claim.until > self.now),
            layout_version: LAYOUT_VERSION,
            uris: stream.current().map_or_else(Uris::default, |it| Uris {
                header: it.uris.header.clone(),
                pools: it
                    .uris
                    .pools
                    .iter()
                    .map(|it| it.region_uri.clone())
                    .collect(),
            }),
            epoch_bytes: match stream.place {
                Place::On(base) => identity.base(base).epoch_bytes(&stream.profile),
                Place::Nowhere(_) => 0,
            },
            nslots: stream.profile.header_nslots,
            directory: stream
                .current()
                .map_or_else(String::new, |it| identity.epoch_dir(it.base, id, it.epoch)),
            producer,
            consumers,
            pending_attaches: u32::try_from(stream.waiting().len()).unwrap_or(u32::MAX),
            memory,
        }
    }

    fn producer_status(&self, stream: &Stream, lease: &Lease) -> ProducerStatus {
        ProducerStatus {
            lease: lease.id,
            client: lease.asker.client,
            way: self.way(lease),
            node: lease.asker.node,
            expiry: lease.expiry,
            frames: stream.producer_qos.map(|qos| qos.current_seq),
            qos_at: stream.producer_qos.map(|qos| qos.at),
        }
    }

    fn consumer_status(&self, lease: &Lease) -> ConsumerStatus {
        ConsumerStatus {
            lease: lease.id,
            client: lease.asker.client,
            way: self.way(lease),
            node: lease.asker.node,
            expiry: lease.expiry,
            qos: lease.qos,
            descriptor_stream_id: lease.own.descriptor,
            control_stream_id: lease.own.control,
        }
    }

    // spec: X-2-52
    fn way(&self, lease: &Lease) -> Way {
        match lease.asker.origin {
            Origin::Aeron { .. } => Way::Aeron,
            Origin::Socket { connection } => Way::Socket {
                connection,
                pid: self
                    .connections
                    .get(connection)
                    .map_or(0, |connection| connection.pid),
            },
        }
    }
}
