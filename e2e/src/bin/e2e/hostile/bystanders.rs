//! The pair of pods that must not notice anything.

use crate::world::World;

pub(super) const NAMESPACE: &str = "bystanders";
/// Reads every frame and says twice a second how it fares.
pub(super) const CONSUMER: &str = "steady-consumer";
/// A lease lasts three keepalive intervals of a second: nobody may stand still for longer.
const LEASE_MS: u64 = 3_000;

/// How a consumer that watches fared, as it said.
#[derive(Debug, PartialEq, Eq)]
struct Fared {
    seen: u64,
    longest_pause_ms: u64,
}

/// Fails where the pair lost a frame, stood still for as long as a lease lasts, or lost its lease.
pub(super) fn are_unharmed(world: &World) -> Result<(), String> {
    let said = world.kubectl(&["logs", "--namespace", NAMESPACE, CONSUMER])?;
    let Fared {
        seen,
        longest_pause_ms,
    } = fared(&said)?;
    println!("{CONSUMER}: {seen} frames, none lost, longest pause {longest_pause_ms} ms");
    Ok(())
}

/// Every line after the first account is one too, of frames in the same epoch.
fn fared(said: &str) -> Result<Fared, String> {
    let mut lines = said.lines().skip_while(|line| account(line).is_none());
    let first = lines.next().ok_or("it has seen nothing yet")?;
    let (_, of_first) = account(first).ok_or_else(|| first.to_owned())?;
    let mut fared = Fared {
        seen: 0,
        longest_pause_ms: 0,
    };
    for line in lines {
        let Some(([seen, lost, missing, pause], epoch)) = account(line) else {
            return Err(format!("the bystander says: {line}"));
        };
        if lost + missing > 0 || epoch != of_first || pause >= LEASE_MS {
            return Err(format!("after `{first}` came `{line}`"));
        }
        fared = Fared {
            seen,
            longest_pause_ms: fared.longest_pause_ms.max(pause),
        };
    }
    Ok(fared)
}

/// Seen, lost, missing, longest pause; and the epoch. Their order, and what else is said, does not matter.
fn account(line: &str) -> Option<([u64; 4], u64)> {
    let number = |name: &str| {
        let mut parts = line.split(", ");
        let part = parts.find_map(|part| part.strip_prefix(name))?;
        part.trim_end_matches(" ms").parse().ok()
    };
    let [seen, lost, missing] = [number("seen ")?, number("lost ")?, number("missing ")?];
    let pause = number("longest pause ")?;
    Some(([seen, lost, missing, pause], number("epoch ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "attached to steady, pages of 2048 kB\n\
        next 9, seen 200, lost 0, missing 0, between leases 0, epoch 7, longest pause 4000 ms\n\
        next 99, seen 300, lost 0, missing 0, between leases 0, epoch 7, longest pause 12 ms\n\
        next 249, seen 450, lost 0, missing 0, between leases 0, epoch 7, longest pause 9 ms\n";

    #[test]
    fn frames_of_one_epoch_without_a_loss_are_well() {
        let expected = Fared {
            seen: 450,
            longest_pause_ms: 12,
        };
        assert_eq!(fared(GOOD), Ok(expected));
    }

    #[test]
    fn a_lost_frame_a_long_pause_another_epoch_and_a_lost_lease_are_not() {
        for (from, to) in [
            ("450, lost 0", "450, lost 1"),
            ("450, lost 0, missing 0", "450, lost 0, missing 3"),
            ("epoch 7, longest pause 9", "epoch 7, longest pause 3000"),
            ("epoch 7, longest pause 9", "epoch 8, longest pause 9"),
            ("next 249", "the lease ended\nnext 249"),
        ] {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD);
            assert!(fared(&bad).is_err(), "{bad}");
        }
        assert!(fared("attached to steady").is_err());
    }
}
