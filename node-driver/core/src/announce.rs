//! Announces: once per period for every epoch that holds, and at once for a new one.

use tensorpool_wire::{ClientId, ClockDomain, LogicalStream, MonoNanos, ShmPoolAnnounce, StreamId};

use crate::action::{Action, EpochKey, To};
use crate::deadline::Due;
use crate::driver::{Driver, send};
use crate::layout::{HEADER_SLOT_BYTES, LAYOUT_VERSION};

/// First announces of streams that began together are spread over half a period in this many steps.
const SPREAD_STEPS: u64 = 16;

impl Driver {
    /// Announces a new epoch to all, and from now on periodically.
    // spec: D-8-1, W-10.1.1-6
    pub(crate) fn announce_new(&mut self, id: StreamId, out: &mut Vec<Action>) {
        self.announce(id, out);
        let period = self.config.timing.announce_period_ns;
        // Streams that became ready in one cycle are not all announced again in one cycle.
        let step = u64::from(id.get()) % SPREAD_STEPS;
        let first = period / 2 + step.saturating_mul(period / (2 * SPREAD_STEPS));
        self.announce_at(id, self.now.saturating_add(first));
    }

    fn announce_at(&mut self, id: StreamId, at: MonoNanos) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some(due) = stream.announce_due.replace(at) {
            self.deadlines.cancel(due, Due::Announce(id));
        }
        self.deadlines.set(at, Due::Announce(id));
    }

    pub(crate) fn on_announce_due(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.announce_due = None;
        if stream.current().is_some() {
            self.announce(id, out);
            let period = self.config.timing.announce_period_ns;
            self.announce_at(id, self.now.saturating_add(period));
        }
    }

    /// Refreshes the activity of the announced epoch's regions and announces it on both ways.
    // spec: W-7.1-4, D-3-2, D-8-2
    pub(crate) fn announce(&mut self, id: StreamId, out: &mut Vec<Action>) {
        let mut connections = self.consumer_sockets(id);
        if let Some(producer) = self.producer_socket(id)
            && let Err(place) = connections.binary_search(&producer)
        {
            connections.insert(place, producer);
        }
        let Some((key, message)) = self.announce_message(id) else {
            return;
        };
        if let Some(record) = self.epochs.get_mut(key) {
            record.activity = self.now;
        }
        out.push(Action::RefreshActivity { key });
        let aeron = self.is_on_aeron(id);
        if let Some(to) = Self::audience(aeron, connections) {
            send(out, to, LogicalStream::Announce, message);
        }
    }

    /// Whether peers on Aeron may hear of a stream.
    // spec: X-2-74
    pub(crate) fn is_on_aeron(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_none_or(|stream| stream.on_aeron)
    }

    /// Spares a consumer on Aeron the wait for the next announce. On a socket the answer has it all.
    pub(crate) fn announce_to_newcomer(&self, id: StreamId, out: &mut Vec<Action>) {
        if let Some((_, message)) = self.announce_message(id) {
            let to = To::All {
                aeron: true,
                connections: Vec::new(),
            };
            send(out, to, LogicalStream::Announce, message);
        }
    }

    fn announce_message(&self, id: StreamId) -> Option<(EpochKey, ShmPoolAnnounce)> {
        let stream = self.streams.get(&id)?;
        let current = stream.current()?;
        let producer = stream.producer.and_then(|lease| self.leases.get(lease));
        let message = ShmPoolAnnounce {
            stream_id: id,
            producer_id: producer.map_or(ClientId(0), |lease| lease.asker.client),
            epoch: current.epoch,
            announce_timestamp_ns: self.now,
            announce_clock_domain: ClockDomain::Monotonic,
            layout_version: LAYOUT_VERSION,
            header_nslots: current.uris.nslots,
            header_slot_bytes: HEADER_SLOT_BYTES,
            payload_pools: current.uris.pools.clone(),
            header_region_uri: current.uris.header.clone(),
        };
        let key = EpochKey {
            stream: id,
            epoch: current.epoch,
        };
        Some((key, message))
    }
}
