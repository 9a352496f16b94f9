//! Small files that outlive the process: sealed with a checksum, replaced as a whole.
//!
//! The first line names the format, its version, the oldest reader that may read it, and a checksum of
//! the rest; a later version that only adds fields keeps the oldest reader and so survives a downgrade.
//! A new file is written beside the old one, synced, renamed over it, and the directory is synced.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// More than this is no file of ours.
const LONGEST_BYTES: u64 = 65_536;

/// What a kind of file is called in its first line, and which formats this release knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// The first word.
    pub(crate) magic: &'static str,
    /// The format that is written, and the newest that is read.
    pub(crate) version: u32,
    /// The oldest reader that understands what is written.
    pub(crate) oldest_reader: u32,
}

/// What is wrong with a sealed file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The first line is not that of such a file.
    #[error("it does not start as its kind does")]
    Foreign,
    /// Only a newer driver can read it.
    #[error("it needs a reader of format {oldest_reader}, this driver reads up to {version}")]
    TooNew {
        /// The oldest reader that it names.
        oldest_reader: u32,
        /// What this driver reads.
        version: u32,
    },
    /// The checksum does not match.
    #[error("its checksum is {found:08x}, its content has {computed:08x}")]
    Checksum {
        /// In the file.
        found: u32,
        /// Of the content.
        computed: u32,
    },
    /// The content is not what the format says.
    #[error("its content cannot be read: {0}")]
    Content(String),
}

impl Damage {
    /// Bounded label.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::TooNew { .. } => "too_new",
            Self::Checksum { .. } => "checksum",
            Self::Content(_) => "content",
        }
    }
}

/// A step on a file that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What was tried.
    pub(crate) what: &'static str,
    /// On what.
    pub(crate) path: PathBuf,
    /// Why it failed.
    pub(crate) source: io::Error,
}

impl Format {
    /// The bytes of a file with this content, which is one line.
    pub(crate) fn seal(self, content: &str) -> Vec<u8> {
        let Self {
            magic,
            version,
            oldest_reader,
        } = self;
        let checksum = crc32fast::hash(content.as_bytes());
        format!("{magic} {version} {oldest_reader} {checksum:08x}\n{content}\n").into_bytes()
    }

    /// The content of a file with these bytes.
    ///
    /// # Errors
    /// [`Damage`], any but [`Damage::Content`].
    pub(crate) fn unseal(self, bytes: &[u8]) -> Result<&str, Damage> {
        let text = std::str::from_utf8(bytes).map_err(|_| Damage::Foreign)?;
        let (head, rest) = text.split_once('\n').ok_or(Damage::Foreign)?;
        let fields: Vec<&str> = head.split(' ').collect();
        let [magic, _version, oldest_reader, checksum] = fields.as_slice() else {
            return Err(Damage::Foreign);
        };
        let oldest_reader: u32 = oldest_reader.parse().map_err(|_| Damage::Foreign)?;
        let found = u32::from_str_radix(checksum, 16).map_err(|_| Damage::Foreign)?;
        if *magic != self.magic {
            return Err(Damage::Foreign);
        }
        if oldest_reader > self.version {
            return Err(Damage::TooNew {
                oldest_reader,
                version: self.version,
            });
        }
        let content = rest.strip_suffix('\n').unwrap_or(rest);
        let computed = crc32fast::hash(content.as_bytes());
        if computed == found {
            Ok(content)
        } else {
            Err(Damage::Checksum { found, computed })
        }
    }
}

/// Puts a file in the place of another, durably. `beside` is on the same filesystem.
///
/// # Errors
/// [`Failed`]; unless it was the last step, the sync of the directory, the old file is untouched.
pub(crate) fn replace(path: &Path, beside: &Path, bytes: &[u8]) -> Result<(), Failed> {
    write_synced(beside, bytes).map_err(failed("write", beside))?;
    fs::rename(beside, path).map_err(failed("replace", path))?;
    sync_directory_of(path)
}

/// Makes durable which names a file's directory has.
///
/// # Errors
/// [`Failed`].
pub(crate) fn sync_directory_of(path: &Path) -> Result<(), Failed> {
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync the directory of", path))
}

/// The bytes of a file, no more than one of ours may have and one.
///
/// # Errors
/// As the kernel says.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LONGEST_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(crate) fn failed<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> Failed + 'a {
    move |source| Failed {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format {
        magic: "tensorpool-test",
        version: 1,
        oldest_reader: 1,
    };
    const CONTENT: &str = r#"{"last":20015998343868}"#;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = FORMAT.seal(CONTENT);
        for cut in 0..bytes.len() - 1 {
            assert!(FORMAT.unseal(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = FORMAT.unseal(&flipped) {
                // Only what carries no meaning may differ: the version, the case of the checksum.
                assert_eq!(read, CONTENT, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_newer_file_that_allows_this_reader_is_read_and_others_are_refused() {
        let newer = |oldest_reader| Format {
            version: 2,
            oldest_reader,
            ..FORMAT
        };
        assert_eq!(FORMAT.unseal(&newer(1).seal(CONTENT)), Ok(CONTENT));
        assert_eq!(
            FORMAT.unseal(&newer(2).seal(CONTENT)),
            Err(Damage::TooNew {
                oldest_reader: 2,
                version: 1
            })
        );
    }

    #[test]
    fn a_file_of_another_kind_is_told_apart() {
        let other = Format {
            magic: "tensorpool-other",
            ..FORMAT
        };
        let foreign = other.seal(CONTENT);
        assert_eq!(FORMAT.unseal(&foreign), Err(Damage::Foreign));
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, beside) = (dir.path().join("a"), dir.path().join("a.new"));
        replace(&path, &beside, b"old").unwrap();
        // A directory in the way of the new file: writing fails for root too.
        fs::create_dir(&beside).unwrap();
        let error = replace(&path, &beside, b"new").unwrap_err();
        assert_eq!((error.what, error.path), ("write", beside));
        assert_eq!(read(&path).unwrap(), b"old");
    }
}
