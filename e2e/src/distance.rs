//! How far apart the two cores are. A host gives a virtual machine's cores other places while it runs:
//! two threads of one physical core for some seconds, then two cores far apart, and a cache line takes
//! four to six times as long. Medians of series that saw different places say nothing about each other,
//! and threads that share a core's execution units wait for each other's instructions besides.

use std::fmt;

/// Two distances within this of each other, in percent, are the same.
const TOLERANCE_PERCENT: u64 = 25;
/// A distance that fewer than one turn in so many had is an accident.
const RAREST: usize = 8;

/// A distance that turns had, as nanoseconds of one bare cache line there and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distance {
    nanos: u64,
    holding: usize,
    turns: usize,
}

/// Which of the distances counts, from the bare cache line before and after each turn.
pub type Choice = fn(&[[u64; 2]]) -> Distance;

impl Distance {
    /// The farthest one that was no accident: for times that mean something by themselves.
    #[must_use]
    pub fn farthest(gauged: &[[u64; 2]]) -> Self {
        let all = Self::all(gauged);
        let farthest = all
            .iter()
            .filter(|distance| distance.holding * RAREST >= distance.turns)
            .max_by_key(|distance| distance.nanos);
        // The middle of the turns at that distance, not its edge.
        let among = farthest.map_or(0, |farthest| farthest.nanos);
        let around = all
            .iter()
            .filter(|distance| near([distance.nanos; 2], among));
        let middle = around.max_by_key(|distance| distance.holding);
        middle.cloned().unwrap_or_else(|| Self::at(0, gauged))
    }

    /// The one that most turns had: for times that are only held against each other.
    #[must_use]
    pub fn commonest(gauged: &[[u64; 2]]) -> Self {
        let commonest = Self::all(gauged)
            .into_iter()
            .max_by_key(|distance| distance.holding);
        commonest.unwrap_or_else(|| Self::at(0, gauged))
    }

    fn all(gauged: &[[u64; 2]]) -> Vec<Self> {
        let each = gauged.iter().map(|[before, _]| Self::at(*before, gauged));
        each.collect()
    }

    fn at(nanos: u64, gauged: &[[u64; 2]]) -> Self {
        Self {
            nanos,
            holding: gauged.iter().filter(|ends| near(**ends, nanos)).count(),
            turns: gauged.len(),
        }
    }

    /// Whether a turn between these two counts.
    #[must_use]
    pub fn holds(&self, ends: [u64; 2]) -> bool {
        near(ends, self.nanos)
    }
}

fn near(ends: [u64; 2], nanos: u64) -> bool {
    ends.iter()
        .all(|end| end.abs_diff(nanos) * 100 <= nanos * TOLERANCE_PERCENT)
}

impl fmt::Display for Distance {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nanos,
            holding,
            turns,
        } = self;
        write!(
            out,
            "{holding} of {turns} turns were measured while a bare cache line took {nanos} ns before \
             and after, within {TOLERANCE_PERCENT} %; the others, with the cores at other places or \
             moved meanwhile, are left out"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_distance_that_is_no_accident_counts_and_turns_in_which_cores_moved_do_not() {
        let mut gauged = vec![[170, 171]; 9];
        gauged.extend([[750, 760], [170, 760], [771, 740], [760, 170], [762, 751]]);
        // Once something else ran on a core.
        gauged.push([9_000, 9_100]);
        let distance = Distance::farthest(&gauged);
        let held = gauged.iter().filter(|ends| distance.holds(**ends));
        assert_eq!(
            held.collect::<Vec<_>>(),
            [&[750, 760], &[771, 740], &[762, 751]]
        );
        assert!(distance.to_string().starts_with("3 of 15 turns"));
        let commonest = Distance::commonest(&gauged);
        assert!(commonest.holds([170, 171]) && !commonest.holds([760, 750]));
        assert!(commonest.to_string().starts_with("9 of 15 turns"));
    }

    #[test]
    fn without_a_turn_nothing_is_held() {
        for choice in [Distance::farthest, Distance::commonest] {
            assert!(choice(&[]).to_string().starts_with("0 of 0 turns"));
        }
    }
}
