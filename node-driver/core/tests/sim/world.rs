//! Time, disk, ways and processes around one driver.

mod clients;
mod cluster;
mod disk;
mod driver;
mod judge;
mod mishaps;
mod ways;

use std::collections::{BTreeMap, VecDeque};

use tensorpool_client::lease::{LeaseAction, LeaseEvent, LeaseRole};
use tensorpool_driver_core::config::{
    Access, Base, ConfigSpec, ConsumerRules, Gc, Identity, Limits, PolicySpec, PoolSpec, Profile,
    StreamSpec, Timing,
};
use tensorpool_driver_core::{
    Action, BaseId, Damage, Driver, EpochKey, Event, ExistingEpoch, Note, OpId, Owner, Reclaim,
    RegionSet, RegionsError, Restored, ShutdownMode, To,
};
use tensorpool_wire::{
    ConnectionId, Epoch, LogicalStream, Message, MonoNanos, Origin, PoolId, Role, StreamId,
};

use crate::Transcript;
use crate::faults::{Faults, Random};
use crate::oracle::{Disk, Oracle};
use crate::process::{Incoming, Process, Using, Way};
use cluster::Cluster;

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
    Remove(OpId, EpochKey, Reclaim),
}

struct Directory {
    bytes: u64,
    activity: u64,
    /// Incarnation of the driver that made it.
    owner: u64,
    complete: bool,
    /// Somebody maps it until then, whatever is revoked.
    held_until: u64,
    /// What lies beside it: when its memory may be taken from them.
    free_at: Option<u64>,
    /// A driver was told that somebody has it.
    in_use: bool,
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
    /// Removals that failed, of which the driver has not heard yet.
    unheard: Vec<EpochKey>,
    journal: Option<Epoch>,
    disk: BTreeMap<EpochKey, Directory>,
    capacity: u64,
    processes: Vec<Process>,
    serial: u64,
    next_connection: u64,
    oracle: Oracle,
    transcript: Transcript,
    actions: u64,
    /// What a cluster adds; stand-alone nothing.
    cluster: Option<Cluster>,
    /// Epochs that were emptied under whoever had them.
    emptied: u64,
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
        ..StreamSpec::default()
    };
    ConfigSpec {
        identity: Identity {
            instance_id: "sim".to_owned(),
            bases: vec![Base {
                name: String::new(),
                directory: "/dev/shm".to_owned(),
                hugepages: false,
                page_size_bytes: 4_096,
            }],
            user: "sim".to_owned(),
            namespace: "default".to_owned(),
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
            ..PolicySpec::default()
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
            unheard: Vec::new(),
            journal: None,
            disk: BTreeMap::new(),
            capacity: u64::MAX,
            processes,
            serial: 0,
            next_connection: 0,
            oracle: Oracle::default(),
            transcript,
            actions: 0,
            cluster: None,
            emptied: 0,
            crash_after: None,
            crashes: 0,
            injected: 0,
        }
    }

    /// Two bases, classes, a quota, and an access for each socket.
    pub(crate) fn be_a_cluster(&mut self) {
        self.cluster = Some(Cluster::new());
    }

    /// The configuration of the next driver.
    fn config(&self, first_lease_id: u64) -> ConfigSpec {
        let mut spec = config(self.wide, first_lease_id);
        if let Some(cluster) = &self.cluster {
            cluster.dress(&mut spec);
        }
        spec
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

    /// Epochs that were emptied under whoever had them.
    pub(crate) const fn emptied(&self) -> u64 {
        self.emptied
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
        self.restore_cluster();
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
        self.judge_quota();
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
