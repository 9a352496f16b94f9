//! What the configured streams need, against what their mount has.
//!
//! Three epochs per stream are counted: the current one, the one before it that consumers still map,
//! and the next one that is made before the old ones may go.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use tensorpool_shm::Backing;
use tensorpool_wire::StreamId;

use super::settings::{Profile, Settings};

/// Epochs of one stream that can exist at the same time.
pub const EPOCHS_COUNTED: u64 = 3;
const SUPERBLOCK_BYTES: u64 = 64;
const SLOT_BYTES: u64 = 256;

/// Needs and means, side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Every declared stream.
    pub streams: Vec<StreamNeed>,
    /// Where the regions go.
    pub mount: Mount,
    /// Bytes of regions of earlier runs, which are removed as epochs pass.
    pub held_bytes: u64,
}

/// One stream's need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamNeed {
    /// Name in the configuration.
    pub name: String,
    /// Its id.
    pub stream_id: StreamId,
    /// Bytes of one epoch, each file rounded up to whole pages.
    pub epoch_bytes: u64,
}

/// The mount under the base directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The directory that was looked at: the base directory, or its nearest parent that exists.
    pub path: PathBuf,
    /// Page size in bytes.
    pub page_bytes: u64,
    /// Whether it is a hugetlbfs.
    pub hugepages: bool,
    /// Free bytes. Where the mount sets no limit: of a hugetlbfs those that the kernel has left, else
    /// `u64::MAX`.
    pub free_bytes: u64,
    /// All bytes; 0 where the mount sets no limit.
    pub total_bytes: u64,
}

/// Why no budget could be made.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// The mount does not say how much it has.
    #[error(
        "cannot look at the mount of {path}: set shm.base_dir to a directory on a tmpfs or hugetlbfs"
    )]
    Mount {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Budget {
    /// Looks at the mount and adds up the streams.
    ///
    /// # Errors
    /// [`BudgetError`] when the mount cannot be read.
    pub fn measure(settings: &Settings) -> Result<Self, BudgetError> {
        let mount = Mount::of(&settings.shm.base_dir)?;
        let streams = settings
            .streams
            .iter()
            .filter_map(|(name, stream)| {
                let profile = settings.profiles.get(&stream.profile)?;
                Some(StreamNeed {
                    name: name.clone(),
                    stream_id: stream.stream_id,
                    epoch_bytes: epoch_bytes(profile, mount.page_bytes),
                })
            })
            .collect();
        let held_bytes = held(&settings.shm.base_dir);
        Ok(Self {
            streams,
            mount,
            held_bytes,
        })
    }

    /// Bytes of all streams with [`EPOCHS_COUNTED`] epochs each.
    #[must_use]
    pub fn needed_bytes(&self) -> u64 {
        let one: u64 = self
            .streams
            .iter()
            .fold(0, |sum, stream| sum.saturating_add(stream.epoch_bytes));
        one.saturating_mul(EPOCHS_COUNTED)
    }

    /// Bytes that the driver can use: free ones and those of earlier runs.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        self.mount.free_bytes.saturating_add(self.held_bytes)
    }

    /// Whether everything fits.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.needed_bytes() <= self.usable_bytes()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for stream in &self.streams {
            writeln!(
                f,
                "stream {} ({}): {} per epoch, {} for {EPOCHS_COUNTED} epochs",
                stream.name,
                stream.stream_id,
                Bytes(stream.epoch_bytes),
                Bytes(stream.epoch_bytes.saturating_mul(EPOCHS_COUNTED)),
            )?;
        }
        let pages = if self.mount.hugepages {
            "huge"
        } else {
            "standard"
        };
        let free = match (self.mount.free_bytes, self.mount.total_bytes) {
            (u64::MAX, _) => "no limit".to_owned(),
            (free, 0) => format!("{} free", Bytes(free)),
            (free, total) => format!("{} free of {}", Bytes(free), Bytes(total)),
        };
        writeln!(
            f,
            "mount of {}: {pages} pages of {}, {free}, {} held by earlier epochs",
            self.mount.path.display(),
            Bytes(self.mount.page_bytes),
            Bytes(self.held_bytes),
        )?;
        let verdict = if self.fits() { "enough" } else { "NOT enough" };
        let usable = match self.usable_bytes() {
            u64::MAX => "any number".to_owned(),
            usable => Bytes(usable).to_string(),
        };
        let needed = Bytes(self.needed_bytes());
        write!(f, "needed in all: {needed} of {usable} usable: {verdict}")
    }
}

impl Mount {
    /// The mount that `dir`, or its nearest parent that exists, lies on.
    ///
    /// # Errors
    /// [`BudgetError::Mount`].
    pub fn of(dir: &Path) -> Result<Self, BudgetError> {
        let path = dir
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or_else(|| Path::new("/"))
            .to_owned();
        let failed = |source| BudgetError::Mount {
            path: dir.to_owned(),
            source,
        };
        let opened = File::open(&path).map_err(failed)?;
        let backing = Backing::of(opened.as_fd()).map_err(failed)?;
        let space = statvfs(&path).map_err(|errno| failed(errno.into()))?;
        // A mount without a size has no blocks at all, free ones neither.
        let free_bytes = if space.f_blocks == 0 {
            backing.free_bytes
        } else {
            space.f_bavail.saturating_mul(space.f_frsize)
        };
        Ok(Self {
            page_bytes: space.f_bsize.max(1),
            hugepages: backing.is_hugepages(),
            free_bytes,
            total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
            path,
        })
    }
}

/// Bytes of all files of one epoch, each rounded up to whole pages.
fn epoch_bytes(profile: &Profile, page_bytes: u64) -> u64 {
    let slots = u64::from(profile.header_nslots);
    let ring = SUPERBLOCK_BYTES + slots * SLOT_BYTES;
    let pools = profile
        .payload_pools
        .iter()
        .map(|pool| SUPERBLOCK_BYTES + slots * u64::from(pool.stride_bytes));
    std::iter::once(ring)
        .chain(pools)
        .map(|bytes| bytes.next_multiple_of(page_bytes))
        .fold(0, u64::saturating_add)
}

/// Bytes of region files under `dir`. What cannot be read counts nothing: it is not ours to remove.
fn held(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => held(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |meta| meta.len()),
            _ => 0,
        })
        .fold(0, u64::saturating_add)
}

/// A number of bytes as people read it.
pub(crate) fn bytes_in_words(count: u64) -> String {
    Bytes(count).to_string()
}

/// Bytes in the largest binary unit that keeps the number readable.
#[derive(Clone, Copy, Debug)]
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["GiB", "MiB", "KiB", "B"];
        let (shift, unit) = UNITS
            .iter()
            .zip([30_u32, 20, 10, 0])
            .map(|(unit, shift)| (shift, unit))
            .find(|(shift, _)| self.0 >> shift > 0)
            .unwrap_or((0, &"B"));
        if shift == 0 {
            return write!(f, "{} {unit}", self.0);
        }
        // One digit, in integers.
        let tenths = (u128::from(self.0) * 10) >> shift;
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}
