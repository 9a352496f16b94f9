//! What a configuration must fulfil, and the words in which it is told.

use tensorpool_driver_core::config::{ConfigSpec, IdRange, PoolSpec};
use tensorpool_wire::{PoolId, StreamId};

use crate::rig::{allow_dynamic, spec};

fn error(change: impl FnOnce(&mut ConfigSpec)) -> String {
    let mut spec = spec();
    change(&mut spec);
    spec.validate().expect_err("must be refused").to_string()
}

const fn range(start: u32, end: u32) -> Option<IdRange> {
    Some(IdRange { start, end })
}

#[test]
// spec: D-11-3, D-11-4
fn ranges_are_in_order_and_free_of_other_ids_and_of_each_other() {
    assert!(
        error(|s| s.policy.stream_id_range = range(5, 4)).contains("driver.stream_id_range` 5-4")
    );
    assert!(error(|s| s.policy.control_stream_id_range = range(0, 4)).contains("must not be 0"));
    assert_eq!(
        error(|s| s.policy.descriptor_stream_id_range = range(900, 1_000)),
        "`driver.descriptor_stream_id_range` holds the id 1000, which is used otherwise"
    );
    assert_eq!(
        error(|s| s.policy.stream_id_range = range(10_001, 10_500)),
        "`driver.stream_id_range` holds the id 10001, which is used otherwise"
    );
    assert_eq!(
        error(|s| {
            s.policy.descriptor_stream_id_range = range(31_000, 31_999);
            s.policy.control_stream_id_range = range(31_999, 32_000);
        }),
        "`driver.control_stream_id_range` and `driver.descriptor_stream_id_range` overlap"
    );
    assert!(
        error(|s| s.policy.control_stream_id_range = range(1 << 30, 1 << 31)).contains("usable"),
        "an Aeron stream id is signed"
    );
    let mut good = spec();
    allow_dynamic(&mut good);
    good.policy.descriptor_stream_id_range = range(31_000, 31_999);
    good.policy.control_stream_id_range = range(32_000, 32_999);
    good.validate().unwrap();
}

#[test]
// spec: D-17-6, W-3-1, W-15.22-5
fn profiles_have_a_power_of_two_of_slots_and_pools_with_unique_ids_and_aligned_strides() {
    let small = |s: &mut ConfigSpec, nslots, pools: &[(u16, u32)]| {
        let profile = s.policy.profiles.get_mut("small").unwrap();
        profile.header_nslots = nslots;
        profile.pools = pools
            .iter()
            .map(|(id, stride_bytes)| PoolSpec {
                pool_id: PoolId(*id),
                stride_bytes: *stride_bytes,
            })
            .collect();
    };
    assert_eq!(
        error(|s| small(s, 12, &[(1, 64)])),
        "profile `small`: header_nslots 12 is not a power of two"
    );
    assert!(error(|s| small(s, 0, &[(1, 64)])).contains("not a power of two"));
    assert_eq!(
        error(|s| small(s, 8, &[(1, 64), (1, 128)])),
        "profile `small`: pool id 1 is 0 or occurs twice"
    );
    assert!(error(|s| small(s, 8, &[(0, 64)])).contains("pool id 0"));
    assert_eq!(
        error(|s| small(s, 8, &[(1, 100)])),
        "profile `small`: stride_bytes 100 is not a positive multiple of 64"
    );
    assert!(error(|s| small(s, 8, &[(1, 0)])).contains("stride_bytes 0"));
    let many: Vec<(u16, u32)> = (1..=253).map(|id| (id, 64)).collect();
    assert!(error(|s| small(s, 8, &many)).contains("more than 252 pools"));
    let mut most = spec();
    small(&mut most, 8, &many[..252]);
    most.validate().unwrap();
}

#[test]
// spec: D-17-4
fn streams_have_unique_ids_and_names_and_a_known_profile() {
    assert!(error(|s| s.policy.streams[0].stream_id = StreamId(0)).contains("must not be 0"));
    assert!(error(|s| s.policy.streams[1].name = "camera".into()).contains("twice"));
    assert!(error(|s| s.policy.streams[1].stream_id = StreamId(10_000)).contains("10000 is"));
    assert_eq!(
        error(|s| s.policy.streams[1].profile = "big".into()),
        "`streams.lidar` names the profile `big`, which is not defined"
    );
    assert!(error(|s| s.policy.streams[1].name = "x".repeat(257)).contains("1 to 256 bytes"));
    assert!(error(|s| s.policy.default_profile = Some("big".into())).contains("default_profile"));
    assert_eq!(
        error(|s| s.limits.streams = 1),
        "2 streams are configured, the limit is 1"
    );
}

#[test]
// spec: W-15.21a-2, W-15.21a-3, W-15.21a-7
fn paths_can_stand_in_a_uri() {
    for bad in [
        "",
        "dev/shm",
        "/dev/../shm",
        "/dev/shm/",
        "/a b",
        "/a?b",
        "/a|b",
        "/ä",
        "//a",
    ] {
        assert!(
            error(|s| s.identity.bases[0].directory = bad.into()).contains("base directory"),
            "{bad}"
        );
    }
    for bad in ["", "..", ".x", "a/b", "a b"] {
        assert!(
            error(|s| s.identity.namespace = bad.into()).contains("namespace"),
            "{bad}"
        );
    }
    let mut rig = crate::rig::Rig::with(|s| s.identity.user = "../eve smith".into());
    let answer = rig.attach(crate::rig::aeron(1), crate::rig::consume(7));
    assert!(
        answer
            .header_region_uri
            .contains("/tensorpool-___eve_smith/default/")
    );
}

#[test]
fn values_that_make_no_sense_are_named() {
    assert_eq!(
        error(|s| s.timing.announce_period_ns = 0),
        "`announce_period` must not be 0"
    );
    assert_eq!(
        error(|s| s.timing.expiry_grace_intervals = 0),
        "`expiry_grace_intervals` must not be 0"
    );
    assert!(error(|s| s.gc.keep = 0).contains("epoch_gc_keep"));
    assert_eq!(error(|s| s.limits.leases = 0), "`leases` must not be 0");
    assert!(error(|s| s.limits.node_ids = 1_024).contains("1023"));
    assert!(error(|s| s.identity.bases[0].page_size_bytes = 0).contains("power of two"));
    assert!(error(|s| s.identity.control_stream_id = 0).contains("DI-5.2-3"));
}
