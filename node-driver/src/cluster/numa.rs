//! The NUMA nodes of this machine, and the huge pages of each.

use std::fs;
use std::path::Path;

use super::huge_pages::page_bytes;

/// Where the kernel lists them.
const DIRECTORY: &str = "/sys/devices/system/node";

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

/// The numbers of those that have memory, rising; only 0 where the kernel knows nothing of NUMA.
#[must_use]
pub fn nodes() -> Vec<u16> {
    nodes_in(Path::new(DIRECTORY))
}

/// The huge pages of each NUMA node, by node, smallest first. None on a machine with one node: there the
/// machine's numbers say it all.
#[must_use]
pub fn pages() -> Vec<NodePages> {
    pages_in(Path::new(DIRECTORY))
}

fn nodes_in(directory: &Path) -> Vec<u16> {
    let text = fs::read_to_string(directory.join("has_memory")).unwrap_or_default();
    let nodes: Vec<u16> = text.trim().split(',').flat_map(range).collect();
    if nodes.is_empty() { vec![0] } else { nodes }
}

fn pages_in(directory: &Path) -> Vec<NodePages> {
    let nodes = nodes_in(directory);
    if nodes.len() == 1 {
        return Vec::new();
    }
    let mut all: Vec<NodePages> = nodes
        .into_iter()
        .flat_map(|node| of(directory, node))
        .collect();
    all.sort_unstable();
    all
}

fn of(directory: &Path, node: u16) -> Vec<NodePages> {
    let sizes = directory.join(format!("node{node}/hugepages"));
    let entries = fs::read_dir(sizes).into_iter().flatten().flatten();
    let pages = entries.filter_map(|entry| {
        let number = |file: &str| -> Option<u64> {
            let text = fs::read_to_string(entry.path().join(file)).ok()?;
            text.trim().parse().ok()
        };
        Some(NodePages {
            node,
            page_bytes: page_bytes(entry.file_name().to_str()?)?,
            total: number("nr_hugepages")?,
            free: number("free_hugepages")?,
        })
    });
    pages.collect()
}

/// `3` or `0-3`.
fn range(text: &str) -> Vec<u16> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.parse::<u16>(), to.parse::<u16>()) {
        (Ok(from), Ok(to)) => (from..=to).collect(),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{NodePages, nodes_in, pages_in};

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
}
