//! Publishes images that grow brighter, 30 images a second: `cargo run --example producer -- camera/front`
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};
use tensorpool_client::ClaimError::{LeaseEnded, NotAttached};
use tensorpool_client::{Dtype, Metadata, Producer, Report, TensorSpec};

fn main() -> Result<(), Report> {
    let mut ends = Signals::new(TERM_SIGNALS)?;
    let stream = std::env::args().nth(1);
    let stream = stream.unwrap_or_else(|| "camera/front".to_owned());
    let mut producer = Producer::builder(stream).build()?;
    producer.set_metadata(Metadata::default().with("fps", "text/plain", "30"));
    let image = TensorSpec::new(Dtype::Uint8, &[480, 640])?;
    while ends.pending().next().is_none() {
        // A claim is a slot of the shared memory: what is written there is written once.
        let drawn = producer.claim(&image).and_then(|mut claim| {
            let row = [claim.seq().0.to_le_bytes()[0]; 640];
            (0..480).try_for_each(|y| claim.write_at(y * row.len(), &row))?;
            claim.commit()
        });
        match drawn {
            Ok(seq) => println!("frame {seq} is there"),
            // The client attaches again by itself.
            Err(error @ (NotAttached | LeaseEnded(_))) => println!("{error}"),
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(std::time::Duration::from_millis(33));
    }
    println!("{} frames were published", producer.stats().published);
    Ok(())
}
