//! The NUMA nodes of this machine.

use std::fs;
use std::path::Path;

/// Where the kernel lists those that have memory.
const NODES: &str = "/sys/devices/system/node/has_memory";

/// Their numbers, rising; only 0 where the kernel knows nothing of NUMA.
#[must_use]
pub fn nodes() -> Vec<u16> {
    nodes_in(Path::new(NODES))
}

fn nodes_in(file: &Path) -> Vec<u16> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let nodes: Vec<u16> = text.trim().split(',').flat_map(range).collect();
    if nodes.is_empty() { vec![0] } else { nodes }
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

    use super::nodes_in;

    #[test]
    fn the_kernels_list_is_read_and_without_one_there_is_one_node() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("has_memory");
        assert_eq!(nodes_in(&file), [0]);
        fs::write(&file, "0-1,4\n").expect("written");
        assert_eq!(nodes_in(&file), [0, 1, 4]);
        fs::write(&file, "0\n").expect("written");
        assert_eq!(nodes_in(&file), [0]);
    }
}
