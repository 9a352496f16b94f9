//! One mount of a directory, as it shall be from its first moment.
//!
//! The directory is mounted nowhere at first (`open_tree`), made read-only there where it shall be, and
//! only then moved to its place: nobody ever sees it otherwise. No crate wraps `mount_setattr`, so this file calls it.
//!
//! Invariants that the one unsafe block relies on:
//! - `[open]`: the descriptor is borrowed from an owner, so it is open during the call.
//! - `[owned]`: the attributes are a local variable, which the kernel reads and does not keep; their
//!   size is passed with them.
#![allow(unsafe_code, reason = "mount_setattr is wrapped by no crate")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// Whether anything can be written through a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    /// By nobody.
    Refused,
    /// As the files' modes say.
    Allowed,
}

/// A copy of the directory's mount that is not in any mount namespace yet. It vanishes with the
/// descriptor.
///
/// # Errors
/// What the kernel says; `CAP_SYS_ADMIN` is needed.
pub(super) fn tree(directory: BorrowedFd<'_>, writing: Writing) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(directory, "", flags)?;
    set_attributes(tree.as_fd(), writing)?;
    Ok(tree)
}

/// Puts such a copy in its place, which exists.
///
/// # Errors
/// What the kernel says; nothing is mounted then.
pub(super) fn place(tree: OwnedFd, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, "", CWD, target, flags)?)
}

/// Puts such a copy over an open directory.
///
/// # Errors
/// What the kernel says; nothing is mounted then.
pub(super) fn place_over(tree: OwnedFd, directory: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", directory, "", flags)?)
}

fn set_attributes(tree: BorrowedFd<'_>, writing: Writing) -> io::Result<()> {
    let read_only = match writing {
        Writing::Refused => libc::MOUNT_ATTR_RDONLY,
        Writing::Allowed => 0,
    };
    let wanted = libc::mount_attr {
        attr_set: read_only
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: [open] holds for `tree`, [owned] for `wanted`; the path is a literal that ends in 0.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const wanted,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
