//! The SBE codec: a bounds-checked little-endian cursor, and two macros that turn a layout table into
//! a struct with its reader and writer.
//!
//! The macros check at compile time that every field stands at the offset written beside it and that
//! the fields fill the block. Reading never panics, never looks past the end and never allocates for
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

    #[inline]
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
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A writer of exactly `N` bytes, for blocks whose length is known at compile time.
#[derive(Debug)]
pub(crate) struct ArraySink<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> ArraySink<N> {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; N],
            at: 0,
        }
    }

    #[inline]
    pub(crate) fn finish(self) -> [u8; N] {
        debug_assert_eq!(self.at, N, "a block writes all of its bytes");
        self.bytes
    }
}

impl<const N: usize> Sink for ArraySink<N> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.at.saturating_add(bytes.len());
        self.bytes
            .get_mut(self.at..end)
            .expect("block lengths are checked at compile time")
            .copy_from_slice(bytes);
        self.at = end;
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
            #[inline]
            fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
                Ok(Self::from_le_bytes(*from.take()?))
            }
            #[inline]
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
            #[inline]
            fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
                <$raw as Field>::read(from).map(Self)
            }
            #[inline]
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
    #[inline]
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
        T::read(from).map(|value| (value != T::NULL).then_some(value))
    }
    #[inline]
    fn write(&self, to: &mut impl Sink) {
        self.unwrap_or(T::NULL).write(to);
    }
}

impl<const N: usize> Field for [i32; N] {
    const LEN: usize = 4 * N;
    #[inline]
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
        let mut values = [0; N];
        for value in &mut values {
            *value = i32::read(from)?;
        }
        Ok(values)
    }
    #[inline]
    fn write(&self, to: &mut impl Sink) {
        for value in self {
            value.write(to);
        }
    }
}

/// `N` bytes that nobody reads. Written as zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserved<const N: usize>;

impl<const N: usize> Field for Reserved<N> {
    const LEN: usize = N;
    #[inline]
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeErrorKind> {
        from.take::<N>().map(|_| Self)
    }
    #[inline]
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

/// An enum of the schema. Every raw value can be held, so that decoding and encoding again gives the
/// same byte and the receiver decides what an unknown one means to it.
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $raw:ident {
            $( $(#[$vmeta:meta])* $variant:ident = $value:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
        pub enum $name {
            $( $(#[$vmeta])* $variant, )*
            /// Any other number, kept as it stands on the wire.
            Unknown($raw),
        }

        impl $name {
            /// All values that the schema names.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant,)*];

            /// The value with this number.
            #[must_use]
            #[inline]
            pub const fn from_raw(raw: $raw) -> Self {
                match raw {
                    $( $value => Self::$variant, )*
                    other => Self::Unknown(other),
                }
            }

            /// The number on the wire.
            #[must_use]
            #[inline]
            pub const fn raw(self) -> $raw {
                match self {
                    $( Self::$variant => $value, )*
                    Self::Unknown(raw) => raw,
                }
            }
        }

        impl $crate::sbe::Field for $name {
            const LEN: usize = <$raw as $crate::sbe::Field>::LEN;
            #[inline]
            fn read(
                from: &mut $crate::sbe::Reader<'_>,
            ) -> Result<Self, $crate::error::DecodeErrorKind> {
                <$raw as $crate::sbe::Field>::read(from).map(Self::from_raw)
            }
            #[inline]
            fn write(&self, to: &mut impl $crate::sbe::Sink) {
                $crate::sbe::Field::write(&self.raw(), to);
            }
        }

        // spec: D-4.2-16
        impl $crate::sbe::Nullable for $name {
            const NULL: Self = Self::Unknown(<$raw as $crate::sbe::Nullable>::NULL);
        }
    };
}
pub(crate) use wire_enum;

/// A layout table as a struct: `@offset field: type` for the fixed block in its order, then the groups
/// and the var-data in theirs. `data_or_end` is var-data that may be missing at the end, which stands for empty.
macro_rules! body {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident, block $block:literal {
            $( $(#[$fmeta:meta])* @$at:literal $field:ident: $ty:ty, )*
        }
        $(groups { $( $(#[$gmeta:meta])* $group:ident: $entry:ty, )* })?
        $(data { $( $(#[$dmeta:meta])* $data:ident: $dty:ty, )* })?
        $(data_or_end { $( $(#[$emeta:meta])* $edata:ident: $edty:ty, )* })?
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $( $(#[$fmeta])* $vis $field: $ty, )*
            $($( $(#[$gmeta])* $vis $group: alloc::vec::Vec<$entry>, )*)?
            $($( $(#[$dmeta])* $vis $data: $dty, )*)?
            $($( $(#[$emeta])* $vis $edata: $edty, )*)?
        }

        const _: () = {
            let at = 0;
            $(
                assert!(at == $at, concat!(stringify!($field), " is not at its offset"));
                let at = $at + <$ty as $crate::sbe::Field>::LEN;
            )*
            assert!(at == $block, concat!(stringify!($name), " does not fill its block"));
        };

        impl $crate::sbe::Body for $name {
            const BLOCK_LEN: u16 = $block;
            const MIN_LEN: usize = $block
                $($( + { let _ = stringify!($group); 4 } )*)?
                $($( + { let _ = stringify!($data); 4 } )*)?
                $($( + { let _ = stringify!($edata); 4 } )*)?;

            #[inline]
            #[allow(unused_variables, unused_mut, reason = "a block can be empty")]
            fn read(from: &mut $crate::sbe::Reader<'_>) -> Result<Self, $crate::sbe::Fault> {
                let mut block = $crate::sbe::Reader::new(
                    from.take::<$block>().map_err(|kind| ("block", kind))?,
                );
                $(
                    let $field = <$ty as $crate::sbe::Field>::read(&mut block)
                        .map_err(|kind| (stringify!($field), kind))?;
                )*
                $($(
                    let $group = $crate::sbe::read_group::<$entry>(from, stringify!($group))?;
                )*)?
                $($(
                    let $data = <$dty as $crate::sbe::VarData>::read(from)
                        .map_err(|kind| (stringify!($data), kind))?;
                )*)?
                $($(
                    let $edata = <$edty as $crate::sbe::VarData>::read_or_end(from)
                        .map_err(|kind| (stringify!($edata), kind))?;
                )*)?
                Ok(Self { $($field,)* $($($group,)*)? $($($data,)*)? $($($edata,)*)? })
            }

            #[inline]
            #[allow(unused_variables, reason = "a block can be empty")]
            fn write(&self, to: &mut impl $crate::sbe::Sink) {
                $( $crate::sbe::Field::write(&self.$field, to); )*
                $($( $crate::sbe::write_group(&self.$group, to); )*)?
                $($( $crate::sbe::VarData::write(&self.$data, to); )*)?
                $($( $crate::sbe::VarData::write(&self.$edata, to); )*)?
            }

            fn encoded_len(&self) -> usize {
                let len: usize = $block;
                $($( let len = len.saturating_add($crate::sbe::group_len(&self.$group)); )*)?
                $($(
                    let len = len
                        .saturating_add($crate::sbe::VarData::encoded_len(&self.$data));
                )*)?
                $($(
                    let len = len
                        .saturating_add($crate::sbe::VarData::encoded_len(&self.$edata));
                )*)?
                len
            }
        }
    };
}
pub(crate) use body;

/// A [`body!`] that is a message of its own: `schema NAME, template N` in front of the block length.
macro_rules! message {
    (
        $(#[$meta:meta])*
        pub struct $name:ident, schema $schema:ident, template $template:literal,
        $($rest:tt)*
    ) => {
        $crate::sbe::body! {
            $(#[$meta])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            #[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
            pub struct $name, $($rest)*
        }

        impl $name {
            /// Name in the schema.
            pub const NAME: &'static str = stringify!($name);
            /// Schema that the message is of.
            pub const SCHEMA_ID: u16 = $crate::$schema;
            /// Number within the schema.
            pub const TEMPLATE_ID: u16 = $template;
            /// Bytes of the fixed block.
            pub const BLOCK_LENGTH: u16 = <Self as $crate::sbe::Body>::BLOCK_LEN;

            /// Reads a whole message, its header included.
            ///
            /// # Errors
            /// [`DecodeError`](crate::DecodeError) if it is another message, another version,
            /// malformed, or longer than its fields.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::DecodeError> {
                $crate::message::decode_as(bytes)
            }

            /// The whole message, its header included.
            ///
            /// # Panics
            /// If a group has more than [`MAX_GROUP_ENTRIES`](crate::MAX_GROUP_ENTRIES) entries or a
            /// var-data field more than [`MAX_VAR_DATA_LEN`](crate::MAX_VAR_DATA_LEN) bytes.
            #[must_use]
            pub fn encode(&self) -> alloc::vec::Vec<u8> {
                let mut bytes = alloc::vec::Vec::with_capacity(self.encoded_len());
                self.encode_into(&mut bytes);
                bytes
            }

            /// Appends the whole message, its header included.
            ///
            /// # Panics
            /// As [`Self::encode`].
            pub fn encode_into(&self, bytes: &mut alloc::vec::Vec<u8>) {
                bytes.reserve(self.encoded_len());
                $crate::message::encode_as(self, bytes);
            }

            /// Bytes of the whole message, its header included.
            #[must_use]
            pub fn encoded_len(&self) -> usize {
                $crate::sbe::Body::encoded_len(self)
                    .saturating_add($crate::sbe::MESSAGE_HEADER_LEN)
            }
        }

        impl $crate::message::Framed for $name {
            const NAME: &'static str = stringify!($name);
            const SCHEMA_ID: u16 = $crate::$schema;
            const TEMPLATE_ID: u16 = $template;
        }
    };
}
pub(crate) use message;

/// For a message of a fixed block alone: `encode_array` for paths that must not allocate.
macro_rules! fixed_message {
    ($($name:ident, $len:literal;)*) => {$(
        impl Copy for $name {}

        impl $name {
            /// Bytes of the whole message, its header included.
            pub const ENCODED_LEN: usize = $len;

            /// The whole message, its header included, without allocating.
            #[must_use]
            #[inline]
            pub fn encode_array(&self) -> [u8; $len] {
                let mut sink = $crate::sbe::ArraySink::<$len>::new();
                $crate::message::encode_as(self, &mut sink);
                sink.finish()
            }
        }

        const _: () = assert!(
            $crate::sbe::MESSAGE_HEADER_LEN + <$name as $crate::sbe::Body>::MIN_LEN == $len
        );
    )*};
}
pub(crate) use fixed_message;
