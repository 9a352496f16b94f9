//! Messages through the bus's media driver.

use std::sync::Arc;

use tensorpool_wire::MonoNanos;

use super::Media;
use crate::bus::faults::Faults;
use crate::bus::image::Image;
use crate::bus::log::{footprint, longest, window};
use crate::bus::random::Random;
use crate::pubsub::{Dead, SendError};

/// A message with the session that it came from.
pub(crate) type Taken = (Arc<[u8]>, i32);

impl Media {
    pub(crate) fn is_connected(&self, publication: u64) -> bool {
        self.active_images(publication).next().is_some()
    }

    fn active_images(&self, publication: u64) -> impl Iterator<Item = &Image> {
        let all = self
            .images
            .range((publication, 0)..=(publication, u64::MAX));
        all.map(|(_, image)| image)
            .filter(|image| image.is_active())
    }

    pub(crate) fn max_message_len(&self, publication: u64) -> usize {
        self.publications
            .get(&publication)
            .map_or(0, |p| longest(p.term))
    }

    pub(crate) fn offer(
        &mut self,
        id: u64,
        message: &[u8],
        now: MonoNanos,
        faults: Faults,
        random: &mut Random,
    ) -> Result<(), SendError> {
        self.pass_time(now);
        let closed = || SendError::Closed("the publication is gone".to_owned());
        let publication = self
            .publications
            .get(&id)
            .filter(|p| !p.ending)
            .ok_or_else(closed)?;
        self.check(publication.client)
            .map_err(|dead| SendError::Closed(dead.to_string()))?;
        let max = longest(publication.term);
        if message.len() > max {
            return Err(SendError::TooLong {
                len: message.len(),
                max,
            });
        }
        let end = publication.position;
        let slowest = self
            .active_images(id)
            .map(|image| image.position(end))
            .min();
        let slowest = slowest.ok_or(SendError::NotConnected)?;
        if end >= slowest + window(publication.term) {
            return Err(SendError::BackPressured);
        }
        if random.chance(faults.admin_action_ppm) {
            return Err(SendError::AdminAction);
        }
        let bytes: Arc<[u8]> = message.into();
        let readers = self
            .images
            .range_mut((id, 0)..=(id, u64::MAX))
            .map(|(_, image)| image);
        for image in readers.filter(|image| image.is_active()) {
            let copies = match (
                random.chance(faults.loss_ppm),
                random.chance(faults.duplicate_ppm),
            ) {
                (true, _) => 0,
                (false, false) => 1,
                (false, true) => 2,
            };
            for _ in 0..copies {
                let delay = random.between(faults.delay_min_ns, faults.delay_max_ns);
                let in_order = !random.chance(faults.reorder_ppm);
                self.order += 1;
                let at = now.saturating_add(delay);
                image.push(at, self.order, in_order, end, Arc::clone(&bytes));
            }
        }
        if let Some(publication) = self.publications.get_mut(&id) {
            publication.position += footprint(message.len());
        }
        Ok(())
    }

    /// Takes at most `limit` messages that have arrived, each with its session.
    pub(crate) fn take(
        &mut self,
        subscription: u64,
        limit: usize,
        now: MonoNanos,
    ) -> Result<Vec<Taken>, Dead> {
        self.pass_time(now);
        let Some(of) = self.subscriptions.get(&subscription).map(|s| s.client) else {
            return Err(Dead::Closed("the subscription is gone".to_owned()));
        };
        self.check(of)?;
        let mut taken = Vec::new();
        while taken.len() < limit {
            let own = self
                .images
                .iter_mut()
                .filter(|((_, s), _)| *s == subscription);
            let next = own
                .filter_map(|((p, _), image)| Some((image.next()?, *p, image)))
                .min_by_key(|(key, _, _)| *key);
            let Some(((at, _), publication, image)) = next.filter(|((at, _), _, _)| *at <= now)
            else {
                break;
            };
            debug_assert!(at <= now, "filtered above");
            let session = self.publications.get(&publication).map_or(0, |p| p.session);
            taken.extend(image.pop().map(|bytes| (bytes, session)));
        }
        self.drop_read_out();
        Ok(taken)
    }

    pub(crate) fn image_count(&self, subscription: u64) -> usize {
        let own = self.images.iter().filter(|((_, s), _)| *s == subscription);
        own.filter(|(_, image)| image.is_active()).count()
    }
}
