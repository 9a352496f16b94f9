//! Finding the driver that has the stream: one candidate after the other is asked.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::Path;

use tensorpool_transport::pubsub::Dead;
use tensorpool_transport::socket::{ConnectError, SocketClient};
use tensorpool_wire::{
    ClientId, DiscoveryRequest, DiscoveryResponse, DiscoveryResult, DiscoveryStatus, Message,
    MonoNanos, StreamId,
};

use super::holder::Holder;
use super::way::{Asking, Place, Up, Way};
use super::{DISCOVERY_TIMEOUT, Link, LinkEvent, NeedsAeron, State, StreamKey, Tried};
use crate::aeron::AeronWay;
use crate::error::AttachError;
use crate::find::{AeronPlace, Candidate, Rebase, volume};
use crate::lease::ClientIds;

impl Link {
    pub(super) fn try_next(
        &mut self,
        now: MonoNanos,
        mut rest: VecDeque<Candidate>,
        mut tried: Tried,
        events: &mut Vec<LinkEvent>,
    ) {
        while let Some(candidate) = rest.pop_front() {
            match (self.ask(now, candidate, &tried), &self.key) {
                // Drivers on Aeron may have no discovery, and a number needs none there.
                (
                    Ok(
                        asking @ Asking {
                            place: Place::Aeron(_),
                            ..
                        },
                    ),
                    &StreamKey::Id(stream),
                ) => return self.take(asking, None, stream, None, events),
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
        match (tried.spare.take(), &self.key) {
            // A stream that is not there yet may be created by the attach; the driver decides.
            (Some(spare), &StreamKey::Id(stream)) => match self.settle(*spare, None) {
                Ok((spare, clients)) => self.take(spare, None, stream, clients, events),
                Err(error) => events.push(LinkEvent::Failed(error)),
            },
            (Some(_) | None, _) => events.push(LinkEvent::Failed(self.nothing_found(tried))),
        }
    }

    fn nothing_found(&self, tried: Tried) -> AttachError {
        let yaml = || volume::yaml(&self.key, self.messages.access());
        let was_answered = !tried.asked.is_empty();
        match tried.last {
            // A driver that could not be used says more than one that did not have the stream, and that
            // more than a directory without a volume.
            Some(AttachError::NoVolume { .. }) if was_answered => {}
            Some(error) => return error,
            None => {}
        }
        let (stream, places) = (self.key.to_string(), tried.asked.join(", "));
        match (was_answered, tried.is_volume) {
            (false, _) if self.options.surroundings.is_pod => AttachError::NoVolume {
                looked: tried.looked,
                yaml: yaml(),
            },
            (false, _) => AttachError::NoDriver {
                looked: tried.looked,
            },
            (true, true) => AttachError::in_no_volume(stream, places, &yaml()),
            (true, false) => AttachError::no_such_stream(stream, places, tried.is_aeron),
        }
    }

    fn ask(
        &mut self,
        now: MonoNanos,
        candidate: Candidate,
        tried: &Tried,
    ) -> Result<Asking, AttachError> {
        self.next_request = self.next_request.wrapping_add(1);
        let request_id = self.next_request;
        let (way, place, volume, is_mounted) = match candidate {
            Candidate::Socket {
                path,
                volume,
                is_mounted,
            } => {
                // A volume may be one for Aeron, which its driver says.
                if !is_mounted {
                    self.may_be_socket(&path)?;
                }
                let port = SocketClient::connect(&path)
                    .map_err(|error| self.not_connected(error, is_mounted, tried))?;
                (Way::Socket(port), Place::Socket(path), volume, is_mounted)
            }
            Candidate::Aeron { dir } => {
                let way = AeronWay::open(&dir, &self.options.aeron)?;
                (Way::Aeron(way), Place::Aeron(dir), None, false)
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
            is_mounted,
            request_id,
            unsent: Some(request.encode()),
            give_up_at,
        })
    }

    // spec: X-2-71
    fn not_connected(&self, error: ConnectError, is_mounted: bool, tried: &Tried) -> AttachError {
        match &error {
            _ if !is_mounted => AttachError::connect(error),
            // Every volume has its socket from the first moment on.
            ConnectError::NoDriver { source, .. } if source.kind() == ErrorKind::NotFound => {
                AttachError::NoVolume {
                    looked: tried.looked.clone(),
                    yaml: volume::yaml(&self.key, self.messages.access()),
                }
            }
            ConnectError::NoDriver { .. } | ConnectError::Failed { .. } => {
                AttachError::connect_volume(error)
            }
        }
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
        let result = self.pick(response).cloned();
        let stream = match (&self.key, &result) {
            (_, Some(result)) => result.stream_id,
            (key, None) => {
                tried.asked.push(asking.place.to_string());
                tried.is_aeron |= matches!(asking.place, Place::Aeron(_));
                tried.is_volume |= asking.is_mounted;
                // Others may have the number; who answered first is kept in mind.
                if matches!(key, StreamKey::Id(_)) {
                    tried.spare.get_or_insert_with(|| Box::new(asking));
                }
                self.try_next(now, rest, tried, events);
                return;
            }
        };
        match self.settle(asking, result.as_ref()) {
            Ok((asking, clients)) => self.take(asking, result, stream, clients, events),
            Err(error) => {
                tried.last = Some(error);
                self.try_next(now, rest, tried, events);
            }
        }
    }

    /// Where the stream's volume is one for Aeron, the way leads there; the socket was for this question.
    /// A program without Aeron stays on the socket.
    // spec: X-2-75, X-2-76
    fn settle(
        &self,
        mut asking: Asking,
        result: Option<&DiscoveryResult>,
    ) -> Result<(Asking, Option<ClientIds>), AttachError> {
        let Place::Socket(path) = &asking.place else {
            return Ok((asking, None));
        };
        let place = result.and_then(|result| AeronPlace::of_tags(&result.tags));
        match place.filter(|_| AeronWay::IS_BUILT) {
            Some(place) => {
                asking.way = Way::Aeron(AeronWay::open(&place.dir, &self.options.aeron)?);
                asking.place = Place::Aeron(place.dir);
                Ok((asking, Some(place.clients)))
            }
            None => {
                self.may_be_socket(path)?;
                Ok((asking, None))
            }
        }
    }

    /// The way is found.
    fn take(
        &mut self,
        asking: Asking,
        result: Option<DiscoveryResult>,
        stream: StreamId,
        clients: Option<ClientIds>,
        events: &mut Vec<LinkEvent>,
    ) {
        let Asking {
            way,
            place,
            volume,
            is_mounted,
            ..
        } = asking;
        if !matches!(place, Place::Aeron(_)) || result.is_some() {
            self.holder = result
                .as_ref()
                .and_then(|result| Holder::of_client(result.producer_id));
        }
        let rebase = result
            .as_ref()
            .and_then(|result| Rebase::announced_base(&result.tags))
            .zip(volume.clone())
            .map(|(announced, volume)| Rebase { announced, volume });
        self.state = State::Up(Up {
            way,
            place,
            rebase,
            volume,
            is_mounted,
        });
        self.stream = stream;
        events.push(LinkEvent::Up { stream, clients });
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
        let usable = |result: &&DiscoveryResult| {
            let has_driver =
                !result.driver_control_channel.is_empty() && result.driver_control_stream_id != 0;
            let fits = result
                .payload_pools
                .iter()
                .all(|pool| pool.pool_nslots == result.header_nslots);
            has_driver && fits
        };
        let results = || response.results.iter().filter(usable);
        match &self.key {
            StreamKey::Id(id) => results().find(|result| result.stream_id == *id),
            StreamKey::Name(name) => results()
                .find(|result| result.data_source_name == *name)
                .or_else(|| the_only(results().filter(|result| is_short_for_other(name, result)))),
        }
    }
}

/// A stream of a cluster is known by its name with and without the namespace; the driver has compared
/// the namespace where one was asked for, and answers with the name alone.
// spec: X-2-41
fn is_short_for_other(asked: &str, result: &DiscoveryResult) -> bool {
    let answered = result.data_source_name.as_str();
    let is_short_for =
        |short: &str, full: &str| full.rsplit_once('/').is_some_and(|(_, last)| last == short);
    is_short_for(asked, answered) || is_short_for(answered, asked)
}

fn the_only<T>(mut found: impl Iterator<Item = T>) -> Option<T> {
    let only = found.next()?;
    found.next().is_none().then_some(only)
}

pub(super) fn lost(dead: &Dead) -> AttachError {
    AttachError::Lost {
        text: dead.to_string(),
    }
}
