//! The conditions of the node's object. Their messages have no numbers that change by themselves.

use tensorpool_crds::{Draft, NodeCondition, NodePool, NodeReason, PageSize, Polarity};
use tensorpool_driver_core::Lifecycle;

use super::{CsiState, Facts};

/// Flaws that a message names.
const NAMED: usize = 5;

/// All of them, in the order in which a person reads them. `dropped`: streams for which the status has
/// no room.
pub(super) fn drafts(facts: &Facts<'_>, dropped: usize) -> Vec<Draft> {
    let mut drafts = vec![ready(facts), policy_applied(facts, dropped)];
    drafts.extend(csi(facts));
    drafts.extend(huge_pages(facts));
    drafts.extend(stale(facts));
    drafts.push(resize(facts));
    drafts.push(aeron(facts));
    drafts
}

fn draft(
    kind: NodeCondition,
    status: Polarity,
    reason: NodeReason,
    message: impl Into<String>,
) -> Draft {
    Draft {
        kind: kind.as_str(),
        status,
        reason: reason.as_str(),
        message: message.into(),
    }
}

fn classes<'a>(facts: &Facts<'a>) -> &'a [NodePool] {
    let policy = facts.following.policy.as_deref();
    policy.map_or(&[], |policy| &policy.classes)
}

fn is_mounted(facts: &Facts<'_>, page: PageSize) -> bool {
    let mut bases = facts.snapshot.bases.iter();
    bases.any(|base| base.name == page.name())
}

fn ready(facts: &Facts<'_>) -> Draft {
    let no =
        |reason, message: String| draft(NodeCondition::Ready, Polarity::False, reason, message);
    match facts.snapshot.status.lifecycle {
        Lifecycle::Running => {}
        Lifecycle::Draining { .. } | Lifecycle::Stopped => {
            return shutting_down();
        }
    }
    let Some(policy) = &facts.following.policy else {
        let message = "the driver has started and has no policy yet".to_owned();
        return no(NodeReason::Starting, message);
    };
    match &facts.surroundings.csi {
        Some(CsiState::DriverMissing) => {
            return no(NodeReason::CSIDriverMissing, DRIVER_MISSING.to_owned());
        }
        Some(CsiState::DriverInsecure(why)) => {
            return no(NodeReason::CSIDriverInsecure, why.clone());
        }
        Some(CsiState::NotRegistered) => {
            return no(NodeReason::NotRegistered, NOT_REGISTERED.to_owned());
        }
        Some(CsiState::Registered) | None => {}
    }
    let missing = missing(facts);
    let mounted = classes(facts)
        .iter()
        .any(|class| is_mounted(facts, class.page_size));
    if !missing.is_empty() && !mounted {
        return no(NodeReason::MountMissing, missing);
    }
    if policy.cordoned {
        let message = "spec.cordoned is true: what is attached goes on, nothing new begins";
        return no(NodeReason::Cordoned, message.to_owned());
    }
    draft(
        NodeCondition::Ready,
        Polarity::True,
        NodeReason::AsExpected,
        missing,
    )
}

/// `Ready` of a driver that ends.
pub(super) fn shutting_down() -> Draft {
    draft(
        NodeCondition::Ready,
        Polarity::False,
        NodeReason::ShuttingDown,
        "the driver is stopping",
    )
}

const DRIVER_MISSING: &str =
    "there is no CSIDriver object csi.tensorpool.io; the chart of this release brings it";
const NOT_REGISTERED: &str = "kubelet has not registered csi.tensorpool.io on this node; is the value kubeletDir the directory of this kubelet?";
const NOT_LOOKED_AT: &str =
    "every volume is refused because of the CSIDriver object; see CSIDriverMisconfigured";

/// Says which classes have no mount here; empty if all have.
fn missing(facts: &Facts<'_>) -> String {
    let missing = classes(facts)
        .iter()
        .filter(|class| !is_mounted(facts, class.page_size));
    let missing: Vec<String> = missing
        .map(|class| format!("{} (pages of {})", class.class_name, class.page_size.name()))
        .collect();
    if missing.is_empty() {
        return String::new();
    }
    format!(
        "this node has no memory for {}: the driver's pod was started without a mount for these pages; name the page size in the node profile of the chart",
        missing.join(", ")
    )
}

fn policy_applied(facts: &Facts<'_>, dropped: usize) -> Draft {
    let say = |status, reason, message: String| {
        draft(NodeCondition::PolicyApplied, status, reason, message)
    };
    let following = facts.following;
    let mut flaws = following.flaws.clone();
    if dropped > 0 {
        flaws.push(format!(
            "{dropped} streams more than a status can hold are not reported"
        ));
    }
    let mut message = flaws
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join("; ");
    if flaws.len() > NAMED {
        message = format!("{message}; and {} more", flaws.len() - NAMED);
    }
    let Some(policy) = &following.policy else {
        return match message.is_empty() {
            true => say(
                Polarity::False,
                NodeReason::PolicyPending,
                "no policy has come yet".to_owned(),
            ),
            false => say(Polarity::False, NodeReason::PolicyRejected, message),
        };
    };
    if !message.is_empty() {
        return say(Polarity::False, NodeReason::PolicyRejected, message);
    }
    let refused = match policy.refused.len() {
        0 => String::new(),
        count => {
            let names = policy.refused.iter().take(NAMED);
            let names: Vec<String> = names
                .map(|it| format!("{}/{}: {}", it.namespace, it.name, it.flaw))
                .collect();
            let streams = if count == 1 { "stream" } else { "streams" };
            format!("{count} {streams} cannot be carried: {}", names.join("; "))
        }
    };
    say(Polarity::True, NodeReason::AsExpected, refused)
}

fn csi(facts: &Facts<'_>) -> Vec<Draft> {
    let Some(state) = &facts.surroundings.csi else {
        return Vec::new();
    };
    let kind = NodeCondition::CSIRegistered;
    let (registered, flaw) = match state {
        CsiState::NotRegistered => {
            let reason = NodeReason::NotRegistered;
            (draft(kind, Polarity::False, reason, NOT_REGISTERED), None)
        }
        CsiState::Registered => (
            draft(kind, Polarity::True, NodeReason::AsExpected, ""),
            None,
        ),
        CsiState::DriverMissing => {
            let reason = NodeReason::CSIDriverMissing;
            let flaw = (reason, DRIVER_MISSING.to_owned());
            (
                draft(kind, Polarity::Unknown, reason, NOT_LOOKED_AT),
                Some(flaw),
            )
        }
        CsiState::DriverInsecure(why) => {
            let reason = NodeReason::CSIDriverInsecure;
            let flaw = (reason, why.clone());
            (
                draft(kind, Polarity::Unknown, reason, NOT_LOOKED_AT),
                Some(flaw),
            )
        }
    };
    let kind = NodeCondition::CSIDriverMisconfigured;
    let misconfigured = match flaw {
        Some((reason, message)) => draft(kind, Polarity::True, reason, message),
        None => draft(kind, Polarity::False, NodeReason::AsExpected, ""),
    };
    vec![registered, misconfigured]
}

/// Only where some class wants huge pages.
fn huge_pages(facts: &Facts<'_>) -> Option<Draft> {
    let sizes = [PageSize::Huge2Mi, PageSize::Huge1Gi];
    let wants = |size: &PageSize| classes(facts).iter().any(|class| class.page_size == *size);
    if !sizes.iter().any(wants) {
        return None;
    }
    let short: Vec<String> = sizes
        .into_iter()
        .filter_map(|size| shortage(facts, size))
        .collect();
    let kind = NodeCondition::HugepagesAvailable;
    Some(if short.is_empty() {
        draft(kind, Polarity::True, NodeReason::AsExpected, "")
    } else {
        let message = short.join("; ");
        draft(kind, Polarity::False, NodeReason::TooFewHugepages, message)
    })
}

/// Only where some class wants huge pages and kubelet has said what it counts.
fn stale(facts: &Facts<'_>) -> Option<Draft> {
    let counted = facts.counted?;
    let sizes = [PageSize::Huge2Mi, PageSize::Huge1Gi];
    let wants = |size: &PageSize| classes(facts).iter().any(|class| class.page_size == *size);
    let differ: Vec<String> = sizes
        .into_iter()
        .filter(wants)
        .filter_map(|size| {
            let page = size.bytes();
            let kernel = facts.huge_pages.iter().find(|it| it.page_bytes == page);
            let has = kernel.map_or(0, |it| it.total);
            let counts = counted.get(&page).copied().unwrap_or(0) / page;
            let name = size.name();
            (has != counts).then(|| {
                format!("kubelet counts {counts} pages of {name} and this machine has {has}")
            })
        })
        .collect();
    let kind = NodeCondition::HugepagesStale;
    Some(if differ.is_empty() {
        draft(kind, Polarity::False, NodeReason::AsExpected, "")
    } else {
        let message = format!("{}: restart kubelet", differ.join("; "));
        draft(kind, Polarity::True, NodeReason::RestartKubelet, message)
    })
}

/// Why the classes of one page size cannot all be filled.
fn shortage(facts: &Facts<'_>, size: PageSize) -> Option<String> {
    let of_size = classes(facts)
        .iter()
        .filter(|class| class.page_size == size);
    let wanted = of_size
        .clone()
        .fold(0_u64, |sum, class| sum.saturating_add(class.size_bytes));
    // What is set aside for the mount itself is its own.
    let mut mounts = facts.mounts.iter();
    let guaranteed = mounts.any(|mount| mount.name == size.name() && mount.set_aside);
    let base = facts
        .snapshot
        .bases
        .iter()
        .find(|base| base.name == size.name());
    let used = facts.snapshot.status.bases.iter();
    let used = used.clone().find(|it| it.name == size.name());
    let used = used.map_or(0, |used| used.used_bytes);
    let used = used.saturating_add(base.map_or(0, |base| base.pinned_bytes));
    let kernel = facts.huge_pages.iter();
    let kernel = kernel.clone().find(|it| it.page_bytes == size.bytes());
    let total = kernel.map_or(0, |it| it.total);
    let free = kernel.map_or(0, |it| match guaranteed {
        true => it.free,
        false => it.free.saturating_sub(it.promised),
    });
    let have = used.saturating_add(free.saturating_mul(size.bytes()));
    let wanted_pages = wanted / size.bytes();
    let name = size.name();
    if wanted <= have {
        None
    } else if total < wanted_pages {
        Some(format!(
            "the classes want {wanted_pages} pages of {name} and this machine has {total}; reserve more (vm.nr_hugepages) and restart kubelet"
        ))
    } else {
        Some(format!(
            "the classes want {wanted_pages} pages of {name}; this machine has {total}, and other programs hold so many that they do not suffice"
        ))
    }
}

fn resize(facts: &Facts<'_>) -> Draft {
    let kind = NodeCondition::PoolResizePending;
    let sizes: Vec<String> = facts
        .snapshot
        .bases
        .iter()
        .filter(|base| base.is_resize_pending())
        .map(|base| {
            format!(
                "the mount for pages of {} has {} bytes, and the classes want {}",
                base.name, base.total_bytes, base.wanted_bytes
            )
        })
        .collect();
    let options: Vec<String> = classes(facts)
        .iter()
        .filter_map(|class| other_options(facts, class))
        .collect();
    let reason = match (sizes.is_empty(), options.is_empty()) {
        (true, true) => return draft(kind, Polarity::False, NodeReason::AsExpected, ""),
        (true, false) => NodeReason::MountOptionsDiffer,
        (false, true | false) => NodeReason::MountSizeDiffers,
    };
    let message = format!(
        "{}; a mount stays as it is while streams live in it: drain the node, unmount it there (or reboot), and delete the driver's pod",
        [sizes, options].concat().join("; ")
    );
    draft(kind, Polarity::True, reason, message)
}

/// What a class wants of the mount that cannot be given while it is mounted.
fn other_options(facts: &Facts<'_>, class: &NodePool) -> Option<String> {
    let size = class.page_size.name();
    let mount = facts.mounts.iter().find(|mount| mount.name == size)?;
    let name = &class.class_name;
    if class.guarantee && !mount.set_aside && class.page_size != PageSize::Base {
        return Some(format!(
            "class {name} wants its pages set aside, and the mount for pages of {size} has none (guarantee: true in the pool of the node's profile)"
        ));
    }
    match (&class.se_linux_context, &mount.context) {
        (Some(wanted), Some(found)) if wanted != found => Some(format!(
            "class {name} wants the SELinux context {wanted}, and the mount for pages of {size} has {found} (seLinuxContext of the node's profile)"
        )),
        (Some(_) | None, Some(_) | None) => None,
    }
}

fn aeron(facts: &Facts<'_>) -> Draft {
    let kind = NodeCondition::AeronHealthy;
    match facts.snapshot.media_driver {
        Some(true) => draft(kind, Polarity::True, NodeReason::AsExpected, ""),
        Some(false) => draft(
            kind,
            Polarity::False,
            NodeReason::MediaDriverSilent,
            "the media driver does not answer; pods on sockets notice nothing",
        ),
        None => draft(
            kind,
            Polarity::Unknown,
            NodeReason::NotConfigured,
            "this driver serves no Aeron clients",
        ),
    }
}
