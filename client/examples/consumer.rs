//! Prints what arrives: `cargo run --example consumer -- camera/front`
use std::time::Duration;
use tensorpool_client::{Consumer, PollError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = std::env::args().nth(1);
    let stream = stream.unwrap_or_else(|| "camera/front".to_owned());
    let mut consumer = Consumer::builder(stream).build()?;
    loop {
        match consumer.wait(Duration::from_secs(1)) {
            Ok(Some(frame)) => {
                // The copy is checked: a producer that was faster than we are is an error here.
                let pixels = frame.to_vec()?;
                let sum: u64 = pixels.iter().map(|&pixel| u64::from(pixel)).sum();
                let (seq, dtype, shape) = (frame.seq(), frame.dtype(), frame.shape());
                println!("frame {seq}: {dtype:?} {shape:?}, sum {sum}");
            }
            Ok(None) => println!("nothing for a second, {:?}", consumer.stats()),
            // The client attaches again by itself.
            Err(PollError::LeaseEnded(end)) => println!("{end}"),
            Err(error) => return Err(error.into()),
        }
    }
}
