use tensorpool_wire::{ClientId, LeaseId};

use super::*;

const STREAM: StreamId = StreamId(10_000);
const SEC: u64 = 1_000_000_000;
const WALL: WallNanos = WallNanos(1_700_000_000 * SEC);

fn watch() -> EpochWatch {
    EpochWatch::new(STREAM, SEC, MonoNanos(100 * SEC))
}

fn mapped(epoch: u64) -> EpochWatch {
    let mut watch = watch();
    watch.on_attached(MonoNanos(100 * SEC), Epoch(epoch));
    watch
}

fn announce(epoch: u64, at: u64) -> ShmPoolAnnounce {
    ShmPoolAnnounce {
        stream_id: STREAM,
        producer_id: ClientId(0),
        epoch: Epoch(epoch),
        announce_timestamp_ns: MonoNanos(at),
        announce_clock_domain: ClockDomain::Monotonic,
        layout_version: 1,
        header_nslots: 64,
        header_slot_bytes: 256,
        payload_pools: Vec::new(),
        header_region_uri: String::new(),
    }
}

fn hear(watch: &mut EpochWatch, now: u64, announce: &ShmPoolAnnounce) -> Verdict {
    watch.on_announce(MonoNanos(now), WALL, announce)
}

fn producer_revoked() -> ShmLeaseRevoked {
    ShmLeaseRevoked {
        timestamp_ns: MonoNanos(0),
        lease_id: LeaseId(1),
        stream_id: STREAM,
        client_id: ClientId(5),
        role: Role::Producer,
        reason: LeaseRevokeReason::Expired,
        error_message: String::new(),
    }
}

// spec: W-10.1.1-1
#[test]
fn an_announce_counts_for_three_periods_and_one_nanosecond_more_is_stale() {
    let at = 101 * SEC;
    let old = announce(9, at);
    assert_eq!(hear(&mut watch(), at + 3 * SEC, &old), Verdict::Remap);
    assert_eq!(
        hear(&mut watch(), at + 3 * SEC + 1, &old),
        Verdict::Ignore(Ignored::Stale)
    );
    assert_eq!(
        hear(&mut watch(), at - 3 * SEC - 1, &old),
        Verdict::Ignore(Ignored::FromTheFuture)
    );
}

// spec: W-10.1.1-2
#[test]
fn an_announce_stamped_before_the_join_is_a_replay() {
    let joined = 100 * SEC;
    assert_eq!(
        hear(&mut watch(), joined, &announce(9, joined)),
        Verdict::Remap
    );
    assert_eq!(
        hear(&mut watch(), joined, &announce(9, joined - 1)),
        Verdict::Ignore(Ignored::BeforeJoin)
    );
    assert_eq!(
        hear(&mut watch(), joined, &announce(9, 0)),
        Verdict::Ignore(Ignored::Unstamped)
    );
}

// spec: W-10.1.1-3 W-10.1.1-4
#[test]
fn a_realtime_announce_is_judged_by_the_wall_clock_only() {
    let mut message = announce(9, WALL.get() - 2 * SEC);
    message.announce_clock_domain = ClockDomain::RealtimeSynced;
    assert_eq!(hear(&mut watch(), 100 * SEC, &message), Verdict::Remap);
    message.announce_timestamp_ns = MonoNanos(WALL.get() - 4 * SEC);
    assert_eq!(
        hear(&mut watch(), 100 * SEC, &message),
        Verdict::Ignore(Ignored::Stale)
    );
    message.announce_clock_domain = ClockDomain::Unknown(7);
    assert_eq!(
        hear(&mut watch(), 100 * SEC, &message),
        Verdict::Ignore(Ignored::UnknownClock)
    );
}

// spec: W-15.1-1 W-15.14-4
#[test]
fn other_streams_and_other_layouts_do_not_count() {
    let mut message = announce(9, 101 * SEC);
    message.layout_version = 2;
    assert_eq!(
        hear(&mut watch(), 101 * SEC, &message),
        Verdict::Ignore(Ignored::Layout)
    );
    message.stream_id = StreamId(1);
    assert_eq!(
        hear(&mut watch(), 101 * SEC, &message),
        Verdict::Ignore(Ignored::OtherStream)
    );
}

// spec: W-15.21-3 W-15.1-2 W-10.1.1-5 W-15.2-1
#[test]
fn the_same_epoch_is_checked_again_a_higher_one_is_mapped_a_lower_one_is_doubted() {
    let at = 101 * SEC;
    let mut watch = mapped(9);
    assert_eq!(hear(&mut watch, at, &announce(9, at)), Verdict::Recheck);
    assert_eq!(
        hear(&mut watch, at, &announce(8, at)),
        Verdict::CheckRegression
    );
    assert_eq!(hear(&mut watch, at, &announce(10, at)), Verdict::Remap);
}

// spec: W-15.2-1
#[test]
fn a_lower_epoch_is_taken_only_when_the_mapped_one_is_dead_and_no_higher_one_shows_up() {
    let mut watch = mapped(9);
    let mut now = 101 * SEC;
    assert_eq!(
        hear(&mut watch, now, &announce(8, now)),
        Verdict::CheckRegression
    );
    watch.on_regression(MonoNanos(now));
    now += 3 * SEC;
    assert_eq!(
        hear(&mut watch, now, &announce(8, now)),
        Verdict::Ignore(Ignored::LowerEpoch)
    );
    assert_eq!(
        hear(&mut watch, now, &announce(9, now)),
        Verdict::Remap,
        "a higher one wins"
    );
    now += 1;
    assert_eq!(hear(&mut watch, now, &announce(8, now)), Verdict::Remap);
}

// spec: D-4.9-7 D-4.9-8 D-4.9-9
#[test]
fn after_the_producer_is_revoked_only_a_higher_epoch_is_mapped_and_the_wait_is_bounded() {
    let mut watch = mapped(9);
    let mut now = 101 * SEC;
    assert!(watch.on_revoked(MonoNanos(now), &producer_revoked()));
    assert_eq!(
        hear(&mut watch, now, &announce(9, now)),
        Verdict::Ignore(Ignored::LowerEpoch)
    );
    assert_eq!(watch.on_tick(MonoNanos(now + 3 * SEC)), None);
    assert_eq!(
        watch.on_tick(MonoNanos(now + 3 * SEC + 1)),
        Some(Overdue::NoNewEpoch)
    );
    now += 4 * SEC;
    assert_eq!(watch.on_tick(MonoNanos(now)), None, "said once");
    assert_eq!(
        hear(&mut watch, now, &announce(9, now)),
        Verdict::Ignore(Ignored::LowerEpoch)
    );
    assert_eq!(hear(&mut watch, now, &announce(10, now)), Verdict::Remap);
}

// spec: D-4.9-4 D-4.9-5
#[test]
fn other_revocations_and_repeated_ones_change_nothing() {
    type Spoil = fn(&mut ShmLeaseRevoked);
    let cases: [Spoil; 4] = [
        |m| m.role = Role::Consumer,
        |m| m.role = Role::Unknown(9),
        |m| m.stream_id = StreamId(1),
        |m| m.reason = LeaseRevokeReason::Unknown(9),
    ];
    for spoil in cases {
        let mut message = producer_revoked();
        spoil(&mut message);
        assert!(!mapped(9).on_revoked(MonoNanos(0), &message));
    }
    let mut watch = mapped(9);
    assert!(watch.on_revoked(MonoNanos(0), &producer_revoked()));
    assert!(!watch.on_revoked(MonoNanos(0), &producer_revoked()));
}

// spec: W-15.1-3
#[test]
fn announces_that_stopped_are_noticed_after_the_freshness_window() {
    let mut watch = mapped(9);
    assert_eq!(watch.on_tick(MonoNanos(103 * SEC)), None);
    assert_eq!(
        watch.on_tick(MonoNanos(103 * SEC + 1)),
        Some(Overdue::NoAnnounce)
    );
}

#[test]
fn a_new_attach_beats_what_an_earlier_driver_announced() {
    let mut watch = mapped(1_000);
    watch.on_unmapped();
    watch.on_attached(MonoNanos(200 * SEC), Epoch(5));
    let at = 201 * SEC;
    assert_eq!(hear(&mut watch, at, &announce(5, at)), Verdict::Recheck);
}
