//! Which filesystem a region lies on, and what it can still give.
//!
//! Whether memory is backed by hugepages is read from the filesystem of the open file, never from a
//! path, a mount table or a configuration (W-15.22-4).

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::fstatfs;

/// `f_type` of hugetlbfs.
const HUGETLBFS_MAGIC: u64 = 0x9584_58F6;
/// `f_type` of tmpfs.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The filesystem under a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// Ordinary pages in memory.
    Tmpfs,
    /// Hugepages, of one size per mount.
    Hugetlbfs,
    /// Anything else, by its `f_type`. Works, but may be a disk.
    Other(u64),
}

/// A filesystem as found under an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Which one.
    pub filesystem: Filesystem,
    /// Bytes of its pages: files on it take a multiple of this.
    pub page_bytes: u64,
    /// Bytes that are still free for new files, as far as the filesystem can tell.
    pub free_bytes: u64,
}

// === impl Backing ===

impl Backing {
    /// Looks at the filesystem that holds `file`.
    ///
    /// # Errors
    /// `fstatfs` failed.
    pub fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = fstatfs(file)?;
        let block_bytes = u64::try_from(stat.f_bsize).unwrap_or(0);
        let mounted_free = stat.f_bavail.saturating_mul(block_bytes);
        // `f_type` is signed on some machines; its low 32 bits are the magic everywhere.
        let magic = stat.f_type.cast_unsigned() & 0xFFFF_FFFF;
        Ok(match magic {
            HUGETLBFS_MAGIC => Self {
                filesystem: Filesystem::Hugetlbfs,
                page_bytes: block_bytes,
                free_bytes: free_hugepage_bytes(block_bytes, stat.f_blocks > 0, mounted_free),
            },
            TMPFS_MAGIC => Self {
                filesystem: Filesystem::Tmpfs,
                page_bytes: base_page_bytes(),
                // A tmpfs without a size limit reports no blocks at all.
                free_bytes: if stat.f_blocks > 0 {
                    mounted_free
                } else {
                    u64::MAX
                },
            },
            other => Self {
                filesystem: Filesystem::Other(other),
                page_bytes: base_page_bytes(),
                free_bytes: mounted_free,
            },
        })
    }

    /// Whether files here are backed by hugepages.
    #[must_use]
    pub const fn is_hugepages(self) -> bool {
        match self.filesystem {
            Filesystem::Hugetlbfs => true,
            Filesystem::Tmpfs | Filesystem::Other(_) => false,
        }
    }
}

impl std::fmt::Display for Filesystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tmpfs => f.write_str("tmpfs"),
            Self::Hugetlbfs => f.write_str("hugetlbfs"),
            Self::Other(magic) => write!(f, "filesystem type {magic:#x}"),
        }
    }
}

/// Bytes of an ordinary page.
pub(crate) fn base_page_bytes() -> u64 {
    u64::try_from(rustix::param::page_size()).unwrap_or(4096)
}

/// Free hugepages of one size: what the mount allows, and what the kernel has left unreserved.
fn free_hugepage_bytes(page_bytes: u64, is_limited: bool, mounted_free: u64) -> u64 {
    let count = |name: &str| {
        let kib = page_bytes / 1024;
        std::fs::read_to_string(format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/{name}"))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
    };
    // Where /sys is hidden only the mount can tell.
    let kernel_free = match (count("free_hugepages"), count("resv_hugepages")) {
        (Some(free), Some(reserved)) => {
            Some(free.saturating_sub(reserved).saturating_mul(page_bytes))
        }
        (None, _) | (_, None) => None,
    };
    match (is_limited, kernel_free) {
        (true, Some(kernel)) => mounted_free.min(kernel),
        (true, None) => mounted_free,
        (false, Some(kernel)) => kernel,
        (false, None) => 0,
    }
}
