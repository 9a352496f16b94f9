//! What the core decided, done: one match over all actions, in their order.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tensorpool_driver_core::{
    Action, BaseId, Damage, EpochKey, Event, OpId, Reclaim, RemoveReason, To,
};
use tensorpool_shm::{Access, FileChange, MapOptions};
use tensorpool_transport::port::{CloseReason, Coalesce, Destination, Outbound, ServerPort};
use tensorpool_transport::pubsub::SendError;
use tensorpool_wire::{ConnectionId, LogicalStream, Message, MonoNanos, Origin};

use crate::counters::{Counters, WayIn};
use crate::files::{Job, in_words};
use crate::runtime::Runtime;
use crate::status;

impl Runtime {
    /// Performs a list of actions, in order.
    pub(crate) fn perform_all(&mut self, now: MonoNanos, actions: &mut Vec<Action>) {
        for action in actions.drain(..) {
            self.perform(now, action);
        }
    }

    fn perform(&mut self, now: MonoNanos, action: Action) {
        match action {
            Action::Send {
                to,
                stream,
                message,
                regions,
            } => self.send(now, &to, stream, &message, regions),
            Action::AnswerStatus {
                connection,
                snapshot,
            } => {
                let documents = status::documents(&snapshot, &self.counters);
                self.answers.add(connection, &documents);
            }
            Action::PersistEpoch { op, key } => self.files.submit(Job::Persist {
                op,
                epoch: key.epoch,
            }),
            Action::CreateRegions { op, regions } => self.files.submit(Job::Create {
                op,
                regions,
                start: now,
            }),
            Action::RemoveEpoch {
                op,
                key,
                base,
                directory,
                reclaim,
                why,
            } => {
                say_removal(&directory, reclaim, why);
                self.remove_epoch(op, key, base, reclaim);
            }
            Action::MarkEpoch { key, base, free_at } => {
                self.files.submit(Job::Mark { key, base, free_at });
            }
            Action::RefreshActivity { key } => self.refresh_activity(now, key),
            Action::StartRelay { key } => self.start_relay(key),
            Action::StopRelay { stream } => {
                if let Some(aeron) = &mut self.aeron {
                    aeron.stop_relay(stream);
                }
            }
            Action::HoldDescriptors { stream } => {
                let stream_id = self.descriptor_stream(stream);
                if let Some(aeron) = &mut self.aeron {
                    aeron.hold(stream, stream_id);
                }
            }
            Action::ReleaseDescriptors { stream } => {
                if let Some(aeron) = &mut self.aeron {
                    aeron.release(stream);
                }
            }
            Action::MarkAttached { connection } => {
                if let Some(socket) = &mut self.socket {
                    socket.mark_attached(connection);
                }
            }
            Action::Disconnect { connection } => {
                if let Some(socket) = &mut self.socket {
                    socket.disconnect(connection, CloseReason::Local);
                }
            }
            Action::Note(note) => self.note(now, &note),
            Action::Stop => self.stopping = true,
        }
    }

    fn remove_epoch(&mut self, op: OpId, key: EpochKey, base: BaseId, reclaim: Reclaim) {
        let mapped = self.epochs.remove(&key);
        self.files.submit(Job::Remove {
            op,
            key,
            base,
            reclaim,
            mapped,
        });
    }

    // spec: W-7.1-4, D-3-2
    fn refresh_activity(&mut self, now: MonoNanos, key: EpochKey) {
        if let Some(epoch) = self.epochs.get(&key) {
            // spec: X-1-30, X-1-31
            // First, since the refresh would fill a hole that it writes into.
            let change = epoch.audit();
            epoch.refresh_activity(now);
            let damage = if epoch.is_poisoned() {
                Some(Damage::LostPages)
            } else {
                change.map(|change| match change {
                    FileChange::Shrank => Damage::LostPages,
                    FileChange::Grew => Damage::Grew,
                })
            };
            if let Some(damage) = damage {
                self.poisoned(key, damage);
            }
        }
    }

    fn poisoned(&mut self, key: EpochKey, damage: Damage) {
        self.inner_events.push(Event::RegionPoisoned {
            stream: key.stream,
            epoch: key.epoch,
            damage,
        });
    }

    // spec: X-2-58
    fn start_relay(&mut self, key: EpochKey) {
        let stream_id = self.descriptor_stream(key.stream);
        let (Some(aeron), Some(epoch)) = (&mut self.aeron, self.epochs.get(&key)) else {
            return;
        };
        let options = MapOptions {
            prefault: false,
            ..MapOptions::default()
        };
        match epoch.map_reader(options) {
            Ok(mapping) => aeron.start_relay(key, mapping, stream_id),
            Err(error) => {
                tracing::warn!(stream = %key.stream, epoch = %key.epoch, error = in_words(&error), "the relay cannot map the epoch");
                self.poisoned(key, Damage::LostPages);
            }
        }
    }

    fn send(
        &mut self,
        now: MonoNanos,
        to: &To,
        stream: LogicalStream,
        message: &Message,
        regions: Option<EpochKey>,
    ) {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        message.encode_into(&mut bytes);
        let packet = Packet {
            stream,
            bytes: &bytes,
            coalesce: coalesce(message),
            name: message.name(),
        };
        match to {
            To::Origin(Origin::Aeron { .. }) => self.send_aeron(&packet),
            To::Origin(Origin::Socket { connection }) => match regions {
                Some(key) => self.send_with_regions(*connection, &packet, key),
                None => self.send_socket(*connection, &packet, &[]),
            },
            To::All { aeron, connections } => {
                if *aeron {
                    self.send_aeron(&packet);
                }
                for connection in connections {
                    self.send_socket(*connection, &packet, &[]);
                }
            }
            To::Endpoint { channel, stream_id } => {
                if let Some(aeron) = &mut self.aeron {
                    let sent = aeron.send_to(now, channel, *stream_id, packet.bytes);
                    self.count(WayIn::Aeron, packet.name, sent);
                }
            }
        }
        self.scratch = bytes;
    }

    fn send_aeron(&mut self, packet: &Packet<'_>) {
        if let Some(aeron) = &mut self.aeron {
            let sent = aeron.send(&packet.to(Destination::Aeron, &[]));
            self.count(WayIn::Aeron, packet.name, sent);
        }
    }

    fn send_socket(&mut self, to: ConnectionId, packet: &Packet<'_>, fds: &[BorrowedFd<'_>]) {
        if let Some(socket) = &mut self.socket {
            let sent = socket.send(&packet.to(Destination::Connection(to), fds));
            self.count(WayIn::Socket, packet.name, sent);
        }
    }

    /// Sends a producer's answer with its regions, opened for writing.
    // spec: X-2-8
    fn send_with_regions(&mut self, to: ConnectionId, packet: &Packet<'_>, key: EpochKey) {
        let opened = self
            .epochs
            .get(&key)
            .map(|epoch| epoch.open(Access::ReadWrite));
        let files: Vec<OwnedFd> = match opened {
            Some(Ok(files)) => files,
            Some(Err(error)) => {
                // Somebody removed or replaced the files: the epoch is not what was granted.
                tracing::warn!(stream = %key.stream, epoch = %key.epoch, error = in_words(&error), "the regions cannot be handed out");
                self.poisoned(key, Damage::LostPages);
                Vec::new()
            }
            None => Vec::new(),
        };
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        self.send_socket(to, packet, &fds);
    }

    fn count(&mut self, way: WayIn, name: &'static str, sent: Result<(), SendError>) {
        match sent {
            Ok(()) => Counters::bump(&mut self.counters.sent, way),
            Err(error) => {
                Counters::bump(&mut self.counters.unsent, (way, error.reason()));
                match error {
                    // Nobody subscribes, or the connection ended meanwhile: nothing to be said.
                    SendError::NotConnected => {}
                    SendError::BackPressured
                    | SendError::AdminAction
                    | SendError::TooLong { .. }
                    | SendError::Overflow { .. }
                    | SendError::Closed(_) => {
                        tracing::debug!(way = way.label(), message = name, %error, "not sent");
                    }
                }
            }
        }
    }

    /// Sends what may go of status answers now.
    pub(crate) fn send_answers(&mut self, now: MonoNanos) {
        if self.answers.is_empty() {
            return;
        }
        let mut answers = std::mem::take(&mut self.answers);
        answers.work(now, &mut |connection, text| {
            let packet = Packet {
                stream: LogicalStream::Status,
                bytes: text.as_bytes(),
                coalesce: Coalesce::Never,
                name: "status",
            };
            let Some(socket) = &mut self.socket else {
                return false;
            };
            let sent = socket.send(&packet.to(Destination::Connection(connection), &[]));
            let taken = sent.is_ok();
            self.count(WayIn::Socket, packet.name, sent);
            taken
        });
        self.answers = answers;
    }
}

fn say_removal(directory: &str, reclaim: Reclaim, why: RemoveReason) {
    let reason = why.label();
    tracing::debug!(directory, ?reclaim, reason, "removing an epoch");
}

/// One encoded message.
struct Packet<'a> {
    stream: LogicalStream,
    bytes: &'a [u8],
    coalesce: Coalesce,
    name: &'static str,
}

impl<'a> Packet<'a> {
    const fn to(&self, to: Destination, fds: &'a [BorrowedFd<'a>]) -> Outbound<'a> {
        Outbound {
            to,
            stream: self.stream,
            bytes: self.bytes,
            coalesce: self.coalesce,
            fds,
        }
    }
}

/// What a newer message of its kind may replace while its receiver does not read.
// spec: X-2-31
fn coalesce(message: &Message) -> Coalesce {
    let latest = |of: (u64, u64)| {
        let mut hasher = DefaultHasher::new();
        (message.schema_id(), message.template_id(), of).hash(&mut hasher);
        Coalesce::Latest(hasher.finish())
    };
    match message {
        Message::ShmPoolAnnounce(m) => latest((m.stream_id.get().into(), 0)),
        Message::QosProducer(m) => latest((m.stream_id.get().into(), 0)),
        Message::QosConsumer(m) => latest((m.stream_id.get().into(), m.consumer_id.get().into())),
        Message::DataSourceAnnounce(m) => latest((m.stream_id.get().into(), 0)),
        Message::DataSourceMeta(m) => latest((m.stream_id.get().into(), 0)),
        Message::MetaBlobAnnounce(m) => latest((m.stream_id.get().into(), 0)),
        // A chunk is replaced by its own repetition only.
        Message::MetaBlobChunk(m) => latest((m.stream_id.get().into(), m.chunk_offset)),
        Message::MetaBlobComplete(m) => latest((m.stream_id.get().into(), 0)),
        Message::FrameProgress(m) => latest((m.stream_id.get().into(), 0)),
        Message::ShmAttachRequest(_)
        | Message::ShmAttachResponse(_)
        | Message::ShmDetachRequest(_)
        | Message::ShmDetachResponse(_)
        | Message::ShmLeaseKeepalive(_)
        | Message::ShmDriverShutdown(_)
        | Message::ShmDriverShutdownRequest(_)
        | Message::ShmLeaseRevoked(_)
        | Message::ConsumerHello(_)
        | Message::ConsumerConfig(_)
        | Message::ControlResponse(_)
        | Message::FrameDescriptor(_)
        | Message::DiscoveryRequest(_)
        | Message::DiscoveryResponse(_) => Coalesce::Never,
    }
}
