//! What lives on one connection to a media driver: the port, the publications that relays write on,
//! and the subscriptions that are held so that Aeron producers see one. It dies as a whole.

use std::collections::{BTreeMap, BTreeSet};

use tensorpool_driver_core::EpochKey;
use tensorpool_transport::aeron::port::AeronServerPort;
use tensorpool_transport::aeron::rusteron::{
    OpeningPublication, OpeningSubscription, RusteronClient, RusteronPublication,
    RusteronSubscription,
};
use tensorpool_transport::pubsub::{Dead, MessageClient, Publication, Subscription};
use tensorpool_wire::MonoNanos;

use crate::counters::Counters;
use crate::relay::{Group, Outcome};

/// Time between attempts to open a descriptor stream that was refused.
const RETRY_NS: u64 = 1_000_000_000;
/// Descriptors read at one go from a held subscription, and how often in one cycle.
const DRAIN_LIMIT: usize = 256;
const DRAIN_ROUNDS: usize = 16;

/// A publication or subscription of which the media driver has heard or not.
enum Handle<Asked, Open> {
    /// To be asked for at this time.
    Wanted(MonoNanos),
    /// Asked for.
    Asked(Asked),
    /// There.
    Open(Open),
}

/// One connection. Handles stand before the port, so they are dropped first.
pub(super) struct Link {
    publications: BTreeMap<i32, Handle<OpeningPublication, RusteronPublication>>,
    held: BTreeMap<i32, Handle<OpeningSubscription, RusteronSubscription>>,
    pub(super) port: AeronServerPort<RusteronClient>,
}

/// What a round of relays found.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    /// Looks at rings that had a result.
    pub(super) work: usize,
    /// Whether anybody listens, so that the next round must come soon.
    pub(super) heard: bool,
    /// Epochs whose ring lost its pages.
    pub(super) poisoned: Vec<EpochKey>,
}

impl Link {
    pub(super) const fn new(port: AeronServerPort<RusteronClient>) -> Self {
        Self {
            publications: BTreeMap::new(),
            held: BTreeMap::new(),
            port,
        }
    }

    /// Closes publications that no relay writes on any more.
    pub(super) fn keep_publications(&mut self, wanted: &BTreeMap<i32, Group>) {
        self.publications.retain(|id, _| wanted.contains_key(id));
    }

    /// Closes subscriptions that nobody needs held any more.
    pub(super) fn keep_held(&mut self, wanted: &BTreeSet<i32>) {
        self.held.retain(|id, _| wanted.contains(id));
    }

    /// Writes what is new to whoever listens.
    pub(super) fn relay(
        &mut self,
        now: MonoNanos,
        channel: &str,
        groups: &mut BTreeMap<i32, Group>,
        counters: &mut Counters,
    ) -> Relayed {
        let mut relayed = Relayed::default();
        for (id, group) in groups {
            let handle = self.publications.entry(*id).or_insert(Handle::Wanted(now));
            let client = self.port.client_mut();
            advance(
                handle,
                now,
                *id,
                client,
                |client| client.begin_publication(channel, *id),
                |client, asked| client.poll_publication(asked),
            );
            let Handle::Open(publication) = handle else {
                continue;
            };
            if !publication.is_connected() {
                group.rest();
                continue;
            }
            relayed.heard = true;
            group.work(publication, counters, |key, outcome| match outcome {
                Outcome::Walked(looks) => relayed.work += looks,
                Outcome::Poisoned => relayed.poisoned.push(key),
            });
        }
        relayed
    }

    /// Empties the held subscriptions, opening those that are missing. Returns how many descriptors
    /// there were.
    ///
    /// # Errors
    /// [`Dead`] when the connection is over.
    pub(super) fn drain(
        &mut self,
        now: MonoNanos,
        channel: &str,
        wanted: &BTreeSet<i32>,
    ) -> Result<usize, Dead> {
        let mut drained = 0;
        for id in wanted {
            let handle = self.held.entry(*id).or_insert(Handle::Wanted(now));
            let client = self.port.client_mut();
            advance(
                handle,
                now,
                *id,
                client,
                |client| client.begin_subscription(channel, *id),
                |client, asked| client.poll_subscription(asked),
            );
            if let Handle::Open(subscription) = handle {
                drained += drain(subscription)?;
            }
        }
        Ok(drained)
    }
}

/// Goes one step towards an open handle. A refusal is tried again after a while; a media driver that
/// does not answer ends the client, which the port's next poll says.
fn advance<Asked, Open>(
    handle: &mut Handle<Asked, Open>,
    now: MonoNanos,
    stream_id: i32,
    client: &mut RusteronClient,
    begin: impl FnOnce(&mut RusteronClient) -> Result<Asked, Dead>,
    poll: impl FnOnce(&mut RusteronClient, &mut Asked) -> Result<Option<Open>, Dead>,
) {
    let went = match handle {
        Handle::Wanted(at) if now < *at => return,
        Handle::Wanted(_) => begin(client).map(Handle::Asked),
        Handle::Asked(asked) => match poll(client, asked) {
            Ok(Some(open)) => Ok(Handle::Open(open)),
            Ok(None) => return,
            Err(dead) => Err(dead),
        },
        Handle::Open(_) => return,
    };
    *handle = went.unwrap_or_else(|dead| {
        tracing::warn!(stream_id, error = %dead, "a descriptor stream could not be opened; trying again");
        Handle::Wanted(now.saturating_add(RETRY_NS))
    });
}

fn drain(subscription: &mut RusteronSubscription) -> Result<usize, Dead> {
    let mut total = 0;
    for _ in 0..DRAIN_ROUNDS {
        let count = subscription.poll(DRAIN_LIMIT, &mut |_, _| {})?;
        total += count;
        if count == 0 {
            break;
        }
    }
    Ok(total)
}
