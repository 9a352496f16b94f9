//! The authority over consumers: what ConsumerConfig tells them, and streams of their own.
//!
//! One authority per deployment answers hellos, and with a driver it is the driver. It answers those
//! who hold a lease, each time they ask for something, with the same ids each time.

use std::collections::BTreeSet;

use tensorpool_wire::{Bool, ConsumerConfig, ConsumerHello, LeaseId, LogicalStream, Mode, Origin};

use crate::action::{Action, To};
use crate::counters::DropReason;
use crate::deadline::Due;
use crate::driver::{Driver, send};
use crate::lease::OwnStreams;
use crate::policy::IdRange;

/// Longest channel that is taken over into an answer, in bytes.
const MAX_CHANNEL_BYTES: usize = 256;

/// Ids of per-consumer streams that are in use.
#[derive(Debug, Default)]
pub(crate) struct OwnRanges {
    descriptor: BTreeSet<u32>,
    control: BTreeSet<u32>,
}

impl OwnRanges {
    pub(crate) fn give_back(&mut self, own: OwnStreams) {
        if let Some(id) = own.descriptor {
            self.descriptor.remove(&id);
        }
        if let Some(id) = own.control {
            self.control.remove(&id);
        }
    }

    /// Panics unless exactly the ids of `leases` are in use: both are edited together.
    pub(crate) fn check(&self, leases: impl Iterator<Item = OwnStreams>) {
        let mut expected = Self::default();
        for own in leases {
            for (id, set) in [
                (own.descriptor, &mut expected.descriptor),
                (own.control, &mut expected.control),
            ] {
                if let Some(id) = id {
                    assert!(set.insert(id), "stream id {id} belongs to two consumers");
                }
            }
        }
        assert_eq!(
            self.descriptor, expected.descriptor,
            "descriptor ids in use"
        );
        assert_eq!(self.control, expected.control, "control ids in use");
    }
}

/// Whether one half of a hello, descriptor or control, asks for a stream of its own.
// spec: W-10.1.2-4, W-10.1.2-5, W-10.1.3-3, W-10.1.3-4
fn is_valid_request(channel: &str, id: u32) -> bool {
    let is_ipc = channel == "aeron:ipc" || channel.starts_with("aeron:ipc?");
    id != 0
        && is_ipc
        && channel.len() <= MAX_CHANNEL_BYTES
        && channel.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The id that one half gets: the one it has, the one it wants, or the smallest free one. `None`
/// declines: no range, or none left.
// spec: D-11-2, D-11-6
fn assign(
    range: Option<IdRange>,
    used: &mut BTreeSet<u32>,
    held: Option<u32>,
    wanted: u32,
) -> Option<u32> {
    if held.is_some() {
        return held;
    }
    let range = range?;
    let id = if range.contains(wanted) && !used.contains(&wanted) {
        wanted
    } else {
        range.first_free(used.range(range.start..=range.end).copied())?
    };
    used.insert(id);
    Some(id)
}

impl Driver {
    /// A hello keeps its consumer's own streams alive, is answered if it asks for something, and goes
    /// on to the producer on the other way.
    // spec: W-10.5-1, W-10.1.3-7, X-2-53, X-2-55, X-2-57
    pub(crate) fn on_hello(
        &mut self,
        origin: Origin,
        mut hello: ConsumerHello,
        out: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let now = self.now;
        let id = hello.stream_id;
        let lease = self.consumer_lease(origin, id, hello.consumer_id)?;
        lease.heard_at = now;
        let lease = lease.id;
        if self.is_answered(&hello) {
            let config = self.config_for(origin, lease, &hello);
            let to = match origin {
                // The producer on Aeron obeys it as well.
                Origin::Aeron { .. } => To::All {
                    aeron: true,
                    connections: Vec::new(),
                },
                Origin::Socket { .. } => To::Origin(origin),
            };
            send(out, to, LogicalStream::Control, config);
        }
        // On the other way nobody can use these channels.
        hello.descriptor_channel.clear();
        hello.control_channel.clear();
        hello.descriptor_stream_id = 0;
        hello.control_stream_id = 0;
        self.tell_producer(origin, id, LogicalStream::Control, hello.into(), out);
        Ok(())
    }

    fn is_answered(&self, hello: &ConsumerHello) -> bool {
        let rules = &self.policy.spec().consumers;
        let asks_for_stream = !hello.descriptor_channel.is_empty()
            || !hello.control_channel.is_empty()
            || hello.descriptor_stream_id != 0
            || hello.control_stream_id != 0;
        let asks_for_rate = hello.mode == Mode::RateLimited || hello.max_rate_hz != 0;
        asks_for_stream || asks_for_rate || !rules.use_shm || rules.force_mode.is_some()
    }

    /// Judges each half by itself. The ids stay the same until the lease ends or the consumer is
    /// silent for too long.
    // spec: W-10.1.3-5, W-5-6
    fn config_for(
        &mut self,
        origin: Origin,
        lease: LeaseId,
        hello: &ConsumerHello,
    ) -> ConsumerConfig {
        let spec = self.policy.spec();
        let (descriptor_range, control_range) = (
            spec.descriptor_stream_id_range,
            spec.control_stream_id_range,
        );
        let rules = spec.consumers.clone();
        let on_aeron = matches!(origin, Origin::Aeron { .. });
        // spec: X-2-57, a producer on a socket has no descriptor stream to give.
        let possible = on_aeron && self.producer_socket(hello.stream_id).is_none();
        let had = self.leases.get(lease).map(|lease| lease.own);
        let mut own = had.unwrap_or_default();
        let (mut descriptor, mut control) = (None, None);
        if possible && is_valid_request(&hello.descriptor_channel, hello.descriptor_stream_id) {
            let used = &mut self.own_ranges.descriptor;
            descriptor = assign(
                descriptor_range,
                used,
                own.descriptor,
                hello.descriptor_stream_id,
            );
            own.descriptor = descriptor;
        }
        if possible && is_valid_request(&hello.control_channel, hello.control_stream_id) {
            let used = &mut self.own_ranges.control;
            control = assign(control_range, used, own.control, hello.control_stream_id);
            own.control = control;
        }
        if let Some(lease) = self.leases.get_mut(lease) {
            if lease.own.is_empty() && !own.is_empty() {
                let at = self
                    .now
                    .saturating_add(self.config.timing.consumer_stale_ns);
                self.deadlines.set(at, Due::Consumer(lease.id));
            }
            lease.own = own;
        }
        let mode = rules.force_mode.unwrap_or(match hello.mode {
            Mode::RateLimited if possible => Mode::RateLimited,
            // D-15: an unknown mode is tolerated and never sent.
            Mode::RateLimited | Mode::Stream | Mode::Unknown(_) => Mode::Stream,
        });
        let channel = |id: Option<u32>, channel: &str| match id {
            Some(_) => channel.to_owned(),
            None => String::new(),
        };
        ConsumerConfig {
            stream_id: hello.stream_id,
            consumer_id: hello.consumer_id,
            use_shm: Bool::from(rules.use_shm),
            mode,
            descriptor_stream_id: descriptor.unwrap_or(0),
            control_stream_id: control.unwrap_or(0),
            payload_fallback_uri: rules.payload_fallback_uri,
            descriptor_channel: channel(descriptor, &hello.descriptor_channel),
            control_channel: channel(control, &hello.control_channel),
        }
    }

    /// Takes the streams of a consumer back that has been silent for too long.
    // spec: W-10.1.3-6, W-15.14-6
    pub(crate) fn on_consumer_due(&mut self, id: LeaseId) {
        let stale_ns = self.config.timing.consumer_stale_ns;
        let Some(lease) = self.leases.get_mut(id) else {
            return;
        };
        let stale_at = lease.heard_at.saturating_add(stale_ns);
        if stale_at > self.now {
            self.deadlines.set(stale_at, Due::Consumer(id));
            return;
        }
        let own = std::mem::take(&mut lease.own);
        self.own_ranges.give_back(own);
    }
}
