//! The client processes: the real lease machine, driven.

use super::*;

impl World {
    pub(super) fn run_process(&mut self, index: usize) {
        if let Some(until) = self.processes[index].dead_until
            && until <= self.now
        {
            let seed = self.random.next();
            let old = &self.processes[index];
            let session = i32::try_from(self.serial % 1_000_000).unwrap_or(0) + 100;
            self.processes[index] =
                Process::new(old.stream, old.role, old.on_socket, session, seed);
            self.say(&format!("process {index} starts"));
        }
        if !self.processes[index].runs(self.now) {
            return;
        }
        let later = self.processes[index].inbox.split_off(&(self.now + 1, 0));
        let due = std::mem::replace(&mut self.processes[index].inbox, later);
        for incoming in due.into_values() {
            match incoming {
                Incoming::Message(message) => {
                    self.follow_announce(index, &message);
                    self.drive(index, &LeaseEvent::Received(&message));
                }
                Incoming::LinkDown(id) => {
                    if self.processes[index].is_connection(id) {
                        self.processes[index].way = Way::Socket { connection: None };
                        self.drive(index, &LeaseEvent::LinkDown);
                    }
                }
            }
        }
        self.drive(index, &LeaseEvent::Tick);
    }

    /// A consumer maps a newer epoch when it is announced.
    pub(super) fn follow_announce(&mut self, index: usize, message: &Message) {
        let Message::ShmPoolAnnounce(announce) = message else {
            return;
        };
        let key = EpochKey {
            stream: announce.stream_id,
            epoch: announce.epoch,
        };
        let exists = self
            .disk
            .get(&key)
            .is_some_and(|directory| directory.complete);
        let process = &mut self.processes[index];
        if process.role == LeaseRole::Consumer
            && process.stream == key.stream
            && exists
            && let Some(using) = &mut process.using
            && using.epoch < key.epoch
        {
            using.epoch = key.epoch;
        }
    }

    pub(super) fn drive(&mut self, index: usize, event: &LeaseEvent<'_>) {
        let mut events: VecDeque<LeaseEvent<'static>> = VecDeque::new();
        let mut out = Vec::new();
        let now = MonoNanos(self.now);
        self.processes[index]
            .machine
            .handle(now, event.clone(), &mut out);
        loop {
            for action in std::mem::take(&mut out) {
                events.extend(self.obey(index, action));
            }
            let Some(event) = events.pop_front() else {
                return;
            };
            self.processes[index].machine.handle(now, event, &mut out);
        }
    }

    pub(super) fn obey(
        &mut self,
        index: usize,
        action: LeaseAction,
    ) -> Option<LeaseEvent<'static>> {
        match action {
            LeaseAction::Connect => Some(self.connect(index)),
            LeaseAction::Send(message) => {
                self.say(&format!("p{index} -> {}", brief(&message)));
                self.send_from(index, &message);
                None
            }
            LeaseAction::SendKeepalive(keepalive) => {
                self.send_from(index, &keepalive.into());
                Some(LeaseEvent::KeepaliveSent)
            }
            LeaseAction::Map(grant) => {
                let key = EpochKey {
                    stream: grant.stream,
                    epoch: grant.epoch,
                };
                let by_descriptor =
                    self.processes[index].on_socket && grant.role == LeaseRole::Producer;
                let exists = self
                    .disk
                    .get(&key)
                    .is_some_and(|directory| directory.complete);
                let lease = grant.lease;
                if !exists && !by_descriptor {
                    return Some(LeaseEvent::MapFailed { lease });
                }
                self.say(&format!("p{index} maps {key:?}"));
                self.processes[index].using = Some(Using {
                    lease,
                    epoch: grant.epoch,
                });
                Some(LeaseEvent::Mapped { lease })
            }
            LeaseAction::StopUsing(end) => {
                self.say(&format!("p{index} stops: {end}"));
                self.processes[index].using = None;
                None
            }
            LeaseAction::Failed(failure) => {
                self.say(&format!("p{index} failed: {failure}"));
                self.processes[index].refusals += 1;
                None
            }
            LeaseAction::Detached => None,
        }
    }

    pub(super) fn connect(&mut self, index: usize) -> LeaseEvent<'static> {
        if !self.processes[index].on_socket {
            return LeaseEvent::LinkUp;
        }
        if self.driver.is_none() {
            return LeaseEvent::LinkFailed;
        }
        self.next_connection += 1;
        let id = self.next_connection;
        self.processes[index].way = Way::Socket {
            connection: Some(id),
        };
        self.send_in(0, Inbound::Opened(id));
        LeaseEvent::LinkUp
    }

    /// Ends a process; it starts again after `delay`.
    pub(super) fn kill(&mut self, index: usize, delay: u64) {
        self.say(&format!("process {index} is killed"));
        if let Way::Socket {
            connection: Some(id),
        } = self.processes[index].way
            && self.driver.is_some()
        {
            self.send_in(0, Inbound::Closed(id));
        }
        let process = &mut self.processes[index];
        process.way = Way::Socket { connection: None };
        process.using = None;
        process.inbox.clear();
        process.dead_until = Some(self.now + delay);
    }
}
