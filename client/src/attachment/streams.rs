//! Per-consumer streams of a producer on Aeron: who gets its own descriptors and progress.
//!
//! One authority decides per deployment (the driver, a supervisor, or this producer where it was told
//! to). The producer opens what a ConsumerConfig assigns, and closes it when the consumer is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_transport::pubsub::Publication;
use tensorpool_wire::{
    Bool, ClientId, ConsumerConfig, ConsumerHello, FrameProgress, LogicalStream, Mode,
};

use crate::handover::Handover;
use crate::link::Link;
use crate::mapping::Writable;
use crate::outlet::{Audience, Outlet, OutletChange};
use crate::producer::ProducerShared;
use crate::stats::MessageCounters;

/// Consumers that one producer opens streams for.
const MAX_STREAMS: usize = 64;

/// The per-consumer streams of one producer.
#[derive(Default)]
pub(super) struct OwnStreams {
    descriptors: BTreeMap<ClientId, (String, u32)>,
    control: BTreeMap<ClientId, Control>,
}

struct Control {
    endpoint: (String, u32),
    publication: Box<dyn Publication + Send>,
}

impl std::fmt::Debug for OwnStreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnStreams")
            .field("descriptors", &self.descriptors)
            .field("control", &self.control.len())
            .finish()
    }
}

/// What opening needs.
#[derive(Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) handover: &'a Arc<Handover<Writable>>,
    pub(super) shared: &'a Arc<ProducerShared>,
    pub(super) max_rate_hz: u32,
}

/// A channel and stream id that are both given and can be Aeron's. Half a request is none.
// spec: W-10.1.2-4 W-10.1.2-5 W-10.1.3-3 W-10.1.3-4 W-5-6
fn endpoint(channel: &str, stream: u32) -> Option<(String, i32)> {
    let id = i32::try_from(stream).ok().filter(|id| *id != 0)?;
    channel
        .starts_with("aeron:")
        .then(|| (channel.to_owned(), id))
}

impl OwnStreams {
    /// Obeys an assignment. Empty fields change nothing: a consumer that was assigned a stream keeps
    /// it until it is gone.
    // spec: W-5-1 W-5-2 W-5-4
    pub(super) fn assign(&mut self, config: &ConsumerConfig, link: &mut Link, to: To<'_>) {
        let id = config.consumer_id;
        let wanted = (
            config.descriptor_channel.clone(),
            config.descriptor_stream_id,
        );
        if self.descriptors.get(&id) != Some(&wanted)
            && self.descriptors.len() < MAX_STREAMS
            && let Some((channel, stream)) = endpoint(&wanted.0, wanted.1)
            && let Some(Ok(publication)) = link.publication(&channel, stream)
        {
            let outlet = Outlet::new(Audience::One(id), publication, to.max_rate_hz);
            to.shared.outlets.post(OutletChange::Open(outlet));
            to.handover.nudge();
            self.descriptors.insert(id, wanted);
        }
        let wanted = (config.control_channel.clone(), config.control_stream_id);
        if self
            .control
            .get(&id)
            .is_none_or(|control| control.endpoint != wanted)
            && self.control.len() < MAX_STREAMS
            && let Some((channel, stream)) = endpoint(&wanted.0, wanted.1)
            && let Some(Ok(publication)) = link.publication(&channel, stream)
        {
            self.control.insert(
                id,
                Control {
                    endpoint: wanted,
                    publication,
                },
            );
        }
    }

    /// Answers a hello as the authority: what can be opened is assigned, the rest declined with empty
    /// fields.
    // spec: W-5-6 W-10.1.3-5
    pub(super) fn answer(&mut self, hello: &ConsumerHello, link: &mut Link, to: To<'_>) {
        let asked = |channel: &str, stream: u32| !channel.is_empty() || stream != 0;
        let wants_descriptors = asked(&hello.descriptor_channel, hello.descriptor_stream_id);
        let wants_control = asked(&hello.control_channel, hello.control_stream_id);
        if !wants_descriptors && !wants_control {
            return;
        }
        let request = ConsumerConfig {
            stream_id: hello.stream_id,
            consumer_id: hello.consumer_id,
            use_shm: Bool::True,
            mode: Mode::Stream,
            descriptor_stream_id: hello.descriptor_stream_id,
            control_stream_id: hello.control_stream_id,
            payload_fallback_uri: String::new(),
            descriptor_channel: hello.descriptor_channel.clone(),
            control_channel: hello.control_channel.clone(),
        };
        self.assign(&request, link, to);
        let (descriptor_channel, descriptor_stream_id) = self
            .descriptors
            .get(&hello.consumer_id)
            .cloned()
            .unwrap_or_default();
        let (control_channel, control_stream_id) = self
            .control
            .get(&hello.consumer_id)
            .map(|control| control.endpoint.clone())
            .unwrap_or_default();
        let config = ConsumerConfig {
            descriptor_stream_id,
            control_stream_id,
            descriptor_channel,
            control_channel,
            ..request
        };
        // Repeated with the next hello if it is lost.
        link.tell(LogicalStream::Control, config);
    }

    /// The consumer is gone.
    // spec: W-5-1 W-5-3 W-10.1.3-6
    pub(super) fn close(&mut self, id: ClientId, to: To<'_>) {
        self.control.remove(&id);
        if self.descriptors.remove(&id).is_some() {
            to.shared
                .outlets
                .post(OutletChange::Close(Audience::One(id)));
            to.handover.nudge();
        }
    }

    /// The way is gone, and all publications with it.
    pub(super) fn clear(&mut self) {
        self.descriptors.clear();
        self.control.clear();
    }

    /// Tells progress to those with a control stream of their own, beside the shared one.
    // spec: W-5-5
    pub(super) fn tell(&mut self, progress: &FrameProgress, counters: &MessageCounters) {
        if self.control.is_empty() {
            return;
        }
        let bytes = progress.encode_array();
        for control in self.control.values_mut() {
            // Loss is allowed: the commit decides.
            counters.count(&control.publication.offer(&bytes));
        }
    }
}
