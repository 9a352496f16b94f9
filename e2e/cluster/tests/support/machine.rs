//! What can be seen of a machine from outside a cluster.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::clusters;

/// Directories in which programs of a node write on other machines.
const DIRECTORIES: [&str; 6] = [
    "/etc",
    "/opt",
    "/run",
    "/usr/libexec",
    "/var/lib",
    "/var/log",
];

/// Where services of the machine write at any time, whoever runs a cluster.
const BUSY: [&str; 6] = [
    "/run/log",
    "/run/systemd",
    "/run/udev",
    "/run/user",
    "/var/lib/systemd",
    "/var/log/journal",
];

/// Parts of paths below which nobody but a node writes: there a file must not even change.
const OF_NODES: [&str; 6] = ["cni", "containerd", "containers", "etcd", "kube", "pods"];

/// Settings of the kernel that kubelet and kube-proxy change on other machines.
const SETTINGS: [&str; 9] = [
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxbytes",
    "/proc/sys/kernel/keys/root_maxkeys",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/netfilter/nf_conntrack_max",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
];

/// One look.
#[derive(Debug)]
pub(crate) struct Machine {
    mounts: BTreeSet<String>,
    links: BTreeSet<String>,
    files: BTreeSet<String>,
    settings: BTreeSet<String>,
    sockets: BTreeSet<String>,
    clusters: BTreeSet<String>,
    servers: BTreeSet<String>,
    /// Control groups.
    pub(crate) cgroups: BTreeSet<String>,
    /// Huge pages of 2 MiB in the kernel's pool.
    pub(crate) hugepages: u64,
}

impl Machine {
    /// Looks now.
    pub(crate) fn look() -> Self {
        let mut files = BTreeSet::new();
        for directory in DIRECTORIES {
            list(Path::new(directory), &mut files, &describe_file);
        }
        files.retain(|file| !BUSY.iter().any(|busy| file.starts_with(busy)));
        assert!(files.len() > 100, "these directories hold something");
        let named = |directory: &str| {
            let mut names = BTreeSet::new();
            list(Path::new(directory), &mut names, &|path, _| {
                path.display().to_string()
            });
            names
        };
        let mut cgroups = lines("/proc/self/cgroup");
        list(
            Path::new("/sys/fs/cgroup"),
            &mut cgroups,
            &|path, metadata| {
                let path = path.display().to_string();
                if metadata.is_dir() {
                    path
                } else {
                    String::new()
                }
            },
        );
        let pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
        let pages = fs::read_to_string(pages).expect("root reads the pool");
        Self {
            mounts: mounts(),
            links: fs::read_dir("/sys/class/net")
                .expect("links are listed")
                .flatten()
                .map(|link| link.file_name().to_string_lossy().into_owned())
                .collect(),
            files,
            settings: SETTINGS
                .iter()
                .map(|setting| {
                    let value = fs::read_to_string(setting).unwrap_or_default();
                    format!("{setting} {}", value.trim())
                })
                .collect(),
            sockets: lines("/proc/net/unix")
                .iter()
                .filter_map(|line| line.split_whitespace().nth(7).map(str::to_owned))
                .filter(|path| path.contains("containerd") || path.contains("kubelet"))
                .collect(),
            clusters: named(&clusters().display().to_string()),
            servers: servers(),
            cgroups,
            hugepages: pages.trim().parse().expect("a number"),
        }
    }

    /// Everything is as it was.
    pub(crate) fn is_as(&self, before: &Self) {
        self.shows_nothing_of_a_cluster_since(before);
        same("control groups", &before.cgroups, &self.cgroups);
        same("directories of clusters", &before.clusters, &self.clusters);
        same("servers", &before.servers, &self.servers);
        assert_eq!(before.hugepages, self.hugepages, "huge pages");
    }

    /// While it is up a cluster has a directory, processes, control groups and huge pages; nothing
    /// else of it can be seen.
    pub(crate) fn shows_nothing_of_a_cluster_since(&self, before: &Self) {
        same("mounts", &before.mounts, &self.mounts);
        same("links", &before.links, &self.links);
        same("files", &before.files, &self.files);
        same("settings", &before.settings, &self.settings);
        same("sockets", &before.sockets, &self.sockets);
    }
}

/// Its path, and where nobody but a node writes, or nobody at all, how long it is and when it
/// changed.
fn describe_file(path: &Path, metadata: &fs::Metadata) -> String {
    let name = path.display().to_string();
    let still = ["/etc", "/opt", "/usr"]
        .iter()
        .any(|top| path.starts_with(top));
    if !still && !OF_NODES.iter().any(|part| name.contains(part)) {
        return name;
    }
    let changed = metadata.modified().ok();
    let changed = changed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    format!("{name} {} {changed:?}", metadata.len())
}

fn same(what: &str, before: &BTreeSet<String>, after: &BTreeSet<String>) {
    let appeared: Vec<&String> = after.difference(before).collect();
    let vanished: Vec<&String> = before.difference(after).collect();
    assert!(
        appeared.is_empty() && vanished.is_empty(),
        "{what} that appeared: {appeared:#?}\n{what} that vanished: {vanished:#?}"
    );
}

/// Mounts, but for those of other tests, which live in the temporary directory.
fn mounts() -> BTreeSet<String> {
    let temporary = std::env::temp_dir();
    let mut mounts = lines("/proc/self/mountinfo");
    mounts.retain(|line| {
        let target = line.split(' ').nth(4).unwrap_or_default();
        !Path::new(target).starts_with(&temporary)
    });
    mounts
}

fn lines(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Everything below a directory, links not followed, other filesystems not entered twice.
fn list(
    directory: &Path,
    into: &mut BTreeSet<String>,
    describe: &dyn Fn(&Path, &fs::Metadata) -> String,
) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        into.insert(describe(&entry.path(), &metadata));
        if metadata.is_dir() {
            list(&entry.path(), into, describe);
        }
    }
}

/// Processes in other PID namespaces than ours, and those that were started for a cluster of these
/// tests. Control planes of other tests are neither.
fn servers() -> BTreeSet<String> {
    let ours = fs::read_link("/proc/self/ns/pid").expect("we are in one");
    let processes = fs::read_dir("/proc").expect("/proc is there").flatten();
    processes
        .filter_map(|process| {
            let process = process.path();
            let started_as = fs::read(process.join("cmdline")).ok()?;
            let started_as = String::from_utf8_lossy(&started_as).replace('\0', " ");
            let elsewhere = fs::read_link(process.join("ns/pid")).is_ok_and(|its| its != ours);
            let for_tests = started_as.contains("/clusters/test-");
            (elsewhere || for_tests).then(|| format!("{} {started_as}", process.display()))
        })
        .collect()
}
