//! What happens to messages that a publication does not take at once.

use super::*;

/// A publication that answers as it is told and remembers what it took.
struct Told {
    answers: VecDeque<Result<(), SendError>>,
    taken: Vec<Vec<u8>>,
}

impl Told {
    fn new(answers: impl IntoIterator<Item = Result<(), SendError>>) -> Self {
        Self {
            answers: answers.into_iter().collect(),
            taken: Vec::new(),
        }
    }

    fn then(&mut self, answers: impl IntoIterator<Item = Result<(), SendError>>) {
        self.answers = answers.into_iter().collect();
    }
}

impl Publication for Told {
    fn offer(&mut self, message: &[u8]) -> Result<(), SendError> {
        let answer = self.answers.pop_front().unwrap_or(Ok(()));
        if answer.is_ok() {
            self.taken.push(message.to_vec());
        }
        answer
    }

    fn is_connected(&self) -> bool {
        true
    }

    fn max_message_len(&self) -> usize {
        8
    }

    fn session(&self) -> i32 {
        0
    }
}

const NEVER: Coalesce = Coalesce::Never;

fn outbox() -> Outbox {
    Outbox::new(OutboxLimits {
        messages: 3,
        bytes: 12,
        unheard_nanos: 100,
    })
}

#[test]
fn a_message_that_is_taken_is_not_kept() {
    let mut publication = Told::new([]);
    let mut outbox = outbox();
    assert_eq!(outbox.send(&mut publication, b"a", NEVER, false), Ok(()));
    assert!(outbox.is_empty());
    assert_eq!(outbox.counts(), OutboxCounts::default());
}

#[test]
fn a_rotating_log_is_tried_again_at_once() {
    let mut publication = Told::new([Err(SendError::AdminAction)]);
    let mut outbox = outbox();
    assert_eq!(outbox.send(&mut publication, b"a", NEVER, false), Ok(()));
    assert!(outbox.is_empty());
    assert_eq!(publication.taken, [b"a"]);
}

#[test]
fn a_refused_message_is_kept_and_later_ones_do_not_overtake_it() {
    let mut publication = Told::new([Err(SendError::BackPressured)]);
    let mut outbox = outbox();
    for message in [b"a", b"b"] {
        assert_eq!(outbox.send(&mut publication, message, NEVER, false), Ok(()));
    }
    assert!(publication.taken.is_empty());
    assert!(outbox.is_blocked());
    assert_eq!(outbox.flush(&mut publication, MonoNanos(0)), 2);
    assert_eq!(publication.taken, [b"a", b"b"]);
    assert!(!outbox.is_blocked());
}

#[test]
fn a_newer_state_takes_the_place_of_the_waiting_one() {
    let mut publication = Told::new([Err(SendError::BackPressured)]);
    let mut outbox = outbox();
    for (message, key) in [(b"a", 1), (b"b", 2), (b"c", 1)] {
        let state = Coalesce::Latest(key);
        assert_eq!(outbox.send(&mut publication, message, state, false), Ok(()));
    }
    outbox.flush(&mut publication, MonoNanos(0));
    assert_eq!(publication.taken, [b"c", b"b"]);
    assert_eq!(outbox.counts().coalesced, 1);
}

#[test]
fn an_answer_without_a_listener_waits_its_time_and_is_then_dropped_and_counted() {
    let unheard = || std::iter::repeat_n(Err(SendError::NotConnected), 4);
    let mut publication = Told::new(unheard());
    let mut outbox = outbox();
    assert_eq!(outbox.send(&mut publication, b"a", NEVER, false), Ok(()));
    assert!(!outbox.is_blocked());
    assert_eq!(outbox.flush(&mut publication, MonoNanos(1_000)), 0);
    assert_eq!(outbox.flush(&mut publication, MonoNanos(1_099)), 0);
    assert!(!outbox.is_empty());
    assert_eq!(outbox.flush(&mut publication, MonoNanos(1_100)), 0);
    assert!(outbox.is_empty());
    assert_eq!(outbox.counts().unheard, 1);
}

#[test]
fn a_listener_that_comes_in_time_gets_the_answer() {
    let mut publication = Told::new([Err(SendError::NotConnected), Err(SendError::NotConnected)]);
    let mut outbox = outbox();
    assert_eq!(outbox.send(&mut publication, b"a", NEVER, false), Ok(()));
    assert_eq!(outbox.flush(&mut publication, MonoNanos(1)), 0);
    assert_eq!(outbox.flush(&mut publication, MonoNanos(2)), 1);
    assert_eq!(publication.taken, [b"a"]);
}

#[test]
fn a_state_without_a_listener_is_not_kept() {
    let mut publication = Told::new([Err(SendError::NotConnected)]);
    let mut outbox = outbox();
    assert_eq!(
        outbox.send(&mut publication, b"a", Coalesce::Latest(1), false),
        Err(SendError::NotConnected)
    );
    assert!(outbox.is_empty());
}

#[test]
fn both_bounds_hold_and_are_counted() {
    let mut publication = Told::new([Err(SendError::BackPressured)]);
    let mut outbox = outbox();
    for _ in 0..3 {
        assert_eq!(outbox.send(&mut publication, b"a", NEVER, false), Ok(()));
    }
    let overflow = Err(SendError::Overflow { limit: 12 });
    assert_eq!(
        outbox.send(&mut publication, b"a", NEVER, false),
        overflow,
        "one message past the bound"
    );
    publication.then([]);
    outbox.flush(&mut publication, MonoNanos(0));
    publication.then([Err(SendError::BackPressured)]);
    for message in [&b"12345678"[..], b"1234"] {
        assert_eq!(outbox.send(&mut publication, message, NEVER, false), Ok(()));
    }
    assert_eq!(
        outbox.send(&mut publication, b"1", NEVER, false),
        overflow,
        "one byte past the bound"
    );
    assert_eq!(outbox.counts().overflowed, 2);
}

#[test]
fn a_message_that_is_too_long_is_refused_also_while_others_wait() {
    let mut publication = Told::new([Err(SendError::BackPressured)]);
    let mut outbox = outbox();
    assert_eq!(outbox.send(&mut publication, b"a", NEVER, false), Ok(()));
    assert_eq!(
        outbox.send(&mut publication, b"123456789", NEVER, false),
        Err(SendError::TooLong { len: 9, max: 8 })
    );
}

#[test]
fn a_held_message_waits_for_the_next_flush() {
    let mut publication = Told::new([]);
    let mut outbox = outbox();
    assert_eq!(outbox.send(&mut publication, b"a", NEVER, true), Ok(()));
    assert!(publication.taken.is_empty());
    assert_eq!(outbox.flush(&mut publication, MonoNanos(0)), 1);
}

#[test]
fn what_a_closed_publication_cannot_take_is_dropped_and_counted() {
    let mut publication = Told::new([Err(SendError::BackPressured)]);
    let mut outbox = outbox();
    assert_eq!(outbox.send(&mut publication, b"a", NEVER, false), Ok(()));
    publication.then([Err(SendError::Closed("gone".to_owned()))]);
    assert_eq!(outbox.flush(&mut publication, MonoNanos(0)), 0);
    assert!(outbox.is_empty());
    assert_eq!(outbox.counts().lost, 1);
}

#[test]
fn what_waits_for_a_publication_that_opens_is_sent_and_for_one_that_does_not_is_counted() {
    let mut publication = Told::new([]);
    let mut opens = outbox();
    assert_eq!(opens.keep_for_later(b"a", 8), Ok(()));
    assert_eq!(opens.keep_for_later(b"bc", 8), Ok(()));
    let too_long = Err(SendError::TooLong { len: 9, max: 8 });
    assert_eq!(opens.keep_for_later(b"123456789", 8), too_long);
    assert_eq!(opens.flush(&mut publication, MonoNanos(0)), 2);
    assert_eq!(publication.taken, [b"a".to_vec(), b"bc".to_vec()]);
    let mut never = outbox();
    for message in [b"a", b"b", b"c"] {
        assert_eq!(never.keep_for_later(message, 8), Ok(()));
    }
    let overflow = Err(SendError::Overflow { limit: 12 });
    assert_eq!(
        never.keep_for_later(b"d", 8),
        overflow,
        "one past the bound"
    );
    never.give_up();
    assert!(never.is_empty());
    let counts = opens.counts().plus(never.counts());
    assert_eq!(
        (counts.kept, counts.failed, counts.overflowed, counts.lost),
        (5, 1, 1, 3)
    );
}
