//! Publishes a moving gradient, 30 images a second: `cargo run --example producer -- camera/front`
use std::time::Duration;

use tensorpool_client::{ClaimError, Dtype, Metadata, Producer, TensorSpec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "camera/front".to_owned());
    let mut producer = Producer::builder(stream).build()?;
    producer.set_metadata(Metadata::default().with("fps", "text/plain", "30"));
    let (height, width) = (480, 640);
    let image = TensorSpec::new(Dtype::Uint8, &[height, width])?;
    for shift in 0_u8.. {
        // A claim is a slot of the shared memory: what is written there is written once.
        let mut claim = producer.claim(&image)?;
        let row: Vec<u8> = (0..width)
            .map(|x| x.to_le_bytes()[0].wrapping_add(shift))
            .collect();
        for y in 0..height {
            claim.write_at(usize::try_from(y * width)?, &row)?;
        }
        let seq = claim.commit()?;
        println!("frame {seq} is there");
        std::thread::sleep(Duration::from_millis(33));
    }
    Ok(())
}
