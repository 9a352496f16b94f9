//! Removing what somebody else could write to.
//!
//! A pod that may write to its view can leave symbolic links there, directories that only root may
//! enter, thousands of them inside each other, and a hundred thousand files. So nothing is followed, no
//! other filesystem is entered, every step starts from an open directory, and depth costs neither stack
//! nor descriptors: a directory that is not empty is moved to the top before it is gone through.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::fs::{openat2, renameat_with, unlinkat};
use rustix::io::Errno;

/// How names of directories begin that were moved aside to be removed by whoever can.
#[cfg(any(feature = "kubernetes", feature = "aeron"))]
pub(crate) const ASIDE: &str = ".aside-";

/// Whether a directory was moved aside.
#[cfg(any(feature = "kubernetes", feature = "aeron"))]
pub(crate) fn is_aside(name: &OsStr) -> bool {
    name.as_bytes().starts_with(ASIDE.as_bytes())
}

/// Names that are read at one go.
const BATCH: usize = 1_024;
/// Removals and moves before somebody must be at work who fills what is emptied. A mount of the node has
/// far fewer inodes.
const STEPS: u32 = 4_000_000;

/// Opens a directory below another, by a path without links, on the same filesystem.
///
/// # Errors
/// As the kernel says; `ELOOP`, `EXDEV` or `ENOTDIR` where something else is in the way.
pub(crate) fn open_beneath(from: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(from, path, flags, Mode::empty(), beneath)
}

/// Removes a file, a link, or a directory with everything in it. What is not there is fine.
///
/// # Errors
/// As the kernel says; part of it may be gone then.
pub(crate) fn remove(from: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    if remove_simple(from, name)? {
        return Ok(());
    }
    let directory = match open_beneath(from, Path::new(name)) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    empty(directory.as_fd())?;
    remove_simple(from, name).map(drop)
}

/// Removes everything in a directory.
///
/// # Errors
/// As the kernel says; part of it may be gone then.
pub(crate) fn empty(top: BorrowedFd<'_>) -> io::Result<()> {
    let mut steps = Steps::default();
    loop {
        let names = names(top)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            steps.take()?;
            if !remove_simple(top, &name)? {
                flatten(top, &name, &mut steps)?;
            }
        }
    }
}

/// The first names in a directory.
///
/// # Errors
/// As the kernel says.
pub(crate) fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(OsStr::from_bytes(name.to_bytes()).to_owned());
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

/// Removes all of a directory but what is in its own directories, which are moved beside it.
fn flatten(top: BorrowedFd<'_>, name: &OsStr, steps: &mut Steps) -> io::Result<()> {
    let directory = match open_beneath(top, Path::new(name)) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    loop {
        let below = names(directory.as_fd())?;
        if below.is_empty() {
            break;
        }
        for name in below {
            steps.take()?;
            if !remove_simple(directory.as_fd(), &name)? {
                steps.move_up(directory.as_fd(), &name, top)?;
            }
        }
    }
    remove_simple(top, name).map(drop)
}

/// Removes what can be removed at one go. `false`: it is a directory with something in it.
fn remove_simple(from: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    match unlinkat(from, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        // A directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match unlinkat(from, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// What was done, and the last name that was given.
#[derive(Debug, Default)]
struct Steps {
    taken: u32,
    moved: u64,
}

impl Steps {
    fn take(&mut self) -> io::Result<()> {
        self.taken += 1;
        if self.taken > STEPS {
            return Err(io::Error::other("it is filled while it is emptied"));
        }
        Ok(())
    }

    fn move_up(
        &mut self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        top: BorrowedFd<'_>,
    ) -> io::Result<()> {
        loop {
            self.take()?;
            self.moved += 1;
            let here = format!(".swept-{}", self.moved);
            match renameat_with(from, name, top, here.as_str(), RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    fn emptied(directory: &Path) -> io::Result<()> {
        empty(File::open(directory)?.as_fd())
    }

    #[test]
    fn directories_inside_each_other_are_removed_however_deep() {
        let dir = tempfile::tempdir().unwrap();
        let mut here = OwnedFd::from(File::open(dir.path()).unwrap());
        for _level in 0..5_000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = open_beneath(here.as_fd(), Path::new("d")).unwrap();
            rustix::fs::mkdirat(&here, "e", Mode::RWXU).unwrap();
        }
        emptied(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn more_names_than_are_read_at_one_go_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("many")).unwrap();
        for number in 0..3 * BATCH {
            File::create(dir.path().join("many").join(number.to_string())).unwrap();
        }
        emptied(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_link_leads_to_stays() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("somebodys"), "data").unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        symlink(other.path(), dir.path().join("d/link")).unwrap();
        symlink(other.path(), dir.path().join("link")).unwrap();
        emptied(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(other.path().join("somebodys").exists());
        symlink(other.path(), dir.path().join("link")).unwrap();
        let here = File::open(dir.path()).unwrap();
        let refused = open_beneath(here.as_fd(), Path::new("link")).unwrap_err();
        assert!(matches!(refused, Errno::LOOP | Errno::NOTDIR), "{refused}");
        let refused = open_beneath(here.as_fd(), Path::new("link/below")).unwrap_err();
        assert_eq!(refused, Errno::LOOP);
    }

    #[test]
    fn names_like_those_that_are_given_are_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::create_dir_all(dir.path().join(".swept-1/x/y")).unwrap();
        fs::create_dir_all(dir.path().join(".swept-2")).unwrap();
        emptied(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn removing_what_is_not_there_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let here = File::open(dir.path()).unwrap();
        remove(here.as_fd(), OsStr::new("nothing")).unwrap();
    }
}
