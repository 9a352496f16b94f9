//! Making an epoch: all of its files, fully allocated, or nothing.
//!
//! Every byte is allocated before the superblock says that the region is there, so no client can be
//! killed by a page that cannot be had. On any error what was made is removed again.
//!
//! Pages of one NUMA node are asked for by running there (`numa`), and looked for afterwards.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    FallocateFlags, Mode, OFlags, Stat, fallocate, fchmod, fstat, fsync, ftruncate, lstat, mkdirat,
    openat,
};
use rustix::io::Errno;
use tensorpool_wire::{MonoNanos, ShmUri, UriError};

use crate::contain::ValidatedUri;
use crate::directory::ensure_directory;
use crate::error::{ContainError, CreateError, MapError};
use crate::hugepage::Filesystem;
use crate::layout::{RegionKind, SUPERBLOCK_BYTES, StreamLayout};
use crate::mapping::RegionSource;
use crate::numa::{self, NodeShare, Numa, NumaError, OnNode};
use crate::permissions::Permissions;
use crate::reader::ReadMapping;
use crate::region::{Access, MapOptions, Region, RegionError};
use crate::store::EpochStore;
use crate::superblock::{self, Creator};

/// An epoch as its creator holds it. Dropping it unmaps; [`EpochStore::remove`] removes the files.
#[derive(Debug)]
pub struct CreatedEpoch {
    layout: StreamLayout,
    creator: Creator,
    directory: PathBuf,
    bytes: u64,
    /// In the layout's order, as all that follow.
    files: Vec<ValidatedUri>,
    /// At least the first page of each region.
    superblocks: Vec<Region>,
    /// What each file was when it was made.
    extents: Vec<Extent>,
    /// Whether the filesystem counts blocks by what was allocated, neither more nor less.
    counts_blocks: bool,
    /// Where its pages are, if a NUMA node was asked for.
    on_node: Option<NodeShare>,
}

/// How the files of one epoch are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Their modes.
    pub permissions: Permissions,
    /// Where their pages come from; `None`: wherever the kernel takes them.
    pub numa: Option<Numa>,
}

/// How long a file is, and how much of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    inode: u64,
    bytes: u64,
    blocks: u64,
}

/// What was done to a file since it was made, through a descriptor that may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileChange {
    /// It was truncated or punched.
    Shrank,
    /// It was made longer.
    Grew,
}

// === impl EpochStore ===

impl EpochStore {
    /// Creates all files of an epoch: allocated, with their modes, superblocks written, magic last.
    ///
    /// # Errors
    /// [`CreateError`]; nothing of the epoch is left behind.
    // spec: W-15.14-1 D-3-1 W-15.21a-1 D-15-1
    pub fn create(
        &self,
        layout: StreamLayout,
        creator: Creator,
    ) -> Result<CreatedEpoch, CreateError> {
        let options = CreateOptions {
            permissions: self.options().permissions,
            numa: None,
        };
        self.create_with(layout, creator, options)
    }

    /// The same with modes and a NUMA node of this epoch's own. While the files are allocated on a node,
    /// the calling thread runs there.
    ///
    /// # Errors
    /// [`CreateError`]; nothing of the epoch is left behind.
    pub fn create_with(
        &self,
        layout: StreamLayout,
        creator: Creator,
        options: CreateOptions,
    ) -> Result<CreatedEpoch, CreateError> {
        let stream_name = layout.stream_id().to_string();
        let epoch_name = layout.epoch().to_string();
        let stream_path = self.path().join(&stream_name);
        let path = stream_path.join(&epoch_name);
        let mode = self.options().permissions.directory_mode();
        let (stream, _) = ensure_directory(self.directory(), &stream_name, mode)
            .map_err(|e| e.at(stream_path))?;
        let made = match mkdirat(&stream, epoch_name.as_str(), Mode::RWXU) {
            Ok(()) => {
                let place = (stream.as_fd(), epoch_name.as_str(), path.as_path());
                self.fill(place, &layout, creator, options)
            }
            Err(Errno::EXIST) => return Err(CreateError::Exists { path }),
            Err(e) => Err(Failure::File(path.clone(), e.into())),
        };
        match made {
            Ok(Filled {
                files,
                superblocks,
                extents,
                on_node,
            }) => Ok(CreatedEpoch {
                bytes: layout.total_bytes(self.page_bytes()),
                layout,
                creator,
                directory: path,
                files,
                superblocks,
                extents,
                counts_blocks: self.counts_blocks(),
                on_node,
            }),
            Err(failure) => Err(self.undo(&layout, failure)),
        }
    }

    /// Everything below a fresh epoch directory.
    fn fill(
        &self,
        (stream, epoch_name, path): (BorrowedFd<'_>, &str, &Path),
        layout: &StreamLayout,
        creator: Creator,
        CreateOptions { permissions, numa }: CreateOptions,
    ) -> Result<Filled, Failure> {
        let failed = |e: Errno| Failure::File(path.to_path_buf(), e.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(stream, epoch_name, flags, Mode::empty()).map_err(failed)?;
        let directory_mode = Mode::from_raw_mode(permissions.directory_mode());
        fchmod(&directory, directory_mode).map_err(failed)?;
        // All files get their space before the first superblock claims to be one.
        let there = numa.map(|numa| self.go_to(numa, layout)).transpose()?;
        let mut files = Vec::new();
        for kind in layout.regions() {
            let path = path.join(kind.file_name());
            let bytes = crate::round_up(layout.region_bytes(kind), self.file_unit());
            let mode = permissions.file_mode();
            let file = allocate(directory.as_fd(), &kind.file_name(), mode, bytes);
            files.push((
                kind,
                file.map_err(|e| Failure::File(path.clone(), e.into()))?,
                path,
            ));
        }
        drop(there);
        let mut filled = Filled {
            on_node: self.on_node(numa, layout, &files)?,
            ..Filled::default()
        };
        for (kind, file, path) in files {
            let region = self.map_new(file.as_fd(), layout.region_bytes(kind), &path)?;
            superblock::publish(&region, layout, kind, creator);
            fsync(&file).map_err(|e| Failure::File(path.clone(), e.into()))?;
            let uri = ValidatedUri::of_created(
                path.clone(),
                file.as_fd(),
                self.options().require_hugepages,
            );
            let extent = fstat(&file).map(|stat| Extent::of(&stat, self.counts_blocks()));
            filled
                .extents
                .push(extent.map_err(|e| Failure::File(path.clone(), e.into()))?);
            filled.files.push(uri.map_err(|e| Failure::File(path, e))?);
            filled.superblocks.push(region);
        }
        fsync(&directory).map_err(failed)?;
        fsync(stream).map_err(failed)?;
        Ok(filled)
    }

    /// Goes to the CPUs of a NUMA node, if it has what is needed. Where it is merely preferred and nobody
    /// can run there, stays.
    fn go_to(&self, numa: Numa, layout: &StreamLayout) -> Result<Option<OnNode>, Failure> {
        match numa {
            Numa::Preferred(node) => Ok(OnNode::enter(node).ok()),
            Numa::Bind(node) => {
                let page_bytes = self.page_bytes();
                // How much of its ordinary memory the kernel would free for us nobody knows before.
                let free = numa::free_pages(node, page_bytes).filter(|_| self.uses_hugepages());
                let had = free.map(|pages| pages.saturating_mul(page_bytes));
                if let Some(had) = had
                    && had < layout.total_bytes(page_bytes)
                {
                    return Err(Failure::NodeFull { node, had });
                }
                OnNode::enter(node).map(Some).map_err(Failure::Node)
            }
        }
    }

    /// Where the pages of new files came from.
    fn on_node(
        &self,
        numa: Option<Numa>,
        layout: &StreamLayout,
        files: &[(RegionKind, OwnedFd, PathBuf)],
    ) -> Result<Option<NodeShare>, Failure> {
        let Some(numa) = numa else { return Ok(None) };
        let how = MapOptions {
            prefault: true,
            ..MapOptions::default()
        };
        let mut mapped = Vec::with_capacity(files.len());
        for (kind, file, path) in files {
            let (file, bytes) = (file.as_fd(), layout.region_bytes(*kind));
            let region = Region::map(file, bytes, self.page_bytes(), Access::ReadWrite, how);
            mapped.push(region.map_err(|error| Failure::Map(path.clone(), error))?);
        }
        let starts: Vec<usize> = mapped.iter().map(|it| it.as_ptr().addr()).collect();
        let bytes = mapped.iter().map(|it| it.mapped_bytes());
        let bytes = bytes.fold(0, |sum: u64, bytes| {
            sum.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX))
        });
        match (numa, numa::share(numa.node(), &starts, bytes)) {
            (Numa::Bind(node), Ok(share)) if share.there < share.bytes => Err(Failure::NodeFull {
                node,
                had: share.there,
            }),
            (Numa::Bind(_), Err(error)) => Err(Failure::Node(error)),
            (Numa::Bind(_) | Numa::Preferred(_), share) => Ok(share.ok()),
        }
    }

    /// A filesystem on a disk may use blocks for itself, or leave out what is zero.
    fn counts_blocks(&self) -> bool {
        self.backing()
            .is_ok_and(|backing| match backing.filesystem {
                Filesystem::Tmpfs | Filesystem::Hugetlbfs => true,
                Filesystem::Other(_) => false,
            })
    }

    /// What file lengths are rounded up to: whole pages on hugetlbfs, which has no other lengths.
    fn file_unit(&self) -> u64 {
        if self.uses_hugepages() {
            self.page_bytes()
        } else {
            1
        }
    }

    /// Maps a new region as its creator keeps it: the page of the superblock, or everything where it
    /// is to stay locked.
    fn map_new(&self, file: BorrowedFd<'_>, bytes: u64, path: &Path) -> Result<Region, Failure> {
        let options = self.options();
        let map = |bytes: u64, prefault: bool, lock: bool| {
            let how = MapOptions {
                prefault,
                lock,
                dont_fork: true,
            };
            Region::map(file, bytes, self.page_bytes(), Access::ReadWrite, how)
                .map_err(|error| Failure::Map(path.to_path_buf(), error))
        };
        if options.prefault {
            // Mapped once as a whole, which clears every page, and unmapped again.
            drop(map(bytes, true, false)?);
        }
        // spec: D-17-5
        if options.lock {
            map(bytes, true, true)
        } else {
            map(SUPERBLOCK_BYTES, true, false)
        }
    }

    /// Removes what was made, then says why, with the space that is free now.
    fn undo(&self, layout: &StreamLayout, failure: Failure) -> CreateError {
        // What cannot be removed is found by the next pass over the store.
        let _ = self.remove(layout.stream_id(), layout.epoch());
        match failure {
            Failure::File(_, e) if is_out_of_space(&e) => CreateError::NoSpace {
                stream_id: layout.stream_id(),
                epoch: layout.epoch(),
                needed: layout.total_bytes(self.page_bytes()),
                free: self.backing().map_or(0, |backing| backing.free_bytes),
                held_by_old_epochs: self.held_by_old_epochs(layout.stream_id()),
                page_bytes: self.page_bytes(),
                path: self.path().to_path_buf(),
            },
            Failure::NodeFull { node, had } => CreateError::NodeFull {
                stream_id: layout.stream_id(),
                epoch: layout.epoch(),
                node,
                needed: layout.total_bytes(self.page_bytes()),
                had,
                page_bytes: self.page_bytes(),
            },
            Failure::Node(error) => CreateError::Node(error),
            Failure::File(path, source) => CreateError::File { path, source },
            Failure::Map(path, RegionError::Lock(source)) => CreateError::Lock { path, source },
            Failure::Map(path, RegionError::Map(source) | RegionError::DontFork(source)) => {
                CreateError::Map { path, source }
            }
            Failure::Map(path, RegionError::TooLarge) => CreateError::Map {
                path,
                source: io::ErrorKind::FileTooLarge.into(),
            },
        }
    }
}

/// The files of a fresh epoch, in the layout's order.
#[derive(Default)]
struct Filled {
    files: Vec<ValidatedUri>,
    superblocks: Vec<Region>,
    extents: Vec<Extent>,
    on_node: Option<NodeShare>,
}

// === impl Extent ===

impl Extent {
    fn of(stat: &Stat, counts_blocks: bool) -> Self {
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        Self {
            inode: stat.st_ino,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: if counts_blocks { blocks } else { 0 },
        }
    }

    /// What became of it. Another file under its name says nothing about it.
    fn change(&self, now: &Self) -> Option<FileChange> {
        if now.inode != self.inode {
            None
        } else if now.bytes < self.bytes || now.blocks < self.blocks {
            Some(FileChange::Shrank)
        } else if now.bytes > self.bytes || now.blocks > self.blocks {
            Some(FileChange::Grew)
        } else {
            None
        }
    }
}

/// What went wrong below the epoch directory.
enum Failure {
    NodeFull { node: u16, had: u64 },
    Node(NumaError),
    File(PathBuf, io::Error),
    Map(PathBuf, RegionError),
}

// === impl CreatedEpoch ===

impl CreatedEpoch {
    /// The shape.
    #[must_use]
    pub const fn layout(&self) -> &StreamLayout {
        &self.layout
    }

    /// Who created it, as its superblocks say.
    #[must_use]
    pub const fn creator(&self) -> Creator {
        self.creator
    }

    /// The epoch directory, canonical.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes that the files take from the filesystem, in whole pages.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the pages are, if a NUMA node was asked for and the kernel says it.
    #[must_use]
    pub const fn on_node(&self) -> Option<NodeShare> {
        self.on_node
    }

    /// The region URIs to announce, the header ring first, then the pools in the layout's order.
    ///
    /// # Errors
    /// The path holds a character that a URI cannot; an [`EpochStore`] never makes one.
    // spec: W-15.21a-6 W-15.21a-7 W-15.22-1 D-4.2-18
    pub fn uris(&self) -> Result<Vec<ShmUri>, UriError> {
        let uri = |file: &ValidatedUri| {
            ShmUri::new(&file.path().to_string_lossy(), file.require_hugepages())
        };
        self.files.iter().map(uri).collect()
    }

    /// Says in every superblock that the stream is alive at `now`.
    // spec: W-7.1-4 D-3-2
    pub fn refresh_activity(&self, now: MonoNanos) {
        for region in &self.superblocks {
            superblock::refresh_activity(region, now);
        }
    }

    /// Whether a producer has truncated one of the files under the creator.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.superblocks.iter().any(Region::is_poisoned)
    }

    /// Compares the files with what was made. A file that grew is cut back, so that it takes no more of
    /// the mount than it was given; whoever still writes to it can make it grow again.
    #[must_use]
    pub fn audit(&self) -> Option<FileChange> {
        let mut found = None;
        for (file, made) in self.files.iter().zip(&self.extents) {
            let Ok(stat) = lstat(file.path()) else {
                continue;
            };
            let change = made.change(&Extent::of(&stat, self.counts_blocks));
            if change == Some(FileChange::Grew)
                && let Ok(file) = file.open(Access::ReadWrite)
            {
                // On hugetlbfs and tmpfs it works; elsewhere the epoch is given up all the same.
                let _cut = ftruncate(&file, made.bytes);
            }
            found = match (found, change) {
                (Some(FileChange::Shrank), _) | (_, None) => found,
                (_, Some(change)) => Some(change),
            };
        }
        found
    }

    /// Opens every region, the header ring first, then the pools: to hand to a client.
    ///
    /// # Errors
    /// [`ContainError`] if a file is no longer there, or another has taken its name.
    // spec: D-9-1
    pub fn open(&self, access: Access) -> Result<Vec<OwnedFd>, ContainError> {
        self.files.iter().map(|file| file.open(access)).collect()
    }

    /// Maps the epoch for reading: the relay's end.
    ///
    /// # Errors
    /// [`MapError`], if a file changed since it was created.
    pub fn map_reader(&self, options: MapOptions) -> Result<ReadMapping, MapError> {
        let sources = self.files.iter().cloned().map(RegionSource::Path).collect();
        ReadMapping::map(self.layout.clone(), sources, options)
    }
}

/// Makes one region file with all of its bytes allocated.
fn allocate(
    directory: BorrowedFd<'_>,
    name: &str,
    mode: u32,
    bytes: u64,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    fchmod(&file, Mode::from_raw_mode(mode))?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    Ok(file)
}

fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory
    )
}
