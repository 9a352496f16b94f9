//! Records: what must be known of a published volume after a restart.
//!
//! One small sealed file (`sealed`) for each. It is there before kubelet hears that the volume is
//! published, and gone after the volume's view is. One that cannot be trusted is put aside: its pod sees
//! nothing until kubelet publishes the volume again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::attributes::{Pod, StreamName, VolumeAccess};
use super::volume::VolumeId;
use crate::sealed::{self, Failed, Format, failed as at};

/// Directory of the records in the state directory.
pub const DIRECTORY: &str = "attachments";
const ENDING: &str = ".attachment";
/// Ending of a record that is being written.
const UNFINISHED: &str = ".new";
const FORMAT: Format = Format {
    magic: "tensorpool-attachment",
    version: 1,
    oldest_reader: 1,
};

/// What is known of a published volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its volume id.
    pub volume: String,
    /// The number under which the duty cycle knows it. Not 0.
    pub attachment: u32,
    /// Where kubelet wants it mounted.
    pub target_path: PathBuf,
    /// Whose it is.
    pub pod: Pod,
    /// Which stream it shows.
    pub stream: StreamName,
    /// The stream's number when it was last known; `None` before the first policy.
    pub stream_id: Option<u32>,
    /// Name of the base where the stream's files lie: that of its page size.
    pub base: String,
    /// What it is for.
    pub access: VolumeAccess,
    /// The first of the client ids that it may use on Aeron; `None` for a volume with a socket only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aeron_clients: Option<u32>,
    /// Whether the pod may use it. A pod that lost its permission does not get it back by a restart.
    pub allowed: bool,
}

impl Record {
    /// Whether the pod can write to the volume's view.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.aeron_clients.is_some() && matches!(self.access, VolumeAccess::Produce)
    }
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file as such.
    #[error(transparent)]
    Sealed(#[from] sealed::Damage),
    /// It is the record of another volume.
    #[error("it is the record of volume {0}")]
    OfAnother(String),
}

/// Why records cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: the state directory must be writable and have space", path.display())]
pub struct RecordError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What lies in the directory of records.
#[derive(Debug, Default)]
pub struct FoundRecords {
    /// The good ones, by volume.
    pub records: Vec<Record>,
    /// The others, where they are now, and what is wrong.
    pub put_aside: Vec<(PathBuf, Damage)>,
}

/// The directory of records. One writer: the instance lock is held.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    /// Opens the records of a state directory, which exists.
    ///
    /// # Errors
    /// [`RecordError`] when they cannot be listed or read, or a damaged one cannot be put aside.
    pub fn open(state_dir: &Path) -> Result<(Self, FoundRecords), RecordError> {
        let dir = state_dir.join(DIRECTORY);
        fs::create_dir_all(&dir).map_err(at("make the directory", &dir))?;
        let mut found = FoundRecords::default();
        let entries = fs::read_dir(&dir).map_err(at("list", &dir))?;
        for entry in entries {
            let path = entry.map_err(at("list", &dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            // Of a driver that was killed before it was whole.
            if name.is_some_and(|name| name.ends_with(UNFINISHED)) {
                fs::remove_file(&path).map_err(at("remove", &path))?;
                continue;
            }
            let Some(volume) = name.and_then(|name| name.strip_suffix(ENDING)) else {
                continue;
            };
            let bytes = sealed::read(&path).map_err(at("read", &path))?;
            match decode(volume, &bytes) {
                Ok(record) => found.records.push(record),
                Err(damage) => {
                    let kept_as = path.with_extension("damaged");
                    fs::rename(&path, &kept_as).map_err(at("put aside", &path))?;
                    found.put_aside.push((kept_as, damage));
                }
            }
        }
        found.records.sort_by(|a, b| a.volume.cmp(&b.volume));
        Ok((Self { dir }, found))
    }

    /// Makes a record durable, in place of an earlier one of its volume.
    ///
    /// # Errors
    /// [`RecordError`]; the earlier one is untouched then.
    pub fn keep(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.path(&record.volume);
        let beside = path.with_extension("new");
        Ok(sealed::replace(&path, &beside, &encode(record))?)
    }

    /// Removes the record of a volume. None is no error.
    ///
    /// # Errors
    /// [`RecordError`]; it may still be there.
    pub fn forget(&self, volume: &VolumeId) -> Result<(), RecordError> {
        let path = self.path(volume.as_str());
        match fs::remove_file(&path) {
            Ok(()) => Ok(sealed::sync_directory_of(&path)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(at("remove", &path)(error).into()),
        }
    }

    fn path(&self, volume: &str) -> PathBuf {
        self.dir.join(format!("{volume}{ENDING}"))
    }
}

/// The bytes of a record.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    let content = serde_json::to_string(record).expect("strings and numbers always serialise");
    FORMAT.seal(&content)
}

/// Reads the bytes of the record of `volume`.
///
/// # Errors
/// [`Damage`].
pub fn decode(volume: &str, bytes: &[u8]) -> Result<Record, Damage> {
    let content = FORMAT.unseal(bytes)?;
    let record: Record = serde_json::from_str(content)
        .map_err(|error| sealed::Damage::Content(error.to_string()))?;
    if record.volume != volume {
        return Err(Damage::OfAnother(record.volume));
    }
    Ok(record)
}

impl From<Failed> for RecordError {
    fn from(Failed { what, path, source }: Failed) -> Self {
        Self { what, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(volume: &str) -> Record {
        Record {
            volume: volume.into(),
            attachment: 7,
            target_path: "/var/lib/kubelet/pods/1234/volumes/kubernetes.io~csi/v/mount".into(),
            pod: Pod {
                namespace: "apps".into(),
                name: "viewer-0".into(),
                uid: "1234".into(),
                service_account: "viewer".into(),
            },
            stream: StreamName {
                namespace: "vision".into(),
                name: "camera".into(),
            },
            stream_id: Some(10_000),
            base: "2Mi".into(),
            access: VolumeAccess::Consume,
            aeron_clients: None,
            allowed: true,
        }
    }

    fn volume(name: &str) -> VolumeId {
        VolumeId::new(name).unwrap()
    }

    #[test]
    fn records_are_there_after_reopening_until_they_are_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let (records, found) = Records::open(state.path()).unwrap();
        assert!(found.records.is_empty());
        let changed = Record {
            allowed: false,
            ..record("csi-b")
        };
        for kept in [&record("csi-b"), &record("csi-a"), &changed] {
            records.keep(kept).unwrap();
        }
        let (records, found) = Records::open(state.path()).unwrap();
        assert_eq!(found.records, [record("csi-a"), changed.clone()]);
        records.forget(&volume("csi-a")).unwrap();
        records.forget(&volume("csi-a")).unwrap();
        let (_, found) = Records::open(state.path()).unwrap();
        assert_eq!(found.records, [changed]);
    }

    #[test]
    fn a_damaged_record_is_put_aside_and_the_others_are_read() {
        let state = tempfile::tempdir().unwrap();
        let (records, _) = Records::open(state.path()).unwrap();
        records.keep(&record("good")).unwrap();
        records.keep(&record("bad")).unwrap();
        let path = records.path("bad");
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 4;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (_, found) = Records::open(state.path()).unwrap();
        assert_eq!(found.records, [record("good")]);
        let [(kept_as, Damage::Sealed(sealed::Damage::Checksum { .. }))] =
            found.put_aside.as_slice()
        else {
            panic!("{:?}", found.put_aside);
        };
        assert!(kept_as.exists() && !path.exists());
        let (_, found) = Records::open(state.path()).unwrap();
        assert!(found.put_aside.is_empty(), "it is put aside once");
    }

    #[test]
    fn what_was_left_half_written_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let (records, _) = Records::open(state.path()).unwrap();
        records.keep(&record("a")).unwrap();
        let half = records.path("b").with_extension("new");
        fs::write(&half, &encode(&record("b"))[..20]).unwrap();
        let (_, found) = Records::open(state.path()).unwrap();
        assert_eq!(found.records, [record("a")]);
        assert!(found.put_aside.is_empty() && !half.exists());
    }

    #[test]
    fn the_record_of_another_volume_is_not_believed() {
        let bytes = encode(&record("a"));
        assert_eq!(decode("b", &bytes), Err(Damage::OfAnother("a".into())));
    }

    #[test]
    fn a_record_that_cannot_be_written_leaves_the_old_one() {
        let state = tempfile::tempdir().unwrap();
        let (records, _) = Records::open(state.path()).unwrap();
        records.keep(&record("a")).unwrap();
        // A directory in the way of the new file: writing fails for root too.
        let in_the_way = records.path("a").with_extension("new");
        fs::create_dir(&in_the_way).unwrap();
        let changed = Record {
            allowed: false,
            ..record("a")
        };
        assert!(records.keep(&changed).is_err());
        fs::remove_dir(&in_the_way).unwrap();
        let (_, found) = Records::open(state.path()).unwrap();
        assert_eq!(found.records, [record("a")]);
    }
}
