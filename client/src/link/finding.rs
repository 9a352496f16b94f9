//! Finding the driver that has the stream: one candidate after the other is asked.

use std::collections::VecDeque;
use std::path::Path;

use tensorpool_transport::pubsub::Dead;
use tensorpool_transport::socket::SocketClient;
use tensorpool_wire::{
    ClientId, DiscoveryRequest, DiscoveryResponse, DiscoveryResult, DiscoveryStatus, Message,
    MonoNanos,
};

use super::holder::Holder;
use super::way::{Asking, Place, Up, Way};
use super::{DISCOVERY_TIMEOUT, Link, LinkEvent, NeedsAeron, State, StreamKey, Tried};
use crate::aeron::AeronWay;
use crate::error::AttachError;
use crate::find::{Candidate, Rebase};

impl Link {
    pub(super) fn try_next(
        &mut self,
        now: MonoNanos,
        mut rest: VecDeque<Candidate>,
        mut tried: Tried,
        events: &mut Vec<LinkEvent>,
    ) {
        while let Some(candidate) = rest.pop_front() {
            match (self.ask(now, candidate), &self.key) {
                // Drivers on Aeron may have no discovery, and a number needs none there.
                (
                    Ok(Asking {
                        way,
                        place: place @ Place::Aeron(_),
                        ..
                    }),
                    &StreamKey::Id(stream),
                ) => {
                    self.state = State::Up(Up {
                        way,
                        place,
                        rebase: None,
                        volume: None,
                    });
                    self.stream = stream;
                    events.push(LinkEvent::Up { stream });
                    return;
                }
                (Ok(mut asking), _) => match asking.send() {
                    Ok(()) => {
                        self.state = State::Finding {
                            tried,
                            rest,
                            asking,
                        };
                        return;
                    }
                    Err(dead) => tried.last = Some(lost(&dead)),
                },
                (Err(error), _) => tried.last = Some(error),
            }
        }
        events.push(LinkEvent::Failed(self.nothing_found(tried)));
    }

    fn nothing_found(&self, tried: Tried) -> AttachError {
        match tried.last {
            // A driver that could not be used says more than one that did not have the stream.
            Some(error) => error,
            None if tried.asked.is_empty() => AttachError::NoDriver {
                looked: tried.looked,
            },
            None => AttachError::NoSuchStream {
                stream: self.key.to_string(),
                places: tried.asked.join(", "),
                is_aeron: tried.is_aeron,
            },
        }
    }

    fn ask(&mut self, now: MonoNanos, candidate: Candidate) -> Result<Asking, AttachError> {
        self.next_request = self.next_request.wrapping_add(1);
        let request_id = self.next_request;
        let (way, place, volume) = match candidate {
            Candidate::Socket { path, volume } => {
                self.may_be_socket(&path)?;
                let port = SocketClient::connect(&path).map_err(AttachError::connect)?;
                (Way::Socket(port), Place::Socket(path), volume)
            }
            Candidate::Aeron { dir } => {
                let way = AeronWay::open(&dir, &self.options.aeron)?;
                (Way::Aeron(way), Place::Aeron(dir), None)
            }
        };
        let (response_channel, response_stream_id) = match &place {
            // spec: X-2-40
            Place::Socket(_) => ("socket".to_owned(), 1),
            // spec: DI-4.3-2
            Place::Aeron(_) => self.options.aeron.answers(),
        };
        let (stream_id, data_source_name) = match &self.key {
            StreamKey::Name(name) => (None, name.clone()),
            StreamKey::Id(id) => (Some(*id), String::new()),
        };
        let request = Message::from(DiscoveryRequest {
            request_id,
            client_id: ClientId(0),
            response_stream_id,
            stream_id,
            producer_id: None,
            data_source_id: None,
            tags: Vec::new(),
            response_channel,
            data_source_name,
        });
        let wait = u64::try_from(DISCOVERY_TIMEOUT.as_nanos()).unwrap_or(u64::MAX);
        let give_up_at = now.saturating_add(wait);
        Ok(Asking {
            way,
            place,
            volume,
            request_id,
            unsent: Some(request.encode()),
            give_up_at,
        })
    }

    // spec: X-1-2 X-2-64
    fn may_be_socket(&self, path: &Path) -> Result<(), AttachError> {
        match self.options.needs {
            NeedsAeron::Nothing => Ok(()),
            NeedsAeron::Descriptors => Err(AttachError::DescriptorsNeedAeron {
                socket: path.to_owned(),
            }),
            NeedsAeron::TraceIds => Err(AttachError::TraceNeedsAeron {
                socket: path.to_owned(),
            }),
        }
    }

    pub(super) fn on_answer(
        &mut self,
        now: MonoNanos,
        response: &DiscoveryResponse,
        asking: Asking,
        mut tried: Tried,
        rest: VecDeque<Candidate>,
        events: &mut Vec<LinkEvent>,
    ) {
        let Asking {
            way, place, volume, ..
        } = asking;
        let result = self.pick(response);
        let stream = match (&self.key, result) {
            (_, Some(result)) => result.stream_id,
            // A stream that is not there yet may be created by the attach; the driver decides.
            (StreamKey::Id(id), None) => *id,
            (StreamKey::Name(_), None) => {
                tried.asked.push(place.to_string());
                tried.is_aeron |= matches!(place, Place::Aeron(_));
                self.try_next(now, rest, tried, events);
                return;
            }
        };
        self.holder = result.and_then(|result| Holder::of_client(result.producer_id));
        let rebase = result
            .and_then(|result| Rebase::announced_base(&result.tags))
            .zip(volume.clone())
            .map(|(announced, volume)| Rebase { announced, volume });
        self.state = State::Up(Up {
            way,
            place,
            rebase,
            volume,
        });
        self.stream = stream;
        events.push(LinkEvent::Up { stream });
    }

    /// The result that is the stream asked for. Discovery grants nothing: it only says whom to ask.
    // spec: DI-3-2 DI-5.2-8 DI-7-2
    fn pick<'a>(&self, response: &'a DiscoveryResponse) -> Option<&'a DiscoveryResult> {
        match response.status {
            DiscoveryStatus::Ok => {}
            DiscoveryStatus::NotFound | DiscoveryStatus::Error | DiscoveryStatus::Unknown(_) => {
                return None;
            }
        }
        response.results.iter().find(|result| {
            let is_it = match &self.key {
                StreamKey::Name(name) => result.data_source_name == *name,
                StreamKey::Id(id) => result.stream_id == *id,
            };
            let has_driver =
                !result.driver_control_channel.is_empty() && result.driver_control_stream_id != 0;
            let fits = result
                .payload_pools
                .iter()
                .all(|pool| pool.pool_nslots == result.header_nslots);
            is_it && has_driver && fits
        })
    }
}

pub(super) fn lost(dead: &Dead) -> AttachError {
    AttachError::Lost {
        text: dead.to_string(),
    }
}
