//! One mapped file: how memory comes and goes.
//!
//! Invariants, kept here and named by every SAFETY comment of this crate's unsafe blocks:
//! - `[mapped]` `base..base + mapped` is one mapping, made by [`Region::map`] and undone only by
//!   `Drop`. In between it may be replaced by zero pages (`fault`), never removed, and its protection
//!   never changes. Nobody else maps over it: the range is private to the `Region`.
//! - `[in-bounds]` `len <= mapped`, and every address handed out lies in `base..base + len`.
//! - `[aligned]` `base` is aligned to the page size, at least 4096.
//! - `[shared]` the bytes belong to other processes too, so no `&[u8]` or `&mut [u8]` over them is
//!   ever formed; `words` hands out atomics and raw pointers only.
//!
//! - `[no-memory]` a call that takes descriptors and numbers alone touches no memory of this process.
//!
//! A mapping is kept out of forked children (`MADV_DONTFORK`), so a child can neither write into its
//! parent's stream nor keep its memory alive; [`ForkGuard`] tells a child that it is one.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::fault;
use crate::sync::{AtomicU32, Ordering};

/// What a mapping may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `PROT_READ`: consumers and the relay.
    ReadOnly,
    /// `PROT_READ | PROT_WRITE`: the producer, and the driver for superblocks.
    ReadWrite,
}

/// How a region is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapOptions {
    /// Fill the page tables at once (`MAP_POPULATE`), so that no frame pays for a page fault.
    pub prefault: bool,
    /// Keep the pages in memory (`mlock`). A failure fails the mapping (D-17-5, D-17-9).
    pub lock: bool,
    /// Keep the mapping out of forked children. On by default.
    pub dont_fork: bool,
}

impl Default for MapOptions {
    fn default() -> Self {
        Self {
            prefault: true,
            lock: false,
            dont_fork: true,
        }
    }
}

/// A mapping of one file, from its first byte. Unmapped when dropped.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    mapped: usize,
    len: usize,
    access: Access,
    pub(crate) watch: &'static fault::Watch,
    /// Made by `on_heap`, so not to be unmapped.
    #[cfg(test)]
    heap: Option<std::alloc::Layout>,
}

/// The step of mapping that failed.
#[derive(Debug)]
pub(crate) enum RegionError {
    /// More bytes than this process can address.
    TooLarge,
    /// `mmap` failed.
    Map(io::Error),
    /// `madvise(MADV_DONTFORK)` failed.
    DontFork(io::Error),
    /// `mlock` failed.
    Lock(io::Error),
}

// SAFETY: [mapped] the mapping belongs to the process, not to a thread, and `Region` owns it alone;
// [shared] access to its bytes goes through atomics and copies that allow any thread.
unsafe impl Send for Region {}
// SAFETY: [shared] as above; a shared `Region` hands out atomics and raw pointers only.
unsafe impl Sync for Region {}

// === impl Region ===

impl Region {
    /// Maps the first `len` bytes of `file`, which has at least that many, rounded up to
    /// `page_bytes`, its filesystem's page size.
    pub(crate) fn map(
        file: BorrowedFd<'_>,
        len: u64,
        page_bytes: u64,
        access: Access,
        options: MapOptions,
    ) -> Result<Self, RegionError> {
        let mapped =
            usize::try_from(crate::round_up(len, page_bytes)).map_err(|_| RegionError::TooLarge)?;
        let len = usize::try_from(len).map_err(|_| RegionError::TooLarge)?;
        let prot = match access {
            Access::ReadOnly => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        let mut flags = MapFlags::SHARED;
        flags.set(MapFlags::POPULATE, options.prefault);
        // SAFETY: [mapped] a null hint lets the kernel choose a free range, so nothing is replaced.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), mapped, prot, flags, file, 0) }
            .map_err(|e| RegionError::Map(e.into()))?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(RegionError::TooLarge)?;
        let watch = fault::watch(base.addr().get(), mapped, access);
        let region = Self {
            base,
            mapped,
            len,
            access,
            watch,
            #[cfg(test)]
            heap: None,
        };
        if options.dont_fork {
            // SAFETY: [mapped] the advice covers this mapping alone and changes no byte of it.
            unsafe { rustix::mm::madvise(region.address(), mapped, Advice::LinuxDontFork) }
                .map_err(|e| RegionError::DontFork(e.into()))?;
        }
        if options.lock {
            // SAFETY: [mapped] locking covers this mapping alone and changes no byte of it.
            unsafe { rustix::mm::mlock(region.address(), mapped) }
                .map_err(|e| RegionError::Lock(e.into()))?;
        }
        Ok(region)
    }

    /// Bytes of the region as the protocol counts them.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Never true: a region holds at least its superblock.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are mapped: `len` rounded up to the page size.
    #[must_use]
    pub const fn mapped_bytes(&self) -> usize {
        self.mapped
    }

    /// The first byte, page-aligned: for registering the memory with a device.
    ///
    /// Other processes write to these bytes at any time.
    #[must_use]
    pub const fn as_ptr(&self) -> *const u8 {
        self.base.as_ptr()
    }

    /// What the mapping may do.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Whether the file under the region lost pages, so that its bytes are zeros now and no longer
    /// anybody's. True for ever once true. Whatever was read before a call that returns false came
    /// from the file.
    #[must_use]
    #[inline]
    pub fn is_poisoned(&self) -> bool {
        self.watch.is_poisoned()
    }

    /// A region of `len` zeros on the heap, where Miri can watch every access.
    #[cfg(test)]
    pub(crate) fn on_heap(len: usize) -> Self {
        let layout = std::alloc::Layout::from_size_align(len, 4096).expect("a small region");
        // SAFETY: [in-bounds] the layout has at least a superblock's bytes.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
        let watch = fault::watch(base.addr().get(), len, Access::ReadWrite);
        let access = Access::ReadWrite;
        Self {
            base,
            mapped: len,
            len,
            access,
            watch,
            heap: Some(layout),
        }
    }

    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn address(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // First, so that the handler never replaces a range that is no longer ours.
        fault::unwatch(self.watch);
        #[cfg(test)]
        if let Some(layout) = self.heap {
            // SAFETY: [mapped] `on_heap` allocated exactly this block with this layout.
            unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) };
            return;
        }
        // SAFETY: [mapped] the range is this region's own mapping; every reference into it borrows
        // the region, so none is left.
        let unmapped = unsafe { rustix::mm::munmap(self.address(), self.mapped) };
        debug_assert_eq!(unmapped, Ok(()), "a region's own range can be unmapped");
    }
}

/// `F_SETSIG` of `fcntl`, the same on every architecture that Rust has: `libc` lacks it.
const F_SETSIG: libc::c_int = 10;

/// Whether anybody but the holder of this descriptor has the file open for longer than a call, or mapped: the
/// kernel gives a lease for writing only to who is alone with a file. Opened for reading and writing by
/// the file's owner.
///
/// # Errors
/// The filesystem knows no leases, or the file is somebody else's.
pub(crate) fn is_used_by_others(file: BorrowedFd<'_>) -> io::Result<bool> {
    // Who opens the file while the lease holds is made to wait, and we are signalled: with a signal that
    // is ignored unless somebody wants it, instead of SIGIO, which ends a process.
    // SAFETY: [no-memory] the command takes a number.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: [no-memory] the command takes a number.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    if taken != 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock => Ok(true),
            _ => Err(error),
        };
    }
    // SAFETY: [no-memory] the command takes a number.
    let given_back = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    if given_back == 0 {
        Ok(false)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Tells a forked child that it is one, at the price of one load.
///
/// The guard owns one page that the kernel hands to children as zeros (`MADV_WIPEONFORK`), so it
/// works for every way of forking and needs no system call to ask.
#[derive(Debug)]
pub struct ForkGuard {
    page: NonNull<AtomicU32>,
}

// SAFETY: [mapped] the page is private to the guard and read through an atomic only.
unsafe impl Send for ForkGuard {}
// SAFETY: [mapped] as above.
unsafe impl Sync for ForkGuard {}

/// Runs `child` in a forked child and returns its end: an exit status, or minus the signal.
#[cfg(all(test, not(miri)))]
fn in_forked_child(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: [shared] the child runs no destructor and takes no lock: it loads words and leaves.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "a child");
    if pid == 0 {
        let status = child();
        // SAFETY: [shared] as above.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: [shared] the status is our own memory.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "the child's end");
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    }
}

/// Bytes of the guard's mapping; the kernel rounds it up to a page.
const GUARD_BYTES: usize = 4096;

impl ForkGuard {
    /// Makes a guard that belongs to this process.
    ///
    /// # Errors
    /// The kernel has no page left, or is older than 4.14.
    pub fn new() -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: [mapped] a null hint lets the kernel choose a free range, so nothing is replaced.
        let page = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), GUARD_BYTES, prot, MapFlags::PRIVATE)
        }?;
        let guard = NonNull::new(page.cast::<AtomicU32>())
            .map(|page| Self { page })
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: [mapped] the advice covers the guard's own page.
        unsafe { rustix::mm::madvise(page, GUARD_BYTES, Advice::LinuxWipeOnFork) }?;
        guard.word().store(1, Ordering::Relaxed);
        Ok(guard)
    }

    /// Whether the caller runs in a child that was forked after the guard was made.
    #[must_use]
    #[inline]
    pub fn is_forked_child(&self) -> bool {
        self.word().load(Ordering::Relaxed) == 0
    }

    #[inline]
    fn word(&self) -> &AtomicU32 {
        // SAFETY: [mapped] [aligned] the page is mapped until Drop, and zero bytes are an AtomicU32.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for ForkGuard {
    fn drop(&mut self) {
        // SAFETY: [mapped] the page is the guard's own and nothing borrows it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), GUARD_BYTES) };
        debug_assert_eq!(unmapped, Ok(()), "a guard's own page can be unmapped");
    }
}

#[cfg(all(test, not(miri)))]
mod tests;
