//! Schema 900: what a data source is.

use alloc::string::String;
use alloc::vec::Vec;

use crate::table::{body, message};
use crate::{ClientId, Epoch, MonoNanos, StreamId};

message! {
    /// A producer says, about once per second, what its stream is called.
    pub struct DataSourceAnnounce, schema SCHEMA_WIRE, template 7, block 20 {
        /// The stream.
        @0 stream_id: StreamId,
        /// The producer.
        @4 producer_id: ClientId,
        /// The epoch that it writes to.
        @8 epoch: Epoch,
        /// Version of [`DataSourceMeta`]; rises when that changes.
        @16 meta_version: u32,
    }
    data {
        /// Name of the source, compared byte for byte.
        name: String,
        /// What it is, for people.
        summary: String,
    }
}

body! {
    /// One named value of a data source.
    #[derive(Clone, Debug, PartialEq, Eq)]
    #[cfg_attr(feature = "arbitrary", derive(arbitrary::Arbitrary))]
    pub struct Attribute, block 0 {}
    data {
        /// Its name.
        key: String,
        /// How `value` is to be read, for instance `text/plain`.
        format: String,
        /// Its value.
        value: Vec<u8>,
    }
}

message! {
    /// A producer's attributes in one version, on change and now and then.
    pub struct DataSourceMeta, schema SCHEMA_WIRE, template 8, block 16 {
        /// The stream.
        @0 stream_id: StreamId,
        /// Version of the attributes; slots and descriptors refer to it.
        @4 meta_version: u32,
        /// When they were set.
        @8 timestamp_ns: MonoNanos,
    }
    groups {
        /// All attributes.
        attributes: Attribute,
    }
}

message! {
    /// A blob too long for an attribute follows in chunks.
    pub struct MetaBlobAnnounce, schema SCHEMA_WIRE, template 10, block 28 {
        /// The stream.
        @0 stream_id: StreamId,
        /// Version of the metadata that the blob belongs to.
        @4 meta_version: u32,
        /// What the blob is; agreed between producer and consumer.
        @8 blob_type: u32,
        /// Length of the whole blob in bytes.
        @12 total_len: u64,
        /// CRC32C over the whole blob; 0: none given.
        @20 checksum: u64,
    }
}

message! {
    /// A part of a blob.
    pub struct MetaBlobChunk, schema SCHEMA_WIRE, template 12, block 16 {
        /// The stream.
        @0 stream_id: StreamId,
        /// Version of the metadata that the blob belongs to.
        @4 meta_version: u32,
        /// Where in the blob the bytes stand.
        @8 chunk_offset: u64,
    }
    data {
        /// The bytes.
        bytes: Vec<u8>,
    }
}

message! {
    /// All chunks of a blob were sent.
    pub struct MetaBlobComplete, schema SCHEMA_WIRE, template 13, block 16 {
        /// The stream.
        @0 stream_id: StreamId,
        /// Version of the metadata that the blob belongs to.
        @4 meta_version: u32,
        /// CRC32C over the whole blob; 0: none given.
        @8 checksum: u64,
    }
}
