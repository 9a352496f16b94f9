//! Copying a frame in: one copy through the public API, against plain copies into the same slots in
//! the same order, against private memory, and against the competitor. Also claim and commit alone.
//!
//! Which physical pages a file got decides by up to a third how fast copies into it are (both ours and
//! the plain ones move together from run to run), so all memory is allocated anew several times, while
//! that of before is still there: the kernel would give the same pages again.
//!
//! Nobody consumes meanwhile: what is measured is the producer's time. A consumer that looks costs
//! cache misses on the header lines only.

use std::time::Instant;

use hdrhistogram::Histogram;
use iceoryx2::prelude::{NodeBuilder, ServiceName, ipc};
use tensorpool_client::{Producer, TensorSpec};
use tensorpool_e2e::latency::{new_histogram, percentiles};

use crate::connect::{self, Way};
use crate::report::{Row, Target};

/// Sizes that are measured, with the name of their stream.
pub(crate) const SIZES: [(usize, &str); 3] = [
    (64 * 1024, "64 KiB"),
    (1024 * 1024, "1 MiB"),
    (8 * 1024 * 1024, "8 MiB"),
];

/// Slots of each stream.
pub(crate) const SLOTS: u32 = 16;
/// Pieces of memory of each other kind: two copies of four go to our slots, so that all come back to a
/// piece after the same number of other copies.
const PIECES: usize = 8;

/// What the slots are on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) name: &'static str,
    /// How often all memory is allocated anew.
    pub(crate) placements: usize,
}

/// The stream of one size.
pub(crate) fn stream_name(len: usize) -> String {
    format!("copy-{len}")
}

/// Copies of each kind for a size: about the same number of bytes for each.
fn count(len: usize, quick: bool) -> usize {
    let bytes = if quick { 1 << 29 } else { 1 << 31 };
    (bytes / len).clamp(240, 16_384)
}

/// Ways to copy a frame that are compared.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Through the public API, in one call.
    Ours,
    /// The copy alone, into the slot after that.
    Bare,
    /// Into as many pieces of private memory.
    Private,
    /// iceoryx2.
    Rival,
}

/// Each kind comes after two others in turn: what a copy finds in the caches is what the one before left.
const ORDERS: [[Kind; 4]; 2] = [
    [Kind::Ours, Kind::Bare, Kind::Private, Kind::Rival],
    [Kind::Ours, Kind::Rival, Kind::Private, Kind::Bare],
];

/// Where each kind copies to.
struct Copies {
    source: Vec<u8>,
    tensor: TensorSpec,
    producer: Producer,
    private: Vec<Vec<u8>>,
    rival: Rival,
}

impl Copies {
    fn open(way: &Way, len: usize, placement: usize) -> Result<Self, String> {
        Ok(Self {
            source: vec![0x5a_u8; len],
            tensor: TensorSpec::bytes(len).map_err(|error| error.to_string())?,
            producer: connect::producer(way, &stream_name(len))?,
            private: vec![vec![1_u8; len]; PIECES],
            rival: Rival::new(len, placement)?,
        })
    }

    fn copy(
        &mut self,
        kind: Kind,
        index: usize,
        histogram: &mut Histogram<u64>,
    ) -> Result<(), String> {
        let source = &self.source;
        match kind {
            Kind::Ours => publish(&mut self.producer, &self.tensor, source, histogram),
            Kind::Bare => bare_copy(&mut self.producer, &self.tensor, source, histogram),
            Kind::Rival => self.rival.publish(source, histogram),
            Kind::Private => {
                let slot = &mut self.private[index % PIECES];
                time(histogram, || {
                    slot.copy_from_slice(std::hint::black_box(source));
                    std::hint::black_box(&slot);
                    Ok(())
                })
            }
        }
    }
}

/// The rows of one size and one kind of memory.
pub(crate) fn rows(
    way: &Way,
    memory: Memory,
    (len, name): (usize, &str),
    quick: bool,
) -> Result<Vec<Row>, String> {
    let mut measured = Series::new()?;
    // Our own file of before stays as an epoch of the driver's.
    let mut former = None;
    for placement in 0..memory.placements {
        let mut copies = Copies::open(way, len, placement)?;
        // Pages that were never touched are another matter.
        let mut first = Series::new()?;
        first.add(&mut copies, 2 * PIECES)?;
        measured.add(&mut copies, count(len, quick) / memory.placements)?;
        former = Some((copies.private, copies.rival));
    }
    drop(former);
    Ok(rows_of(&measured, name, memory.name))
}

/// How long copies took.
struct Series {
    ours: Histogram<u64>,
    bare: Histogram<u64>,
    private: Histogram<u64>,
    rival: Histogram<u64>,
    claims: Histogram<u64>,
}

impl Series {
    fn new() -> Result<Self, String> {
        Ok(Self {
            ours: new_histogram()?,
            bare: new_histogram()?,
            private: new_histogram()?,
            rival: new_histogram()?,
            claims: new_histogram()?,
        })
    }

    /// So many copies of each kind.
    fn add(&mut self, copies: &mut Copies, count: usize) -> Result<(), String> {
        for index in 0..count {
            for kind in ORDERS[index % ORDERS.len()] {
                let histogram = match kind {
                    Kind::Ours => &mut self.ours,
                    Kind::Bare => &mut self.bare,
                    Kind::Private => &mut self.private,
                    Kind::Rival => &mut self.rival,
                };
                copies.copy(kind, index, histogram)?;
            }
        }
        for _ in 0..1000 {
            claim_only(&mut copies.producer, &copies.tensor, &mut self.claims)?;
        }
        Ok(())
    }
}

fn rows_of(series: &Series, size: &str, memory: &str) -> Vec<Row> {
    let median = |histogram| percentiles(histogram).p50;
    let (ours, bare, theirs) = (
        median(&series.ours),
        median(&series.bare),
        median(&series.rival),
    );
    let (private, claims) = (median(&series.private), median(&series.claims));
    vec![
        Row::value(
            format!("memcpy into the same slots, {size}, {memory}"),
            bare,
            "ns",
        ),
        Row::value(format!("memcpy into private memory, {size}"), private, "ns"),
        Row::against(
            format!("publish with one copy, {size}, {memory}"),
            (ours, "ns"),
            bare,
            Target::AtMost(bare / 0.95 + 100.0),
        ),
        Row::against(
            format!("publish, {size}, {memory}, against iceoryx2"),
            (ours, "ns"),
            theirs,
            Target::AtMost(theirs / 0.97),
        ),
        Row::value(
            format!("claim and commit without a copy, {size}, {memory}"),
            claims,
            "ns",
        ),
    ]
}

fn publish(
    producer: &mut Producer,
    tensor: &TensorSpec,
    source: &[u8],
    histogram: &mut Histogram<u64>,
) -> Result<(), String> {
    time(histogram, || {
        let sent = producer.publish_tensor(tensor, source);
        sent.map(drop).map_err(|error| connect::words(&error))
    })
}

/// The copy alone, into the slot that the next frame takes: the claim before it and giving it up
/// after it are not timed.
fn bare_copy(
    producer: &mut Producer,
    tensor: &TensorSpec,
    source: &[u8],
    histogram: &mut Histogram<u64>,
) -> Result<(), String> {
    let mut claim = producer
        .claim(tensor)
        .map_err(|error| connect::words(&error))?;
    time(histogram, || {
        claim.write(source).map_err(|error| connect::words(&error))
    })?;
    claim
        .commit()
        .map(drop)
        .map_err(|error| connect::words(&error))
}

fn claim_only(
    producer: &mut Producer,
    tensor: &TensorSpec,
    histogram: &mut Histogram<u64>,
) -> Result<(), String> {
    time(histogram, || {
        let claim = producer
            .claim(tensor)
            .map_err(|error| connect::words(&error))?;
        claim
            .commit()
            .map(drop)
            .map_err(|error| connect::words(&error))
    })
}

fn time(
    histogram: &mut Histogram<u64>,
    work: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let start = Instant::now();
    work()?;
    let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    histogram.saturating_record(nanos);
    Ok(())
}

/// The competitor: lend, copy, send, with one subscriber that never takes (safe overflow).
struct Rival {
    publisher: iceoryx2::port::publisher::Publisher<ipc::Service, [u8], ()>,
    _subscriber: iceoryx2::port::subscriber::Subscriber<ipc::Service, [u8], ()>,
    _node: iceoryx2::prelude::Node<ipc::Service>,
}

impl Rival {
    fn new(len: usize, placement: usize) -> Result<Self, String> {
        let node = NodeBuilder::new()
            .create::<ipc::Service>()
            .map_err(|error| format!("no iceoryx2 node: {error}"))?;
        // Another service each time: the former one's subscriber is still there.
        let name = format!(
            "tensorpool-bench/{}/copy-{len}-{placement}",
            std::process::id()
        );
        let name = ServiceName::new(&name).map_err(|error| format!("no name: {error}"))?;
        let service = node
            .service_builder(&name)
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(true)
            .subscriber_max_buffer_size(PIECES)
            .open_or_create()
            .map_err(|error| format!("no iceoryx2 service: {error}"))?;
        let subscriber = service.subscriber_builder().buffer_size(PIECES).create();
        let publisher = service
            .publisher_builder()
            .initial_max_slice_len(len)
            .create();
        Ok(Self {
            publisher: publisher.map_err(|error| format!("no publisher: {error}"))?,
            _subscriber: subscriber.map_err(|error| format!("no subscriber: {error}"))?,
            _node: node,
        })
    }

    fn publish(&mut self, source: &[u8], histogram: &mut Histogram<u64>) -> Result<(), String> {
        time(histogram, || {
            let sample = self.publisher.loan_slice_uninit(source.len());
            let sample = sample.map_err(|error| format!("iceoryx2 lends nothing: {error}"))?;
            let sent = sample.write_from_slice(source).send();
            sent.map(drop)
                .map_err(|error| format!("iceoryx2 sends nothing: {error}"))
        })
    }
}
