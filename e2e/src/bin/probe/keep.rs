//! A consumer that never lets go of a frame, and the producer that it has it from.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tensorpool_client::{ClaimError, Consumer, FrameError, Producer};

use crate::Failure;
use crate::listen::in_words;

/// For the first attach, the first frame, and for what becomes of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two frames: a ring of 64 slots is not overwritten for as long as this takes.
const PERIOD: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Keeps the first frame that it gets, and says what becomes of it. Then it does nothing until SIGTERM.
pub(crate) fn run(stream: &str) -> Result<(), Failure> {
    let asked = crate::asked_to_end()?;
    let builder = Consumer::builder(stream).timeout(PATIENCE);
    let mut consumer = builder.patient().build()?;
    let frame = consumer.wait(PATIENCE)?.ok_or("no frame comes")?;
    println!("keeps frame {}", frame.seq());
    let limit = Instant::now() + PATIENCE;
    let mut before = None;
    loop {
        match frame.to_vec() {
            Ok(_) => {}
            Err(error @ FrameError::Ended) => {
                if before.replace(error) != Some(error) {
                    println!("the frame: {}", in_words(&error));
                }
            }
            Err(error) => {
                println!("the frame: {}", in_words(&error));
                break;
            }
        }
        if Instant::now() > limit {
            return Err("it may keep the frame".into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    match consumer.wait(PATIENCE) {
        Ok(_) => println!("it is still attached"),
        Err(error) => println!("the consumer: {}", in_words(&error)),
    }
    println!("lives on");
    while !asked.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    Ok(())
}

/// Publishes a frame from time to time until its lease ends, and lets go.
pub(crate) fn offer(stream: &str) -> Result<(), Failure> {
    let builder = Producer::builder(stream).timeout(PATIENCE);
    let mut producer = builder.patient().build()?;
    let limit = Instant::now() + PATIENCE;
    let mut published = 0;
    let end = loop {
        match producer.publish(&[7; 1_000]) {
            Ok(_) => published += 1,
            Err(ClaimError::LeaseEnded(end)) => break end,
            Err(error) => println!("{}", in_words(&error)),
        }
        if Instant::now() > limit {
            return Err("it may publish on".into());
        }
        std::thread::sleep(PERIOD);
    };
    println!("{published} frames were offered: {end}");
    Ok(())
}
