//! Where an epoch's files lie and how large they are.

use tensorpool_wire::{Epoch, PayloadPool, StreamId};

use crate::action::{EpochKey, PoolFile, RegionSet};
use crate::config::{Base, BaseId, Identity, Profile};
use crate::stream::Stream;

/// Bytes of the superblock of each file.
const SUPERBLOCK_BYTES: u64 = 64;
/// Bytes of one slot of the header ring.
pub(crate) const HEADER_SLOT_BYTES: u16 = 256;
/// The layout version that this driver makes.
pub(crate) const LAYOUT_VERSION: u32 = 1;

/// Replaces what must not stand in a path component (W-15.21a-2).
pub(crate) fn sanitize_user(user: &str) -> String {
    if user.is_empty() {
        return "_".to_owned();
    }
    user.chars()
        .map(|c| match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' | '-' => c,
            _ => '_',
        })
        .collect()
}

/// Whether `text` can be used as one path component as it is.
pub(crate) fn is_path_component(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

impl Identity {
    /// The base that streams name so; `None` where there is none. An empty name is the first one.
    pub(crate) fn base_named(&self, name: &str) -> Option<BaseId> {
        if name.is_empty() {
            return Some(BaseId::default());
        }
        let at = self.bases.iter().position(|base| base.name == name)?;
        u16::try_from(at).ok().map(BaseId)
    }

    /// A base by its id. Ids come from this table, or from whoever was told of it.
    pub(crate) fn base(&self, id: BaseId) -> &Base {
        &self.bases[usize::from(id.0).min(self.bases.len() - 1)]
    }

    /// The directory of one epoch.
    // spec: W-15.21a-1, W-15.21a-3
    pub(crate) fn epoch_dir(&self, base: BaseId, stream: StreamId, epoch: Epoch) -> String {
        let base = self.base(base).directory.trim_end_matches('/');
        format!(
            "{base}/tensorpool-{}/{}/{stream}/{epoch}",
            self.user, self.namespace
        )
    }

    /// What to make for one epoch.
    pub(crate) fn region_set(&self, base: BaseId, key: EpochKey, stream: &Stream) -> RegionSet {
        let profile = &stream.profile;
        RegionSet {
            key,
            base,
            directory: self.epoch_dir(base, key.stream, key.epoch),
            nslots: profile.header_nslots,
            pools: profile
                .pools
                .iter()
                .map(|pool| PoolFile {
                    pool: pool.pool_id,
                    stride_bytes: pool.stride_bytes,
                })
                .collect(),
            bytes: self.base(base).epoch_bytes(profile),
            on_aeron: stream.on_aeron,
            numa: stream.numa,
        }
    }

    /// The URIs of an epoch as messages carry them.
    // spec: D-4.2-18, D-9-1
    pub(crate) fn uris(&self, base: BaseId, key: EpochKey, profile: &Profile) -> Uris {
        let directory = self.epoch_dir(base, key.stream, key.epoch);
        let base = self.base(base);
        Uris {
            nslots: profile.header_nslots,
            header: base.uri(&directory, "header.ring"),
            pools: profile
                .pools
                .iter()
                .map(|pool| PayloadPool {
                    pool_id: pool.pool_id,
                    // spec: D-4.2-10, W-9-2
                    pool_nslots: profile.header_nslots,
                    stride_bytes: pool.stride_bytes,
                    region_uri: base.uri(&directory, &format!("{}.pool", pool.pool_id)),
                })
                .collect(),
        }
    }
}

impl Base {
    fn uri(&self, directory: &str, file: &str) -> String {
        let suffix = if self.hugepages {
            "|require_hugepages=true"
        } else {
            ""
        };
        format!("shm:file?path={directory}/{file}{suffix}")
    }

    /// Bytes of all files of an epoch, each rounded up to whole pages.
    pub(crate) fn epoch_bytes(&self, profile: &Profile) -> u64 {
        let page = self.page_size_bytes;
        let file = |slot_bytes: u64| {
            let bytes = slot_bytes
                .saturating_mul(u64::from(profile.header_nslots))
                .saturating_add(SUPERBLOCK_BYTES);
            bytes.div_ceil(page).saturating_mul(page)
        };
        profile
            .pools
            .iter()
            .map(|pool| file(u64::from(pool.stride_bytes)))
            .fold(file(u64::from(HEADER_SLOT_BYTES)), u64::saturating_add)
    }
}

/// The layout of an epoch and its URIs, as messages carry them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uris {
    pub(crate) nslots: u32,
    pub(crate) header: String,
    pub(crate) pools: Vec<PayloadPool>,
}
