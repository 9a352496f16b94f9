//! Prints what arrives: `cargo run --example consumer -- camera/front`
use std::time::Duration;

use tensorpool_client::{Consumer, PollError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stream = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "camera/front".to_owned());
    let mut consumer = Consumer::builder(stream).build()?;
    let mut pixels = Vec::new();
    loop {
        match consumer.wait(Duration::from_secs(1)) {
            Ok(Some(frame)) => {
                pixels.resize(frame.bytes().len(), 0);
                // The producer may be faster than we are: the copy says so if it was.
                if let Err(lost) = frame.copy_to(&mut pixels) {
                    println!("frame {} is lost: {lost}", frame.seq());
                    continue;
                }
                let sum: u64 = pixels.iter().map(|&pixel| u64::from(pixel)).sum();
                println!(
                    "frame {} {:?} {:?} sum {sum}",
                    frame.seq(),
                    frame.dtype(),
                    frame.shape()
                );
            }
            Ok(None) => println!(
                "nothing for a second; dropped: {:?}",
                consumer.stats().drops().collect::<Vec<_>>()
            ),
            Err(PollError::LeaseEnded(end)) => println!("{end}; attaching again"),
            Err(error) => return Err(error.into()),
        }
    }
}
