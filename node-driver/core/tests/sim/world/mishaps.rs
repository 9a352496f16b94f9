//! What goes wrong in a step, by the dice.

use super::*;

impl World {
    pub(super) fn inject(&mut self) {
        let faults = self.faults.clone();
        let index = usize::try_from(self.random.next()).unwrap_or(0) % self.processes.len();
        let before = self.injected;
        self.injected += 1;
        if self.random.once_in(faults.kill_client) {
            let delay = self.random.between(0, 100) * STEP;
            self.kill(index, delay);
        } else if self.random.once_in(faults.pause_client) {
            self.say(&format!("process {index} is stopped"));
            self.processes[index].paused_until = self.now + self.random.between(1, 400) * STEP;
        } else if self.random.once_in(faults.kill_driver) && self.driver.is_some() {
            self.crash("between two cycles");
        } else if self.random.once_in(faults.stall_driver) {
            self.say("driver stalls");
            self.stalled_until = self.now + self.random.between(20, 300) * STEP;
        } else if self.random.once_in(faults.jump_clock) {
            self.say("clock jumps");
            self.now += self.random.between(1, 500) * STEP;
        } else if self.random.once_in(faults.drain_driver) {
            self.tell(Event::Shutdown(ShutdownMode::Drain));
        } else if self.random.once_in(faults.hand_over) {
            self.tell(Event::Shutdown(ShutdownMode::Handover));
        } else if self.random.once_in(faults.relayout) && self.driver.is_some() {
            self.say("layout changes");
            self.wide = !self.wide;
            let policy = self.config(1).policy.validate(&[]).expect("valid");
            self.tell(Event::PolicyChanged(Box::new(policy)));
        } else if self.random.once_in(faults.policy) && self.driver.is_some() {
            self.change_policy();
        } else if self.random.once_in(faults.access) && self.driver.is_some() {
            self.change_access(index);
        } else if self.random.once_in(faults.poison) {
            self.poison(self.processes[index].stream);
        } else if self.random.once_in(faults.cut_off) {
            if let Way::Socket {
                connection: Some(id),
            } = self.processes[index].way
            {
                self.send_in(0, Inbound::CutOff(id));
            }
        } else if self.random.once_in(faults.garbage) {
            self.throw_garbage(index);
        } else {
            self.injected = before;
        }
    }

    pub(super) fn poison(&mut self, stream: StreamId) {
        if let Some(epoch) = self.oracle.current(stream)
            && self.driver.is_some()
        {
            let key = EpochKey { stream, epoch };
            self.say(&format!("{key:?} is poisoned"));
            self.oracle.poisoned(key);
            self.tell(Event::RegionPoisoned {
                stream,
                epoch,
                damage: Damage::LostPages,
            });
        }
    }

    pub(super) fn throw_garbage(&mut self, index: usize) {
        let length = self.random.between(0, 80);
        let bytes: Vec<u8> = (0..length)
            .map(|_| self.random.next().to_le_bytes()[0])
            .collect();
        if let Some(origin) = self.processes[index].origin()
            && self.driver.is_some()
        {
            self.send_in(0, Inbound::Message(origin, LogicalStream::Control, bytes));
        }
    }
}
