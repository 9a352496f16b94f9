//! The cluster's own view of the machine: directories whose changes vanish with it, control
//! groups, a network.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::Plan;
use crate::cgroups::{Group, Hierarchy, hand_on_controllers};
use crate::components::{NODE, NODE_ADDRESS, write_cni_config};
use crate::mounts;

/// Directories of the machine in which a node's programs write. The cluster reads what is there;
/// what it writes stays in memory.
const COVERED: [&str; 4] = ["/etc", "/opt", "/var/lib", "/var/log"];

/// The directory that a cluster covers and below which `path` lies: the cluster would not see what
/// happens there outside.
pub(crate) fn covering(path: &Path) -> Option<&'static str> {
    let covered = COVERED.into_iter().chain(["/run", "/sys", "/proc"]);
    let mut below = covered.filter(|covered| path.starts_with(covered));
    below.next()
}

/// Directories that must be empty, whatever else runs pods on this machine: kubelet's, and the
/// leases of pod addresses.
const EMPTY: [&str; 2] = ["/var/lib/cni", "/var/lib/kubelet"];

/// Makes all of it.
pub(super) fn make(plan: &Plan) -> io::Result<()> {
    mounts::unmount_tree(&Plan::group_mounts(&plan.directory))?;
    // Pages of the machine's own filesystems must not stay in use because of this namespace.
    mounts::unmount_all("hugetlbfs")?;
    mounts::share_below_root()?;
    directories()?;
    mounts::mount("sysfs", Path::new("/sys"), "")?;
    control_groups(&plan.groups)?;
    network()?;
    write_cni_config()
}

fn directories() -> io::Result<()> {
    mounts::mount("tmpfs", Path::new("/run"), "mode=755")?;
    for (index, covered) in COVERED.iter().enumerate() {
        let layer = Path::new("/run/tensorpool-cluster").join(index.to_string());
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!(
            "lowerdir={covered},upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        mounts::mount("overlay", Path::new(covered), &options)?;
    }
    for directory in EMPTY {
        fs::create_dir_all(directory)?;
        mounts::mount("tmpfs", Path::new(directory), "mode=755")?;
    }
    Ok(())
}

fn control_groups(groups: &[Group]) -> io::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    if let [
        Group {
            hierarchy: Hierarchy::Two,
            ..
        },
    ] = groups
    {
        Hierarchy::Two.mount(root)?;
        // Only a group without processes can hand controllers on.
        let own = root.join("init");
        fs::create_dir_all(&own)?;
        for pid in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
            fs::write(own.join("cgroup.procs"), pid)?;
        }
        return hand_on_controllers(root);
    }
    mounts::mount("tmpfs", root, "mode=755")?;
    for group in groups {
        let directory = root.join(group.hierarchy.directory());
        fs::create_dir(&directory)?;
        group.hierarchy.mount(&directory)?;
    }
    Ok(())
}

/// kubelet refuses a loopback address for the node, so there is a pair of interfaces of which one
/// end is the node.
fn network() -> io::Result<()> {
    fs::write("/proc/sys/kernel/hostname", NODE)?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    for line in [
        "link set lo up".to_owned(),
        "link add node0 type veth peer name node1".to_owned(),
        format!("address add {NODE_ADDRESS}/24 dev node0"),
        "link set node0 up".to_owned(),
        "link set node1 up".to_owned(),
        "route add default dev node0".to_owned(),
    ] {
        mounts::run(Command::new("ip").args(line.split(' ')))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_covered_by_whole_names() {
        assert_eq!(covering(Path::new("/var/lib/ci/cache")), Some("/var/lib"));
        assert_eq!(covering(Path::new("/run/user/7")), Some("/run"));
        assert_eq!(covering(Path::new("/var/library")), None);
    }
}
