//! Time, disk, ways and processes around one driver.

use std::collections::{BTreeMap, VecDeque};

use tensorpool_client::lease::{LeaseAction, LeaseEvent, LeaseRole};
use tensorpool_driver_core::config::{
    Access, ConfigSpec, ConsumerRules, Gc, Identity, Limits, PolicySpec, PoolSpec, Profile,
    StreamSpec, Timing,
};
use tensorpool_driver_core::{
    Action, Driver, EpochKey, Event, ExistingEpoch, Note, OpId, Owner, RegionSet, RegionsError,
    Restored, ShutdownMode, To,
};
use tensorpool_wire::{
    ConnectionId, Epoch, LogicalStream, Message, MonoNanos, Origin, PoolId, Role, StreamId,
};

use crate::Transcript;
use crate::faults::{Faults, Random};
use crate::oracle::{Disk, Oracle};
use crate::process::{Incoming, Process, Using, Way};

pub(crate) const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const STEP: u64 = 20 * MS;
const CAMERA: StreamId = StreamId(10_000);
const LIDAR: StreamId = StreamId(10_001);
/// Bytes of one epoch of one stream.
const EPOCH_BYTES: u64 = 40_960;

/// What is on its way to the driver.
enum Inbound {
    Opened(u64),
    Message(Origin, LogicalStream, Vec<u8>),
    CutOff(u64),
    Closed(u64),
}

/// One file operation, done in order by the driver's worker.
enum Work {
    Persist(OpId, EpochKey),
    Create(OpId, RegionSet),
    Remove(OpId, EpochKey),
}

struct Directory {
    bytes: u64,
    activity: u64,
    /// Incarnation of the driver that made it.
    owner: u64,
    complete: bool,
}

pub(crate) struct World {
    random: Random,
    faults: Faults,
    now: u64,
    driver: Option<Driver>,
    driver_back_at: u64,
    stalled_until: u64,
    incarnation: u64,
    wide: bool,
    inbound: BTreeMap<(u64, u64), Inbound>,
    /// Files are made and removed in order, and the journal is written in order; neither waits for
    /// the other.
    files: VecDeque<(u64, Work)>,
    journaling: VecDeque<(u64, Work)>,
    results: VecDeque<Event<'static>>,
    journal: Option<Epoch>,
    disk: BTreeMap<EpochKey, Directory>,
    capacity: u64,
    processes: Vec<Process>,
    serial: u64,
    next_connection: u64,
    oracle: Oracle,
    transcript: Transcript,
    actions: u64,
    crash_after: Option<u64>,
    crashes: u64,
    injected: u64,
}

fn config(wide: bool, first_lease_id: u64) -> ConfigSpec {
    let stream = |name: &str, stream_id| StreamSpec {
        name: name.to_owned(),
        stream_id,
        profile: "small".to_owned(),
        tags: vec![],
        data_source_id: None,
    };
    ConfigSpec {
        identity: Identity {
            instance_id: "sim".to_owned(),
            base_dir: "/dev/shm".to_owned(),
            user: "sim".to_owned(),
            namespace: "default".to_owned(),
            hugepages: false,
            page_size_bytes: 4_096,
            control_channel: "aeron:ipc".to_owned(),
            control_stream_id: 1_000,
            other_stream_ids: vec![],
        },
        timing: Timing {
            op_timeout_ns: 5 * SECOND,
            ..Timing::default()
        },
        gc: Gc::default(),
        limits: Limits::default(),
        shutdown_token: String::new(),
        first_lease_id,
        policy: PolicySpec {
            profiles: BTreeMap::from([(
                "small".to_owned(),
                Profile {
                    header_nslots: 8,
                    pools: vec![PoolSpec {
                        pool_id: PoolId(1),
                        stride_bytes: if wide { 4_160 } else { 4_096 },
                    }],
                },
            )]),
            default_profile: None,
            allow_dynamic_streams: false,
            stream_id_range: None,
            descriptor_stream_id_range: None,
            control_stream_id_range: None,
            streams: vec![stream("camera", CAMERA), stream("lidar", LIDAR)],
            consumers: ConsumerRules::default(),
        },
    }
}

impl World {
    /// Two streams: one whose producer is on a socket, one where two Aeron producers compete; each with
    /// consumers on both ways.
    pub(crate) fn new(seed: u64, transcript: Transcript) -> Self {
        let mut random = Random::new(seed);
        let cast = [
            (CAMERA, LeaseRole::Producer, true),
            (CAMERA, LeaseRole::Consumer, true),
            (CAMERA, LeaseRole::Consumer, false),
            (LIDAR, LeaseRole::Producer, false),
            (LIDAR, LeaseRole::Producer, false),
            (LIDAR, LeaseRole::Consumer, true),
            (LIDAR, LeaseRole::Consumer, false),
        ];
        let processes = (1..)
            .zip(cast)
            .map(|(session, (stream, role, on_socket))| {
                Process::new(stream, role, on_socket, session, random.next())
            })
            .collect();
        Self {
            random,
            faults: Faults::none(),
            now: 1_000 * SECOND,
            driver: None,
            driver_back_at: 0,
            stalled_until: 0,
            incarnation: 0,
            wide: false,
            inbound: BTreeMap::new(),
            files: VecDeque::new(),
            journaling: VecDeque::new(),
            results: VecDeque::new(),
            journal: None,
            disk: BTreeMap::new(),
            capacity: u64::MAX,
            processes,
            serial: 0,
            next_connection: 0,
            oracle: Oracle::default(),
            transcript,
            actions: 0,
            crash_after: None,
            crashes: 0,
            injected: 0,
        }
    }

    pub(crate) const fn actions(&self) -> u64 {
        self.actions
    }

    pub(crate) const fn crashes(&self) -> u64 {
        self.crashes
    }

    pub(crate) const fn faults_injected(&self) -> u64 {
        self.injected
    }

    pub(crate) const fn leases_lost(&self) -> u64 {
        self.oracle.leases_lost
    }

    pub(crate) const fn internal_errors(&self) -> u64 {
        self.oracle.internal_errors
    }

    pub(crate) const fn crash_after_action(&mut self, boundary: u64) {
        self.crash_after = Some(boundary);
    }

    /// Memory for so many epochs of each of the two streams.
    pub(crate) const fn limit_memory_to_epochs(&mut self, epochs: u64) {
        self.capacity = epochs * 2 * EPOCH_BYTES;
    }

    pub(crate) fn live_through(&mut self, faults: Faults, seconds: u64) {
        if faults.epochs_of_memory != 0 {
            self.limit_memory_to_epochs(faults.epochs_of_memory);
        }
        self.faults = faults;
        let end = self.now + seconds * SECOND;
        while self.now < end {
            self.inject();
            self.step();
        }
        self.faults = Faults::none();
    }

    /// Without faults; at the end everybody must have what it wants.
    pub(crate) fn live_in_peace(&mut self, seconds: u64) {
        self.say("peace");
        if self.faults_injected() > 0 {
            self.capacity = u64::MAX;
        }
        for process in &mut self.processes {
            process.paused_until = 0;
            process.dead_until = process.dead_until.map(|_| 0);
        }
        self.stalled_until = 0;
        let end = self.now + seconds * SECOND;
        while self.now < end {
            self.step();
        }
        self.judge_liveness();
    }

    /// The socket producer is killed and started again, that often, each time once it has its lease.
    pub(crate) fn restart_producer_times(&mut self, times: u32) {
        for round in 0..times {
            let mut steps = 0;
            while self.processes[0].using.is_none() {
                self.step();
                steps += 1;
                assert!(
                    steps < 1_000,
                    "round {round}: the producer does not get its lease"
                );
            }
            for _ in 0..5 {
                self.step();
            }
            self.kill(0, 0);
        }
    }

    /// A producer on each way dies and comes back: attaches, a close, an expiry, epochs, collections.
    pub(crate) fn short_story(&mut self) {
        self.live_through(Faults::none(), 2);
        self.kill(0, 200 * MS);
        self.live_through(Faults::none(), 1);
        for index in 0..self.processes.len() {
            let process = &self.processes[index];
            if process.role == LeaseRole::Producer && !process.on_socket && process.using.is_some()
            {
                self.kill(index, 200 * MS);
            }
        }
        self.live_through(Faults::none(), 6);
    }

    pub(crate) fn crash_driver(&mut self) {
        self.crash("on purpose");
    }

    fn say(&self, line: &str) {
        let ms = (self.now - 1_000 * SECOND) / MS;
        self.transcript.borrow_mut().push(format!("{ms:>6} {line}"));
    }

    fn step(&mut self) {
        self.now += STEP;
        self.run_worker();
        self.run_driver();
        for index in 0..self.processes.len() {
            self.run_process(index);
        }
        self.judge_writers();
    }

    // === the driver ===

    fn run_driver(&mut self) {
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
                    access: Access::everything(),
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

    fn start_driver(&mut self) {
        self.incarnation += 1;
        self.say(&format!("driver {} starts", self.incarnation));
        let existing = self
            .disk
            .iter()
            .map(|(key, directory)| ExistingEpoch {
                stream: key.stream,
                epoch: key.epoch,
                bytes: directory.bytes,
                activity: MonoNanos(directory.activity),
                owner: Owner::Dead,
            })
            .collect();
        let restored = Restored {
            last_epoch: self.journal,
            existing,
        };
        let config = config(self.wide, self.random.next());
        let config = config
            .validate()
            .expect("the simulated configuration is valid");
        self.driver = Some(Driver::restore(config, &restored));
    }

    /// What has arrived: what a closed connection still sent and its end first, then the rest.
    fn take_inbound(&mut self) -> Vec<Inbound> {
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

    fn tell(&mut self, event: Event<'_>) {
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

    fn perform(&mut self, action: Action) {
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
            Action::CreateRegions { op, regions } => self.enqueue(Work::Create(op, regions)),
            Action::RemoveEpoch { op, key, why, .. } => {
                self.say(&format!("  remove {key:?} {}", why.label()));
                self.enqueue(Work::Remove(op, key));
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
    fn crash(&mut self, why: &str) {
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
                    };
                    self.disk.insert(regions.key, directory);
                }
                Work::Remove(_, key) => {
                    self.disk.remove(&key);
                }
            }
        }
        let delay = self.random.between(1, 20) * 100 * MS;
        self.lose_driver(delay);
    }

    fn lose_driver(&mut self, delay: u64) {
        self.driver = None;
        self.driver_back_at = self.now + delay;
        self.oracle.driver_gone();
        self.inbound.clear();
        self.files.clear();
        self.journaling.clear();
        self.results.clear();
        for index in 0..self.processes.len() {
            if let Way::Socket {
                connection: Some(id),
            } = self.processes[index].way
            {
                self.push_to(index, Incoming::LinkDown(id));
            }
        }
    }

    // === the worker ===

    fn enqueue(&mut self, work: Work) {
        let mut delay = self.random.between(0, 3) * STEP;
        if self.random.once_in(self.faults.slow_work) {
            delay += self.random.between(10, 350) * STEP;
        }
        let queue = match work {
            Work::Persist(..) => &mut self.journaling,
            Work::Create(..) | Work::Remove(..) => &mut self.files,
        };
        let after = queue.back().map_or(0, |(at, _)| *at);
        queue.push_back((after.max(self.now + delay), work));
    }

    fn run_worker(&mut self) {
        for journal in [true, false] {
            while let Some(work) = self.next_work(journal) {
                let result = self.do_work(work);
                self.results.push_back(result);
            }
        }
    }

    fn next_work(&mut self, journal: bool) -> Option<Work> {
        let queue = if journal {
            &mut self.journaling
        } else {
            &mut self.files
        };
        if queue.front()?.0 > self.now {
            return None;
        }
        queue.pop_front().map(|(_, work)| work)
    }

    fn do_work(&mut self, work: Work) -> Event<'static> {
        match work {
            Work::Persist(op, key) => {
                if self.random.once_in(self.faults.fail_persist) {
                    self.injected += 1;
                    let error = "no space for the journal".to_owned();
                    return Event::EpochPersistFailed { op, error };
                }
                self.journal = self.journal.max(Some(key.epoch));
                Event::EpochPersisted { op }
            }
            Work::Create(op, regions) => match self.create(&regions) {
                Ok(()) => Event::RegionsReady { op },
                Err(error) => {
                    self.say(&format!("  create {:?}: {error}", regions.key));
                    Event::RegionsFailed { op, error }
                }
            },
            Work::Remove(op, key) => {
                if self.random.once_in(self.faults.fail_remove) {
                    self.injected += 1;
                    let error = "busy".to_owned();
                    return Event::EpochRemoveFailed { op, error };
                }
                self.disk.remove(&key);
                Event::EpochRemoved { op }
            }
        }
    }

    fn create(&mut self, regions: &RegionSet) -> Result<(), RegionsError> {
        if self.random.once_in(self.faults.fail_create) {
            self.injected += 1;
            return Err(if self.random.once_in(2) {
                RegionsError::NoHugepages("none mounted".to_owned())
            } else {
                RegionsError::Other("input/output error".to_owned())
            });
        }
        assert!(
            !self.disk.contains_key(&regions.key),
            "{:?} exists",
            regions.key
        );
        let used: u64 = self.disk.values().map(|directory| directory.bytes).sum();
        let free = self.capacity.saturating_sub(used);
        if regions.bytes > free {
            return Err(RegionsError::NoSpace {
                needed_bytes: regions.bytes,
                free_bytes: free,
            });
        }
        let directory = Directory {
            bytes: regions.bytes,
            activity: self.now,
            owner: self.incarnation,
            complete: true,
        };
        self.disk.insert(regions.key, directory);
        Ok(())
    }

    // === the ways ===

    /// A message on Aeron may be lost, doubled, late or overtaken; on a socket it may not.
    fn deliver(&mut self, to: &To, message: &Message) {
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

    fn push_to(&mut self, index: usize, incoming: Incoming) {
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

    fn copies(&mut self, lossy: bool) -> u32 {
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

    fn delay(&mut self, lossy: bool) -> u64 {
        if lossy && self.random.once_in(self.faults.delay) {
            self.injected += 1;
            self.random.between(1, 50) * STEP
        } else {
            0
        }
    }

    fn send_in(&mut self, delay: u64, inbound: Inbound) {
        self.serial += 1;
        self.inbound
            .insert((self.now + delay, self.serial), inbound);
    }

    fn send_from(&mut self, index: usize, message: &Message) {
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
    fn break_connection(&mut self, id: u64) {
        let index = (0..self.processes.len()).find(|i| self.processes[*i].is_connection(id));
        if let Some(index) = index {
            self.push_to(index, Incoming::LinkDown(id));
        }
    }

    // === the processes ===

    fn run_process(&mut self, index: usize) {
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
    fn follow_announce(&mut self, index: usize, message: &Message) {
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

    fn drive(&mut self, index: usize, event: &LeaseEvent<'_>) {
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

    fn obey(&mut self, index: usize, action: LeaseAction) -> Option<LeaseEvent<'static>> {
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

    fn connect(&mut self, index: usize) -> LeaseEvent<'static> {
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
    fn kill(&mut self, index: usize, delay: u64) {
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

    // === faults ===

    fn inject(&mut self) {
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
            let policy = config(self.wide, 1).policy.validate(&[]).expect("valid");
            self.tell(Event::PolicyChanged(Box::new(policy)));
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

    fn poison(&mut self, stream: StreamId) {
        if let Some(epoch) = self.oracle.current(stream)
            && self.driver.is_some()
        {
            let key = EpochKey { stream, epoch };
            self.say(&format!("{key:?} is poisoned"));
            self.oracle.poisoned(key);
            self.tell(Event::RegionPoisoned { stream, epoch });
        }
    }

    fn throw_garbage(&mut self, index: usize) {
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

    // === judgement ===

    /// No two processes ever write into the same epoch.
    // spec: D-5-1, W-15.14-5
    fn judge_writers(&self) {
        let mut writers = BTreeMap::new();
        for (index, process) in self.processes.iter().enumerate() {
            if process.role == LeaseRole::Producer
                && let Some(using) = process.using
            {
                let other = writers.insert((process.stream, using.epoch), index);
                assert_eq!(
                    other, None,
                    "two writers of {}/{}",
                    process.stream, using.epoch
                );
            }
        }
    }

    /// After peace every process has its lease and reads or writes the current epoch; of those who
    /// compete for one stream, exactly one has it. Old directories are gone.
    fn judge_liveness(&self) {
        let driver = self.driver.as_ref().expect("the driver runs again");
        let status = driver.status();
        for stream in [CAMERA, LIDAR] {
            let current = self.oracle.current(stream);
            assert!(current.is_some(), "stream {stream} is announced");
            let mut writers = 0;
            for (index, process) in self.processes.iter().enumerate() {
                if process.stream != stream {
                    continue;
                }
                let epoch = process.using.map(|using| using.epoch);
                match process.role {
                    LeaseRole::Consumer => {
                        assert_eq!(epoch, current, "consumer {index} reads the current epoch");
                    }
                    LeaseRole::Producer if epoch.is_some() => {
                        assert_eq!(epoch, current, "producer {index} writes the current epoch");
                        writers += 1;
                    }
                    LeaseRole::Producer => {}
                }
                if let Some(using) = process.using {
                    assert_eq!(process.machine.usable_lease(), Some(using.lease));
                }
            }
            assert_eq!(writers, 1, "stream {stream} has a writer");
            let directories = self.disk.keys().filter(|key| key.stream == stream);
            assert!(
                directories.count() <= 2,
                "old epochs of {stream} are collected"
            );
        }
        assert_eq!(status.leases, 6, "six of seven processes hold a lease");
        let stale = self
            .disk
            .values()
            .filter(|dir| dir.owner != self.incarnation);
        assert!(stale.count() <= 2, "what earlier drivers left is collected");
    }
}

fn brief(message: &Message) -> String {
    match message {
        Message::ShmAttachRequest(m) => {
            format!(
                "attach {:?} client {} #{}",
                m.role, m.client_id, m.correlation_id
            )
        }
        Message::ShmAttachResponse(m) => format!(
            "answer #{} {:?} {:?} {:?} {}",
            m.correlation_id, m.code, m.lease_id, m.epoch, m.error_message
        ),
        Message::ShmPoolAnnounce(m) => {
            format!(
                "announce {}/{} producer {}",
                m.stream_id, m.epoch, m.producer_id
            )
        }
        Message::ShmLeaseRevoked(m) => format!(
            "revoked {} {:?} {:?} {}",
            m.lease_id, m.role, m.reason, m.error_message
        ),
        other => other.name().to_owned(),
    }
}
