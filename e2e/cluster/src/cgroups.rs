//! The control groups of a cluster: one directory in each hierarchy, below the group of whoever
//! starts it, so that its limits hold for the cluster too. The cluster sees that directory as the
//! root (cgroup namespace), and taking it down removes it with all that kubelet made inside.
//!
//! Hierarchies are mounted anew, each on a directory of a private mount namespace: where the
//! machine has them, and whether at all (`hugetlb` often not), does not matter.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::mounts;

/// A group in one hierarchy.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Group {
    /// Which hierarchy.
    pub(crate) hierarchy: Hierarchy,
    /// The path from the hierarchy's root, beginning with `/`.
    pub(crate) path: String,
    /// Whether nobody used the hierarchy before: then nobody shall after.
    pub(crate) hierarchy_is_ours: bool,
}

/// A hierarchy of control groups.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) enum Hierarchy {
    /// Version 1, with these controllers (`cpu,cpuacct`) or a name (`name=systemd`).
    One(String),
    /// Version 2.
    Two,
}

impl Hierarchy {
    /// Mounts it on `target`, which must be a directory.
    pub(crate) fn mount(&self, target: &Path) -> io::Result<()> {
        match self {
            Self::One(controllers) if controllers.starts_with("name=") => {
                mounts::mount("cgroup", target, &format!("none,{controllers}"))
            }
            Self::One(controllers) => mounts::mount("cgroup", target, controllers),
            Self::Two => mounts::mount("cgroup2", target, ""),
        }
    }

    /// The name of its directory below `/sys/fs/cgroup` beside others.
    pub(crate) fn directory(&self) -> &str {
        match self {
            Self::One(controllers) => controllers.trim_start_matches("name="),
            Self::Two => "unified",
        }
    }
}

/// Where the groups of a new cluster will be, from `/proc/self/cgroup` and `/proc/cgroups`.
pub(crate) fn plan(own: &str, controllers: &str, name: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    let only_two = own.lines().all(|line| line.starts_with("0::"));
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(hierarchy), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        // In version 2 a group with processes cannot hand controllers on, so there the cluster's
        // group stands beside everything else, at the root.
        let (hierarchy, parent) = if hierarchy.is_empty() {
            (Hierarchy::Two, "")
        } else {
            let parent = path.trim_end_matches('/');
            (Hierarchy::One(hierarchy.to_owned()), parent)
        };
        groups.push(Group {
            hierarchy,
            path: format!("{parent}/tensorpool-cluster-{name}"),
            hierarchy_is_ours: false,
        });
    }
    let missing = "hugetlb";
    let unmounted = controllers.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(missing) && words.next() == Some("0")
    });
    if unmounted && !only_two {
        groups.push(Group {
            hierarchy: Hierarchy::One(missing.to_owned()),
            path: format!("/tensorpool-cluster-{name}"),
            hierarchy_is_ours: true,
        });
    }
    groups
}

/// Mounts every hierarchy below `at`, makes the groups, and moves this process into them. To be
/// called in a mount namespace of its own.
pub(crate) fn enter(groups: &[Group], at: &Path) -> io::Result<()> {
    for (root, group) in mount_all(groups, at)? {
        make(&root, &group)?;
        fs::write(group.join("cgroup.procs"), std::process::id().to_string())?;
    }
    Ok(())
}

/// Removes groups, the innermost first. To be called in a mount namespace of its own, after the
/// processes in them were killed; they may take a moment to be gone.
pub(crate) fn remove(groups: &[Group], at: &Path) -> io::Result<()> {
    let limit = Instant::now() + Duration::from_secs(10);
    for (_, group) in mount_all(groups, at)? {
        loop {
            match remove_tree(&group) {
                Err(error) if Instant::now() < limit => {
                    if error.kind() != io::ErrorKind::ResourceBusy {
                        return Err(error);
                    }
                    thread::sleep(Duration::from_millis(20));
                }
                removed => break removed?,
            }
        }
    }
    for group in groups.iter().filter(|group| group.hierarchy_is_ours) {
        // It ends with the last cluster that has groups in it.
        if !has_groups(&at.join(group.hierarchy.directory()))? {
            end_hierarchy(&group.hierarchy, at, limit)?;
        }
    }
    Ok(())
}

fn has_groups(root: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(root)? {
        if entry?.file_type()?.is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A hierarchy ends, a moment later, when it is unmounted without a group in it. A removed group
/// counts until the kernel has really forgotten it, so this may take more than one try.
fn end_hierarchy(hierarchy: &Hierarchy, at: &Path, limit: Instant) -> io::Result<()> {
    let root = at.join(hierarchy.directory());
    loop {
        mounts::unmount_tree(&root)?;
        let patience = Instant::now() + Duration::from_secs(1);
        while Instant::now() < patience {
            if !is_used(hierarchy, &fs::read_to_string("/proc/self/cgroup")?) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        if Instant::now() > limit {
            let name = hierarchy.directory();
            return Err(io::Error::other(format!(
                "the hierarchy {name} of control groups is still in use by somebody else"
            )));
        }
        hierarchy.mount(&root)?;
    }
}

fn is_used(hierarchy: &Hierarchy, own: &str) -> bool {
    own.lines().any(|line| {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        match hierarchy {
            Hierarchy::One(wanted) => controllers == wanted,
            Hierarchy::Two => controllers.is_empty(),
        }
    })
}

/// Pairs of a hierarchy's mount point and the group's directory in it.
fn mount_all(groups: &[Group], at: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    mounts::mount("tmpfs", at, "mode=700")?;
    let mut directories = Vec::new();
    for group in groups {
        let root = at.join(group.hierarchy.directory());
        fs::create_dir(&root)?;
        group.hierarchy.mount(&root)?;
        let directory = root.join(group.path.trim_start_matches('/'));
        directories.push((root, directory));
    }
    Ok(directories)
}

fn make(root: &Path, group: &Path) -> io::Result<()> {
    fs::create_dir_all(group)?;
    // A new group of the cpuset controller has no processor and no memory of its own yet.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let parent = group.parent().unwrap_or(root).join(file);
        if group.join("cgroup.controllers").exists() || !group.join(file).exists() {
            continue;
        }
        fs::write(group.join(file), fs::read(parent)?)?;
    }
    if group.join("cgroup.controllers").exists() {
        hand_on_controllers(root)?;
    }
    Ok(())
}

/// Version 2: lets the children of `group` have all the controllers that it has itself.
pub(crate) fn hand_on_controllers(group: &Path) -> io::Result<()> {
    let has = fs::read_to_string(group.join("cgroup.controllers"))?;
    let hands_on = fs::read_to_string(group.join("cgroup.subtree_control"))?;
    let hands_on: BTreeSet<&str> = hands_on.split_whitespace().collect();
    for controller in has.split_whitespace() {
        if !hands_on.contains(controller) {
            fs::write(
                group.join("cgroup.subtree_control"),
                format!("+{controller}"),
            )?;
        }
    }
    Ok(())
}

fn remove_tree(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stand_below_the_starter_and_hugetlb_is_added_where_nobody_mounted_it() {
        let own = "9:name=systemd:/\n4:memory:/session/7\n1:cpu,cpuacct:/\n0::/\n";
        let controllers =
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t1\t1\nhugetlb\t0\t1\t1\n";
        let one = |controllers: &str, path: &str| Group {
            hierarchy: Hierarchy::One(controllers.to_owned()),
            path: path.to_owned(),
            hierarchy_is_ours: controllers == "hugetlb",
        };
        assert_eq!(
            plan(own, controllers, "x"),
            [
                one("name=systemd", "/tensorpool-cluster-x"),
                one("memory", "/session/7/tensorpool-cluster-x"),
                one("cpu,cpuacct", "/tensorpool-cluster-x"),
                Group {
                    hierarchy: Hierarchy::Two,
                    path: "/tensorpool-cluster-x".to_owned(),
                    hierarchy_is_ours: false,
                },
                one("hugetlb", "/tensorpool-cluster-x"),
            ]
        );
    }

    #[test]
    fn with_version_2_alone_there_is_one_group_at_the_root() {
        let own = "0::/user.slice/session-1.scope\n";
        let controllers = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nhugetlb\t0\t1\t1\n";
        assert_eq!(
            plan(own, controllers, "x"),
            [Group {
                hierarchy: Hierarchy::Two,
                path: "/tensorpool-cluster-x".to_owned(),
                hierarchy_is_ours: false,
            }]
        );
    }
}
