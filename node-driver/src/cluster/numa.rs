//! The NUMA nodes of this machine.

use std::fs;
use std::path::Path;

/// Where the kernel lists them.
const ONLINE: &str = "/sys/devices/system/node/online";

/// Their numbers, rising. A kernel that knows of none has one, with number 0.
#[must_use]
pub fn nodes() -> Vec<u16> {
    nodes_in(Path::new(ONLINE))
}

fn nodes_in(file: &Path) -> Vec<u16> {
    let text = fs::read_to_string(file).ok();
    let nodes = text.and_then(|text| parsed(text.trim()));
    nodes.unwrap_or_else(|| vec![0])
}

/// A list as the kernel writes it, like `0-1,3`.
fn parsed(list: &str) -> Option<Vec<u16>> {
    let mut nodes = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        nodes.extend(first.parse::<u16>().ok()?..=last.parse().ok()?);
    }
    Some(nodes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{nodes_in, parsed};

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(parsed("0"), Some(vec![0]));
        assert_eq!(parsed("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parsed(""), None);
        assert_eq!(nodes_in(Path::new("/nowhere")), [0]);
    }
}
