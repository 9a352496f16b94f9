//! What a volume uses: the files of its view, and what is left in the memory that they lie in.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use tonic::Status;

use super::place::{self, Found};
use super::proto::csi::VolumeUsage;
use super::proto::csi::volume_usage::Unit;
use super::publish::blocking;
use crate::attachments::volume::VolumeId;

/// Bytes of a block in a file's metadata.
const BLOCK_BYTES: u64 = 512;

/// Bytes that the volume at `path` shows (used), and of the memory that all streams of this page size
/// share: all of it (total), and what is free.
///
/// # Errors
/// `NOT_FOUND` if the volume is not mounted there.
pub(super) async fn usage(volume: VolumeId, path: PathBuf) -> Result<VolumeUsage, Status> {
    let not_here = format!("volume {volume} is not mounted at {}", path.display());
    let measured = blocking(move || {
        Ok(match place::look(&volume, &path) {
            Ok(Found::View(_)) => Some(measure(&path)),
            Ok(Found::Nothing | Found::Half) | Err(_) => None,
        })
    });
    match measured.await {
        Ok(Some(Ok(usage))) => Ok(usage),
        Ok(Some(Err(error))) => Err(Status::internal(format!(
            "the volume cannot be measured: {error}"
        ))),
        Ok(None) => Err(Status::not_found(not_here)),
        Err(refusal) => Err(Status::internal(refusal.message)),
    }
}

fn measure(path: &Path) -> io::Result<VolumeUsage> {
    let memory = statvfs(path)?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(memory.f_frsize));
    let bytes = |blocks| bytes(blocks).unwrap_or(i64::MAX);
    Ok(VolumeUsage {
        available: bytes(memory.f_bavail),
        total: bytes(memory.f_blocks),
        used: i64::try_from(bytes_below(path)?).unwrap_or(i64::MAX),
        unit: Unit::Bytes.into(),
    })
}

/// Bytes of all files below a directory. What goes meanwhile is left out.
fn bytes_below(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.is_dir() {
                open.push(entry.path());
            } else {
                bytes = bytes.saturating_add(found.blocks().saturating_mul(BLOCK_BYTES));
            }
        }
    }
    Ok(bytes)
}
