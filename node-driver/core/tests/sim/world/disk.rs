//! The driver's file worker and its disk.

use super::*;

impl World {
    pub(super) fn enqueue(&mut self, work: Work) {
        let mut delay = self.random.between(0, 3) * STEP;
        if self.random.once_in(self.faults.slow_work) {
            delay += self.random.between(10, 350) * STEP;
        }
        let queue = match work {
            Work::Persist(..) => &mut self.journaling,
            Work::Create(..) | Work::Remove(..) => &mut self.files,
        };
        let after = queue.back().map_or(0, |(at, _)| *at);
        queue.push_back((after.max(self.now + delay), work));
    }

    pub(super) fn run_worker(&mut self) {
        for journal in [true, false] {
            while let Some(work) = self.next_work(journal) {
                let result = self.do_work(work);
                self.results.push_back(result);
            }
        }
    }

    pub(super) fn next_work(&mut self, journal: bool) -> Option<Work> {
        let queue = if journal {
            &mut self.journaling
        } else {
            &mut self.files
        };
        if queue.front()?.0 > self.now {
            return None;
        }
        queue.pop_front().map(|(_, work)| work)
    }

    pub(super) fn do_work(&mut self, work: Work) -> Event<'static> {
        match work {
            Work::Persist(op, key) => {
                if self.random.once_in(self.faults.fail_persist) {
                    self.injected += 1;
                    let error = "no space for the journal".to_owned();
                    return Event::EpochPersistFailed { op, error };
                }
                self.journal = self.journal.max(Some(key.epoch));
                Event::EpochPersisted { op }
            }
            Work::Create(op, regions) => match self.create(&regions) {
                Ok(()) => Event::RegionsReady { op },
                Err(error) => {
                    self.say(&format!("  create {:?}: {error}", regions.key));
                    Event::RegionsFailed { op, error }
                }
            },
            Work::Remove(op, key, reclaim) => {
                if self.random.once_in(self.faults.fail_remove) {
                    self.injected += 1;
                    self.unheard.push(key);
                    let error = "busy".to_owned();
                    return Event::EpochRemoveFailed { op, error };
                }
                self.remove(op, key, reclaim)
            }
        }
    }

    fn remove(&mut self, op: OpId, key: EpochKey, reclaim: Reclaim) -> Event<'static> {
        let now = self.now;
        let held = self.disk.get_mut(&key).filter(|it| it.held_until > now);
        match (reclaim, held) {
            (Reclaim::IfUnused, Some(directory)) => {
                directory.in_use = true;
                return Event::EpochInUse { op };
            }
            (Reclaim::Empty, Some(directory)) => {
                assert!(
                    directory.free_at.is_some_and(|at| at <= now),
                    "{key:?} is emptied before its time"
                );
                self.emptied += 1;
            }
            (Reclaim::Unlink | Reclaim::IfUnused | Reclaim::Empty, None)
            | (Reclaim::Unlink, Some(_)) => {}
        }
        self.disk.remove(&key);
        Event::EpochRemoved { op }
    }

    pub(super) fn create(&mut self, regions: &RegionSet) -> Result<(), RegionsError> {
        if self.random.once_in(self.faults.fail_create) {
            self.injected += 1;
            return Err(if self.random.once_in(2) {
                RegionsError::NoHugepages("none mounted".to_owned())
            } else {
                RegionsError::Other("input/output error".to_owned())
            });
        }
        assert!(
            !self.disk.contains_key(&regions.key),
            "{:?} exists",
            regions.key
        );
        let used: u64 = self.disk.values().map(|directory| directory.bytes).sum();
        let free = self.capacity.saturating_sub(used);
        if regions.bytes > free {
            return Err(RegionsError::NoSpace {
                needed_bytes: regions.bytes,
                free_bytes: free,
                node: None,
            });
        }
        let held = self.random.once_in(self.faults.hold_epoch);
        let directory = Directory {
            bytes: regions.bytes,
            activity: self.now,
            owner: self.incarnation,
            complete: true,
            held_until: if held {
                self.injected += 1;
                self.now + self.random.between(1, 1_500) * STEP
            } else {
                0
            },
            free_at: None,
            in_use: false,
        };
        self.disk.insert(regions.key, directory);
        Ok(())
    }
}
