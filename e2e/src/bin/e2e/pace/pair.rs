//! Two processes that take the same orders.

use tensorpool_e2e::peer::Peer;

/// One that asks and one that answers.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Who they are.
    pub(crate) name: &'static str,
    pub(crate) ask: Peer,
    pub(crate) answer: Peer,
    /// Turns until both have other memory.
    pub(crate) left: u32,
}

impl Pair {
    /// Nanoseconds of round trips, without those of the warm-up.
    pub(crate) fn trips(&mut self, count: usize, warm_up: usize) -> Result<Vec<u64>, String> {
        let [nanos, _] = self.both(&format!("trips {count}"))?;
        match nanos.get(warm_up..) {
            Some(measured) if nanos.len() == count => Ok(measured.to_vec()),
            Some(_) | None => Err(format!("{} trips were said, not {count}", nanos.len())),
        }
    }

    /// Nanoseconds of large frames, `group` together, without those of the warm-up. Each is the time from
    /// answer to answer, so that all but the first were under way together with others.
    pub(crate) fn bulk(
        &mut self,
        frames: usize,
        warm_up: usize,
        group: usize,
    ) -> Result<Vec<u64>, String> {
        let [nanos, _] = self.both(&format!("bulk {frames}"))?;
        match nanos.get(warm_up..) {
            Some(measured) if nanos.len() == frames => {
                let groups = measured.chunks_exact(group);
                Ok(groups.map(|group| group.iter().sum()).collect())
            }
            Some(_) | None => Err(format!("{} frames were said, not {frames}", nanos.len())),
        }
    }

    /// Both attach again, with other memory, where `turns` turns were made since the last time.
    pub(crate) fn anew_after(&mut self, turns: u32) -> Result<(), String> {
        if self.left == 0 {
            self.both("anew")?;
            self.left = turns;
        }
        self.left -= 1;
        Ok(())
    }

    /// Both are there and heard. What a pod says before `kubectl attach` listens is in its log only.
    pub(crate) fn greet(&mut self) -> Result<(), String> {
        self.answer.greet("lost", "lost:")?;
        self.ask.greet("lost", "lost:")
    }

    /// Frames that either of them did not get.
    pub(crate) fn lost(&mut self) -> Result<u64, String> {
        let said = self.both("lost")?;
        Ok(said.iter().flatten().sum())
    }

    /// What both say to one order. The one that answers is told first: it has to be awake.
    fn both(&mut self, order: &str) -> Result<[Vec<u64>; 2], String> {
        let in_full = |why| format!("{order}, {}: {why}", self.name);
        self.answer.tell(order).map_err(in_full)?;
        self.ask.tell(order).map_err(in_full)?;
        let done = format!("{order}:");
        let asked = self.ask.expect(&done).map_err(in_full)?;
        let answered = self.answer.expect(&done).map_err(in_full)?;
        Ok([numbers(&asked)?, numbers(&answered)?])
    }
}

fn numbers(words: &str) -> Result<Vec<u64>, String> {
    let number = |word: &str| word.parse().map_err(|error| format!("{word}: {error}"));
    words.split_whitespace().map(number).collect()
}
