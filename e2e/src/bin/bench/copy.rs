//! Copying a frame in: one copy through the public API, against plain copies into the same slots in
//! the same order, against private memory, and against the competitor. Also claim and commit alone.
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

/// Slots of each stream; the plain copies use as many.
pub(crate) const SLOTS: u32 = 16;

/// The stream of one size.
pub(crate) fn stream_name(len: usize) -> String {
    format!("copy-{len}")
}

/// Copies per turn for a size: about the same number of bytes for each.
fn copies(len: usize, quick: bool) -> usize {
    let bytes = if quick { 1 << 28 } else { 1 << 31 };
    (bytes / len).clamp(64, 16_384)
}

/// The rows of one size and one kind of memory.
pub(crate) fn rows(
    way: &Way,
    memory: &str,
    (len, name): (usize, &str),
    quick: bool,
) -> Result<Vec<Row>, String> {
    let source = vec![0x5a_u8; len];
    let tensor = TensorSpec::bytes(len).map_err(|error| error.to_string())?;
    let mut producer = connect::producer(way, &stream_name(len))?;
    let mut private = vec![vec![1_u8; len]; usize::try_from(SLOTS).unwrap_or(1)];
    let mut rival = Rival::new(len)?;
    let [mut ours, mut bare, mut plain, mut claims, mut theirs] = [
        new_histogram()?,
        new_histogram()?,
        new_histogram()?,
        new_histogram()?,
        new_histogram()?,
    ];
    let count = copies(len, quick);
    let rounds = if quick { 3 } else { 5 };
    for _ in 0..rounds {
        for index in 0..count / rounds {
            // Each measured copy finds its source as the one before left it: in the same caches.
            publish(&mut producer, &tensor, &source, &mut ours)?;
            bare_copy(&mut producer, &tensor, &source, &mut bare)?;
            let slots = private.len();
            if let Some(slot) = private.get_mut(index % slots) {
                time(&mut plain, || {
                    slot.copy_from_slice(std::hint::black_box(&source));
                    std::hint::black_box(&slot);
                    Ok(())
                })?;
            }
            rival.publish(&source, &mut theirs)?;
        }
        // An odd number, so that both kinds of copies come to every slot.
        for _ in 0..1001 {
            claim_only(&mut producer, &tensor, &mut claims)?;
        }
    }
    let medians = [ours, bare, plain, claims, theirs].map(|series| percentiles(&series).p50);
    Ok(rows_of(medians, name, memory))
}

fn rows_of([ours, bare, plain, claims, theirs]: [f64; 5], size: &str, memory: &str) -> Vec<Row> {
    vec![
        Row::value(
            format!("memcpy into the same slots, {size}, {memory}"),
            bare,
            "ns",
        ),
        Row::value(format!("memcpy into private memory, {size}"), plain, "ns"),
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
    fn new(len: usize) -> Result<Self, String> {
        let node = NodeBuilder::new()
            .create::<ipc::Service>()
            .map_err(|error| format!("no iceoryx2 node: {error}"))?;
        let name = format!("tensorpool-bench/{}/copy-{len}", std::process::id());
        let name = ServiceName::new(&name).map_err(|error| format!("no name: {error}"))?;
        let slots = usize::try_from(SLOTS).unwrap_or(1);
        let service = node
            .service_builder(&name)
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(true)
            .subscriber_max_buffer_size(slots)
            .open_or_create()
            .map_err(|error| format!("no iceoryx2 service: {error}"))?;
        let subscriber = service.subscriber_builder().buffer_size(slots).create();
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
