//! The driver: started, told what came, obeyed, lost.

use super::*;

impl World {
    pub(super) fn run_driver(&mut self) {
        if self.driver.is_none() {
            if self.driver_back_at > self.now {
                return;
            }
            self.start_driver();
        }
        if self.stalled_until > self.now {
            return;
        }
        for event in self.take_inbound() {
            match event {
                Inbound::Opened(id) => self.tell(Event::ConnectionOpened {
                    connection: ConnectionId(id),
                    access: self.access_of(id),
                    pid: 1,
                    uid: 1,
                }),
                Inbound::Message(origin, stream, bytes) => self.tell(Event::Message {
                    origin,
                    stream,
                    bytes: &bytes,
                }),
                Inbound::CutOff(id) => self.tell(Event::ConnectionClosing {
                    connection: ConnectionId(id),
                    text: "garbage".to_owned(),
                }),
                Inbound::Closed(id) => self.tell(Event::ConnectionClosed {
                    connection: ConnectionId(id),
                }),
            }
        }
        while let Some(event) = self.results.pop_front() {
            self.tell(event);
        }
        self.unheard.clear();
        self.tell(Event::Tick);
        if self.now.is_multiple_of(SECOND)
            && let Some(driver) = &self.driver
        {
            let leases = usize::try_from(driver.status().leases).expect("few leases");
            assert_eq!(
                leases,
                self.oracle.live_leases(),
                "messages and state agree"
            );
        }
    }

    pub(super) fn start_driver(&mut self) {
        self.incarnation += 1;
        self.say(&format!("driver {} starts", self.incarnation));
        let existing = self
            .disk
            .iter()
            .map(|(key, directory)| ExistingEpoch {
                base: match self.cluster {
                    Some(_) => cluster::home_of(key.stream),
                    None => BaseId::default(),
                },
                stream: key.stream,
                epoch: key.epoch,
                bytes: directory.bytes,
                activity: MonoNanos(directory.activity),
                owner: Owner::Dead,
                free_at: directory.free_at.map(MonoNanos),
            })
            .collect();
        let restored = Restored {
            last_epoch: self.journal,
            existing,
        };
        let first_lease = self.random.next();
        let config = self.config(first_lease);
        let config = config
            .validate()
            .expect("the simulated configuration is valid");
        self.driver = Some(Driver::restore(config, &restored));
    }

    /// What has arrived: what a closed connection still sent and its end first, then the rest.
    pub(super) fn take_inbound(&mut self) -> Vec<Inbound> {
        let later = self.inbound.split_off(&(self.now + 1, 0));
        let due = std::mem::replace(&mut self.inbound, later);
        let closed: Vec<u64> = due
            .values()
            .filter_map(|event| match event {
                Inbound::Closed(id) => Some(*id),
                Inbound::Opened(_) | Inbound::Message(..) | Inbound::CutOff(_) => None,
            })
            .collect();
        let (mut first, rest): (Vec<_>, Vec<_>) = due.into_values().partition(|event| {
            let id = match event {
                Inbound::Opened(id) | Inbound::CutOff(id) | Inbound::Closed(id) => Some(*id),
                Inbound::Message(Origin::Socket { connection }, ..) => Some(connection.0),
                Inbound::Message(Origin::Aeron { .. }, ..) => None,
            };
            id.is_some_and(|id| closed.contains(&id))
        });
        first.extend(rest);
        first
    }

    pub(super) fn tell(&mut self, event: Event<'_>) {
        let Some(driver) = &mut self.driver else {
            return;
        };
        let mut out = Vec::new();
        let mut now = self.now;
        if self.random.once_in(self.faults.clock_back) {
            now -= 5 * STEP;
            self.injected += 1;
        }
        driver.handle(MonoNanos(now), event, &mut out);
        for action in out {
            let planned = self.crash_after == Some(self.actions);
            if planned || self.random.once_in(self.faults.crash_at_action) {
                self.crash_after = None;
                self.crash("between two actions");
                return;
            }
            self.actions += 1;
            self.perform(action);
            if self.driver.is_none() {
                return;
            }
        }
    }

    pub(super) fn perform(&mut self, action: Action) {
        let disk = Disk {
            journal: self.journal,
            complete: &|key| self.disk.get(&key).is_some_and(|dir| dir.complete),
        };
        self.oracle.see(&action, &disk);
        match action {
            Action::Send {
                to,
                stream: _,
                message,
                regions,
            } => {
                self.say(&format!("  {to:?} <- {}", brief(&message)));
                if let Some(key) = regions {
                    assert!(self.disk.contains_key(&key), "descriptors of {key:?}");
                }
                self.deliver(&to, &message);
            }
            Action::PersistEpoch { op, key } => self.enqueue(Work::Persist(op, key)),
            Action::CreateRegions { op, regions } => {
                self.judge_bytes(&regions);
                self.enqueue(Work::Create(op, regions));
            }
            Action::RemoveEpoch {
                op,
                key,
                base,
                reclaim,
                why,
                ..
            } => {
                if self.cluster.is_some() {
                    assert_eq!(base, cluster::home_of(key.stream), "{key:?}");
                }
                self.say(&format!("  remove {key:?} {reclaim:?} {}", why.label()));
                self.enqueue(Work::Remove(op, key, reclaim));
            }
            Action::MarkEpoch { key, free_at, .. } => {
                self.say(&format!("  mark {key:?}"));
                let directory = self.disk.get_mut(&key).expect("what is marked exists");
                let _before = directory.free_at.get_or_insert_with(|| free_at.get());
            }
            Action::RefreshActivity { key } => {
                let directory = self.disk.get_mut(&key).expect("a current directory exists");
                directory.activity = self.now;
            }
            Action::Disconnect { connection } => {
                self.break_connection(connection.0);
                self.send_in(0, Inbound::Closed(connection.0));
            }
            Action::Note(Note::LeaseGranted { lease, role, .. }) => {
                if role == Role::Producer {
                    self.oracle.granted_to_producer(lease);
                }
            }
            Action::Stop => {
                self.say("driver stops");
                let delay = self.random.between(1, 20) * 100 * MS;
                self.lose_driver(delay);
            }
            Action::AnswerStatus { .. }
            | Action::StartRelay { .. }
            | Action::StopRelay { .. }
            | Action::HoldDescriptors { .. }
            | Action::ReleaseDescriptors { .. }
            | Action::MarkAttached { .. }
            | Action::Note(_) => {}
        }
    }

    /// Memory is lost, journal and disk are kept, and what the worker had in hand may be half done.
    pub(super) fn crash(&mut self, why: &str) {
        self.say(&format!("driver crashes {why}"));
        self.crashes += 1;
        self.injected += 1;
        let in_hand = [self.files.pop_front(), self.journaling.pop_front()];
        for (_, work) in in_hand.into_iter().flatten() {
            if self.random.once_in(2) {
                continue;
            }
            match work {
                Work::Persist(_, key) => self.journal = self.journal.max(Some(key.epoch)),
                Work::Create(_, regions) => {
                    let directory = Directory {
                        bytes: regions.bytes / 2,
                        activity: 0,
                        owner: self.incarnation,
                        complete: false,
                        held_until: 0,
                        free_at: None,
                        in_use: false,
                    };
                    self.disk.insert(regions.key, directory);
                }
                Work::Remove(_, key, Reclaim::IfUnused)
                    if self
                        .disk
                        .get(&key)
                        .is_some_and(|it| it.held_until > self.now) => {}
                Work::Remove(_, key, _) => {
                    self.disk.remove(&key);
                }
            }
        }
        let delay = self.random.between(1, 20) * 100 * MS;
        self.lose_driver(delay);
    }

    pub(super) fn lose_driver(&mut self, delay: u64) {
        self.driver = None;
        self.driver_back_at = self.now + delay;
        self.oracle.driver_gone();
        self.inbound.clear();
        self.files.clear();
        self.journaling.clear();
        self.results.clear();
        self.unheard.clear();
        for index in 0..self.processes.len() {
            if let Way::Socket {
                connection: Some(id),
            } = self.processes[index].way
            {
                self.push_to(index, Incoming::LinkDown(id));
            }
        }
    }
}
