//! What crosses between Aeron and sockets, and who may send it.
//!
//! A message from a socket goes to Aeron and to the other sockets concerned; one from Aeron goes to
//! the sockets concerned, since Aeron clients heard it themselves. Its sender must hold the lease that
//! the message speaks of. Anything else is dropped and counted.

use tensorpool_wire::{
    ClientId, DataSourceAnnounce, DataSourceMeta, Epoch, FrameProgress, LogicalStream, Message,
    Origin, QosConsumer, QosProducer, StreamId,
};

use crate::action::Action;
use crate::counters::{DropReason, bump};
use crate::driver::{Driver, send};
use crate::grant::same_world;
use crate::lease::{Lease, LeaseRole};
use crate::status::ConsumerQos;
use crate::stream::ProducerQos;

impl Driver {
    // spec: X-2-53, X-2-55, W-10.5-1
    pub(crate) fn on_qos_producer(
        &mut self,
        origin: Origin,
        qos: QosProducer,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        self.check_producer(
            origin,
            qos.stream_id,
            Some(qos.producer_id),
            Some(qos.epoch),
        )?;
        let at = self.now;
        if let Some(stream) = self.streams.get_mut(&qos.stream_id) {
            stream.producer_qos = Some(ProducerQos {
                at,
                current_seq: qos.current_seq.get(),
            });
        }
        self.tell_consumers(origin, qos.stream_id, LogicalStream::Qos, qos.into(), out);
        Ok(())
    }

    // spec: X-2-53, X-2-56
    pub(crate) fn on_data_source_announce(
        &mut self,
        origin: Origin,
        announce: DataSourceAnnounce,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let id = announce.stream_id;
        self.check_producer(origin, id, Some(announce.producer_id), Some(announce.epoch))?;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.metadata.announce = Some(announce.clone());
        }
        self.tell_consumers(origin, id, LogicalStream::Metadata, announce.into(), out);
        Ok(())
    }

    // spec: X-2-53, X-2-56
    pub(crate) fn on_data_source_meta(
        &mut self,
        origin: Origin,
        meta: DataSourceMeta,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let id = meta.stream_id;
        self.check_producer(origin, id, None, None)?;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.metadata.meta = Some(meta.clone());
        }
        self.tell_consumers(origin, id, LogicalStream::Metadata, meta.into(), out);
        Ok(())
    }

    // spec: X-2-53
    pub(crate) fn on_meta_blob(
        &mut self,
        origin: Origin,
        id: StreamId,
        blob: Message,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        self.check_producer(origin, id, None, None)?;
        self.tell_consumers(origin, id, LogicalStream::Metadata, blob, out);
        Ok(())
    }

    // spec: X-2-53, X-2-32
    pub(crate) fn on_progress(
        &mut self,
        origin: Origin,
        progress: FrameProgress,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let id = progress.stream_id;
        self.check_producer(origin, id, None, Some(progress.epoch))?;
        let limit = self.config.limits.progress_per_second;
        let stream = self.streams.get_mut(&id).ok_or(DropReason::UnknownStream)?;
        if !stream.progress.admit(self.now, limit) {
            return Err(DropReason::RateLimit);
        }
        self.tell_consumers(origin, id, LogicalStream::Control, progress.into(), out);
        Ok(())
    }

    // spec: X-2-53, X-2-55, W-10.5-1
    pub(crate) fn on_qos_consumer(
        &mut self,
        origin: Origin,
        qos: QosConsumer,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let now = self.now;
        let lease = self.consumer_lease(origin, qos.stream_id, qos.consumer_id)?;
        lease.heard_at = now;
        lease.qos = Some(ConsumerQos {
            at: now,
            epoch: qos.epoch,
            last_seq: qos.last_seq_seen.get(),
            drops_gap: qos.drops_gap,
            drops_late: qos.drops_late,
            mode: qos.mode,
        });
        self.tell_producer(origin, qos.stream_id, LogicalStream::Qos, qos.into(), out);
        Ok(())
    }

    /// The sender must hold the stream's PRODUCER lease, and name itself and the present epoch where
    /// the message does.
    fn check_producer(
        &self,
        origin: Origin,
        id: StreamId,
        client: Option<ClientId>,
        epoch: Option<Epoch>,
    ) -> Result<(), DropReason> {
        let stream = self.streams.get(&id).ok_or(DropReason::UnknownStream)?;
        let lease = stream
            .producer
            .and_then(|lease| self.leases.get(lease))
            .filter(|lease| same_world(lease.asker.origin, origin))
            .ok_or(DropReason::NoLease)?;
        if client.is_some_and(|client| client != lease.asker.client) {
            return Err(DropReason::IdMismatch);
        }
        if epoch.is_some_and(|epoch| epoch != lease.epoch) {
            return Err(DropReason::StaleEpoch);
        }
        Ok(())
    }

    /// The CONSUMER lease that lets `origin` speak as `client` on this stream.
    pub(crate) fn consumer_lease(
        &mut self,
        origin: Origin,
        id: StreamId,
        client: ClientId,
    ) -> Result<&mut Lease, DropReason> {
        if !self.streams.contains_key(&id) {
            return Err(DropReason::UnknownStream);
        }
        let lease = self
            .leases
            .of_client(client)
            .filter(|lease| lease.asker.role == LeaseRole::Consumer && lease.stream == id)
            .ok_or(DropReason::NoLease)?;
        if !same_world(lease.asker.origin, origin) {
            return Err(DropReason::IdMismatch);
        }
        let lease = lease.id;
        self.leases.get_mut(lease).ok_or(DropReason::NoLease)
    }

    /// To the stream's consumers: those on sockets, and all on Aeron unless it came from there.
    fn tell_consumers(
        &mut self,
        origin: Origin,
        id: StreamId,
        stream: LogicalStream,
        message: Message,
        out: &mut Vec<Action>,
    ) {
        let aeron = matches!(origin, Origin::Socket { .. }) && self.is_on_aeron(id);
        if let Some(to) = Self::audience(aeron, self.consumer_sockets(id)) {
            bump(&mut self.counters.forwarded, message.name());
            send(out, to, stream, message);
        }
    }

    /// To the stream's producer: on its socket, else on Aeron unless it came from there.
    pub(crate) fn tell_producer(
        &mut self,
        origin: Origin,
        id: StreamId,
        stream: LogicalStream,
        message: Message,
        out: &mut Vec<Action>,
    ) {
        let socket = self.producer_socket(id);
        let aeron =
            matches!(origin, Origin::Socket { .. }) && socket.is_none() && self.is_on_aeron(id);
        if let Some(to) = Self::audience(aeron, socket.into_iter().collect()) {
            bump(&mut self.counters.forwarded, message.name());
            send(out, to, stream, message);
        }
    }
}
