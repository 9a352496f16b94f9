//! Pods that watch a stream, and what they say.

use crate::world::{World, until};

/// The namespace of these pods.
pub(super) const NAMESPACE: &str = "faults";
/// Frames that show that they go on: less than a second of them.
const SOME: u64 = 300;

/// A pod that runs `exchange watch`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witness {
    pub(super) pod: &'static str,
}

/// A change of epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// Between the last frame of the epoch before and the first of the new one, in milliseconds.
    pub(super) pause_ms: u64,
    /// From one producer to another, so that numbers begin anew.
    pub(super) is_another_producer: bool,
}

/// What a witness has said so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    /// Frames as they should be.
    pub(super) seen: u64,
    /// The number that comes next.
    pub(super) next: u64,
    /// What its client has counted as lost.
    pub(super) lost: u64,
    /// What is missing by the frames' numbers.
    pub(super) missing: u64,
    /// Of these, what was published while there was no lease.
    pub(super) between: u64,
    pub(super) epoch: u64,
    /// Longest time without a frame, for each time that it told.
    pauses_ms: Vec<u64>,
    pub(super) changes: Vec<Change>,
}

impl Sight {
    fn read(log: &str) -> Result<Self, String> {
        let mut sight = Self::default();
        for line in log.lines() {
            let number = |before: &str| -> Result<u64, String> {
                let rest = line.split(before).nth(1).unwrap_or_default();
                let digits = rest.split(|it: char| !it.is_ascii_digit()).next();
                let digits = digits.unwrap_or_default();
                digits.parse().map_err(|_| format!("no number: {line}"))
            };
            if line.starts_with("next ") {
                sight.next = number("next ")?;
                sight.seen = number("seen ")?;
                sight.lost = number("lost ")?;
                sight.missing = number("missing ")?;
                sight.between = number("between leases ")?;
                sight.epoch = number("epoch ")?;
                sight.pauses_ms.push(number("longest pause ")?);
            } else if line.contains(": resumed after ") {
                sight.changes.push(Change {
                    pause_ms: number("resumed after ")?,
                    is_another_producer: line.ends_with("another producer"),
                });
            }
        }
        Ok(sight)
    }

    /// The longest time without a frame since `before`.
    pub(super) fn pause_since(&self, before: &Self) -> u64 {
        let new = self.pauses_ms.iter().skip(before.pauses_ms.len());
        new.copied().max().unwrap_or_default()
    }

    /// Every frame was delivered, or counted as lost, or published while there was no lease.
    fn adds_up(&self) -> Result<(), String> {
        let Self {
            lost,
            missing,
            between,
            ..
        } = self;
        if *missing == lost + between {
            return Ok(());
        }
        Err(format!(
            "{missing} frames are missing by their numbers, and the client counted {lost}, and {between} between leases"
        ))
    }
}

impl Witness {
    /// As it lies on the node, since neither the API server nor the Node may be there to be asked.
    fn log(&self, world: &World) -> Result<String, String> {
        let files = format!("cat /var/log/pods/{NAMESPACE}_{}_*/*/*.log", self.pod);
        let log = world.inside("sh", &["-c", &files])?;
        let words = log.lines().map(|line| match line.split_once(" F ") {
            Some((_time, said)) => said,
            None => line,
        });
        Ok(words.fold(String::new(), |text, line| text + line + "\n"))
    }

    /// What it has said so far.
    pub(super) fn look(&self, world: &World) -> Result<Sight, String> {
        Sight::read(&self.log(world)?)
    }

    /// What it says once `is_so`, and frames have gone on since.
    fn sees(
        &self,
        world: &World,
        before: &Sight,
        is_so: impl Fn(&Sight) -> bool,
    ) -> Result<Sight, String> {
        until(|| {
            let log = self.log(world)?;
            let now = Sight::read(&log)?;
            if is_so(&now) && now.seen >= before.seen + SOME {
                return Ok(now);
            }
            let last: Vec<_> = log.lines().rev().take(6).collect();
            Err(format!("{} says last: {last:#?}", self.pod))
        })
    }

    /// Frames go on, whatever happened to them.
    pub(super) fn goes_on(&self, world: &World, before: &Sight) -> Result<Sight, String> {
        let now = self.sees(world, before, |_| true)?;
        let seen = now.seen - before.seen;
        println!("{}: {seen} frames meanwhile", self.pod);
        Ok(now)
    }

    /// Frames go on and nothing happened to them since `before`: no other epoch, none lost.
    pub(super) fn noticed_nothing(&self, world: &World, before: &Sight) -> Result<Sight, String> {
        let now = self.sees(world, before, |_| true)?;
        let (seen, pause) = (now.seen - before.seen, now.pause_since(before));
        println!(
            "{}: {seen} frames meanwhile, none lost, longest pause {pause} ms",
            self.pod
        );
        let costs = |sight: &Sight| (sight.epoch, sight.lost, sight.missing);
        if costs(&now) == costs(before) {
            return Ok(now);
        }
        Err(format!(
            "{} was to notice nothing: {before:?}, then {now:?}",
            self.pod
        ))
    }

    /// Frames go on in a later epoch, and each is accounted for.
    pub(super) fn resumed(&self, world: &World, before: &Sight) -> Result<Sight, String> {
        let changed = |now: &Sight| now.epoch > before.epoch;
        let now = self.sees(world, before, changed)?;
        now.adds_up()?;
        let (lost, between) = (now.lost - before.lost, now.between - before.between);
        let seen = now.seen - before.seen;
        let pause = now.pause_since(before);
        println!(
            "{}: {seen} frames delivered, {lost} lost and counted, {between} published while it had no lease, longest pause {pause} ms",
            self.pod
        );
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
attached to witness, pages of 2048 kB
next 211, seen 200, lost 0, missing 0, between leases 0, epoch 7, longest pause 4 ms
epoch 8 after epoch 7: resumed after 120 ms, 3 frames missing
next 433, seen 419, lost 3, missing 3, between leases 0, epoch 8, longest pause 120 ms
the driver is gone and the lease's deadline has passed
epoch 9 after epoch 8: resumed after 1400 ms, another producer
next 20, seen 439, lost 3, missing 5, between leases 1, epoch 9, longest pause 1400 ms
";

    #[test]
    fn a_log_is_read_line_by_line() {
        let sight = Sight::read(LOG).expect("every line is known");
        assert_eq!((sight.next, sight.seen, sight.epoch), (20, 439, 9));
        assert_eq!((sight.lost, sight.missing, sight.between), (3, 5, 1));
        let pauses: Vec<_> = sight.changes.iter().map(|it| it.pause_ms).collect();
        assert_eq!(pauses, [120, 1400]);
        assert!(!sight.changes[0].is_another_producer && sight.changes[1].is_another_producer);
        let first = LOG.split_inclusive('\n').take(2).collect::<String>();
        let first = Sight::read(&first).expect("every line is known");
        assert_eq!(sight.pause_since(&first), 1400);
        assert_eq!(first.adds_up(), Ok(()));
    }

    #[test]
    fn a_frame_that_nobody_counted_is_found() {
        let sight = Sight::read(LOG).expect("every line is known");
        let error = sight.adds_up().expect_err("one is not accounted for");
        assert!(error.starts_with("5 frames are missing"), "{error}");
    }
}
