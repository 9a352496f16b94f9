//! The bus's media driver: who publishes, who subscribes, who is alive.

mod messages;

use std::collections::{BTreeMap, VecDeque};

use tensorpool_wire::MonoNanos;

use super::faults::Timing;
use super::image::{Image, ImagePhase};
use super::log::{length, parameter, window};
use crate::pubsub::{Dead, ImageEvent};

/// Term length where the channel names none, in bytes.
const TERM_DEFAULT: u64 = 64 * 1024 * 1024;

/// Which log: the life of the media driver, the channel without its parameters, the stream id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Log {
    life: u64,
    channel: String,
    stream: i32,
}

#[derive(Debug)]
struct Client {
    life: u64,
    last_work: MonoNanos,
    phase: ClientPhase,
    events: VecDeque<ImageEvent>,
}

#[derive(Debug)]
enum ClientPhase {
    Live,
    /// Its process is gone without a goodbye; what it had is held until the liveness timeout.
    Crashed,
    Over(Dead),
}

#[derive(Debug)]
struct Publication {
    client: u64,
    log: Log,
    session: i32,
    term: u64,
    position: u64,
    /// Closed, but somebody still reads.
    ending: bool,
}

#[derive(Debug)]
struct Subscription {
    client: u64,
    log: Log,
    tethered: bool,
}

/// See the module head.
#[derive(Debug)]
pub(crate) struct Media {
    timing: Timing,
    life: u64,
    down_since: Option<MonoNanos>,
    next_id: u64,
    next_session: i32,
    order: u64,
    clients: BTreeMap<u64, Client>,
    publications: BTreeMap<u64, Publication>,
    subscriptions: BTreeMap<u64, Subscription>,
    /// By publication and subscription.
    images: BTreeMap<(u64, u64), Image>,
}

impl Media {
    pub(crate) const fn new(timing: Timing) -> Self {
        Self {
            timing,
            life: 1,
            down_since: None,
            next_id: 1,
            next_session: 1,
            order: 0,
            clients: BTreeMap::new(),
            publications: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            images: BTreeMap::new(),
        }
    }

    pub(crate) fn kill(&mut self, now: MonoNanos) {
        self.down_since.get_or_insert(now);
    }

    pub(crate) fn restart(&mut self) {
        let gone = || Dead::MediaDriver("it was restarted".to_owned());
        for client in self
            .clients
            .values_mut()
            .filter(|c| matches!(c.phase, ClientPhase::Live))
        {
            client.phase = ClientPhase::Over(gone());
        }
        self.life += 1;
        self.down_since = None;
    }

    pub(crate) fn next_arrival(&self) -> Option<MonoNanos> {
        self.images
            .values()
            .filter_map(Image::next)
            .map(|(at, _)| at)
            .min()
    }

    /// Timeouts, resting subscribers, ends that were waited for.
    pub(crate) fn pass_time(&mut self, now: MonoNanos) {
        match self.down_since {
            Some(since) => self.notice_death(now, since),
            None => {
                self.give_up_clients(now);
                self.rest_and_wake(now);
            }
        }
        self.drop_read_out();
    }

    fn notice_death(&mut self, now: MonoNanos, since: MonoNanos) {
        if now.saturating_since(since) < self.timing.driver_timeout_ns {
            return;
        }
        for client in self
            .clients
            .values_mut()
            .filter(|c| matches!(c.phase, ClientPhase::Live))
        {
            let text = format!("no heartbeat for {} ns", self.timing.driver_timeout_ns);
            client.phase = ClientPhase::Over(Dead::MediaDriver(text));
        }
    }

    fn give_up_clients(&mut self, now: MonoNanos) {
        let liveness = self.timing.client_liveness_ns;
        let mut given_up = Vec::new();
        for (id, client) in &mut self.clients {
            let silent = now.saturating_since(client.last_work);
            if client.life != self.life || silent <= liveness {
                continue;
            }
            match client.phase {
                ClientPhase::Over(_) => {}
                ClientPhase::Crashed => given_up.push(*id),
                ClientPhase::Live => {
                    let text = format!("silent for {silent} ns, {liveness} are allowed");
                    client.phase = ClientPhase::Over(Dead::ClientTimeout(text));
                    given_up.push(*id);
                }
            }
        }
        given_up.into_iter().for_each(|id| self.release(id));
    }

    fn rest_and_wake(&mut self, now: MonoNanos) {
        let mut events = Vec::new();
        for ((publication, subscription), image) in &mut self.images {
            if image.tethered {
                continue;
            }
            let Some(log) = self.publications.get(publication) else {
                continue;
            };
            let unread = log.position - image.position(log.position);
            match image.phase {
                ImagePhase::Active { .. } if unread <= window(log.term) / 4 * 3 => {
                    image.phase = ImagePhase::Active { behind_since: None };
                }
                ImagePhase::Active { behind_since: None } => {
                    image.phase = ImagePhase::Active {
                        behind_since: Some(now),
                    };
                }
                ImagePhase::Active {
                    behind_since: Some(since),
                } => {
                    if now.saturating_since(since) >= self.timing.untethered_window_ns {
                        let until = now.saturating_add(self.timing.untethered_resting_ns);
                        image.phase = ImagePhase::Resting { until };
                        image.clear();
                        events.push((*publication, *subscription, false));
                    }
                }
                ImagePhase::Resting { until } if until <= now && !log.ending => {
                    image.phase = ImagePhase::Active { behind_since: None };
                    events.push((*publication, *subscription, true));
                }
                ImagePhase::Resting { .. } => {}
            }
        }
        events
            .into_iter()
            .for_each(|(p, s, up)| self.tell(p, s, up));
    }

    /// Ends images whose publication has closed and of which everything was read.
    fn drop_read_out(&mut self) {
        let publications = &self.publications;
        let over = |id: &u64| publications.get(id).is_none_or(|p| p.ending);
        let read_out = self
            .images
            .iter()
            .filter(|((p, _), image)| over(p) && image.is_empty());
        let keys: Vec<_> = read_out
            .map(|(key, image)| (*key, image.is_active()))
            .collect();
        for ((publication, subscription), active) in keys {
            if active {
                self.tell(publication, subscription, false);
            }
            self.images.remove(&(publication, subscription));
        }
        let images = &self.images;
        self.publications.retain(|id, publication| {
            !publication.ending || images.range((*id, 0)..=(*id, u64::MAX)).next().is_some()
        });
    }

    /// Queues an image event for the subscriber's client.
    fn tell(&mut self, publication: u64, subscription: u64, up: bool) {
        let Some(publication) = self.publications.get(&publication) else {
            return;
        };
        let Some(subscription) = self.subscriptions.get(&subscription) else {
            return;
        };
        let Some(client) = self.clients.get_mut(&subscription.client) else {
            return;
        };
        let (stream, session) = (publication.log.stream, publication.session);
        client.events.push_back(if up {
            ImageEvent::Up { stream, session }
        } else {
            ImageEvent::Down { stream, session }
        });
    }

    /// Closes everything of a client.
    fn release(&mut self, client: u64) {
        let own = |of: u64| of == client;
        for publication in self.publications.values_mut().filter(|p| own(p.client)) {
            publication.ending = true;
        }
        let gone: Vec<_> = self
            .subscriptions
            .iter()
            .filter(|(_, s)| own(s.client))
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.remove_subscription(id));
        self.drop_read_out();
    }

    fn remove_subscription(&mut self, id: u64) {
        self.subscriptions.remove(&id);
        self.images
            .retain(|(_, subscription), _| *subscription != id);
    }

    fn fresh_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    pub(crate) fn add_client(&mut self, now: MonoNanos) -> Result<u64, Dead> {
        if self.down_since.is_some() {
            return Err(Dead::MediaDriver("none is running".to_owned()));
        }
        let id = self.fresh_id();
        let phase = ClientPhase::Live;
        let client = Client {
            life: self.life,
            last_work: now,
            phase,
            events: VecDeque::new(),
        };
        self.clients.insert(id, client);
        Ok(id)
    }

    pub(crate) fn close_client(&mut self, id: u64) {
        let crashed = self
            .clients
            .get(&id)
            .is_some_and(|c| matches!(c.phase, ClientPhase::Crashed));
        if !crashed {
            self.release(id);
            self.clients.remove(&id);
        }
    }

    pub(crate) fn crash_client(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.phase = ClientPhase::Crashed;
        }
    }

    fn check(&self, client: u64) -> Result<(), Dead> {
        match self.clients.get(&client).map(|c| &c.phase) {
            Some(ClientPhase::Live) => Ok(()),
            Some(ClientPhase::Over(dead)) => Err(dead.clone()),
            Some(ClientPhase::Crashed) | None => Err(Dead::Closed("the client is gone".to_owned())),
        }
    }

    /// Where the driver is down an add gets no answer, which is what the caller is told at once.
    fn check_add(&self, client: u64) -> Result<(), Dead> {
        self.check(client)?;
        match self.down_since {
            Some(_) => Err(Dead::MediaDriver("it does not answer".to_owned())),
            None => Ok(()),
        }
    }

    pub(crate) fn work(&mut self, client: u64, now: MonoNanos) -> Result<Vec<ImageEvent>, Dead> {
        self.pass_time(now);
        self.check(client)?;
        let Some(client) = self.clients.get_mut(&client) else {
            return Ok(Vec::new());
        };
        client.last_work = now;
        Ok(client.events.drain(..).collect())
    }

    /// The new publication's number and session.
    pub(crate) fn add_publication(
        &mut self,
        client: u64,
        channel: &str,
        stream: i32,
    ) -> Result<(u64, i32), Dead> {
        self.check_add(client)?;
        let id = self.fresh_id();
        let session = self.next_session;
        self.next_session = self.next_session.wrapping_add(1);
        let log = self.log(channel, stream);
        let term = parameter(channel, "term-length")
            .and_then(length)
            .unwrap_or(TERM_DEFAULT);
        let readers = self.subscriptions.iter().filter(|(_, s)| s.log == log);
        let readers: Vec<_> = readers.map(|(id, s)| (*id, s.tethered)).collect();
        let publication = Publication {
            client,
            log,
            session,
            term,
            position: 0,
            ending: false,
        };
        self.publications.insert(id, publication);
        for (subscription, tethered) in readers {
            self.images.insert((id, subscription), Image::new(tethered));
            self.tell(id, subscription, true);
        }
        Ok((id, session))
    }

    pub(crate) fn add_subscription(
        &mut self,
        client: u64,
        channel: &str,
        stream: i32,
    ) -> Result<u64, Dead> {
        self.check_add(client)?;
        let id = self.fresh_id();
        let log = self.log(channel, stream);
        let tethered = parameter(channel, "tether") != Some("false");
        let writers = self
            .publications
            .iter()
            .filter(|(_, p)| p.log == log && !p.ending);
        let writers: Vec<_> = writers.map(|(id, _)| *id).collect();
        self.subscriptions.insert(
            id,
            Subscription {
                client,
                log,
                tethered,
            },
        );
        for publication in writers {
            self.images.insert((publication, id), Image::new(tethered));
            self.tell(publication, id, true);
        }
        Ok(id)
    }

    fn log(&self, channel: &str, stream: i32) -> Log {
        let channel = channel.split('?').next().unwrap_or_default().to_owned();
        Log {
            life: self.life,
            channel,
            stream,
        }
    }

    pub(crate) fn close_publication(&mut self, id: u64) {
        let Some(publication) = self.publications.get_mut(&id) else {
            return;
        };
        let crashed = self.clients.get(&publication.client);
        if crashed.is_none_or(|c| !matches!(c.phase, ClientPhase::Crashed)) {
            publication.ending = true;
            self.drop_read_out();
        }
    }

    pub(crate) fn close_subscription(&mut self, id: u64) {
        let Some(subscription) = self.subscriptions.get(&id) else {
            return;
        };
        let crashed = self.clients.get(&subscription.client);
        if crashed.is_none_or(|c| !matches!(c.phase, ClientPhase::Crashed)) {
            self.remove_subscription(id);
        }
    }
}
