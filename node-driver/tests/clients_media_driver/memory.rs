//! The memory of a media driver's directory: who lets go of it, and who waits for it.

use std::time::Duration;

use tensorpool_client::{AeronOptions, ClientOptions, Consumer, Notify, Producer};
use tensorpool_transport::pubsub::MessageClient;

use crate::support::media::{ExternalMediaDriver, connect};
use crate::support::{Driver, PATIENCE, Place, wait_until};
use crate::world::{RADAR, Way, both_worlds, client, options, send};

/// Files of the media driver's directory that a process has mapped.
fn mapped(place: &Place, pid: u32) -> Vec<String> {
    let dir = format!("{}/", place.aeron_dir().display());
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("our own or our child");
    let lines = maps.lines().filter_map(|line| line.split_once(&dir));
    lines.map(|(_, file)| file.to_owned()).collect()
}

#[test]
fn a_killed_media_driver_s_memory_is_let_go_before_there_is_another_one() {
    // spec: X-2-77
    let place = Place::new(options("external"));
    let media = ExternalMediaDriver::start(&place.aeron_dir());
    let driver = Driver::start(&place);
    let mut lines = both_worlds(&place);
    let sources: Vec<_> = lines.values_mut().map(crate::world::Line::load).collect();
    let both = [std::process::id(), driver.pid()];
    for pid in both {
        assert_ne!(mapped(&place, pid), [""; 0], "process {pid}");
    }
    drop(media);
    // What one keeps is missing to whoever attaches to the next media driver, if memory is short.
    wait_until("nothing of the dead media driver is mapped", || {
        let left = both.map(|pid| mapped(&place, pid));
        left.iter()
            .all(Vec::is_empty)
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    for (line, source) in lines.values_mut().zip(sources) {
        line.unload(source);
    }
}

#[test]
fn a_producer_whose_descriptors_the_media_driver_refused_asks_again() {
    // spec: X-2-77
    let place = Place::new(options("embedded"));
    let _driver = Driver::start(&place);
    // One session id is one exclusive publication's. Short memory ends in the same refusal.
    let channel = "aeron:ipc?term-length=256k|session-id=77";
    let mut other = connect(&place.aeron_dir());
    let first = other.add_publication(channel, 1_100).expect("it is free");
    let on_aeron = client(&place, Way::Aeron);
    let consumer = Consumer::builder(RADAR)
        .client_options(on_aeron.clone())
        .notify(Notify::Descriptor)
        .timeout(PATIENCE)
        .build();
    let mut consumer = consumer.expect("the consumer attaches");
    let producer = Producer::builder(RADAR)
        .client_options(ClientOptions {
            aeron: AeronOptions {
                descriptor_channel: channel.to_owned(),
                ..on_aeron.aeron.clone()
            },
            ..on_aeron
        })
        .timeout(PATIENCE)
        .build();
    let mut producer = producer.expect("frames are committed without descriptors");
    let failure = producer.status().last_failure.expect("the refusal");
    assert!(
        failure.to_string().contains("refused a publication"),
        "{failure}"
    );
    drop(first);
    let mut number = 0;
    wait_until("a frame by its descriptor", || {
        other.do_work(&mut |_| {}).expect("its media driver lives");
        send(&mut producer, &mut number);
        let frame = consumer.wait(Duration::from_millis(10)).expect("attached");
        frame
            .map(drop)
            .ok_or_else(|| format!("{:?}", producer.status()))
    });
}
