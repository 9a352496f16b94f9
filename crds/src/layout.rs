//! The layout of a stream's memory: a ring of headers and pools of payload slots.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Most pools of one stream.
pub const MAX_POOLS: usize = 16;

/// Most payload bytes of one stream on one node: 1 TiB.
pub const MAX_STREAM_BYTES: u64 = 1 << 40;

/// Bytes of a region before its first slot.
const SUPERBLOCK_BYTES: u64 = 64;

/// Bytes of one header slot.
const HEADER_SLOT_BYTES: u64 = 256;

/// How a stream's memory is divided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.pools.map(p, p.strideBytes).sum() <= 1099511627776 / self.headerSlots")
        .message("headerSlots times the sum of all strideBytes must not exceed 1099511627776 bytes (1 TiB) per node")
)]
pub struct StreamLayout {
    /// How many frames the stream remembers: a power of two from 2 to 65536. A consumer that falls
    /// further behind than this loses the oldest frames. Every pool has this many slots. Example: 1024.
    #[schemars(schema_with = "schema::slots")]
    pub header_slots: u32,
    /// The payload pools, at least 1 and at most 16. A producer puts each tensor into the pool with
    /// the smallest slot that holds it. No two pools may have the same poolId.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["poolId".into()]))]
    pub pools: Vec<Pool>,
}

/// One payload pool.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// Number of the pool, from 1 to 65535, unique within the stream. Example: 1.
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub pool_id: u16,
    /// Size of one payload slot in bytes: a power of two from 64 to 1073741824 (1 GiB). A tensor
    /// larger than the largest slot cannot be sent. Example: 1048576 (1 MiB).
    #[schemars(schema_with = "schema::stride")]
    pub stride_bytes: u32,
}

impl StreamLayout {
    /// Bytes that the stream takes on a node whose files are whole pages of `page`. Saturates.
    #[must_use]
    pub fn bytes(&self, page: PageSize) -> u64 {
        let region = |slot_bytes: u64| {
            let bytes = u64::from(self.header_slots)
                .saturating_mul(slot_bytes)
                .saturating_add(SUPERBLOCK_BYTES);
            bytes
                .checked_next_multiple_of(page.bytes())
                .unwrap_or(u64::MAX)
        };
        let pools = self
            .pools
            .iter()
            .map(|pool| region(u64::from(pool.stride_bytes)));
        pools.fold(region(HEADER_SLOT_BYTES), u64::saturating_add)
    }

    /// What is wrong with the layout. The schema refuses all of it; an object that was stored under
    /// an older schema meets this check.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        let slots = self.header_slots;
        if !(2..=65_536).contains(&slots) || !slots.is_power_of_two() {
            return Some(format!(
                "headerSlots is {slots}, and must be a power of two from 2 to 65536"
            ));
        }
        if self.pools.is_empty() || self.pools.len() > MAX_POOLS {
            return Some(format!(
                "there are {} pools, and there must be 1 to {MAX_POOLS}",
                self.pools.len()
            ));
        }
        let mut ids: Vec<u16> = self.pools.iter().map(|pool| pool.pool_id).collect();
        ids.sort_unstable();
        if ids[0] == 0 {
            return Some("a poolId is 0, and must be from 1 to 65535".to_owned());
        }
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("two pools have poolId {}", pair[0]));
        }
        let stride = |pool: &&Pool| {
            let bytes = pool.stride_bytes;
            !bytes.is_power_of_two() || !(64..=1 << 30).contains(&bytes)
        };
        if let Some(pool) = self.pools.iter().find(stride) {
            return Some(format!(
                "strideBytes of pool {} is {}, and must be a power of two from 64 to 1073741824",
                pool.pool_id, pool.stride_bytes
            ));
        }
        let strides: u64 = self
            .pools
            .iter()
            .map(|pool| u64::from(pool.stride_bytes))
            .sum();
        (strides > MAX_STREAM_BYTES / u64::from(slots)).then(|| {
            format!(
                "{slots} slots of {strides} bytes are more than 1 TiB per node; take fewer slots or smaller strides"
            )
        })
    }
}

/// Size of memory pages.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum PageSize {
    /// Ordinary pages on a tmpfs.
    #[serde(rename = "4Ki")]
    Base,
    /// Huge pages of 2 MiB.
    #[serde(rename = "2Mi")]
    Huge2Mi,
    /// Huge pages of 1 GiB.
    #[serde(rename = "1Gi")]
    Huge1Gi,
}

impl PageSize {
    /// Bytes of one page.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Base => 1 << 12,
            Self::Huge2Mi => 1 << 21,
            Self::Huge1Gi => 1 << 30,
        }
    }

    /// The name in the API, also a directory's name on the node.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "4Ki",
            Self::Huge2Mi => "2Mi",
            Self::Huge1Gi => "1Gi",
        }
    }
}

/// Size of memory pages that a stream asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StreamPageSize {
    /// That of the class.
    #[default]
    Auto,
    /// Ordinary pages on a tmpfs.
    #[serde(rename = "4Ki")]
    Base,
    /// Huge pages of 2 MiB.
    #[serde(rename = "2Mi")]
    Huge2Mi,
    /// Huge pages of 1 GiB.
    #[serde(rename = "1Gi")]
    Huge1Gi,
}

impl StreamPageSize {
    /// The page size of a stream in a class with pages of `class`, or `None` where the stream insists
    /// on another one.
    #[must_use]
    pub fn within(self, class: PageSize) -> Option<PageSize> {
        let wanted = match self {
            Self::Auto => class,
            Self::Base => PageSize::Base,
            Self::Huge2Mi => PageSize::Huge2Mi,
            Self::Huge1Gi => PageSize::Huge1Gi,
        };
        (wanted == class).then_some(wanted)
    }
}
