//! Prints what arrives: `cargo run --example consumer -- camera/front`
use signal_hook::{consts::TERM_SIGNALS, iterator::Signals};
use std::time::Duration;
use tensorpool_client::{Consumer, PollError, Report};

fn main() -> Result<(), Report> {
    let mut ends = Signals::new(TERM_SIGNALS)?;
    let stream = std::env::args().nth(1);
    let stream = stream.unwrap_or_else(|| "camera/front".to_owned());
    let mut consumer = Consumer::builder(stream).build()?;
    while ends.pending().next().is_none() {
        match consumer.wait(Duration::from_secs(1)) {
            // The copy is checked: if the producer was faster than we are, this one frame is lost.
            Ok(Some(frame)) => match frame.to_vec() {
                Ok(pixels) => {
                    let sum: u64 = pixels.iter().map(|&pixel| u64::from(pixel)).sum();
                    println!("frame {}: {:?}, sum {sum}", frame.seq(), frame.shape());
                }
                Err(lost) => println!("frame {}: {lost}", frame.seq()),
            },
            Ok(None) => println!("nothing for a second, {:?}", consumer.stats()),
            // The client attaches again by itself.
            Err(PollError::LeaseEnded(end)) => println!("{end}"),
            Err(error) => return Err(error.into()),
        }
    }
    println!("{} frames arrived", consumer.stats().delivered);
    Ok(())
}
