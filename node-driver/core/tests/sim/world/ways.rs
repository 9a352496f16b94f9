//! The two ways between driver and clients: Aeron loses, doubles and delays, a socket keeps order.

use super::*;

impl World {
    /// A message on Aeron may be lost, doubled, late or overtaken; on a socket it may not.
    pub(super) fn deliver(&mut self, to: &To, message: &Message) {
        let (aeron, connections): (bool, Vec<u64>) = match to {
            To::Origin(Origin::Aeron { .. }) => (true, vec![]),
            To::Origin(Origin::Socket { connection }) => (false, vec![connection.0]),
            To::All { aeron, connections } => (
                *aeron,
                connections.iter().map(|connection| connection.0).collect(),
            ),
            To::Endpoint { .. } => (false, vec![]),
        };
        for index in 0..self.processes.len() {
            let is_named = connections
                .iter()
                .any(|id| self.processes[index].is_connection(*id));
            if is_named || (aeron && !self.processes[index].on_socket) {
                self.push_to(index, Incoming::Message(message.clone()));
            }
        }
    }

    pub(super) fn push_to(&mut self, index: usize, incoming: Incoming) {
        let lossy = !self.processes[index].on_socket;
        let copies = self.copies(lossy);
        for _ in 0..copies {
            self.serial += 1;
            let serial = self.serial;
            let delay = self.delay(lossy);
            let process = &mut self.processes[index];
            let mut at = self.now + delay;
            if !lossy {
                at = at.max(process.last_arrival);
                process.last_arrival = at;
            }
            process.inbox.insert((at, serial), incoming.clone());
        }
    }

    pub(super) fn copies(&mut self, lossy: bool) -> u32 {
        if lossy && self.random.once_in(self.faults.drop) {
            self.injected += 1;
            0
        } else if lossy && self.random.once_in(self.faults.duplicate) {
            self.injected += 1;
            2
        } else {
            1
        }
    }

    pub(super) fn delay(&mut self, lossy: bool) -> u64 {
        if lossy && self.random.once_in(self.faults.delay) {
            self.injected += 1;
            self.random.between(1, 50) * STEP
        } else {
            0
        }
    }

    pub(super) fn send_in(&mut self, delay: u64, inbound: Inbound) {
        self.serial += 1;
        self.inbound
            .insert((self.now + delay, self.serial), inbound);
    }

    pub(super) fn send_from(&mut self, index: usize, message: &Message) {
        if self.driver.is_none() {
            return;
        }
        let Some(origin) = self.processes[index].origin() else {
            return;
        };
        let lossy = !self.processes[index].on_socket;
        for _ in 0..self.copies(lossy) {
            let delay = self.delay(lossy);
            let bytes = message.encode();
            self.send_in(
                delay,
                Inbound::Message(origin, LogicalStream::Control, bytes),
            );
        }
    }

    /// The driver's end of a connection goes away.
    pub(super) fn break_connection(&mut self, id: u64) {
        let index = (0..self.processes.len()).find(|i| self.processes[*i].is_connection(id));
        if let Some(index) = index {
            self.push_to(index, Incoming::LinkDown(id));
        }
    }
}
