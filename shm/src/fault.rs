//! A file that shrinks under its readers must not kill them.
//!
//! Whoever may write a region's file can also truncate it, and a load from a page that is gone raises
//! SIGBUS. The handler here looks the address up in a table of mapped regions. If it lies in one, the
//! region is marked poisoned and the whole of it is replaced by zero pages, so that the load is
//! repeated and finds zeros; every read path asks for the mark before it believes what it read. Any
//! other fault is passed on to the handler that was there before.
//!
//! Invariants:
//! - `[signal-safe]` the handler takes no lock and allocates nothing: it loads atomics, calls `mmap`
//!   and, to pass a fault on, `sigaction`. The table only grows and is never freed.
//! - `[live-watch]` a range in the table is mapped: [`watch`] is called after `mmap` and [`unwatch`]
//!   before `munmap`, both by `Region`. A thread that faults inside a region borrows it, so the entry
//!   cannot change until the handler returns. Entries of *other* regions may change while the handler
//!   reads them; the version word tells, and such an entry is skipped.
//!
//! Marking comes before replacing: a thread that reads a zero page made here then finds the mark.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::mm::{MapFlags, ProtFlags};

use crate::region::Access;
use crate::sync::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

/// Entries per chunk of the table.
const CHUNK: usize = 64;

/// One mapped region in the table.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Odd while the other fields change.
    version: AtomicU32,
    base: AtomicUsize,
    /// 0 when the entry is free.
    len: AtomicUsize,
    writable: AtomicBool,
    poisoned: AtomicBool,
}

#[derive(Debug)]
struct Chunk {
    watches: [Watch; CHUNK],
    next: OnceLock<Box<Self>>,
}

/// The handler could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("could not install the SIGBUS handler that protects mapped regions")]
pub struct FaultError(#[from] io::Error);

static TABLE: Chunk = Chunk::empty();
/// Entries that are free again. Never touched by the handler.
static FREE: Mutex<Free> = Mutex::new(Free {
    watches: Vec::new(),
    used: 0,
});
/// What handled SIGBUS before. Set before the handler is installed.
static PREVIOUS: OnceLock<Previous> = OnceLock::new();

struct Free {
    watches: Vec<&'static Watch>,
    /// Entries ever taken from the table, in order.
    used: usize,
}

/// What was done with SIGBUS before us, as `sigaction` reported it.
#[derive(Clone, Copy)]
struct Previous {
    handler: libc::sighandler_t,
    flags: c_int,
}

// === impl Watch ===

impl Watch {
    const fn empty() -> Self {
        Self {
            version: AtomicU32::new(0),
            base: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            writable: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        }
    }

    /// Whether the region was replaced by zeros. What was read before a `false` is genuine.
    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        fence(Ordering::Acquire); // pairs with the mark in `poison`
        self.poisoned.load(Ordering::Relaxed)
    }

    /// Changes the entry so that a handler on another thread never mixes two ranges.
    fn set(&self, base: usize, len: usize, access: Access) {
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.base.store(base, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.writable
            .store(access == Access::ReadWrite, Ordering::Relaxed);
        self.poisoned.store(false, Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// The range, if `address` lies in it and the entry held still while it was read.
    fn range_with(&self, address: usize) -> Option<(usize, usize, Access)> {
        let version = self.version.load(Ordering::Acquire);
        let (base, len) = (
            self.base.load(Ordering::Relaxed),
            self.len.load(Ordering::Relaxed),
        );
        let writable = self.writable.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let steady = version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        let access = if writable {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        (steady && address.wrapping_sub(base) < len).then_some((base, len, access))
    }
}

// === impl Chunk ===

impl Chunk {
    const fn empty() -> Self {
        Self {
            watches: [const { Watch::empty() }; CHUNK],
            next: OnceLock::new(),
        }
    }
}

/// Enters a mapped range into the table.
pub(crate) fn watch(base: usize, len: usize, access: Access) -> &'static Watch {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let watch = free.watches.pop().unwrap_or_else(|| {
        let index = free.used;
        free.used += 1;
        let mut chunk = &TABLE;
        for _ in 0..index / CHUNK {
            chunk = chunk.next.get_or_init(|| Box::new(Chunk::empty()));
        }
        &chunk.watches[index % CHUNK]
    });
    watch.set(base, len, access);
    watch
}

/// Takes a range out of the table, before it is unmapped.
pub(crate) fn unwatch(watch: &'static Watch) {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    watch.set(0, 0, Access::ReadOnly);
    free.watches.push(watch);
}

/// Installs the SIGBUS handler for this process; further calls change nothing.
///
/// Without it a truncated region kills the process, as it does any program that maps files. A handler
/// that somebody else installed earlier keeps every fault outside mapped regions.
///
/// # Errors
/// The kernel refused; it never does in practice.
pub fn install_fault_handler() -> Result<(), FaultError> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*installed {
        let previous = current_action()?;
        // A handler of ours may need it from the moment it is installed.
        PREVIOUS.get_or_init(|| previous);
        set_our_action()?;
        *installed = true;
    }
    Ok(())
}

type Plain = extern "C" fn(c_int);
type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: [signal-safe] the kernel gives a SA_SIGINFO handler a valid siginfo.
    let what = unsafe { &*info };
    // SAFETY: [signal-safe] the field is set for every SIGBUS that the kernel raises; for one that a
    // process sent it holds other bytes, and the code says so.
    let address = unsafe { what.si_addr() };
    if what.si_code != libc::BUS_ADRERR || !poison(address.addr()) {
        pass_on(signal, info, context, what.si_code > 0);
    }
}

/// Replaces the region around `address` by zeros. False if no region is there.
fn poison(address: usize) -> bool {
    let mut chunk = Some(&TABLE);
    while let Some(here) = chunk {
        for watch in &here.watches {
            let Some((base, len, access)) = watch.range_with(address) else {
                continue;
            };
            watch.poisoned.store(true, Ordering::Relaxed);
            fence(Ordering::Release); // pairs with `Watch::is_poisoned`
            return replace_by_zeros(base, len, access);
        }
        chunk = here.next.get().map(|next| &**next);
    }
    false
}

fn replace_by_zeros(base: usize, len: usize, access: Access) -> bool {
    let prot = match access {
        Access::ReadOnly => ProtFlags::READ,
        Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
    };
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    let at = ptr::with_exposed_provenance_mut::<c_void>(base);
    // SAFETY: [live-watch] the range is one whole region of ours, whose users read it through atomics
    // and raw copies only and ask for the mark before they believe a byte.
    unsafe { rustix::mm::mmap_anonymous(at, len, prot, flags) }.is_ok()
}

/// Does with the signal what would have been done without us.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, is_fault: bool) {
    let previous = PREVIOUS.get().copied().unwrap_or(Previous {
        handler: libc::SIG_DFL,
        flags: 0,
    });
    match previous.handler {
        // A fault cannot be ignored: the kernel would kill, so it falls to the default.
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // The load is repeated and faults again, or the raised signal arrives: both kill.
            let restored = set_action(libc::SIG_DFL, 0);
            debug_assert!(restored.is_ok(), "SIGBUS has a default action");
            if !is_fault {
                // SAFETY: [signal-safe] `raise` is async-signal-safe.
                let _ = unsafe { libc::raise(signal) };
            }
        }
        handler => {
            let handler = ptr::with_exposed_provenance::<()>(handler);
            if previous.flags & libc::SA_SIGINFO == 0 {
                // SAFETY: [signal-safe] `sigaction` reported this address as a plain handler.
                let handler = unsafe { std::mem::transmute::<*const (), Plain>(handler) };
                handler(signal);
            } else {
                // SAFETY: [signal-safe] `sigaction` reported this address as a SA_SIGINFO handler.
                let handler = unsafe { std::mem::transmute::<*const (), WithInfo>(handler) };
                handler(signal, info, context);
            }
            // The standard library's handler takes itself out. A real fault is then repeated and
            // kills, as it should; a signal that somebody sent must not end our protection.
            if !is_fault {
                let _ = set_our_action();
            }
        }
    }
}

fn current_action() -> io::Result<Previous> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: [signal-safe] a null new action only reads; the old one is written to our own memory.
    let failed = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), action.as_mut_ptr()) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: [signal-safe] zeroed, then filled by the kernel: every field is plain data.
    let action = unsafe { action.assume_init() };
    Ok(Previous {
        handler: action.sa_sigaction,
        flags: action.sa_flags,
    })
}

fn set_our_action() -> io::Result<()> {
    let handler: WithInfo = on_fault;
    let address = (handler as *const ()).expose_provenance();
    set_action(address, libc::SA_SIGINFO | libc::SA_ONSTACK)
}

fn set_action(handler: libc::sighandler_t, flags: c_int) -> io::Result<()> {
    let action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: [signal-safe] all zeros is a sigaction: default handler, no flags, empty mask.
    let mut action = unsafe { action.assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: [signal-safe] the action is complete, and its handler lives as long as the program.
    let failed = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(all(test, not(miri)))]
mod tests;
