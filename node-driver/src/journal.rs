//! The journal: the highest epoch that was ever handed out, on disk before anybody hears of it.
//!
//! One small sealed file (`sealed`). One that cannot be trusted is put aside, and the directories of the
//! regions tell the highest epoch instead.
//!
//! The boot id is kept to say in the log whether the machine was restarted: after a restart the
//! monotonic clock is small again, and only this number keeps epochs rising.

// spec: D-10-2

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensorpool_wire::Epoch;

pub use crate::sealed::Damage;
use crate::sealed::{self, Failed, Format, failed};

/// Name of the journal in the state directory.
pub const FILE_NAME: &str = "epochs.journal";
const FORMAT: Format = Format {
    magic: "tensorpool-journal",
    version: 1,
    oldest_reader: 1,
};

/// What the journal says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The kernel's boot id when it was written.
    pub boot_id: String,
    /// The highest epoch of any stream.
    pub last_epoch: u64,
}

/// The open journal. One writer: the instance lock is held.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    boot_id: String,
    last_epoch: Option<Epoch>,
}

/// How the journal was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// There was none: a first start, or a cleaned state directory.
    Nothing,
    /// Read and trusted.
    Trusted {
        /// Its highest epoch.
        last_epoch: Epoch,
        /// Whether it was written since the machine was started.
        same_boot: bool,
    },
    /// Not to be trusted; put aside under this name.
    PutAside {
        /// Where it is now.
        kept_as: PathBuf,
        /// What is wrong with it.
        why: Damage,
    },
}

/// Why the journal cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file operation failed.
    #[error(
        "cannot {what} the epoch journal {path}: driver.state_dir must be writable and have space"
    )]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl JournalError {
    /// Bounded label.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
        }
    }
}

impl Journal {
    /// Opens the journal of `dir`, which exists.
    ///
    /// # Errors
    /// [`JournalError`] when it is there but cannot be read, or cannot be put aside.
    pub fn open(dir: &Path, boot_id: &str) -> Result<(Self, Found), JournalError> {
        let path = dir.join(FILE_NAME);
        let mut journal = Self {
            dir: dir.to_owned(),
            boot_id: boot_id.to_owned(),
            last_epoch: None,
        };
        let found = match sealed::read(&path) {
            Ok(bytes) => match decode(&bytes) {
                Ok(record) => {
                    journal.last_epoch = Some(Epoch(record.last_epoch));
                    Found::Trusted {
                        last_epoch: Epoch(record.last_epoch),
                        same_boot: record.boot_id == boot_id,
                    }
                }
                Err(why) => {
                    let kept_as = dir.join(format!("{FILE_NAME}.damaged"));
                    fs::rename(&path, &kept_as).map_err(failed("put aside", &path))?;
                    Found::PutAside { kept_as, why }
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(source) => return Err(failed("read", &path)(source).into()),
        };
        Ok((journal, found))
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// The highest epoch in it.
    #[must_use]
    pub const fn last_epoch(&self) -> Option<Epoch> {
        self.last_epoch
    }

    /// Makes `epoch` durable. Lower ones than the highest are so already.
    ///
    /// # Errors
    /// [`JournalError`]; the old journal is untouched then.
    pub fn persist(&mut self, epoch: Epoch) -> Result<(), JournalError> {
        if self.last_epoch.is_some_and(|last| last >= epoch) {
            return Ok(());
        }
        let bytes = encode(&Record {
            boot_id: self.boot_id.clone(),
            last_epoch: epoch.get(),
        });
        let path = self.dir.join(FILE_NAME);
        let beside = self.dir.join(format!("{FILE_NAME}.new"));
        sealed::replace(&path, &beside, &bytes)?;
        self.last_epoch = Some(epoch);
        Ok(())
    }
}

/// The bytes of a journal.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    let content = serde_json::to_string(record).expect("two plain fields always serialise");
    FORMAT.seal(&content)
}

/// Reads the bytes of a journal.
///
/// # Errors
/// [`Damage`].
pub fn decode(bytes: &[u8]) -> Result<Record, Damage> {
    // Version 1 is the first. A reader of version N reads N-1 here, by the version in the first line.
    let content = FORMAT.unseal(bytes)?;
    serde_json::from_str(content).map_err(|error| Damage::Content(error.to_string()))
}

/// The kernel's id of this boot; `unknown` where it does not tell.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

impl From<Failed> for JournalError {
    fn from(Failed { what, path, source }: Failed) -> Self {
        Self::Io { what, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(last_epoch: u64) -> Record {
        Record {
            boot_id: "boot-a".into(),
            last_epoch,
        }
    }

    #[test]
    fn what_was_persisted_is_there_after_reopening() {
        // spec: D-10-2
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, found) = Journal::open(dir.path(), "boot-a").unwrap();
        assert_eq!(found, Found::Nothing);
        journal.persist(Epoch(7)).unwrap();
        journal.persist(Epoch(9)).unwrap();
        drop(journal);

        let (journal, found) = Journal::open(dir.path(), "boot-a").unwrap();
        assert_eq!(
            found,
            Found::Trusted {
                last_epoch: Epoch(9),
                same_boot: true
            }
        );
        assert_eq!(journal.last_epoch(), Some(Epoch(9)));
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [FILE_NAME], "nothing is left beside the journal");
    }

    #[test]
    fn a_restart_of_the_machine_keeps_the_number_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), "boot-a").unwrap();
        journal.persist(Epoch(u64::MAX - 1)).unwrap();
        let (_, found) = Journal::open(dir.path(), "boot-b").unwrap();
        assert_eq!(
            found,
            Found::Trusted {
                last_epoch: Epoch(u64::MAX - 1),
                same_boot: false
            }
        );
    }

    #[test]
    fn a_lower_epoch_never_replaces_a_higher_one() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), "boot-a").unwrap();
        journal.persist(Epoch(9)).unwrap();
        journal.persist(Epoch(8)).unwrap();
        let (journal, _) = Journal::open(dir.path(), "boot-a").unwrap();
        assert_eq!(journal.last_epoch(), Some(Epoch(9)));
    }

    #[test]
    fn a_damaged_journal_is_put_aside_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let mut bytes = encode(&record(5));
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (journal, found) = Journal::open(dir.path(), "boot-a").unwrap();
        assert_eq!(journal.last_epoch(), None);
        let Found::PutAside { kept_as, why } = found else {
            panic!("the journal was trusted: {found:?}");
        };
        assert_eq!(why.reason(), "checksum");
        assert_eq!(fs::read(kept_as).unwrap(), bytes);
        assert!(!path.exists());
    }

    #[test]
    fn fields_that_a_newer_driver_added_are_no_hindrance() {
        let content = r#"{"boot_id":"boot-a","last_epoch":5,"added_later":true}"#;
        assert_eq!(decode(&FORMAT.seal(content)), Ok(record(5)));
        let garbage = decode(&FORMAT.seal("{}")).unwrap_err();
        assert_eq!(garbage.reason(), "content");
    }

    #[test]
    fn a_journal_that_cannot_be_written_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path(), "boot-a").unwrap();
        journal.persist(Epoch(3)).unwrap();
        // A directory in the way of the new file: writing fails for root too.
        fs::create_dir(dir.path().join(format!("{FILE_NAME}.new"))).unwrap();
        let error = journal.persist(Epoch(4)).unwrap_err();
        assert_eq!(error.reason(), "io");
        let (journal, _) = Journal::open(dir.path(), "boot-a").unwrap();
        assert_eq!(journal.last_epoch(), Some(Epoch(3)));
    }
}
