//! What a consumer on Aeron subscribes to beside the control conversation.
//!
//! Shared descriptors, or its own where an authority assigned some (W-5-1); a control stream of its own
//! for progress; and, for a consumer that looks at the ring, the descriptors that somebody has to read
//! so that the producer does not stall (X-1-4).

use tensorpool_transport::pubsub::{Dead, Subscription};
use tensorpool_wire::{ConsumerConfig, FrameProgress, MonoNanos, Seq};

use super::Now;
use crate::consumer::{Notify, Source};
use crate::link::Link;

/// Messages drained in one cycle at most; the next cycle is a millisecond away.
const DRAIN_LIMIT: usize = 65_536;
/// An assigned stream on which nothing comes for this long, while there are frames, is given up.
const DEAF_NS: u64 = 5_000_000_000;

/// A consumer's subscriptions.
pub(super) struct ConsumerStreams {
    /// Read and thrown away.
    unread: Option<Box<dyn Subscription + Send>>,
    own_control: Option<Box<dyn Subscription + Send>>,
    own_descriptors: Option<Assigned>,
    /// An assignment that nothing came on: not taken again.
    given_up: Option<(String, u32)>,
}

struct Assigned {
    endpoint: (String, u32),
    /// The next number when something last came, and when that was.
    seen: u64,
    heard: Option<MonoNanos>,
}

impl std::fmt::Debug for ConsumerStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsumerStreams")
            .field("drains", &self.unread.is_some())
            .field("own_control", &self.own_control.is_some())
            .field("own_descriptors", &self.own_descriptors.is_some())
            .finish()
    }
}

impl ConsumerStreams {
    pub(super) const fn new() -> Self {
        Self {
            unread: None,
            own_control: None,
            own_descriptors: None,
            given_up: None,
        }
    }

    /// Subscribes to the shared descriptors, to be read by the data path or drained here. On a socket
    /// there are none and the ring it is.
    // spec: X-1-2 X-1-3 X-1-4 X-1-5
    pub(super) fn subscribe(
        &mut self,
        link: &mut Link,
        notify: Option<Notify>,
    ) -> Result<Source, Dead> {
        let (channel, stream) = link.descriptor_endpoint();
        let Some(subscription) = link.subscription(&channel, stream) else {
            self.unread = None;
            return Ok(Source::Ring);
        };
        let subscription = subscription?;
        Ok(match notify {
            Some(Notify::Ring) => {
                self.unread = Some(subscription);
                Source::Ring
            }
            Some(Notify::Descriptor) | None => Source::Descriptors(subscription),
        })
    }

    /// Takes what an authority assigned: own descriptors in place of the shared ones, an own control
    /// stream beside the shared one. Empty fields leave everything as it is, so that two answers to
    /// one hello never flap.
    // spec: W-5-1 W-10.1.3-2 W-10.1.3-3
    pub(super) fn obey(
        &mut self,
        config: &ConsumerConfig,
        link: &mut Link,
        notify: Option<Notify>,
    ) -> Option<Source> {
        let id = |stream: u32| i32::try_from(stream).ok().filter(|id| *id != 0);
        if let Some(stream) = id(config.control_stream_id)
            && !config.control_channel.is_empty()
            && self.own_control.is_none()
            && let Some(Ok(subscription)) = link.subscription(&config.control_channel, stream)
        {
            self.own_control = Some(subscription);
        }
        let endpoint = (
            config.descriptor_channel.clone(),
            config.descriptor_stream_id,
        );
        let is_new = self
            .own_descriptors
            .as_ref()
            .is_none_or(|own| own.endpoint != endpoint);
        if notify == Some(Notify::Ring)
            || !is_new
            || endpoint.0.is_empty()
            || self.given_up.as_ref() == Some(&endpoint)
        {
            return None;
        }
        let subscription = link.subscription(&endpoint.0, id(endpoint.1)?)?.ok()?;
        self.own_descriptors = Some(Assigned {
            endpoint,
            seen: 0,
            heard: None,
        });
        Some(Source::Descriptors(subscription))
    }

    /// Whether an assigned stream stays silent although the producer goes on; it is given up then.
    pub(super) fn is_deaf(&mut self, now: Now, seen: u64, current: Seq) -> bool {
        let Some(own) = &mut self.own_descriptors else {
            return false;
        };
        let heard = *own.heard.get_or_insert(now.mono);
        if seen != own.seen || current.get() <= seen {
            own.seen = seen;
            own.heard = Some(now.mono);
            return false;
        }
        if now.mono.saturating_since(heard) < DEAF_NS {
            return false;
        }
        self.given_up = self.own_descriptors.take().map(|own| own.endpoint);
        true
    }

    /// Reads what nobody else reads, and progress on a control stream of our own.
    // spec: X-1-4 W-5-1 W-5-5
    pub(super) fn drain(&mut self, heard: &mut Vec<FrameProgress>) {
        if let Some(unread) = &mut self.unread {
            let mut left = DRAIN_LIMIT;
            while let Ok(taken @ 1..) = unread.poll(256, &mut |_, _| {}) {
                left = left.saturating_sub(taken);
                if left == 0 {
                    break;
                }
            }
        }
        if let Some(control) = &mut self.own_control {
            // A way that is over is told by the link.
            let _ = control.poll(256, &mut |bytes, _| {
                heard.extend(FrameProgress::decode(bytes))
            });
        }
    }
}
