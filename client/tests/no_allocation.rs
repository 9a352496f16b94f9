//! Frames cost no heap allocation on either side.
// In a test a failed unwrap is a failed test.
#![allow(clippy::unwrap_used)]

#[path = "local/peer.rs"]
#[allow(dead_code)]
mod peer;

use std::time::Duration;

use peer::{NAME, Peer};
use tensorpool_client::{Consumer, Dtype, Producer, TensorSpec};

const LONG: Duration = Duration::from_secs(10);

#[test]
fn neither_publishing_nor_reading_allocates() {
    let peer = Peer::start();
    let mut producer = Producer::builder(NAME)
        .client_options(peer.options())
        .timeout(LONG)
        .build()
        .unwrap();
    let mut consumer = Consumer::builder(NAME)
        .client_options(peer.options())
        .timeout(LONG)
        .build()
        .unwrap();
    let spec = TensorSpec::new(Dtype::Uint8, &[4, 16]).unwrap();
    let mut copy = [0; 64];
    // The first calls take over the mapping.
    producer.publish_tensor(&spec, &[1; 64]).unwrap();
    consumer.next().unwrap().expect("a frame");
    let mut read = 0;
    let counted = allocation_counter::measure(|| {
        for n in 0..10_000_u32 {
            let bytes = [n.to_le_bytes()[0]; 64];
            if n % 2 == 0 {
                producer.publish_tensor(&spec, &bytes).unwrap();
            } else {
                let mut claim = producer.claim(&spec).unwrap();
                claim.write(&bytes).unwrap();
                claim.commit().unwrap();
            }
            let frame = consumer.next().unwrap().expect("a frame");
            frame.copy_to(&mut copy).unwrap();
            assert_eq!(copy, bytes);
            assert_eq!(frame.shape(), [4, 16]);
            assert!(frame.still_valid());
            assert!(frame.frames_until_overwrite() > 0);
            read += 1;
            assert!(consumer.next().unwrap().is_none());
        }
    });
    assert_eq!(read, 10_000);
    assert_eq!(counted.count_total, 0, "{counted:?}");
    let one = allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8; 100])));
    assert_eq!(one.count_total, 1, "the counter counts");
}
