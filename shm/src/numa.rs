//! Memory of one NUMA node, taken without a privilege.
//!
//! `mbind` and `set_mempolicy` would say where pages come from; the seccomp profile that container
//! runtimes take by default lets both through only with `CAP_SYS_NICE`. What anybody may do: the kernel
//! takes a page from the node of the CPU that asks for it, and from the nearest other one when that has
//! none. So a thread that makes an epoch runs on the wanted node's CPUs while it allocates, and
//! `/proc/self/numa_maps` says afterwards where the pages are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where the kernel lists the nodes.
const DIRECTORY: &str = "/sys/devices/system/node";

/// Which NUMA node the memory of an epoch comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numa {
    /// This one while it has free pages, then others.
    Preferred(u16),
    /// This one only: without enough free pages there the epoch is not made.
    Bind(u16),
}

/// Pages of an epoch, and how many of them lie on the NUMA node that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeShare {
    /// Number of the NUMA node.
    pub node: u16,
    /// Bytes of all pages.
    pub bytes: u64,
    /// Of these, bytes in pages of the node.
    pub there: u64,
}

/// Huge pages of one size on one NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePages {
    /// Number of the NUMA node.
    pub node: u16,
    /// Bytes of one page.
    pub page_bytes: u64,
    /// Pages there.
    pub total: u64,
    /// Of these, pages that nobody has.
    pub free: u64,
}

/// Why memory cannot be taken from a NUMA node.
#[derive(Debug, thiserror::Error)]
pub enum NumaError {
    /// Memory alone, as on some expanders: no thread can run there.
    #[error(
        "NUMA node {0} has no CPU, and memory is taken from the node of the CPU that asks for it; name a node with CPUs"
    )]
    NoCpus(u16),
    /// The control group of this process leaves the node's CPUs out.
    #[error(
        "this process may run on no CPU of NUMA node {node} (CPUs {cpus}), and memory is taken from the node of the CPU that asks for it; let its control group have one of them"
    )]
    OtherCpus {
        /// Number of the NUMA node.
        node: u16,
        /// The node's CPUs as the kernel writes them.
        cpus: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not list the node's CPUs: there is no such node, or /sys is hidden.
    #[error(
        "the CPUs of NUMA node {node} cannot be read from {}, and memory is taken from the node of the CPU that asks for it; name a node that is listed in /sys/devices/system/node",
        path.display()
    )]
    NotListed {
        /// Number of the NUMA node.
        node: u16,
        /// What was read.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not say where pages are.
    #[error("{} does not say on which NUMA node the pages are", path.display())]
    Unknown {
        /// What was read.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

// === impl Numa ===

impl Numa {
    /// Number of the NUMA node.
    #[must_use]
    pub const fn node(self) -> u16 {
        match self {
            Self::Preferred(node) | Self::Bind(node) => node,
        }
    }
}

/// The numbers of those that have memory, rising; only 0 where the kernel knows nothing of NUMA.
#[must_use]
pub fn numa_nodes() -> Vec<u16> {
    nodes_in(Path::new(DIRECTORY))
}

/// The huge pages of each NUMA node, by node, smallest first. None on a machine with one node: there the
/// machine's numbers say it all.
#[must_use]
pub fn numa_pages() -> Vec<NodePages> {
    pages_in(Path::new(DIRECTORY))
}

/// Free huge pages of this size on a node; `None` where the kernel does not count them.
pub(crate) fn free_pages(node: u16, page_bytes: u64) -> Option<u64> {
    let pages = pages_of(Path::new(DIRECTORY), node);
    let of_this_size = pages.into_iter().find(|it| it.page_bytes == page_bytes);
    of_this_size.map(|it| it.free)
}

fn nodes_in(directory: &Path) -> Vec<u16> {
    let text = fs::read_to_string(directory.join("has_memory")).unwrap_or_default();
    let nodes = numbers(&text);
    if nodes.is_empty() { vec![0] } else { nodes }
}

fn pages_in(directory: &Path) -> Vec<NodePages> {
    let nodes = nodes_in(directory);
    if nodes.len() == 1 {
        return Vec::new();
    }
    let mut all: Vec<NodePages> = nodes
        .into_iter()
        .flat_map(|node| pages_of(directory, node))
        .collect();
    all.sort_unstable();
    all
}

fn pages_of(directory: &Path, node: u16) -> Vec<NodePages> {
    let sizes = directory.join(format!("node{node}/hugepages"));
    let entries = fs::read_dir(sizes).into_iter().flatten().flatten();
    let pages = entries.filter_map(|entry| {
        let number = |file: &str| -> Option<u64> {
            let text = fs::read_to_string(entry.path().join(file)).ok()?;
            text.trim().parse().ok()
        };
        Some(NodePages {
            node,
            page_bytes: hugepage_bytes(entry.file_name().to_str()?)?,
            total: number("nr_hugepages")?,
            free: number("free_hugepages")?,
        })
    });
    pages.collect()
}

/// Bytes of a huge page, from the kernel's name of a directory: `hugepages-2048kB`.
#[must_use]
pub fn hugepage_bytes(name: &str) -> Option<u64> {
    let kib = name.strip_prefix("hugepages-")?;
    let kib: u64 = kib.strip_suffix("kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The numbers of a list as the kernel writes it: `0-1,4`.
fn numbers(text: &str) -> Vec<u16> {
    text.trim().split(',').flat_map(range).collect()
}

/// `3` or `0-3`.
fn range(text: &str) -> Vec<u16> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.parse::<u16>(), to.parse::<u16>()) {
        (Ok(from), Ok(to)) => (from..=to).collect(),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => Vec::new(),
    }
}

/// The calling thread on the CPUs of one NUMA node, until this is dropped.
#[derive(Debug)]
pub(crate) struct OnNode {
    before: CpuSet,
}

impl OnNode {
    /// Goes there.
    pub(crate) fn enter(node: u16) -> Result<Self, NumaError> {
        let path = Path::new(DIRECTORY).join(format!("node{node}/cpulist"));
        let cpus = match fs::read_to_string(&path) {
            Ok(cpus) => cpus,
            Err(source) => return Err(NumaError::NotListed { node, path, source }),
        };
        let mut there = CpuSet::new();
        for cpu in numbers(&cpus) {
            if usize::from(cpu) < CpuSet::MAX_CPU {
                there.set(usize::from(cpu));
            }
        }
        if there.count() == 0 {
            return Err(NumaError::NoCpus(node));
        }
        let moved = sched_getaffinity(None).and_then(|before| {
            sched_setaffinity(None, &there)?;
            Ok(Self { before })
        });
        moved.map_err(|error| NumaError::OtherCpus {
            node,
            cpus: cpus.trim().to_owned(),
            source: error.into(),
        })
    }
}

impl Drop for OnNode {
    fn drop(&mut self) {
        // A thread that stays on fewer CPUs than it might is slower, not wrong.
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// How much of these mappings lies on `node`. Their page tables must be filled.
pub(crate) fn share(node: u16, starts: &[usize], bytes: u64) -> Result<NodeShare, NumaError> {
    let path = Path::new("/proc/self/numa_maps");
    let maps = fs::read_to_string(path).map_err(|source| NumaError::Unknown {
        path: path.to_path_buf(),
        source,
    })?;
    let there = maps
        .lines()
        .filter_map(|line| bytes_on(node, starts, line))
        .sum();
    Ok(NodeShare { node, bytes, there })
}

/// Bytes of one mapping on a node, from its line: `7f0000000000 default file=… huge N0=2 N1=6
/// kernelpagesize_kB=2048`. Names of files escape blanks.
fn bytes_on(node: u16, starts: &[usize], line: &str) -> Option<u64> {
    let mut words = line.split(' ');
    let start = usize::from_str_radix(words.next()?, 16).ok()?;
    if !starts.contains(&start) {
        return None;
    }
    let (mut pages, mut page_kib) = (0u64, None);
    let wanted = format!("N{node}");
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        if key == wanted {
            pages = value.parse().ok()?;
        } else if key == "kernelpagesize_kB" {
            page_kib = value.parse::<u64>().ok();
        }
    }
    pages.checked_mul(page_kib?.checked_mul(1024)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{NodePages, bytes_on, hugepage_bytes, nodes_in, pages_in};

    #[test]
    fn the_kernels_list_is_read_and_without_one_there_is_one_node() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("has_memory");
        assert_eq!(nodes_in(directory.path()), [0]);
        fs::write(&file, "0-1,4\n").expect("written");
        assert_eq!(nodes_in(directory.path()), [0, 1, 4]);
        fs::write(&file, "0\n").expect("written");
        assert_eq!(nodes_in(directory.path()), [0]);
    }

    #[test]
    fn huge_pages_are_counted_by_node_where_there_are_several() {
        let directory = tempfile::tempdir().expect("a directory");
        let make = |node: u16, size: &str, total: &str, free: &str| {
            let pages = format!("node{node}/hugepages/hugepages-{size}");
            let pages = directory.path().join(pages);
            fs::create_dir_all(&pages).expect("it is new");
            fs::write(pages.join("nr_hugepages"), total).expect("written");
            fs::write(pages.join("free_hugepages"), free).expect("written");
        };
        make(0, "2048kB", "512\n", "100\n");
        make(0, "1048576kB", "2\n", "1\n");
        make(4, "2048kB", "256\n", "256\n");
        let has_memory = directory.path().join("has_memory");
        fs::write(&has_memory, "0,4\n").expect("written");
        let pages = |node, page_bytes, total, free| NodePages {
            node,
            page_bytes,
            total,
            free,
        };
        assert_eq!(
            pages_in(directory.path()),
            [
                pages(0, 2 << 20, 512, 100),
                pages(0, 1 << 30, 2, 1),
                pages(4, 2 << 20, 256, 256),
            ]
        );
        fs::write(&has_memory, "0\n").expect("written");
        assert_eq!(pages_in(directory.path()), []);
    }

    #[test]
    fn the_size_of_a_huge_page_is_in_the_kernels_name() {
        assert_eq!(hugepage_bytes("hugepages-2048kB"), Some(2 << 20));
        assert_eq!(hugepage_bytes("hugepages-1048576kB"), Some(1 << 30));
        for other in ["hugepages-2048", "2048kB", "hugepages-kB", "transparent"] {
            assert_eq!(hugepage_bytes(other), None, "{other}");
        }
    }

    #[test]
    fn pages_of_a_mapping_are_found_by_its_address_and_their_size() {
        let huge = "7f12c0000000 default file=/dev/hugepages/N1=9\\040a huge dirty=8 N0=2 N1=6 kernelpagesize_kB=2048";
        let starts = [0x7f12_c000_0000, 0x1000];
        assert_eq!(bytes_on(0, &starts, huge), Some(4 << 20));
        assert_eq!(bytes_on(1, &starts, huge), Some(12 << 20));
        assert_eq!(bytes_on(2, &starts, huge), Some(0));
        assert_eq!(bytes_on(1, &[0x2000], huge), None, "another mapping");
        let small = "1000 default file=/dev/shm/a dirty=3 active=0 N1=3 kernelpagesize_kB=4";
        assert_eq!(bytes_on(1, &starts, small), Some(3 * 4096));
        for other in [
            "",
            "1000",
            "1000 default N1=x kernelpagesize_kB=4",
            "zz N1=1",
        ] {
            assert_eq!(bytes_on(1, &starts, other), None, "{other}");
        }
    }
}
