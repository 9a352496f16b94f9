//! Publishes images that grow brighter, 30 images a second: `cargo run --example producer -- camera/front`
use std::time::Duration;
use tensorpool_client::{ClaimError, Dtype, Metadata, Producer, Report, Seq, TensorSpec};

fn main() -> Result<(), Report> {
    let stream = std::env::args().nth(1);
    let stream = stream.unwrap_or_else(|| "camera/front".to_owned());
    let mut producer = Producer::builder(stream).build()?;
    producer.set_metadata(Metadata::default().with("fps", "text/plain", "30"));
    let image = TensorSpec::new(Dtype::Uint8, &[480, 640])?;
    for row in (0..=u8::MAX).cycle().map(|shade| [shade; 640]) {
        match draw(&mut producer, &image, &row) {
            Ok(seq) => println!("frame {seq} is there"),
            // The client attaches again by itself.
            Err(error @ (ClaimError::NotAttached | ClaimError::LeaseEnded(_))) => {
                println!("{error}")
            }
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(Duration::from_millis(33));
    }
    Ok(())
}

fn draw(producer: &mut Producer, image: &TensorSpec, row: &[u8]) -> Result<Seq, ClaimError> {
    // A claim is a slot of the shared memory: what is written there is written once.
    let mut claim = producer.claim(image)?;
    (0..480).try_for_each(|y| claim.write_at(y * row.len(), row))?;
    claim.commit()
}
