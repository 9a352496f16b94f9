//! What the core notes, in the log.

use tensorpool_driver_core::{EpochKey, Note};
use tensorpool_wire::{MonoNanos, StreamId};

use crate::log_share::About;
use crate::runtime::Runtime;

/// Lines a second about what the clients of one stream cause in order, of each kind.
const LINES_PER_SECOND: u32 = 20;

impl Runtime {
    /// Says it, unless the stream's clients have had their share of the log.
    pub(crate) fn note(&mut self, now: MonoNanos, note: &Note) {
        if let Note::StreamGone { stream } = note {
            self.counters.forget(*stream);
            self.log_share.forget(About::Stream(*stream));
        }
        match by_clients(note) {
            Some((stream, what)) => {
                let about = About::Stream(stream);
                let share = self.log_share.take(now, about, what, LINES_PER_SECOND);
                if let Some(unsaid) = share {
                    log(note, (unsaid > 0).then_some(unsaid));
                }
            }
            None => log(note, None),
        }
    }
}

/// What clients can cause as often as they like, and of which stream.
fn by_clients(note: &Note) -> Option<(StreamId, &'static str)> {
    match note {
        Note::LeaseGranted { stream, .. } => Some((*stream, "lease granted")),
        Note::LeaseEnded { stream, .. } => Some((*stream, "lease ended")),
        Note::EpochAnnounced { key, .. } => Some((key.stream, "epoch announced")),
        Note::Poisoned { key, .. } => Some((key.stream, "poisoned")),
        Note::EpochFailed { key, .. } => Some((key.stream, "epoch failed")),
        Note::SpaceReclaimed { key, .. } => Some((key.stream, "space reclaimed")),
        Note::MemoryInUse { key, .. } => Some((key.stream, "memory in use")),
        Note::MemoryForced { key, .. } => Some((key.stream, "memory taken")),
        Note::RemoveFailed { .. }
        | Note::Stalled { .. }
        | Note::StreamGone { .. }
        | Note::Draining
        | Note::AccessChanged { .. }
        | Note::PolicyApplied { .. } => None,
    }
}

/// Says what an operator wants to know; `unsaid` like it were not said.
fn log(note: &Note, unsaid: Option<u64>) {
    match note {
        Note::LeaseGranted {
            lease,
            stream,
            client,
            role,
        } => tracing::info!(%lease, %stream, %client, ?role, unsaid, "lease granted"),
        Note::LeaseEnded {
            lease,
            stream,
            client,
            role,
            reason,
            text,
        } => tracing::info!(%lease, %stream, %client, ?role, ?reason, text, unsaid, "lease ended"),
        Note::EpochAnnounced { key, cause } => {
            tracing::info!(stream = %key.stream, epoch = %key.epoch, cause = cause.label(), unsaid, "epoch announced");
        }
        Note::EpochFailed { key, text } => {
            tracing::error!(stream = %key.stream, epoch = %key.epoch, text, unsaid, "epoch could not be made");
        }
        Note::SpaceReclaimed {
            key,
            removed,
            bytes,
            error,
        } => tracing::warn!(
            stream = %key.stream,
            epoch = %key.epoch,
            removed,
            bytes,
            error,
            unsaid,
            "too little memory for another epoch: old ones are removed at once; give the mount memory for three epochs of each stream"
        ),
        Note::RemoveFailed { key, error } => {
            tracing::warn!(stream = %key.stream, epoch = %key.epoch, error, "old epoch stays behind");
        }
        Note::MemoryInUse {
            key,
            name,
            bytes,
            left_ns,
        } => memory_in_use(*key, name, *bytes, *left_ns, unsaid),
        Note::MemoryForced { key, name, bytes } => memory_forced(*key, name, *bytes, unsaid),
        Note::Stalled { gap_ns } => tracing::warn!(
            gap_ns,
            "the duty cycle stood still; every lease was extended by as much"
        ),
        Note::Poisoned { key, damage } => {
            tracing::error!(stream = %key.stream, epoch = %key.epoch, damage = damage.text(), unsaid, "a producer changed the file of a region");
        }
        Note::StreamGone { stream } => tracing::info!(%stream, "stream given up"),
        Note::Draining => tracing::info!("draining: attaches are refused"),
        Note::AccessChanged {
            connection,
            revoked,
        } => tracing::info!(connection = connection.0, revoked, "access changed"),
        Note::PolicyApplied {
            added,
            removed,
            changed,
        } => tracing::info!(added, removed, changed, "policy applied"),
    }
}

fn memory_in_use(key: EpochKey, name: &str, bytes: u64, left_ns: u64, unsaid: Option<u64>) {
    tracing::warn!(
        stream = %key.stream,
        name,
        epoch = %key.epoch,
        bytes,
        left_seconds = left_ns.div_ceil(1_000_000_000),
        unsaid,
        "a client still has the memory of an epoch that was to go: it is taken from it when its time is over"
    );
}

fn memory_forced(key: EpochKey, name: &str, bytes: u64, unsaid: Option<u64>) {
    tracing::warn!(
        stream = %key.stream,
        name,
        epoch = %key.epoch,
        bytes,
        unsaid,
        "the memory of an epoch was taken from a client that did not let go: its next look at it is a SIGBUS"
    );
}
