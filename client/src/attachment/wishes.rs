//! What a consumer's application wants, and how a hello says it.

use tensorpool_wire::{Bool, ClientId, ConsumerHello, Mode, StreamId};

use crate::consumer::{Notify, Start};

/// What the application wants of its frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConsumerWishes {
    pub(crate) start: Start,
    /// Frames per second at most; 0: all.
    pub(crate) max_rate_hz: u32,
    pub(crate) progress: bool,
    pub(crate) announce_period_ns: u64,
    /// How frames are learned of; `None`: descriptors where there are any.
    pub(crate) notify: Option<Notify>,
    /// Stream ids that the consumer would like for itself; 0: none.
    pub(crate) own_descriptors: u32,
    pub(crate) own_control: u32,
}

impl ConsumerWishes {
    /// The hello of this consumer. `has_descriptors`: whether it is on Aeron.
    // spec: W-10.4.1-1 W-10.1.2-2 W-11-2
    pub(super) fn hello(
        &self,
        stream_id: StreamId,
        consumer_id: ClientId,
        has_descriptors: bool,
    ) -> ConsumerHello {
        let mode = if self.max_rate_hz > 0 {
            Mode::RateLimited
        } else {
            Mode::Stream
        };
        let own = |stream: u32| {
            // spec: W-10.1.2-2: never a channel without an id, and no streams on a socket.
            if stream != 0 && has_descriptors {
                ("aeron:ipc".to_owned(), stream)
            } else {
                (String::new(), 0)
            }
        };
        let (descriptor_channel, descriptor_stream_id) = own(self.own_descriptors);
        let (control_channel, control_stream_id) = own(self.own_control);
        ConsumerHello {
            stream_id,
            consumer_id,
            supports_shm: Bool::True,
            supports_progress: self.progress.into(),
            mode,
            max_rate_hz: self.max_rate_hz.min(65_535),
            expected_layout_version: 1,
            progress_interval_us: None,
            progress_bytes_delta: None,
            progress_major_delta_units: None,
            descriptor_stream_id,
            control_stream_id,
            descriptor_channel,
            control_channel,
        }
    }
}
