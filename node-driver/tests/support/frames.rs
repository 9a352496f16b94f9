//! A producer's data path without the client crate: frames written into the regions of a lease.

use std::os::fd::OwnedFd;

use tensorpool_shm::{AllowedBases, MapOptions, RegionSource, StreamLayout, WriteMapping};
use tensorpool_wire::{
    Dtype, MajorOrder, PoolId, PoolStride, ProgressUnit, Seq, ShmAttachResponse, ShmUri,
    SlotHeader, TensorHeader,
};

use super::raw::Lease;

/// Writes frames of 64 bytes, each full of its own number's low byte.
#[derive(Debug)]
pub(crate) struct Frames {
    mapping: WriteMapping,
    /// The next frame's number.
    pub(crate) next: u64,
}

impl Frames {
    /// Over the descriptors that came with a producer's lease.
    pub(crate) fn over(lease: &mut Lease) -> Self {
        let sources = std::mem::take(&mut lease.fds).into_iter().map(by_file);
        Self::map(&lease.response, sources.collect())
    }

    /// By path, as a producer on Aeron maps.
    pub(crate) fn by_path(lease: &Lease, base: &std::path::Path) -> Self {
        let bases = AllowedBases::new([base]).expect("the base directory is there");
        let response = &lease.response;
        let uris = std::iter::once(&response.header_region_uri)
            .chain(response.payload_pools.iter().map(|pool| &pool.region_uri));
        let sources = uris.map(|uri| {
            let uri = ShmUri::parse(uri).expect("a region URI");
            RegionSource::Path(bases.validate(&uri).expect("a region inside the base"))
        });
        Self::map(response, sources.collect())
    }

    fn map(response: &ShmAttachResponse, sources: Vec<RegionSource>) -> Self {
        let layout = StreamLayout::new(
            response.stream_id.expect("granted"),
            response.epoch.expect("granted"),
            response.header_nslots.expect("granted"),
            response
                .payload_pools
                .iter()
                .map(|pool| PoolStride {
                    pool_id: pool.pool_id,
                    stride_bytes: pool.stride_bytes,
                })
                .collect(),
        )
        .expect("a layout");
        Self {
            mapping: WriteMapping::map(layout, sources, MapOptions::default()).expect("mapped"),
            next: 0,
        }
    }

    /// Commits one frame and returns its number; `None` when the memory is gone.
    pub(crate) fn publish(&mut self, meta_version: Option<u32>) -> Option<u64> {
        let seq = self.next;
        let nslots = u64::from(self.mapping.layout().nslots());
        let header = SlotHeader {
            seq: Seq(seq),
            values_len_bytes: 64,
            payload_slot: u32::try_from(seq & (nslots - 1)).expect("an index"),
            pool_id: PoolId(1),
            payload_offset: 0,
            timestamp_ns: None,
            meta_version,
            tensor: TensorHeader {
                dtype: Dtype::Uint8,
                major_order: MajorOrder::Row,
                ndims: 1,
                progress_unit: ProgressUnit::None,
                progress_stride_bytes: 0,
                dims: [64, 0, 0, 0, 0, 0, 0, 0],
                strides: [0; 8],
            },
        };
        let mut slot = self.mapping.begin(Seq(seq), 0).ok()?;
        let byte = u8::try_from(seq & 0xff).expect("one byte");
        slot.payload().write_at(0, &[byte; 64]).ok()?;
        slot.commit(&header.encode());
        self.next += 1;
        Some(seq)
    }
}

fn by_file(file: OwnedFd) -> RegionSource {
    RegionSource::File {
        file,
        require_hugepages: false,
    }
}
