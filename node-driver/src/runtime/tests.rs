//! What can be seen of the duty cycle without running it.

use super::rest::{Outlook, Rest};

const MS: u64 = 1_000_000;
const QUIET: Outlook = Outlook {
    goes_on: false,
    worked: false,
    quiet_cycles: 0,
    awaited: false,
    has_socket: true,
    has_aeron: true,
    relays_are_heard: false,
    holds_descriptors: false,
};

fn rest(outlook: Outlook) -> Rest {
    outlook.rest(None).expect("a sleep")
}

#[test]
fn a_relay_keeps_every_sleep_at_a_hundred_microseconds() {
    // spec: X-2-63
    for worked in [false, true] {
        for awaited in [false, true] {
            let beside = Outlook {
                relays_are_heard: true,
                worked,
                awaited,
                ..QUIET
            };
            assert_eq!(rest(beside).nanos, MS / 10);
        }
    }
}

#[test]
fn what_nobody_waits_for_is_gathered_and_what_somebody_waits_for_is_not() {
    let worked = Outlook {
        worked: true,
        ..QUIET
    };
    let gathered = Rest {
        nanos: 4 * MS,
        wakes: false,
    };
    assert_eq!(rest(worked), gathered);
    let awaited = Outlook {
        awaited: true,
        ..worked
    };
    assert_eq!(rest(awaited).nanos, MS);
    let holds = Outlook {
        holds_descriptors: true,
        ..worked
    };
    assert_eq!(rest(holds).nanos, MS);
}

#[test]
fn a_quiet_driver_wakes_for_the_socket_at_once_and_looks_at_aeron_ever_less_often() {
    let with_aeron = Rest {
        nanos: 4 * MS,
        wakes: true,
    };
    assert_eq!(rest(QUIET), with_aeron);
    let long = Rest {
        nanos: 10 * MS,
        wakes: true,
    };
    let alone = Outlook {
        has_aeron: false,
        ..QUIET
    };
    assert_eq!(rest(alone), long);
    let for_a_while = Outlook {
        quiet_cycles: 64,
        ..QUIET
    };
    assert_eq!(rest(for_a_while), long);
}

#[test]
fn what_is_due_shortens_a_long_sleep_and_is_never_late_by_more_than_a_gathering() {
    let alone = Outlook {
        has_aeron: false,
        ..QUIET
    };
    let nanos = |due| alone.rest(Some(due)).expect("a sleep").nanos;
    assert_eq!(nanos(7 * MS), 7 * MS);
    assert_eq!(nanos(20 * MS), 10 * MS);
    assert_eq!(nanos(0), 4 * MS);
}

#[test]
fn a_cycle_with_more_to_do_is_followed_by_the_next_at_once() {
    let more = Outlook {
        goes_on: true,
        worked: true,
        ..QUIET
    };
    assert_eq!(more.rest(None), None);
}
