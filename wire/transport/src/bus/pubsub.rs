//! The bus as a media driver's client: publications and subscriptions with Aeron's semantics.

use super::Bus;
use crate::pubsub::{
    Dead, Delivery, ImageEvent, MessageClient, Publication, SendError, Subscription,
};

/// A client of the bus's media driver. Dropping it says goodbye.
#[derive(Debug)]
pub struct BusClient {
    bus: Bus,
    id: u64,
}

impl Bus {
    /// A new client of the media driver.
    ///
    /// # Errors
    /// [`Dead::MediaDriver`] when none is running.
    pub fn client(&self) -> Result<BusClient, Dead> {
        let mut shared = self.lock();
        let now = shared.now;
        let id = shared.media.add_client(now)?;
        drop(shared);
        Ok(BusClient {
            bus: self.clone(),
            id,
        })
    }
}

impl BusClient {
    /// Ends this client as a killed process ends: no goodbye. What it had open holds others up until
    /// the media driver gives it up.
    pub fn crash(self) {
        self.bus.lock().media.crash_client(self.id);
    }
}

impl Drop for BusClient {
    fn drop(&mut self) {
        self.bus.lock().media.close_client(self.id);
    }
}

impl MessageClient for BusClient {
    type Publication = BusPublication;
    type Subscription = BusSubscription;
    type OpeningPublication = Option<BusPublication>;
    type OpeningSubscription = Option<BusSubscription>;

    fn add_publication(&mut self, channel: &str, stream: i32) -> Result<BusPublication, Dead> {
        let (id, session) = self
            .bus
            .lock()
            .media
            .add_publication(self.id, channel, stream)?;
        Ok(BusPublication {
            bus: self.bus.clone(),
            id,
            session,
        })
    }

    fn add_subscription(&mut self, channel: &str, stream: i32) -> Result<BusSubscription, Dead> {
        let id = self
            .bus
            .lock()
            .media
            .add_subscription(self.id, channel, stream)?;
        Ok(BusSubscription {
            bus: self.bus.clone(),
            id,
        })
    }

    /// The bus answers at once.
    fn begin_publication(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Result<Self::OpeningPublication, Dead> {
        self.add_publication(channel, stream).map(Some)
    }

    fn begin_subscription(
        &mut self,
        channel: &str,
        stream: i32,
    ) -> Result<Self::OpeningSubscription, Dead> {
        self.add_subscription(channel, stream).map(Some)
    }

    fn poll_publication(
        &mut self,
        opening: &mut Self::OpeningPublication,
    ) -> Result<Option<BusPublication>, Dead> {
        Ok(opening.take())
    }

    fn poll_subscription(
        &mut self,
        opening: &mut Self::OpeningSubscription,
    ) -> Result<Option<BusSubscription>, Dead> {
        Ok(opening.take())
    }

    fn do_work(&mut self, events: &mut dyn FnMut(ImageEvent)) -> Result<usize, Dead> {
        let mut shared = self.bus.lock();
        let now = shared.now;
        let queued = shared.media.work(self.id, now)?;
        drop(shared);
        let count = queued.len();
        queued.into_iter().for_each(events);
        Ok(count)
    }
}

/// An exclusive publication on the bus. Dropping it closes it.
#[derive(Debug)]
pub struct BusPublication {
    bus: Bus,
    id: u64,
    session: i32,
}

impl Drop for BusPublication {
    fn drop(&mut self) {
        self.bus.lock().media.close_publication(self.id);
    }
}

impl Publication for BusPublication {
    fn offer(&mut self, message: &[u8]) -> Result<(), SendError> {
        let mut shared = self.bus.lock();
        let super::Shared {
            now,
            random,
            faults,
            media,
            ..
        } = &mut *shared;
        media.offer(self.id, message, *now, *faults, random)
    }

    fn is_connected(&self) -> bool {
        self.bus.lock().media.is_connected(self.id)
    }

    fn max_message_len(&self) -> usize {
        self.bus.lock().media.max_message_len(self.id)
    }

    fn session(&self) -> i32 {
        self.session
    }
}

/// A subscription on the bus. Dropping it closes it.
#[derive(Debug)]
pub struct BusSubscription {
    bus: Bus,
    id: u64,
}

impl Drop for BusSubscription {
    fn drop(&mut self) {
        self.bus.lock().media.close_subscription(self.id);
    }
}

impl Subscription for BusSubscription {
    fn poll(
        &mut self,
        limit: usize,
        handler: &mut dyn FnMut(&[u8], Delivery),
    ) -> Result<usize, Dead> {
        let mut shared = self.bus.lock();
        let now = shared.now;
        let taken = shared.media.take(self.id, limit, now)?;
        drop(shared);
        for (bytes, session) in &taken {
            handler(bytes, Delivery { session: *session });
        }
        Ok(taken.len())
    }

    fn image_count(&self) -> usize {
        self.bus.lock().media.image_count(self.id)
    }
}
