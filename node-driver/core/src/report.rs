//! The state as `status` and metrics show it.

use tensorpool_wire::{ConnectionId, Origin, StreamId};

use crate::counters::Counters;
use crate::driver::Driver;
use crate::lease::Lease;
use crate::policy::Visible;
use crate::status::{
    ConsumerStatus, EpochStatus, ProducerStatus, StatusSnapshot, StreamStatus, Way,
};
use crate::stream::Stream;

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
            counters: if sees_all {
                self.counters.clone()
            } else {
                Counters::default()
            },
        }
    }

    fn stream_status(&self, id: StreamId, stream: &Stream) -> StreamStatus {
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
            dynamic: stream.dynamic,
            phase: stream.status_phase(),
            epoch,
            error: stream.last_error.clone(),
            nslots: stream.profile.header_nslots,
            directory: epoch.map_or_else(String::new, |epoch| {
                self.config.identity.epoch_dir(id, epoch)
            }),
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
