//! Huge pages as the kernel counts them.

use std::fs;
use std::path::Path;

use tensorpool_shm::hugepage_bytes;

/// Where the kernel counts them.
const DIRECTORY: &str = "/sys/kernel/mm/hugepages";

/// Huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HugePages {
    /// Bytes of one page.
    pub page_bytes: u64,
    /// Pages that nobody has.
    pub free: u64,
    /// Of these, those that somebody was promised.
    pub promised: u64,
    /// All pages.
    pub total: u64,
}

/// All sizes of this machine, smallest first; none where the kernel does not count.
#[must_use]
pub fn read() -> Vec<HugePages> {
    read_in(Path::new(DIRECTORY))
}

fn read_in(directory: &Path) -> Vec<HugePages> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all: Vec<HugePages> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let page_bytes = hugepage_bytes(name.to_str()?)?;
            let number = |file: &str| -> Option<u64> {
                let text = fs::read_to_string(entry.path().join(file)).ok()?;
                text.trim().parse().ok()
            };
            Some(HugePages {
                page_bytes,
                free: number("free_hugepages")?,
                promised: number("resv_hugepages")?,
                total: number("nr_hugepages")?,
            })
        })
        .collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{HugePages, read_in};

    #[test]
    fn pages_of_every_size_are_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let make = |name: &str, total: &str, free: &str, promised: &str| {
            let size = directory.path().join(name);
            fs::create_dir(&size).expect("it is new");
            fs::write(size.join("nr_hugepages"), total).expect("written");
            fs::write(size.join("free_hugepages"), free).expect("written");
            fs::write(size.join("resv_hugepages"), promised).expect("written");
        };
        make("hugepages-1048576kB", "2\n", "2\n", "0\n");
        make("hugepages-2048kB", "512\n", "100\n", "30\n");
        make("something-else", "1\n", "1\n", "0\n");
        assert_eq!(
            read_in(directory.path()),
            [
                HugePages {
                    page_bytes: 2 << 20,
                    free: 100,
                    promised: 30,
                    total: 512
                },
                HugePages {
                    page_bytes: 1 << 30,
                    free: 2,
                    promised: 0,
                    total: 2
                },
            ]
        );
        assert_eq!(read_in(&directory.path().join("missing")), []);
    }
}
