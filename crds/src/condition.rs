//! How conditions are made and compared.

use crate::{Condition, Time};

/// A condition before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Name of the condition.
    pub kind: &'static str,
    /// What holds.
    pub status: Polarity,
    /// One word of a bounded set.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}

impl Polarity {
    /// The word in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Polarity {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Longest message of a condition in the API, in bytes.
const MAX_MESSAGE_BYTES: usize = 32_768;

/// Gives drafts their times: a condition whose status is as before keeps its time, every other gets
/// `now`. The order is that of the drafts; conditions without a draft are gone.
#[must_use]
pub fn settle(
    before: &[Condition],
    drafts: Vec<Draft>,
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    let settled = drafts.into_iter().map(|draft| {
        let status = draft.status.as_str();
        let unchanged = before
            .iter()
            .find(|old| old.type_ == draft.kind && old.status == status);
        Condition {
            last_transition_time: unchanged
                .map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
            message: shorten(draft.message),
            observed_generation: generation,
            reason: draft.reason.to_owned(),
            status: status.to_owned(),
            type_: draft.kind.to_owned(),
        }
    });
    settled.collect()
}

/// Whether two lists say the same, times apart and in any order. A status that differs in times only
/// is not written: it would trigger its own writer.
#[must_use]
pub fn same_but_times(left: &[Condition], right: &[Condition]) -> bool {
    let view = |conditions: &[Condition]| {
        let mut view: Vec<_> = conditions
            .iter()
            .map(|it| {
                (
                    it.type_.clone(),
                    it.status.clone(),
                    it.reason.clone(),
                    it.message.clone(),
                    it.observed_generation,
                )
            })
            .collect();
        view.sort();
        view
    };
    view(left) == view(right)
}

fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    }
    message
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::{Draft, Polarity, same_but_times, settle};
    use crate::Time;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("a small number is a time"))
    }

    fn draft(status: Polarity, message: &str) -> Draft {
        Draft {
            kind: "Ready",
            status,
            reason: "Because",
            message: message.to_owned(),
        }
    }

    #[test]
    fn the_time_moves_with_the_status_only() {
        let first = settle(&[], vec![draft(Polarity::False, "one")], Some(1), &at(10));
        let reworded = settle(
            &first,
            vec![draft(Polarity::False, "two")],
            Some(2),
            &at(20),
        );
        let turned = settle(
            &reworded,
            vec![draft(Polarity::True, "two")],
            Some(2),
            &at(30),
        );
        assert_eq!(first[0].last_transition_time, at(10));
        assert_eq!(reworded[0].last_transition_time, at(10));
        assert_eq!(
            (
                reworded[0].message.as_str(),
                reworded[0].observed_generation
            ),
            ("two", Some(2))
        );
        assert_eq!(turned[0].last_transition_time, at(30));
    }

    #[test]
    fn conditions_that_differ_in_times_only_are_the_same() {
        let one = settle(&[], vec![draft(Polarity::True, "m")], Some(1), &at(1));
        let two = settle(&[], vec![draft(Polarity::True, "m")], Some(1), &at(2));
        let other = settle(&[], vec![draft(Polarity::True, "n")], Some(1), &at(1));
        assert!(same_but_times(&one, &two));
        assert!(!same_but_times(&one, &other));
        assert!(!same_but_times(&one, &[]));
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_at_a_character() {
        let long = "\u{e9}".repeat(20_000);
        let settled = settle(&[], vec![draft(Polarity::True, &long)], None, &at(1));
        assert_eq!(settled[0].message.len(), 32_768);
    }
}
