//! The messages that sbe-tool's decoder is given: eight of each kind, with values drawn from a fixed
//! sequence, so that every field is seen at ordinary values, at its limits and absent.

use std::fmt::Write;

use arbitrary::{Arbitrary, Unstructured};
use tensorpool_wire::{
    ConsumerConfig, ConsumerHello, ControlResponse, DataSourceAnnounce, DataSourceMeta,
    DiscoveryRequest, DiscoveryResponse, FrameDescriptor, FrameProgress, Message, MetaBlobAnnounce,
    MetaBlobChunk, MetaBlobComplete, QosConsumer, QosProducer, Seq, ShmAttachRequest,
    ShmAttachResponse, ShmDetachRequest, ShmDetachResponse, ShmDriverShutdown,
    ShmDriverShutdownRequest, ShmLeaseKeepalive, ShmLeaseRevoked, ShmPoolAnnounce, SlotHeader,
    Superblock,
};

use crate::Vector;

const OF_EACH_KIND: usize = 8;

pub(crate) fn all() -> Vec<(String, Vector)> {
    let mut draw = Draw {
        state: 0x7E50_0F00_1234_5678,
    };
    let mut all = Vec::new();
    macro_rules! draw {
        ($($name:ident),* $(,)?) => {$(
            for index in 0..OF_EACH_KIND {
                let bytes = draw.value::<$name>().encode();
                // Decoded once, an absent value is None and a known enum value has its name.
                let message = Message::decode(&bytes).unwrap();
                all.push((format!("{}.{index}", stringify!($name)), Vector::Message(message)));
            }
        )*};
    }
    draw!(
        ShmPoolAnnounce,
        ConsumerHello,
        ConsumerConfig,
        FrameDescriptor,
        FrameProgress,
        QosConsumer,
        QosProducer,
        DataSourceAnnounce,
        DataSourceMeta,
        MetaBlobAnnounce,
        MetaBlobChunk,
        MetaBlobComplete,
        ControlResponse,
        ShmAttachRequest,
        ShmAttachResponse,
        ShmDetachRequest,
        ShmDetachResponse,
        ShmLeaseKeepalive,
        ShmDriverShutdown,
        ShmLeaseRevoked,
        ShmDriverShutdownRequest,
        DiscoveryRequest,
        DiscoveryResponse,
    );
    for index in 0..OF_EACH_KIND {
        let superblock = Superblock::decode(&draw.value::<Superblock>().encode()).unwrap();
        let name = format!("ShmRegionSuperblock.{index}");
        all.push((name, Vector::Superblock(superblock)));
    }
    for index in 0..OF_EACH_KIND {
        let drawn = draw.value::<SlotHeader>();
        let seq = Seq(drawn.seq.get() % Seq::MAX.get());
        let slot = SlotHeader::decode(&SlotHeader { seq, ..drawn }.encode()).unwrap();
        all.push((format!("SlotHeader.{index}"), Vector::Slot(slot)));
    }
    all
}

pub(crate) fn write_line(name: &str, value: &Vector, out: &mut String) {
    write!(out, "{name} ").unwrap();
    for byte in value.encode() {
        write!(out, "{byte:02x}").unwrap();
    }
    out.push('\n');
}

/// The same values on every machine, for ever (xorshift64).
struct Draw {
    state: u64,
}

impl Draw {
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// A value from 40 words, some of them at a limit, where absent values and nulls are.
    fn value<T: for<'a> Arbitrary<'a>>(&mut self) -> T {
        let words = std::array::from_fn::<u64, 40, _>(|_| match self.next() % 4 {
            0 => u64::MAX,
            1 => self.next() % 3,
            _ => self.next(),
        });
        let bytes = words.map(u64::to_le_bytes);
        T::arbitrary(&mut Unstructured::new(bytes.as_flattened())).expect("enough bytes")
    }
}
