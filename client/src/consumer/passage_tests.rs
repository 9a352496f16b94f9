//! What is counted between two epochs, by the clock of the test.

use tempfile::TempDir;
use tensorpool_shm::{
    CreatedEpoch, Creator, EpochStore, MapOptions, Permissions, Start, StoreOptions, StreamLayout,
    WriteMapping,
};
use tensorpool_wire::{ClientId, LeaseId, PayloadPool, PoolId, PoolStride};

use super::*;
use crate::lease::{Grant, LeaseRole};
use crate::mapping::{MapRules, Target};

const STREAM: StreamId = StreamId(10_000);
const EPOCH: Epoch = Epoch(7);
const SLOTS: u32 = 16;
const STRIDE_BYTES: u32 = 64;
const SECOND_NS: u64 = 1_000_000_000;
/// Time granted to leases.
const GRANTED_NS: u64 = 15 * SECOND_NS;

/// An epoch in memory, its producer, and where both consumers and producers find it.
struct Stage {
    memory: TempDir,
    epoch: CreatedEpoch,
    producer: WriteMapping,
    next: u64,
}

impl Stage {
    fn new() -> Self {
        let memory = TempDir::new_in("/dev/shm").unwrap();
        let options = StoreOptions {
            base_dir: memory.path().to_path_buf(),
            user: None,
            namespace: "default".to_owned(),
            permissions: Permissions::GROUP,
            require_hugepages: false,
            expected_page_bytes: None,
            prefault: false,
            lock: false,
        };
        let pool = PoolStride {
            pool_id: PoolId(1),
            stride_bytes: STRIDE_BYTES,
        };
        let layout = StreamLayout::new(STREAM, EPOCH, SLOTS, vec![pool]).unwrap();
        let creator = Creator {
            pid: 1,
            start: MonoNanos(1),
        };
        let store = EpochStore::open(options).unwrap();
        let epoch = store.create(layout, creator).unwrap();
        let target = target(&epoch);
        let producer = target.map_to_write(&rules(&memory), Vec::new()).unwrap();
        Self {
            memory,
            producer: producer.regions,
            epoch,
            next: 0,
        }
    }

    fn publish(&mut self, frames: u64) {
        for seq in self.next..self.next + frames {
            let slot = self.producer.begin(Seq(seq), 0).unwrap();
            slot.commit(&[0; 256]);
        }
        self.next += frames;
    }

    /// At the first frame of the epoch.
    fn read(&self) -> Reading {
        let mapped =
            target(&self.epoch).map_to_read(&rules(&self.memory), Start::First, GRANTED_NS);
        let mapped = Arc::new(mapped.unwrap());
        Reading {
            cursor: mapped.first.clone(),
            parser: SlotParser::default(),
            expected: None,
            since: None,
            mapped,
        }
    }
}

fn target(epoch: &CreatedEpoch) -> Target {
    let uris = epoch.uris().unwrap();
    let text = |index: usize| uris[index].to_string();
    Target::of_grant(&Grant {
        lease: LeaseId(1),
        stream: STREAM,
        client: ClientId(1),
        role: LeaseRole::Consumer,
        epoch: EPOCH,
        layout_version: 1,
        header_nslots: SLOTS,
        header_uri: text(0),
        pools: vec![PayloadPool {
            pool_id: PoolId(1),
            pool_nslots: SLOTS,
            stride_bytes: STRIDE_BYTES,
            region_uri: text(1),
        }],
        node: None,
        expires_at: None,
    })
}

fn rules(memory: &TempDir) -> MapRules {
    MapRules {
        bases: vec![memory.path().to_path_buf()],
        rebase: None,
        options: MapOptions::default(),
    }
}

// spec: X-2-67 X-2-69
#[test]
fn frames_of_a_producer_that_notices_late_that_its_driver_died_are_counted() {
    let mut stage = Stage::new();
    let counters = ConsumerCounters::new();
    let mut passage = Passage::default();
    let at = |seconds: u64| MonoNanos(seconds * SECOND_NS);
    stage.publish(2);
    let reading = stage.read();
    passage.leave(reading, Notify::Ring, Leave::Epoch, at(0), &counters);
    // Its last keepalive went to a media driver that was dead for 2 s.
    stage.publish(3);
    passage.settle(at(17), false, &counters);
    stage.publish(4);
    passage.settle(at(18), false, &counters);
    assert_eq!(passage.lost(), 9);
    // From here on nobody may write, and the memory goes.
    passage.settle(at(19), false, &counters);
    stage.publish(1);
    assert_eq!(passage.lost(), 9);
    passage.settle(at(20), true, &counters);
    assert!(!passage.is_open());
    let counted: Vec<_> = counters.snapshot(0).drops().collect();
    assert_eq!(counted, [(DropReason::EpochEnded, 9)]);
}
