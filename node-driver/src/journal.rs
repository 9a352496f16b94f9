//! The journal: the highest epoch that was ever handed out, on disk before anybody hears of it.
//!
//! One small file, replaced as a whole: written beside, synced, renamed, directory synced. Its first
//! line names the format, the oldest reader that may read it, and a checksum of the rest; a later
//! version that only adds fields keeps `oldest reader` at 1 and so survives a downgrade. A file that
//! cannot be trusted is put aside and the directories of the regions tell the highest epoch instead.
//!
//! The boot id is kept to say in the log whether the machine was restarted: after a restart the
//! monotonic clock is small again, and only this number keeps epochs rising.

// spec: D-10-2

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensorpool_wire::Epoch;

/// Name of the journal in the state directory.
pub const FILE_NAME: &str = "epochs.journal";
const MAGIC: &str = "tensorpool-journal";
/// The format that is written.
const VERSION: u32 = 1;
/// The oldest reader that understands what is written.
const OLDEST_READER: u32 = 1;
/// A journal is one short line of JSON; more is not a journal.
const LONGEST_BYTES: u64 = 65_536;

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

/// What is wrong with a journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The first line is not a journal's.
    #[error("it does not start as a journal does")]
    NotAJournal,
    /// Only a newer driver can read it.
    #[error("it needs a reader of format {oldest_reader}, this driver reads up to {VERSION}")]
    TooNew {
        /// The oldest reader that it names.
        oldest_reader: u32,
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
            Self::NotAJournal => "not_a_journal",
            Self::TooNew { .. } => "too_new",
            Self::Checksum { .. } => "checksum",
            Self::Content(_) => "content",
        }
    }
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
        let found = match read_bounded(&path) {
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
                    fs::rename(&path, &kept_as)
                        .map_err(|source| io_error("put aside", &path, source))?;
                    Found::PutAside { kept_as, why }
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(source) => return Err(io_error("read", &path, source)),
        };
        Ok((journal, found))
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
        write_synced(&beside, &bytes).map_err(|source| io_error("write", &beside, source))?;
        fs::rename(&beside, &path).map_err(|source| io_error("replace", &path, source))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| io_error("sync the directory of", &path, source))?;
        self.last_epoch = Some(epoch);
        Ok(())
    }
}

/// The bytes of a journal.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    let content = serde_json::to_string(record).expect("two plain fields always serialise");
    let checksum = crc32fast::hash(content.as_bytes());
    format!("{MAGIC} {VERSION} {OLDEST_READER} {checksum:08x}\n{content}\n").into_bytes()
}

/// Reads the bytes of a journal.
///
/// # Errors
/// [`Damage`].
pub fn decode(bytes: &[u8]) -> Result<Record, Damage> {
    let text = std::str::from_utf8(bytes).map_err(|_| Damage::NotAJournal)?;
    let (head, rest) = text.split_once('\n').ok_or(Damage::NotAJournal)?;
    let fields: Vec<&str> = head.split(' ').collect();
    let [MAGIC, _version, oldest_reader, checksum] = fields.as_slice() else {
        return Err(Damage::NotAJournal);
    };
    let oldest_reader: u32 = oldest_reader.parse().map_err(|_| Damage::NotAJournal)?;
    let found = u32::from_str_radix(checksum, 16).map_err(|_| Damage::NotAJournal)?;
    if oldest_reader > VERSION {
        return Err(Damage::TooNew { oldest_reader });
    }
    let content = rest.strip_suffix('\n').unwrap_or(rest);
    let computed = crc32fast::hash(content.as_bytes());
    if computed != found {
        return Err(Damage::Checksum { found, computed });
    }
    // Version 1 is the first. A reader of version N reads N-1 here, by the version in the first line.
    serde_json::from_str(content).map_err(|error| Damage::Content(error.to_string()))
}

/// The kernel's id of this boot; `unknown` where it does not tell.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
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

fn io_error(what: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io {
        what,
        path: path.to_owned(),
        source,
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
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(&record(0x1234_5678_9ABC));
        for cut in 0..bytes.len() - 1 {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = decode(&flipped) {
                // Only what carries no meaning may differ: the version, the case of the checksum.
                assert_eq!(read, record(0x1234_5678_9ABC), "bit {bit}");
            }
        }
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
    fn a_newer_journal_that_allows_this_reader_is_read_and_others_are_refused() {
        let content = r#"{"boot_id":"boot-a","last_epoch":5,"added_later":true}"#;
        let checksum = crc32fast::hash(content.as_bytes());
        let newer = format!("{MAGIC} 2 1 {checksum:08x}\n{content}\n");
        assert_eq!(decode(newer.as_bytes()), Ok(record(5)));
        let too_new = format!("{MAGIC} 2 2 {checksum:08x}\n{content}\n");
        assert_eq!(
            decode(too_new.as_bytes()),
            Err(Damage::TooNew { oldest_reader: 2 })
        );
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
