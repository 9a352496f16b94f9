//! The SBE codec: a bounds-checked little-endian cursor, and how each part of a message is read from it
//! and written. The layout tables that are made of these parts are the macros of `table`.
//!
//! Reading never panics, never looks past the end and never allocates for
//! an entry or a byte that is not there. What is read is exactly what is written back, with two
//! exceptions that peers need: a `tags` group with block length 4, and a DiscoveryRequest that ends
//! before its last var-data fields.

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::DecodeErrorKind;
use crate::{
    ClientId, CorrelationId, Epoch, LeaseId, MonoNanos, NodeId, PoolId, Seq, StreamId, TraceId,
};

/// Version of every schema here (layouts §1, rule 9). There is no other one.
pub const SCHEMA_VERSION: u16 = 1;
/// Bytes of the message header in front of every message.
pub const MESSAGE_HEADER_LEN: usize = 8;
/// Most entries that a group may have: 65,535 is SBE's null and refused on reading.
pub const MAX_GROUP_ENTRIES: usize = 65_534;
/// Most bytes that a var-data field may have.
pub const MAX_VAR_DATA_LEN: usize = 1 << 30;

/// A part that could not be read, and why.
pub(crate) type Fault = (&'static str, DecodeErrorKind);

/// What is left to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline(always)]
    pub(crate) fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], DecodeErrorKind> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeErrorKind::TooShort {
                needed: N,
                left: self.left(),
            });
        };
        self.rest = rest;
        Ok(head)
    }

    fn take_slice(&mut self, len: u32) -> Result<&'a [u8], DecodeErrorKind> {
        let parts = usize::try_from(len)
            .ok()
            .filter(|&len| len <= MAX_VAR_DATA_LEN)
            .and_then(|len| self.rest.split_at_checked(len));
        let Some((head, rest)) = parts else {
            return Err(DecodeErrorKind::VarDataTooLong {
                len,
                left: self.left(),
            });
        };
        self.rest = rest;
        Ok(head)
    }
}

/// Where a writer puts bytes.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A writer into bytes of which there are enough, for blocks whose length is known at compile time.
#[derive(Debug)]
pub(crate) struct SliceSink<'a> {
    rest: &'a mut [u8],
}

impl<'a> SliceSink<'a> {
    pub(crate) const fn new(bytes: &'a mut [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl Sink for SliceSink<'_> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        let (head, rest) = core::mem::take(&mut self.rest)
            .split_at_mut_checked(bytes.len())
            .expect("block lengths are checked at compile time");
        head.copy_from_slice(bytes);
        self.rest = rest;
    }
}

/// A value of fixed length inside a block.
pub(crate) trait Field: Sized {
    const LEN: usize;
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind>;
    fn write(&self, to: &mut impl Sink);
}

/// A value whose absence is written as a number of its own.
pub(crate) trait Nullable: Field + Copy + PartialEq {
    const NULL: Self;
}

/// Little-endian on any host: a big-endian one swaps.
// spec: W-6-1, W-15.1-4
macro_rules! primitive {
    ($($ty:ty, null $null:expr;)*) => {$(
        impl Field for $ty {
            const LEN: usize = size_of::<$ty>();
            #[inline(always)]
            fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
                Ok(Self::from_le_bytes(*from.take()?))
            }
            #[inline(always)]
            fn write(&self, to: &mut impl Sink) {
                to.put(&self.to_le_bytes());
            }
        }
        impl Nullable for $ty {
            const NULL: Self = $null;
        }
    )*};
}

// spec: W-10.1-1
primitive! {
    u8, null Self::MAX;
    u16, null Self::MAX;
    u32, null Self::MAX;
    u64, null Self::MAX;
    i16, null Self::MIN;
    i32, null Self::MIN;
    i64, null Self::MIN;
}

macro_rules! newtype {
    ($($ty:ident($raw:ty), null $null:expr;)*) => {$(
        impl Field for $ty {
            const LEN: usize = <$raw as Field>::LEN;
            #[inline(always)]
            fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
                <$raw as Field>::read(from).map(Self)
            }
            #[inline(always)]
            fn write(&self, to: &mut impl Sink) {
                self.0.write(to);
            }
        }
        impl Nullable for $ty {
            const NULL: Self = Self($null);
        }
    )*};
}

newtype! {
    StreamId(u32), null u32::MAX;
    ClientId(u32), null u32::MAX;
    LeaseId(u64), null u64::MAX;
    Epoch(u64), null u64::MAX;
    PoolId(u16), null u16::MAX;
    Seq(u64), null u64::MAX;
    CorrelationId(i64), null i64::MIN;
    NodeId(u32), null u32::MAX;
    MonoNanos(u64), null u64::MAX;
    TraceId(u64), null 0;
}

// spec: W-10.1-1, W-10.1-2
impl<T: Nullable> Field for Option<T> {
    const LEN: usize = T::LEN;
    #[inline(always)]
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
        T::read(from).map(|value| (value != T::NULL).then_some(value))
    }
    #[inline(always)]
    fn write(&self, to: &mut impl Sink) {
        self.unwrap_or(T::NULL).write(to);
    }
}

impl<const N: usize> Field for [i32; N] {
    const LEN: usize = 4 * N;
    #[inline(always)]
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
        let mut values = [0; N];
        for value in &mut values {
            *value = i32::read(from)?;
        }
        Ok(values)
    }
    #[inline(always)]
    fn write(&self, to: &mut impl Sink) {
        to.put(self.map(i32::to_le_bytes).as_flattened());
    }
}

/// `N` bytes that nobody reads. Written as zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserved<const N: usize>;

impl<const N: usize> Field for Reserved<N> {
    const LEN: usize = N;
    #[inline(always)]
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
        from.take::<N>().map(|_| Self)
    }
    #[inline(always)]
    fn write(&self, to: &mut impl Sink) {
        to.put(&[0; N]);
    }
}

/// A var-data field: a u32 length, then the bytes. Empty stands for absent.
// spec: W-10.1-3, W-10.1-4, W-10.1-5, D-4.2-17
pub(crate) trait VarData: Sized + Default {
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeErrorKind>;
    fn bytes(&self) -> &[u8];

    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
        let len = u32::read(from)?;
        Self::from_bytes(from.take_slice(len)?)
    }

    /// As `read`, but a message that ends exactly here has an empty field (ambiguities: truncated
    /// discovery requests of a deployed client).
    fn read_or_end(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
        if from.left() == 0 {
            return Ok(Self::default());
        }
        Self::read(from)
    }

    fn write(&self, to: &mut impl Sink) {
        let bytes = self.bytes();
        let len = u32::try_from(bytes.len())
            .ok()
            .filter(|_| bytes.len() <= MAX_VAR_DATA_LEN)
            .expect("var-data has at most MAX_VAR_DATA_LEN bytes");
        len.write(to);
        to.put(bytes);
    }

    fn encoded_len(&self) -> usize {
        self.bytes().len().saturating_add(4)
    }
}

impl VarData for String {
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeErrorKind> {
        core::str::from_utf8(bytes)
            .map(Self::from)
            .map_err(|_| DecodeErrorKind::NotUtf8)
    }
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl VarData for Vec<u8> {
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeErrorKind> {
        Ok(bytes.to_vec())
    }
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A fixed block with its groups and var-data: the body of a message or one entry of a group.
pub(crate) trait Body: Sized {
    const BLOCK_LEN: u16;
    /// Fewest bytes that a body takes on the wire.
    const MIN_LEN: usize;
    fn read(from: &mut Reader<'_>) -> Result<Self, Fault>;
    fn write(&self, to: &mut impl Sink);
    fn encoded_len(&self) -> usize;

    /// Whether a group header may claim this block length.
    fn takes_block_len(found: u16) -> bool {
        found == Self::BLOCK_LEN
    }
}

/// One tag. Both generators in use give the entry a block of 0 bytes, since its only field is of
/// variable length; a writer that says 4 means the same bytes (layouts §1, fact 1).
impl Body for String {
    const BLOCK_LEN: u16 = 0;
    const MIN_LEN: usize = 4;
    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        <Self as VarData>::read(from).map_err(|kind| ("tag", kind))
    }
    fn write(&self, to: &mut impl Sink) {
        VarData::write(self, to);
    }
    fn encoded_len(&self) -> usize {
        VarData::encoded_len(self)
    }
    fn takes_block_len(found: u16) -> bool {
        found == 0 || found == 4
    }
}

/// Reads a group. Memory is taken only for entries that the bytes left can really hold.
pub(crate) fn read_group<T: Body>(
    from: &mut Reader<'_>,
    name: &'static str,
) -> Result<Vec<T>, Fault> {
    let block_len = u16::read(from).map_err(|kind| (name, kind))?;
    let count = u16::read(from).map_err(|kind| (name, kind))?;
    if !T::takes_block_len(block_len) {
        let expected = T::BLOCK_LEN;
        let found = block_len;
        return Err((name, DecodeErrorKind::BlockLength { expected, found }));
    }
    let entries = usize::from(count);
    let left = from.left();
    if entries > MAX_GROUP_ENTRIES || entries.saturating_mul(T::MIN_LEN) > left {
        return Err((name, DecodeErrorKind::GroupTooLong { count, left }));
    }
    let mut group = Vec::with_capacity(entries);
    for _ in 0..entries {
        group.push(T::read(from)?);
    }
    Ok(group)
}

pub(crate) fn write_group<T: Body>(group: &[T], to: &mut impl Sink) {
    let count = u16::try_from(group.len())
        .ok()
        .filter(|_| group.len() <= MAX_GROUP_ENTRIES)
        .expect("a group has at most MAX_GROUP_ENTRIES entries");
    T::BLOCK_LEN.write(to);
    count.write(to);
    for entry in group {
        entry.write(to);
    }
}

pub(crate) fn group_len<T: Body>(group: &[T]) -> usize {
    group.iter().fold(4, |len: usize, entry| {
        len.saturating_add(entry.encoded_len())
    })
}

/// The 8 bytes in front of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    /// Bytes of the fixed block that follows.
    pub block_length: u16,
    /// Which message of the schema it is.
    pub template_id: u16,
    /// Which schema it is of.
    pub schema_id: u16,
    /// Version of that schema.
    pub version: u16,
}

impl MessageHeader {
    /// The header in the first 8 bytes, `None` if there are fewer. Nothing is checked.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        Self::read(&mut Reader::new(bytes)).ok()
    }
}

impl Field for MessageHeader {
    const LEN: usize = MESSAGE_HEADER_LEN;
    #[inline]
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
        let mut block = Reader::new(from.take::<MESSAGE_HEADER_LEN>()?);
        Ok(Self {
            block_length: u16::read(&mut block)?,
            template_id: u16::read(&mut block)?,
            schema_id: u16::read(&mut block)?,
            version: u16::read(&mut block)?,
        })
    }
    #[inline]
    fn write(&self, to: &mut impl Sink) {
        self.block_length.write(to);
        self.template_id.write(to);
        self.schema_id.write(to);
        self.version.write(to);
    }
}
