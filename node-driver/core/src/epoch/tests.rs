use super::*;

const S: StreamId = StreamId(7);

fn found(epoch: u64, activity: u64, owner: Owner) -> ExistingEpoch {
    ExistingEpoch {
        stream: S,
        epoch: Epoch(epoch),
        base: BaseId::default(),
        bytes: 4_096,
        activity: MonoNanos(activity),
        owner,
        free_at: None,
    }
}

fn keep(current: Option<u64>, others: u32, leased: &[Epoch]) -> Keep<'_> {
    Keep {
        current: current.map(Epoch),
        others,
        min_age_ns: 3_000,
        leased,
    }
}

#[test]
// spec: D-6-1, D-10-2
fn an_epoch_is_above_the_journal_the_clock_and_every_directory_of_its_stream() {
    let mut epochs = Epochs::new(Some(Epoch(500)), &[found(900, 0, Owner::Dead)]);
    assert_eq!(
        epochs.allocate(MonoNanos(10), StreamId(1)),
        Some(Epoch(501))
    );
    assert_eq!(epochs.allocate(MonoNanos(10), S), Some(Epoch(901)));
    assert_eq!(
        epochs.allocate(MonoNanos(10), StreamId(1)),
        Some(Epoch(902))
    );
    assert_eq!(epochs.allocate(MonoNanos(5_000), S), Some(Epoch(5_000)));
    assert_eq!(
        epochs.allocate(MonoNanos(5_000), StreamId(2)),
        Some(Epoch(5_001))
    );
}

#[test]
// spec: W-7.1-6
fn a_directory_with_the_highest_number_leaves_no_epoch_and_no_wrap_around() {
    let mut epochs = Epochs::new(None, &[found(u64::MAX, 0, Owner::Dead)]);
    assert_eq!(epochs.allocate(MonoNanos(10), S), None);
    let mut epochs = Epochs::new(None, &[found(u64::MAX - 1, 0, Owner::Dead)]);
    assert_eq!(epochs.allocate(MonoNanos(10), S), None);
    assert_eq!(epochs.allocate(MonoNanos(10), StreamId(1)), Some(Epoch(10)));
}

#[test]
// spec: GC-1
fn the_current_epoch_and_the_newest_before_it_stay() {
    let existing = [1, 2, 3, 4].map(|epoch| found(epoch, 0, Owner::Dead));
    let epochs = Epochs::new(None, &existing);
    let choice = epochs.choose(MonoNanos(10_000), S, &keep(Some(4), 1, &[]));
    assert_eq!(choice.remove, [Epoch(2), Epoch(1)]);
    assert_eq!(choice.look_again, None);
}

#[test]
// spec: GC-1, W-15.21a-15
fn an_epoch_stays_while_its_activity_is_young_or_its_process_lives() {
    let existing = [
        found(1, 0, Owner::Alive),
        found(2, 8_000, Owner::Dead),
        found(3, 0, Owner::Mine),
        found(4, 0, Owner::Mine),
    ];
    let epochs = Epochs::new(None, &existing);
    let choice = epochs.choose(MonoNanos(10_000), S, &keep(Some(4), 0, &[]));
    assert_eq!(choice.remove, [Epoch(3)]);
    assert_eq!(choice.look_again, Some(MonoNanos(11_000)));
    let later = epochs.choose(MonoNanos(11_000), S, &keep(Some(4), 0, &[]));
    assert_eq!(later.remove, [Epoch(3), Epoch(2)]);
}

#[test]
// spec: GC-1
fn a_lease_holds_its_epoch_until_a_newer_one_was_announced_for_the_minimum_age() {
    let existing = [1, 2, 3].map(|epoch| found(epoch, 0, Owner::Mine));
    let mut epochs = Epochs::new(None, &existing);
    for (epoch, at) in [(1, 0), (2, 10), (3, 9_000)] {
        let key = EpochKey {
            stream: S,
            epoch: Epoch(epoch),
        };
        epochs.get_mut(key).unwrap().announced_at = Some(MonoNanos(at));
    }
    // Epoch 2 was announced long ago: the lease of epoch 1 has moved to it, epoch 1 is free.
    let leased = [Epoch(1)];
    let choice = epochs.choose(MonoNanos(10_000), S, &keep(Some(3), 0, &leased));
    assert_eq!(choice.remove, [Epoch(1)]);
    assert_eq!(choice.look_again, Some(MonoNanos(13_000)));
    // Epoch 3 was announced for the minimum age: nothing refers to epoch 2 any more.
    let choice = epochs.choose(MonoNanos(12_000), S, &keep(Some(3), 0, &leased));
    assert_eq!(choice.remove, [Epoch(2), Epoch(1)]);
}

#[test]
fn a_directory_that_is_being_made_or_removed_is_left_alone() {
    let mut epochs = Epochs::new(None, &[found(1, 0, Owner::Mine)]);
    let (first, second) = (
        EpochKey {
            stream: S,
            epoch: Epoch(1),
        },
        EpochKey {
            stream: S,
            epoch: Epoch(2),
        },
    );
    epochs.begin(second, BaseId::default(), 1, Arc::default(), MonoNanos(0));
    epochs.get_mut(first).unwrap().state = RecordState::Removing {
        op: OpId(1),
        reclaim: Reclaim::Unlink,
    };
    let choice = epochs.choose(MonoNanos(10_000), S, &keep(None, 0, &[]));
    assert_eq!(choice, Choice::default());
}
