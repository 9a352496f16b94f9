//! Putting a metadata blob together from its chunks, and cutting it into them.
//!
//! A blob is whole or nothing: any gap, overlap, excess or wrong checksum ends the assembly. Nothing is
//! ever sent again, so the next MetaBlobAnnounce is the next chance.

use alloc::vec::Vec;

use crate::{MetaBlobAnnounce, MetaBlobChunk, MetaBlobComplete, StreamId};

/// Bytes of a chunk that peers are used to.
// spec: W-10.3.3-2
pub const BLOB_CHUNK_LEN: usize = 64 * 1024;

/// A blob of which all chunks so far were right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobAssembly {
    announce: MetaBlobAnnounce,
    bytes: Vec<u8>,
}

/// Why a blob was thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobReject {
    /// The blob is longer than the reader takes.
    #[error("the blob has {total_len} bytes, at most {max_len} are taken")]
    TooLong {
        /// Announced length.
        total_len: u64,
        /// Longest blob that the reader takes.
        max_len: u64,
    },
    /// The chunk or the end is of another stream or metadata version.
    #[error("a part of version {meta_version} of stream {stream_id} came in between")]
    OtherBlob {
        /// Stream of that part.
        stream_id: StreamId,
        /// Metadata version of that part.
        meta_version: u32,
    },
    /// A chunk does not start where the one before it ended: a gap or an overlap.
    // spec: W-10.3.3-1
    #[error("a chunk starts at {found}, {expected} was due")]
    Offset {
        /// Where the chunk before it ended.
        expected: u64,
        /// Where the chunk starts.
        found: u64,
    },
    /// A chunk without bytes: the next one could not start further on.
    // spec: W-10.3.3-1
    #[error("the chunk at {offset} is empty")]
    EmptyChunk {
        /// Where the chunk starts.
        offset: u64,
    },
    /// The chunks do not end where the blob does.
    // spec: W-10.3.3-1
    #[error("the chunks have {found} bytes, the blob {total_len}")]
    Length {
        /// Announced length.
        total_len: u64,
        /// Length of all chunks.
        found: u64,
    },
    /// The bytes, the announce and the end do not agree on the checksum.
    // spec: W-10.3.3-1
    #[error("the checksum is {found:#x}, {expected:#x} was given")]
    Checksum {
        /// The checksum given.
        expected: u64,
        /// The checksum of the bytes.
        found: u64,
    },
}

impl BlobReject {
    /// Bounded label for metrics and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::OtherBlob { .. } => "other_blob",
            Self::Offset { .. } => "offset",
            Self::EmptyChunk { .. } => "empty_chunk",
            Self::Length { .. } => "length",
            Self::Checksum { .. } => "checksum",
        }
    }
}

impl BlobAssembly {
    /// Starts with no bytes. Memory is taken as chunks arrive, not as announced.
    ///
    /// # Errors
    /// [`BlobReject::TooLong`] if more than `max_len` bytes are announced.
    pub fn new(announce: MetaBlobAnnounce, max_len: u64) -> Result<Self, BlobReject> {
        let total_len = announce.total_len;
        if total_len > max_len {
            return Err(BlobReject::TooLong { total_len, max_len });
        }
        let bytes = Vec::new();
        Ok(Self { announce, bytes })
    }

    /// Takes the next chunk. An error ends the assembly.
    ///
    /// # Errors
    /// [`BlobReject`] for a chunk of another blob, a gap, an overlap, no bytes or too many.
    // spec: W-10.3.3-1
    pub fn push(mut self, chunk: &MetaBlobChunk) -> Result<Self, BlobReject> {
        self.check_key(chunk.stream_id, chunk.meta_version)?;
        let expected = self.len();
        let found = chunk.chunk_offset;
        if found != expected {
            return Err(BlobReject::Offset { expected, found });
        }
        if chunk.bytes.is_empty() {
            return Err(BlobReject::EmptyChunk { offset: found });
        }
        let total_len = self.announce.total_len;
        let found = expected.saturating_add(u64::try_from(chunk.bytes.len()).unwrap_or(u64::MAX));
        if found > total_len {
            return Err(BlobReject::Length { total_len, found });
        }
        self.bytes.extend_from_slice(&chunk.bytes);
        Ok(self)
    }

    /// The whole blob, if it is whole.
    ///
    /// # Errors
    /// [`BlobReject`] if bytes are missing or a checksum that was given is not theirs.
    // spec: W-10.3.3-1, W-10.3.3-2
    pub fn finish(self, complete: &MetaBlobComplete) -> Result<Vec<u8>, BlobReject> {
        self.check_key(complete.stream_id, complete.meta_version)?;
        let (total_len, found) = (self.announce.total_len, self.len());
        if found != total_len {
            return Err(BlobReject::Length { total_len, found });
        }
        let found = u64::from(crc32c(&self.bytes));
        for expected in [self.announce.checksum, complete.checksum] {
            if expected != 0 && expected != found {
                return Err(BlobReject::Checksum { expected, found });
            }
        }
        Ok(self.bytes)
    }

    fn len(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    fn check_key(&self, stream_id: StreamId, meta_version: u32) -> Result<(), BlobReject> {
        if stream_id == self.announce.stream_id && meta_version == self.announce.meta_version {
            return Ok(());
        }
        Err(BlobReject::OtherBlob {
            stream_id,
            meta_version,
        })
    }
}

/// The chunks of a blob in the order in which they are to be sent, each at most `chunk_len` bytes
/// ([`BLOB_CHUNK_LEN`] is usual; 0 counts as 1).
// spec: W-10.3.3-1
pub fn blob_chunks(
    stream_id: StreamId,
    meta_version: u32,
    blob: &[u8],
    chunk_len: usize,
) -> impl Iterator<Item = MetaBlobChunk> + '_ {
    let mut chunk_offset: u64 = 0;
    blob.chunks(chunk_len.max(1)).map(move |bytes| {
        let chunk = MetaBlobChunk {
            stream_id,
            meta_version,
            chunk_offset,
            bytes: bytes.to_vec(),
        };
        chunk_offset = chunk_offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        chunk
    })
}

/// CRC-32C (Castagnoli) of `bytes`, the checksum of a whole blob.
// spec: W-10.3.3-2
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        let step = CRC32C_STEPS.get(usize::from(low ^ byte));
        crc >> 8 ^ step.copied().unwrap_or_default()
    });
    !crc
}

/// What eight divisions by the polynomial do to each possible low byte.
const CRC32C_STEPS: [u32; 256] = {
    let mut steps = [0; 256];
    let mut byte: u32 = 0;
    let mut rest: &mut [u32] = &mut steps;
    while let [step, others @ ..] = rest {
        *step = crc32c_step(byte);
        byte = byte.wrapping_add(1);
        rest = others;
    }
    steps
};

const fn crc32c_step(byte: u32) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let mut crc = byte;
    let mut bit: u32 = 0;
    while bit < 8 {
        let divide = if crc & 1 == 1 { POLYNOMIAL } else { 0 };
        crc = crc >> 1 ^ divide;
        bit = bit.wrapping_add(1);
    }
    crc
}
