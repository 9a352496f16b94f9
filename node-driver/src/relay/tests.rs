//! The relay over a real ring, with a publication that obeys the test.

use tensorpool_shm::{
    Access, CreatedEpoch, Creator, EpochStore, MapOptions, Permissions, RegionSource, StoreOptions,
    StreamLayout, WriteMapping,
};
use tensorpool_transport::pubsub::SendError;
use tensorpool_wire::{
    Dtype, Epoch, MajorOrder, Message, MonoNanos, PoolId, PoolStride, ProgressUnit, Seq,
    TensorHeader,
};

use super::*;

const NSLOTS: u32 = 256;
const KEY: EpochKey = EpochKey {
    stream: StreamId(10_000),
    epoch: Epoch(7),
};

/// Takes descriptors while it is told to.
struct Taken {
    connected: bool,
    refuses: bool,
    seqs: Vec<u64>,
}

impl Publication for Taken {
    fn offer(&mut self, message: &[u8]) -> Result<(), SendError> {
        if self.refuses {
            return Err(SendError::BackPressured);
        }
        match Message::decode(message) {
            Ok(Message::FrameDescriptor(descriptor)) => self.seqs.push(descriptor.seq.get()),
            other => panic!("not a descriptor: {other:?}"),
        }
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.connected
    }

    fn max_message_len(&self) -> usize {
        1_024
    }

    fn session(&self) -> i32 {
        1
    }
}

struct World {
    group: Group,
    created: CreatedEpoch,
    ring: WriteMapping,
    next: u64,
    taken: Taken,
    counters: Counters,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let store = EpochStore::open(StoreOptions {
            base_dir: dir.path().to_owned(),
            user: Some("test".into()),
            namespace: "relay".into(),
            permissions: Permissions::GROUP,
            require_hugepages: false,
            expected_page_bytes: None,
            prefault: false,
            lock: false,
        })
        .unwrap();
        let pools = vec![PoolStride {
            pool_id: PoolId(1),
            stride_bytes: 64,
        }];
        let layout = StreamLayout::new(KEY.stream, KEY.epoch, NSLOTS, pools).unwrap();
        let creator = Creator {
            pid: 1,
            start: MonoNanos(1),
        };
        let created: CreatedEpoch = store.create(layout.clone(), creator).unwrap();
        let files = created.open(Access::ReadWrite).unwrap();
        let sources = files.into_iter().map(|file| RegionSource::File {
            file,
            require_hugepages: false,
        });
        let options = MapOptions::default();
        let mut world = Self {
            group: Group::default(),
            created,
            ring: WriteMapping::map(layout, sources.collect(), options).unwrap(),
            next: 0,
            taken: Taken {
                connected: true,
                refuses: false,
                seqs: Vec::new(),
            },
            counters: Counters::default(),
            _dir: dir,
        };
        world.begin();
        world
    }

    /// A relay begins, in place of the one before.
    fn begin(&mut self) {
        let mapping = self.created.map_reader(MapOptions::default()).unwrap();
        self.group.add(Relay::new(KEY, mapping));
    }

    fn publish(&mut self, frames: u64) {
        for _ in 0..frames {
            let header = SlotHeader {
                seq: Seq(self.next),
                values_len_bytes: 0,
                payload_slot: u32::try_from(self.next % u64::from(NSLOTS)).unwrap(),
                pool_id: PoolId(1),
                payload_offset: 0,
                timestamp_ns: None,
                meta_version: None,
                tensor: TensorHeader {
                    dtype: Dtype::Uint8,
                    major_order: MajorOrder::Row,
                    ndims: 1,
                    progress_unit: ProgressUnit::None,
                    progress_stride_bytes: 0,
                    dims: [0; 8],
                    strides: [0; 8],
                },
            };
            let slot = self.ring.begin(Seq(self.next), 0).unwrap();
            slot.commit(&header.encode());
            self.next += 1;
        }
    }

    /// One cycle, as the connection drives it; what came of each relay.
    fn cycle(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        if self.taken.connected {
            self.group
                .work(&mut self.taken, &mut self.counters, |key, outcome| {
                    assert_eq!(key, KEY);
                    outcomes.push(outcome);
                });
        } else {
            self.group.rest();
        }
        outcomes
    }

    fn dropped(&self, reason: &'static str) -> u64 {
        let key = (KEY.stream, reason);
        self.counters.relay_drops.get(&key).copied().unwrap_or(0)
    }
}

#[test]
fn nothing_is_relayed_to_nobody_and_a_relay_begins_at_the_newest_frame() {
    // spec: X-2-58
    let mut world = World::new();
    world.publish(10);
    world.begin();
    world.taken.connected = false;
    assert_eq!(world.cycle(), []);
    assert!(world.taken.seqs.is_empty());
    // What came while the publication opened is there for whoever it was opened for.
    world.publish(2);
    world.taken.connected = true;
    world.cycle();
    assert_eq!(world.taken.seqs, [9, 10, 11]);
    // Whoever comes after a time without anybody starts at the newest again.
    world.taken.connected = false;
    world.cycle();
    world.publish(10);
    world.cycle();
    world.taken.connected = true;
    world.cycle();
    assert_eq!(world.taken.seqs, [9, 10, 11, 21]);
}

#[test]
fn frames_that_the_ring_lost_before_the_first_subscriber_came_are_counted() {
    // spec: X-2-58, X-2-61
    let mut world = World::new();
    world.taken.connected = false;
    world.publish(1_000);
    world.cycle();
    world.taken.connected = true;
    world.cycle();
    assert_eq!(world.taken.seqs, [999]);
    assert_eq!(world.dropped("relay_lapped"), 999);
}

#[test]
fn a_cycle_relays_sixty_four_descriptors_and_the_next_one_goes_on() {
    // spec: X-2-60
    let mut world = World::new();
    world.cycle();
    world.publish(100);
    assert_eq!(world.cycle(), [Outcome::Walked(64)]);
    assert_eq!(world.taken.seqs, (0..64).collect::<Vec<_>>());
    assert_eq!(world.cycle(), [Outcome::Walked(36)]);
    assert_eq!(world.taken.seqs, (0..100).collect::<Vec<_>>());
    assert_eq!(world.cycle(), [Outcome::Walked(0)]);
}

#[test]
fn what_is_refused_is_dropped_counted_and_never_sent_later() {
    // spec: X-2-61
    let mut world = World::new();
    world.cycle();
    world.taken.refuses = true;
    world.publish(5);
    world.cycle();
    world.taken.refuses = false;
    world.publish(2);
    world.cycle();
    assert_eq!(world.taken.seqs, [5, 6]);
    assert_eq!(world.dropped("back_pressured"), 5);
    assert_eq!(world.counters.relayed.get(&KEY.stream), Some(&2));
}

#[test]
fn a_lapped_relay_goes_to_the_newest_frame_and_counts_the_others() {
    // spec: X-2-61
    let mut world = World::new();
    world.publish(1);
    world.cycle();
    assert_eq!(world.taken.seqs, [0]);
    world.publish(1_000);
    world.cycle();
    assert_eq!(world.taken.seqs, [0, 1_000]);
    assert_eq!(world.dropped("relay_lapped"), 999);
}

#[test]
fn streams_of_one_publication_take_turns_and_one_that_ends_leaves_the_others() {
    // spec: X-2-60, X-2-62
    let (mut one, two) = (World::new(), World::new());
    let other = EpochKey {
        stream: StreamId(10_001),
        ..KEY
    };
    let World { mut group, .. } = two;
    let mut relay = group.relays.pop().unwrap();
    relay.key = other;
    one.group.add(relay);
    let order = |world: &mut World| {
        let mut order = Vec::new();
        let counters = &mut world.counters;
        world
            .group
            .work(&mut world.taken, counters, |key, _| order.push(key));
        order
    };
    assert_eq!(order(&mut one), [other, KEY]);
    assert_eq!(order(&mut one), [KEY, other]);
    one.group.remove(KEY.stream);
    assert_eq!(order(&mut one), [other]);
    one.group.remove(other.stream);
    assert!(one.group.is_empty());
    assert_eq!(order(&mut one), []);
}
