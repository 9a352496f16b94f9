//! What one frame costs in one process: claim, commit, poll, read. `cargo xtask bench` measures
//! between processes, against references.

#[path = "../tests/local/peer.rs"]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used)]
mod peer;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peer::{NAME, Peer};
use tensorpool_client::{Consumer, Producer, TensorSpec};

const LONG: Duration = Duration::from_secs(10);
const SIZES: [usize; 3] = [64, 256, 4096];

fn frames(criterion: &mut Criterion) {
    let peer = Peer::start();
    let mut producer = Producer::builder(NAME)
        .client_options(peer.options())
        .timeout(LONG)
        .build()
        .expect("a producer");
    let mut consumer = Consumer::builder(NAME)
        .client_options(peer.options())
        .timeout(LONG)
        .build()
        .expect("a consumer");
    let mut group = criterion.benchmark_group("frame");
    for size in SIZES {
        let bytes = vec![7_u8; size];
        let mut copy = vec![0_u8; size];
        let tensor = TensorSpec::bytes(size).expect("a tensor");
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("claim and commit", size), |bench| {
            bench.iter(|| {
                let claim = producer.claim(&tensor).expect("a claim");
                black_box(claim.commit()).expect("a frame")
            });
        });
        group.bench_function(BenchmarkId::new("publish", size), |bench| {
            bench.iter(|| black_box(producer.publish_tensor(&tensor, &bytes)).expect("a frame"));
        });
        group.bench_function(BenchmarkId::new("publish, poll and copy", size), |bench| {
            while consumer.latest().expect("a poll").is_some() {}
            bench.iter(|| {
                producer.publish_tensor(&tensor, &bytes).expect("sent");
                let frame = consumer.next().expect("a poll").expect("a frame");
                frame.copy_to(&mut copy).expect("a copy");
                black_box(&copy);
            });
        });
    }
    group.bench_function("poll without a frame", |bench| {
        while consumer.latest().expect("a poll").is_some() {}
        bench.iter(|| black_box(consumer.next()).expect("a poll").is_none());
    });
    group.finish();
}

/// Reports go where all build products are.
fn config() -> Criterion {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/criterion");
    Criterion::default().output_directory(directory.as_ref())
}

criterion_group! {
    name = benches;
    config = config();
    targets = frames
}
criterion_main!(benches);
