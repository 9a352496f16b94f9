//! Layout tables as code: macros that turn one into a type with its reader and writer.
//!
//! They check at compile time that every field stands at the offset written beside it and that the
//! fields fill the block.

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
        $crate::table::body! {
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
                let mut bytes = [0; $len];
                $crate::message::encode_as(self, &mut $crate::sbe::SliceSink::new(&mut bytes));
                bytes
            }
        }

        const _: () = assert!(
            $crate::sbe::MESSAGE_HEADER_LEN + <$name as $crate::sbe::Body>::MIN_LEN == $len
        );
    )*};
}
pub(crate) use fixed_message;
