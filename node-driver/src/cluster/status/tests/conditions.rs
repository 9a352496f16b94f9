//! What the conditions of a node say, and why.

use super::*;

#[test]
fn ready_says_what_stands_in_the_way() {
    let mut node = Node::new();
    node.policy().cordoned = true;
    node.has("Ready", "False", "Cordoned");
    node.snapshot.bases.clear();
    let message = node.has("Ready", "False", "MountMissing");
    assert!(message.contains("default (pages of 4Ki)"), "{message}");
    node.surroundings.csi = Some(CsiState::NotRegistered);
    node.has("Ready", "False", "NotRegistered");
    node.has("CSIRegistered", "False", "NotRegistered");
    node.has("CSIDriverMisconfigured", "False", "AsExpected");
    node.surroundings.csi = Some(CsiState::DriverInsecure(
        "podInfoOnMount is false".to_owned(),
    ));
    node.has("CSIDriverMisconfigured", "True", "CSIDriverInsecure");
    node.has("CSIRegistered", "Unknown", "CSIDriverInsecure");
    let message = node.has("Ready", "False", "CSIDriverInsecure");
    assert_eq!(message, "podInfoOnMount is false");
    node.surroundings.csi = Some(CsiState::DriverMissing);
    node.has("Ready", "False", "CSIDriverMissing");
    node.following = Following::default();
    node.has("Ready", "False", "Starting");
    node.has("PolicyApplied", "False", "PolicyPending");
    node.snapshot.status.lifecycle = Lifecycle::Draining {
        until: MonoNanos(5),
    };
    node.has("Ready", "False", "ShuttingDown");
}

#[test]
fn a_class_without_its_mount_is_named_and_the_others_work() {
    let mut node = Node::new();
    let huge = class("huge", PageSize::Huge2Mi);
    node.policy().classes.push(huge);
    let message = node.has("Ready", "True", "AsExpected");
    assert!(message.contains("huge (pages of 2Mi)"), "{message}");
    let pools = node.status().pools;
    assert_eq!(pools[0].capacity_bytes, 64 * MIB);
    assert_eq!(pools[1].capacity_bytes, 0);
}

#[test]
fn a_policy_that_was_refused_leaves_the_one_before_it() {
    let mut node = Node::new();
    node.following.rejected = true;
    node.following.flaws = vec!["the policy cannot be followed: no".to_owned()];
    assert_eq!(
        node.has("PolicyApplied", "False", "PolicyRejected"),
        "the policy cannot be followed: no"
    );
    let revision = node.status().observed_policy_revision;
    assert_eq!(revision.as_deref(), Some("r1"));
}

#[test]
fn a_mount_of_another_size_is_pending() {
    let mut node = Node::new();
    node.has("PoolResizePending", "False", "AsExpected");
    node.snapshot.bases[0].total_bytes = 32 * MIB;
    let message = node.has("PoolResizePending", "True", "MountSizeDiffers");
    assert!(
        message.starts_with(
            "the mount for pages of 4Ki has 33554432 bytes, and the classes want 67108864"
        ),
        "{message}"
    );
    assert_eq!(node.status().pools[0].capacity_bytes, 32 * MIB);
}

#[test]
fn huge_pages_that_do_not_suffice_are_missed() {
    let mut node = Node::new();
    assert_eq!(node.condition("HugepagesAvailable"), None);
    node.policy().classes = vec![class("huge", PageSize::Huge2Mi)];
    node.snapshot.bases = vec![base("2Mi", 64 * MIB)];
    let pages = |free, promised, total| {
        vec![HugePages {
            page_bytes: 2 * MIB,
            free,
            promised,
            total,
        }]
    };
    node.huge_pages = pages(32, 0, 40);
    node.has("HugepagesAvailable", "True", "AsExpected");
    node.huge_pages = pages(32, 1, 40);
    let message = node.has("HugepagesAvailable", "False", "TooFewHugepages");
    assert!(message.contains("other programs hold"), "{message}");
    node.huge_pages = pages(31, 0, 31);
    let message = node.has("HugepagesAvailable", "False", "TooFewHugepages");
    assert!(message.contains("vm.nr_hugepages"), "{message}");
    // What is set aside for the mount is its own.
    node.mounts = vec![mounted("2Mi", true, None)];
    node.huge_pages = pages(32, 32, 40);
    node.has("HugepagesAvailable", "True", "AsExpected");
}

#[test]
fn huge_pages_that_kubelet_counts_otherwise_are_stale() {
    let mut node = Node::new();
    node.huge_pages = vec![HugePages {
        page_bytes: 2 * MIB,
        free: 40,
        promised: 0,
        total: 40,
    }];
    // Nobody wants them, or nobody knows what kubelet counts.
    node.counted = Some(Capacity::from([(2 * MIB, 0)]));
    node.has("HugepagesStale", "False", "AsExpected");
    node.policy().classes = vec![class("huge", PageSize::Huge2Mi)];
    node.snapshot.bases = vec![base("2Mi", 64 * MIB)];
    node.counted = None;
    assert_eq!(node.condition("HugepagesStale"), None);
    node.counted = Some(Capacity::from([(2 * MIB, 80 * MIB)]));
    node.has("HugepagesStale", "False", "AsExpected");
    for (counted, pages) in [
        (Capacity::from([(2 * MIB, 60 * MIB)]), 30),
        (Capacity::from([(2 * MIB, 100 * MIB)]), 50),
        (Capacity::new(), 0),
    ] {
        node.counted = Some(counted);
        let message = node.has("HugepagesStale", "True", "RestartKubelet");
        assert_eq!(
            message,
            format!("kubelet counts {pages} pages of 2Mi and this machine has 40: restart kubelet")
        );
    }
}

#[test]
fn a_mount_without_the_guarantee_or_the_label_of_its_class_is_pending() {
    let mut node = Node::new();
    node.policy().classes = vec![class("huge", PageSize::Huge2Mi)];
    node.snapshot.bases = vec![base("2Mi", 64 * MIB)];
    let context = "system_u:object_r:container_file_t:s0";
    node.mounts = vec![mounted("2Mi", false, Some(context))];
    node.has("PoolResizePending", "False", "AsExpected");
    node.policy().classes[0].guarantee = true;
    let message = node.has("PoolResizePending", "True", "MountOptionsDiffer");
    assert!(
        message.starts_with("class huge wants its pages set aside"),
        "{message}"
    );
    node.mounts = vec![mounted("2Mi", true, Some(context))];
    node.has("PoolResizePending", "False", "AsExpected");
    node.policy().classes[0].se_linux_context = Some("a:b:c:s0".to_owned());
    let message = node.has("PoolResizePending", "True", "MountOptionsDiffer");
    assert!(
        message.starts_with("class huge wants the SELinux context a:b:c:s0"),
        "{message}"
    );
    // Where SELinux is not active no context differs.
    node.mounts = vec![mounted("2Mi", true, None)];
    node.has("PoolResizePending", "False", "AsExpected");
}

fn mounted(name: &str, set_aside: bool, context: Option<&str>) -> MountFacts {
    MountFacts {
        name: name.to_owned(),
        set_aside,
        context: context.map(str::to_owned),
    }
}

#[test]
fn the_media_driver_is_reported_where_there_is_one() {
    let mut node = Node::new();
    node.has("AeronHealthy", "Unknown", "NotConfigured");
    node.snapshot.media_driver = Some(true);
    node.has("AeronHealthy", "True", "AsExpected");
    node.snapshot.media_driver = Some(false);
    node.has("AeronHealthy", "False", "MediaDriverSilent");
}
