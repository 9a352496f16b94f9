//! The driver's end while the media driver has not answered yet.

use tensorpool_wire::LogicalStream;

use super::{
    AeronServerPort, Endpoint, Endpoints, In, Lines, Out, SERVER_HEARS, SERVER_SENDS, distinct,
};
use crate::aeron::outbox::{Outbox, OutboxLimits};
use crate::aeron::responses::Responses;
use crate::pubsub::{Dead, MessageClient};

/// An [`AeronServerPort`] that is being opened. Nothing of it waits: [`OpeningServerPort::poll`] is
/// called until the port is there, beside whatever else the caller does.
///
/// Everything is asked for at once and answered in the order of asking.
pub struct OpeningServerPort<C: MessageClient> {
    asked_ins: Vec<(Endpoint, LogicalStream, C::OpeningSubscription)>,
    asked_outs: Vec<(Endpoint, C::OpeningPublication)>,
    ins: Vec<In<C::Subscription>>,
    outs: Vec<Out<C::Publication>>,
    /// Taken when the port is there.
    rest: Option<(Endpoints, C)>,
}

impl<C: MessageClient> OpeningServerPort<C> {
    /// Asks the media driver for the publications and subscriptions of [`AeronServerPort::open`].
    ///
    /// # Errors
    /// [`Dead`] when the client is over or one of the channels cannot be asked for.
    pub fn begin(mut client: C, endpoints: Endpoints) -> Result<Self, Dead> {
        let mut asked_ins = Vec::new();
        for (endpoint, reported_as) in distinct(&endpoints, &SERVER_HEARS) {
            let asked = client.begin_subscription(&endpoint.channel, endpoint.stream)?;
            asked_ins.push((endpoint, reported_as, asked));
        }
        let mut asked_outs = Vec::new();
        for (endpoint, _) in distinct(&endpoints, &SERVER_SENDS) {
            let asked = client.begin_publication(&endpoint.channel, endpoint.stream)?;
            asked_outs.push((endpoint, asked));
        }
        Ok(Self {
            asked_ins,
            asked_outs,
            ins: Vec::new(),
            outs: Vec::new(),
            rest: Some((endpoints, client)),
        })
    }

    /// Drives the client and takes the answers that have come. The port, once all are there; `None`
    /// before, and after it was handed out.
    ///
    /// # Errors
    /// [`Dead`] when the media driver refuses one, or does not answer within the client's driver
    /// timeout.
    pub fn poll(&mut self) -> Result<Option<AeronServerPort<C>>, Dead> {
        let Some((_, client)) = &mut self.rest else {
            return Ok(None);
        };
        // Nobody has anything to hear yet, so nobody misses an image.
        client.do_work(&mut |_| {})?;
        while let Some((_, _, asked)) = self.asked_ins.first_mut() {
            let Some(subscription) = client.poll_subscription(asked)? else {
                return Ok(None);
            };
            let (endpoint, reported_as, _) = self.asked_ins.remove(0);
            self.ins.push(In {
                endpoint,
                reported_as,
                subscription,
            });
        }
        let limits = OutboxLimits::default();
        while let Some((_, asked)) = self.asked_outs.first_mut() {
            let Some(publication) = client.poll_publication(asked)? else {
                return Ok(None);
            };
            let (endpoint, _) = self.asked_outs.remove(0);
            self.outs.push(Out {
                endpoint,
                publication,
                outbox: Outbox::new(limits),
            });
        }
        Ok(self.rest.take().map(|(endpoints, client)| AeronServerPort {
            responses: Responses::new(limits),
            lines: Lines {
                outs: std::mem::take(&mut self.outs),
                ins: std::mem::take(&mut self.ins),
                endpoints,
                images: Vec::new(),
                client,
            },
        }))
    }
}

impl<C: MessageClient> std::fmt::Debug for OpeningServerPort<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpeningServerPort")
            .field(
                "unanswered",
                &(self.asked_ins.len() + self.asked_outs.len()),
            )
            .finish_non_exhaustive()
    }
}
