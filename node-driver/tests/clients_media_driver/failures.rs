//! The driver and the media driver are killed under load.

use tensorpool_client::{DropCounter, ProducerDrop};

use crate::support::media::ExternalMediaDriver;
use crate::support::{Driver, Options, Place, wait_until};
use crate::world::{CAMERA, Line, RADAR, Sink, Way, both_worlds, options, survive};

#[test]
fn frames_cross_between_both_worlds_and_each_is_delivered_or_counted() {
    // spec: X-1-3, X-1-4, X-1-5, X-1-6, X-2-58
    let place = Place::new(options("embedded"));
    let _driver = Driver::start(&place);
    let mut lines = both_worlds(&place);
    survive(&mut lines, || {}, |_, before, now| now == before);
    for line in lines.values() {
        for sink in &line.sinks {
            assert!(sink.stats().delivered > 100, "{}", sink.name);
        }
    }
}

#[test]
fn a_driver_killed_under_load_costs_frames_that_are_counted_on_each_way_in() {
    // spec: X-2-25, X-2-26, X-2-27, D-10-2, X-1-19, X-2-69
    // The leases outlast the restart: what is published to nobody's lease is nobody's loss.
    let place = Place::new(Options {
        keepalive_ms: 5_000,
        ..options("embedded")
    });
    let driver = Driver::start(&place);
    let mut lines = both_worlds(&place);
    let mut next = None;
    survive(
        &mut lines,
        || {
            driver.kill();
            next = Some(Driver::start(&place));
        },
        |_, before, now| now > before,
    );
    let next = next.expect("a second driver");
    for (stream, line) in &lines {
        for way in [Way::Socket, Way::Aeron] {
            wait_for_reported_drops(&next, *stream, line, way);
        }
    }
    drop(lines);
    drop(next);
}

/// Waits until the driver shows, in status and metrics, what the consumers of one way have counted, to
/// the frame. Frames between two epochs are in the consumer's own count only: the protocol has no
/// counter for them.
fn wait_for_reported_drops(driver: &Driver, stream: u32, line: &Line, way: Way) {
    let sinks = line.sinks.iter().filter(|sink| sink.way == way);
    let stats: Vec<_> = sinks.map(Sink::stats).collect();
    let counted = [DropCounter::Gap, DropCounter::Late]
        .map(|counter| stats.iter().map(|it| it.counted(counter)).sum::<u64>());
    let name = if stream == CAMERA { "camera" } else { "radar" };
    let way = match way {
        Way::Socket => "socket",
        Way::Aeron => "aeron",
    };
    println!("{name} by {way}: {counted:?} frames counted as gap and late");
    let labels = format!("stream=\"{stream}\",name=\"{name}\",way=\"{way}\"");
    wait_until("the driver's count of lost frames", || {
        let metric = |reason| {
            let labels = format!("{labels},reason=\"{reason}\"");
            driver.metric(&format!("tensorpool_driver_consumer_drops{{{labels}}}"))
        };
        let doc = driver.stream(stream);
        let shown = ["gap", "late"].map(|reason| doc["drops_by_way"][way][reason].as_u64());
        let scraped = ["gap", "late"].map(metric);
        let number = |frames| u32::try_from(frames).expect("a short test");
        let as_numbers = counted.map(|frames| Some(f64::from(number(frames))));
        (shown == counted.map(Some) && scraped == as_numbers)
            .then_some(())
            .ok_or_else(|| format!("{counted:?}, status {shown:?}, metrics {scraped:?}"))
    });
}

#[test]
fn a_media_driver_killed_under_load_costs_descriptors_and_clients_come_back_by_themselves() {
    // spec: D-10-1, D-4.7-1, X-1-19, X-2-69
    let place = Place::new(options("external"));
    let media = ExternalMediaDriver::start(&place.aeron_dir());
    let _driver = Driver::start(&place);
    let mut lines = both_worlds(&place);
    let mut next = None;
    survive(
        &mut lines,
        || {
            drop(media);
            next = Some(ExternalMediaDriver::start(&place.aeron_dir()));
        },
        // The socket's producer never notices; the one on Aeron has to attach again.
        |stream, before, now| stream == CAMERA && now == before || now > before,
    );
    let producer = lines[&RADAR].producer.as_ref().expect("not under load");
    let stats = producer.stats();
    println!("{stats:?}, {:?}", producer.status());
    let unsent = [
        ProducerDrop::DescriptorFailed,
        ProducerDrop::DescriptorBackpressure,
        ProducerDrop::DescriptorNotConnected,
    ];
    let unsent: u64 = unsent.iter().map(|it| stats.dropped(*it)).sum();
    assert!(unsent > 0, "what was not sent is counted: {stats:?}");
    drop(lines);
    drop(next);
}
