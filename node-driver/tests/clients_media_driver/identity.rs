//! Who may attach, and what an attach says that fails.

use std::time::Duration;

use tensorpool_client::{AttachError, BuildError, ClaimError, ClientId, Consumer, Producer};

use crate::support::media::ExternalMediaDriver;
use crate::support::{Driver, PATIENCE, Place, wait_until};
use crate::world::{RADAR, Way, client, options, producer};

#[test]
fn of_two_producers_with_one_client_id_exactly_one_attaches_on_each_way_in() {
    // spec: D-4.8-4, D-5-1
    let place = Place::new(options("embedded"));
    let driver = Driver::start(&place);
    for way in [Way::Aeron, Way::Socket] {
        one_of_two_attaches(&place, &driver, way);
        driver.wait_for_stream(RADAR, "the place is free again", |doc| {
            doc["producer"].is_null()
        });
    }
}

fn one_of_two_attaches(place: &Place, driver: &Driver, way: Way) {
    let build = || {
        Producer::builder(RADAR)
            .client_options(client(place, way))
            .client_id(ClientId(7))
            .timeout(Duration::from_secs(3))
            .build()
    };
    let both = std::thread::scope(|scope| {
        let asked = [scope.spawn(build), scope.spawn(build)];
        asked.map(|it| it.join().expect("typed errors only"))
    });
    let (won, lost): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1), "{won:?} {lost:?}");
    match lost.into_iter().next().expect("one") {
        Err(error @ BuildError::TimedOut { .. }) => {
            let words = error.to_string();
            assert!(words.contains("client_id already attached"), "{words}");
            assert!(
                words.contains("leave the client id to the client"),
                "{words}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(driver.stream(RADAR)["producer"]["client_id"], 7);
    let mut won = won.into_iter().flatten().next().expect("one");
    won.publish(b"mine").expect("its lease holds");
}

#[test]
fn a_media_driver_that_went_for_good_is_a_failure_with_its_directory() {
    // spec: D-10-1
    let place = Place::new(options("external"));
    let media = ExternalMediaDriver::start(&place.aeron_dir());
    let _driver = Driver::start(&place);
    let mut producer = producer(&place, RADAR, Way::Aeron);
    producer.publish(b"x").expect("attached");
    drop(media);
    let dir = place.aeron_dir().display().to_string();
    wait_until("a failure that names it", || {
        let failure = producer.status().last_failure;
        match failure.as_deref() {
            Some(error @ AttachError::Aeron { .. }) if error.to_string().contains(&dir) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    wait_until("the lease ends by its own deadline", || {
        match producer.publish(b"x") {
            Err(ClaimError::LeaseEnded(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_name_on_aeron_needs_an_epoch_and_the_error_says_so() {
    // spec: DI-3-2
    let place = Place::new(options("embedded"));
    let _driver = Driver::start(&place);
    let by_name = || {
        Consumer::builder("radar")
            .client_options(client(&place, Way::Aeron))
            .timeout(PATIENCE)
    };
    match by_name().build() {
        Err(BuildError::Attach(error)) => {
            assert_eq!(error.reason(), "no_such_stream");
            assert!(
                error.to_string().contains("ask for it by number"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    let mut producer = producer(&place, RADAR, Way::Aeron);
    // The producer has its answer before everybody has the announce.
    let consumer = by_name().patient().build();
    let mut consumer = consumer.expect("there is an epoch now");
    wait_until("a frame", || {
        producer.publish(b"x").expect("attached");
        let frame = consumer.wait(Duration::from_millis(10)).expect("attached");
        frame.map(drop).ok_or_else(String::new)
    });
    assert_eq!(consumer.stream().get(), RADAR);
}
