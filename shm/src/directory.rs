//! Directories reached one component at a time, following no link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fchmod, fstat, mkdirat, openat};
use rustix::io::Errno;

use crate::store::StoreError;

/// The directory part that could not be prepared, before its path is known.
pub(crate) enum DirectoryError {
    Io(io::Error),
    Foreign { owner: u32, ours: u32 },
}

impl DirectoryError {
    pub(crate) fn at(self, path: PathBuf) -> StoreError {
        match self {
            Self::Io(source) => StoreError::Directory { path, source },
            Self::Foreign { owner, ours } => StoreError::ForeignOwner { path, owner, ours },
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a directory below `parent`, making it with exactly `mode` if it is not there. The flag says
/// whether it was made. A directory of somebody else is refused: they could swap what is in it.
pub(crate) fn ensure_directory(
    parent: BorrowedFd<'_>,
    name: &str,
    mode: u32,
) -> Result<(OwnedFd, bool), DirectoryError> {
    let io = |e: Errno| DirectoryError::Io(e.into());
    let made = match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(io(e)),
    };
    let directory = openat(parent, name, DIRECTORY, Mode::empty()).map_err(io)?;
    let owner = fstat(&directory).map_err(io)?.st_uid;
    let ours = rustix::process::geteuid().as_raw();
    if owner != ours {
        return Err(DirectoryError::Foreign { owner, ours });
    }
    if made {
        fchmod(&directory, Mode::from_raw_mode(mode)).map_err(io)?;
    }
    Ok((directory, made))
}

/// Resolves the base directory, making its last component if it is missing.
pub(crate) fn open_base(given: &Path, mode: u32) -> Result<(PathBuf, OwnedFd), StoreError> {
    let failed = |source: io::Error| StoreError::Directory {
        path: given.to_path_buf(),
        source,
    };
    let path = match given.canonicalize() {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let (Some(parent), Some(name)) = (given.parent(), given.file_name()) else {
                return Err(failed(e));
            };
            let parent = parent.canonicalize().map_err(failed)?;
            let at =
                openat(CWD, &parent, DIRECTORY, Mode::empty()).map_err(|e| failed(e.into()))?;
            let name = name
                .to_str()
                .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
            ensure_directory(at.as_fd(), name, mode).map_err(|e| e.at(given.to_path_buf()))?;
            parent.join(name)
        }
        Err(e) => return Err(failed(e)),
    };
    let base = openat(CWD, &path, DIRECTORY, Mode::empty()).map_err(|e| failed(e.into()))?;
    Ok((path, base))
}

pub(crate) fn open_below(
    parent: BorrowedFd<'_>,
    name: &str,
    path: &Path,
) -> Result<Option<OwnedFd>, StoreError> {
    match openat(parent, name, DIRECTORY, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(StoreError::List {
            path: path.to_path_buf(),
            source: e.into(),
        }),
    }
}

/// Names and types in a directory, without `.` and `..` and what is not UTF-8.
pub(crate) fn entries(
    directory: BorrowedFd<'_>,
    path: &Path,
) -> Result<Vec<(String, FileType)>, StoreError> {
    let failed = |e: Errno| StoreError::List {
        path: path.to_path_buf(),
        source: e.into(),
    };
    let mut found = Vec::new();
    for entry in Dir::read_from(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            found.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

/// The directories whose names are numbers written the one way that the store writes them.
pub(crate) fn numbers_in(directory: BorrowedFd<'_>, path: &Path) -> Result<Vec<u64>, StoreError> {
    let mut numbers = Vec::new();
    for (name, file_type) in entries(directory, path)? {
        let is_directory = matches!(file_type, FileType::Directory | FileType::Unknown);
        match name.parse::<u64>() {
            Ok(number) if is_directory && number.to_string() == name => numbers.push(number),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(numbers)
}

pub(crate) fn absent_is_fine(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A path component without anything that could leave its directory (ambiguities A-8).
// spec: W-15.21a-2
pub(crate) fn sanitise(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let name: String = name
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    if name.is_empty() {
        "_".to_owned()
    } else {
        name
    }
}

/// The effective user's name, or `uid-<number>` where the machine has no name for it.
pub(crate) fn effective_user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    std::fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|passwd| name_of(&passwd, uid))
        .unwrap_or_else(|| format!("uid-{uid}"))
}

fn name_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number = fields.nth(1)?.parse::<u32>().ok()?;
        (number == uid).then(|| name.to_owned())
    })
}
