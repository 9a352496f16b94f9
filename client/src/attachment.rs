//! One attachment: a lease machine, its way to the driver, and what its role does beside frames.
//!
//! This is where the machines meet files and messages: link events and messages go into the lease
//! machine, its actions are done in order, and the rest goes to the role's duty. It decides nothing
//! that a machine decides.

mod consumer;
mod hearing;
mod producer;
mod streams;
mod wishes;

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tensorpool_shm::MapOptions;
use tensorpool_transport::pubsub::SendError;
use tensorpool_wire::{LogicalStream, Message, MonoNanos, ShmLeaseKeepalive, StreamId, WallNanos};

use crate::error::{AttachError, PRODUCER_THERE};
use crate::lease::{AttachFailure, Grant, LeaseAction, LeaseEnd, LeaseEvent, LeaseMachine};
use crate::link::{Inbound, Link, LinkEvent};
use crate::mapping::{MapRules, RegionError};

pub(crate) use consumer::ConsumerDuty;
pub(crate) use producer::ProducerDuty;
pub(crate) use wishes::ConsumerWishes;

/// The time of one cycle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) mono: MonoNanos,
    pub(crate) wall: WallNanos,
}

/// One attachment of a client.
#[derive(Debug)]
pub(crate) struct Attachment {
    lease: LeaseMachine,
    link: Link,
    duty: Duty,
    options: MapOptions,
    /// The stream's number, for the data path to read.
    stream: Arc<AtomicU32>,
    inbox: Vec<Inbound>,
    link_events: Vec<LinkEvent>,
    actions: VecDeque<LeaseAction>,
    /// Files of the attach answer that is being handled.
    files: Vec<OwnedFd>,
    /// The refusal of a second producer, until another attempt fails otherwise.
    in_the_way: Option<AttachFailure>,
}

/// What the role does beside frames.
#[derive(Debug)]
pub(crate) enum Duty {
    Producer(ProducerDuty),
    Consumer(Box<ConsumerDuty>),
}

impl Attachment {
    pub(crate) const fn new(
        lease: LeaseMachine,
        link: Link,
        duty: Duty,
        options: MapOptions,
        stream: Arc<AtomicU32>,
    ) -> Self {
        Self {
            lease,
            link,
            duty,
            options,
            stream,
            inbox: Vec::new(),
            link_events: Vec::new(),
            actions: VecDeque::new(),
            files: Vec::new(),
            in_the_way: None,
        }
    }

    /// One cycle. Returns how much there was to do.
    pub(crate) fn do_work(&mut self, now: Now) -> usize {
        let mut inbox = std::mem::take(&mut self.inbox);
        self.link.poll(now.mono, &mut inbox, &mut self.link_events);
        let mut work = inbox.len() + self.link_events.len();
        for inbound in inbox.drain(..) {
            self.on_message(now, inbound);
        }
        self.inbox = inbox;
        self.add_who_is_in_the_way();
        self.on_link_events(now);
        work += self.step(now, LeaseEvent::Tick);
        if let Some(end) = self.duty.tick(now, &mut self.link) {
            work += self.step(now, LeaseEvent::GiveUp(end));
        }
        self.duty.set_deadline(self.lease.lease_deadline());
        work
    }

    /// Begins to give the lease back.
    pub(crate) fn detach(&mut self, now: Now) {
        self.step(now, LeaseEvent::Detach);
    }

    /// Whether the detach is through.
    pub(crate) const fn is_done(&self) -> bool {
        self.lease.is_done()
    }

    /// The application's part is gone or the client closes: stop all use now, whatever the driver
    /// says later.
    pub(crate) fn abandon(&mut self) {
        self.duty.stop(LeaseEnd::Detached);
        self.duty.detached();
        self.duty.on_link_down();
        self.link.close();
    }

    pub(crate) fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.wait_fd()
    }

    /// Whether there is a way that something can arrive on.
    pub(crate) const fn is_linked(&self) -> bool {
        self.link.is_open()
    }

    pub(crate) fn next_deadline(&self) -> Option<MonoNanos> {
        [
            self.lease.next_deadline(),
            self.link.next_deadline(),
            self.duty.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_message(&mut self, now: Now, inbound: Inbound) {
        let Inbound { message, files } = inbound;
        if let Message::ShmPoolAnnounce(announce) = &message
            && announce.stream_id == self.lease.options().stream
        {
            self.link.hear_of_producer(announce.producer_id);
        }
        self.files = files;
        self.step(now, LeaseEvent::Received(&message));
        self.files.clear();
        self.duty.on_message(now, &message, &mut self.link);
    }

    fn on_link_events(&mut self, now: Now) {
        let mut events = std::mem::take(&mut self.link_events);
        for event in events.drain(..) {
            match event {
                LinkEvent::Up { stream, clients } => {
                    self.lease.set_stream(stream);
                    self.lease.set_client_ids(clients);
                    self.duty.on_link_up(now, stream, &mut self.link);
                    self.step(now, LeaseEvent::LinkUp);
                }
                LinkEvent::Failed(error) => {
                    self.duty.fail(error);
                    self.step(now, LeaseEvent::LinkFailed);
                }
                LinkEvent::Down(dead) => {
                    self.duty.fail(AttachError::Lost {
                        text: dead.to_string(),
                    });
                    self.duty.on_link_down();
                    self.step(now, LeaseEvent::LinkDown);
                }
            }
        }
        self.link_events = events;
    }

    /// Hands one event to the machine and does what it asks for, in order.
    fn step(&mut self, now: Now, event: LeaseEvent<'_>) -> usize {
        let mut out = Vec::new();
        self.lease.handle(now.mono, event, &mut out);
        self.actions.extend(out);
        let mut done = 0;
        while let Some(action) = self.actions.pop_front() {
            done += 1;
            self.perform(now, action);
        }
        done
    }

    fn feed(&mut self, now: Now, event: LeaseEvent<'_>) {
        let mut out = Vec::new();
        self.lease.handle(now.mono, event, &mut out);
        // What an action's result asks for comes after what was asked for before it.
        self.actions.extend(out);
    }

    fn perform(&mut self, now: Now, action: LeaseAction) {
        match action {
            LeaseAction::Connect => {
                let mut events = Vec::new();
                self.link.connect(now.mono, &mut events);
                self.link_events.append(&mut events);
                self.take_failed_connect(now);
            }
            // A lost one is covered by the retry of the attach, or by expiry.
            LeaseAction::Send(message) => self.link.tell(LogicalStream::Control, message),
            LeaseAction::SendKeepalive(keepalive) => self.send_keepalive(now, keepalive),
            LeaseAction::Map(grant) => self.map(now, &grant),
            LeaseAction::StopUsing(end) => self.duty.stop(end),
            // The one that mapped has reported it with its cause.
            LeaseAction::Failed(AttachFailure::MapFailed) => {}
            LeaseAction::Failed(failure) => self.report(failure),
            LeaseAction::Detached => {
                self.duty.detached();
                self.duty.on_link_down();
            }
        }
    }

    /// Reports a failed attach. Who is in the way of a second producer, the driver is asked; what it
    /// says is added when it comes.
    fn report(&mut self, failure: AttachFailure) {
        let stream = self.link.key().to_string();
        let error = AttachError::attach(
            stream,
            failure.clone(),
            self.link.holder(),
            self.link.is_volume(),
        );
        self.duty.fail(error);
        self.in_the_way = match failure {
            AttachFailure::Refused { ref text, .. } if text.contains(PRODUCER_THERE) => {
                self.link.ask_for_holder();
                Some(failure)
            }
            AttachFailure::Refused { .. }
            | AttachFailure::Malformed(_)
            | AttachFailure::TimedOut { .. }
            | AttachFailure::MapFailed => None,
        };
    }

    fn add_who_is_in_the_way(&mut self) {
        if self.link.take_news_of_holder()
            && let Some(failure) = &self.in_the_way
        {
            let stream = self.link.key().to_string();
            let error = AttachError::attach(
                stream,
                failure.clone(),
                self.link.holder(),
                self.link.is_volume(),
            );
            self.duty.amend(error);
        }
    }

    /// A link that failed on the spot is answered on the spot, so that the machine can set its delay.
    fn take_failed_connect(&mut self, now: Now) {
        let failed = self.link_events.iter().position(|event| match event {
            LinkEvent::Failed(_) => true,
            LinkEvent::Up { .. } | LinkEvent::Down(_) => false,
        });
        if let Some(index) = failed
            && let LinkEvent::Failed(error) = self.link_events.swap_remove(index)
        {
            self.duty.fail(error);
            self.feed(now, LeaseEvent::LinkFailed);
        }
    }

    fn send_keepalive(&mut self, now: Now, keepalive: ShmLeaseKeepalive) {
        let sent = self
            .link
            .send(LogicalStream::Control, &Message::from(keepalive));
        let event = match sent {
            Ok(()) => LeaseEvent::KeepaliveSent,
            // A closed way is told by the link itself: a lost driver is not yet a lost lease.
            Err(
                SendError::NotConnected
                | SendError::BackPressured
                | SendError::AdminAction
                | SendError::Overflow { .. }
                | SendError::Closed(_),
            ) => LeaseEvent::KeepaliveFailed { lasting: false },
            Err(SendError::TooLong { .. }) => LeaseEvent::KeepaliveFailed { lasting: true },
        };
        self.feed(now, event);
    }

    fn map(&mut self, now: Now, grant: &Grant) {
        let (bases, rebase) = self.link.bases();
        let rules = MapRules {
            bases,
            rebase,
            options: self.options,
        };
        let files = std::mem::take(&mut self.files);
        // Before the memory: who has a frame can also ask for its stream.
        self.stream.store(grant.stream.get(), Ordering::Release);
        match self.duty.map(now, grant, &rules, files) {
            Ok(()) => {
                self.feed(now, LeaseEvent::Mapped { lease: grant.lease });
            }
            Err(source) => {
                let stream = self.link.key().to_string();
                self.duty.fail(AttachError::Regions { stream, source });
                self.feed(now, LeaseEvent::MapFailed { lease: grant.lease });
            }
        }
    }
}

impl Duty {
    fn map(
        &mut self,
        now: Now,
        grant: &Grant,
        rules: &MapRules,
        files: Vec<OwnedFd>,
    ) -> Result<(), RegionError> {
        match self {
            Self::Producer(duty) => duty.map(now, grant, rules, files),
            Self::Consumer(duty) => duty.map(now, grant, rules),
        }
    }

    fn stop(&mut self, end: LeaseEnd) {
        match self {
            Self::Producer(duty) => duty.stop(end),
            Self::Consumer(duty) => duty.stop(end),
        }
    }

    fn detached(&self) {
        match self {
            Self::Producer(duty) => duty.detached(),
            Self::Consumer(duty) => duty.detached(),
        }
    }

    fn fail(&self, error: AttachError) {
        match self {
            Self::Producer(duty) => duty.fail(error),
            Self::Consumer(duty) => duty.fail(error),
        }
    }

    fn amend(&self, error: AttachError) {
        match self {
            Self::Producer(duty) => duty.amend(error),
            Self::Consumer(duty) => duty.amend(error),
        }
    }

    fn on_link_up(&mut self, now: Now, stream: StreamId, link: &mut Link) {
        match self {
            Self::Producer(duty) => duty.on_link_up(now, link),
            Self::Consumer(duty) => duty.on_link_up(now, stream, link),
        }
    }

    fn on_link_down(&mut self) {
        match self {
            Self::Producer(duty) => duty.on_link_down(),
            Self::Consumer(duty) => duty.on_link_down(),
        }
    }

    fn on_message(&mut self, now: Now, message: &Message, link: &mut Link) {
        match self {
            Self::Producer(duty) => duty.on_message(now, message, link),
            Self::Consumer(duty) => duty.on_message(now, message, link),
        }
    }

    /// What time asks for; an end if the memory in use turned out useless.
    fn tick(&mut self, now: Now, link: &mut Link) -> Option<LeaseEnd> {
        match self {
            Self::Producer(duty) => duty.tick(now, link),
            Self::Consumer(duty) => {
                duty.tick(now, link);
                None
            }
        }
    }

    fn set_deadline(&self, deadline: Option<MonoNanos>) {
        match self {
            Self::Producer(duty) => duty.set_deadline(deadline),
            Self::Consumer(duty) => duty.set_deadline(deadline),
        }
    }

    fn next_deadline(&self) -> Option<MonoNanos> {
        match self {
            Self::Producer(duty) => duty.next_deadline(),
            Self::Consumer(duty) => duty.next_deadline(),
        }
    }
}
