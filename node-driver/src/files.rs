//! The file worker: everything that touches region files or the journal, off the duty cycle.
//!
//! Jobs are done one after the other, in order; each is answered once. The duty cycle never waits:
//! what the bounded channel does not take stays in a queue, whose length the core bounds by the
//! number of operations that it has under way. Epochs that wait to be persisted together are
//! persisted by one write of the highest, before anything that was asked for after them.

// spec: D-3-1, W-15.14-1

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tensorpool_driver_core::{
    self as core, BaseId, EpochKey, OpId, Reclaim, RegionSet, RegionsError,
};
use tensorpool_shm::{
    CreateError, CreateOptions, CreatedEpoch, Creator, Numa, StoreError, StreamLayout,
};
use tensorpool_wire::{Epoch, MonoNanos, PoolStride};

use crate::attachments::views::Views;
use crate::journal::Journal;
use crate::scan::{self, Found};
use crate::stores::Stores;

/// Jobs and answers in the channels at one time.
const IN_CHANNEL: usize = 1024;
/// Writing the journal takes microseconds on tmpfs and milliseconds on a disk that is not busy.
const SLOW_JOURNAL: Duration = Duration::from_secs(1);

/// One thing to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Make an epoch's number durable.
    Persist {
        /// For the answer.
        op: OpId,
        /// The number.
        epoch: Epoch,
    },
    /// Make all files of an epoch.
    Create {
        /// For the answer.
        op: OpId,
        /// Which files.
        regions: RegionSet,
        /// The time that goes into their superblocks.
        start: MonoNanos,
    },
    /// Remove an epoch's directory.
    Remove {
        /// For the answer.
        op: OpId,
        /// Which epoch.
        key: EpochKey,
        /// On which base it lies.
        base: BaseId,
        /// What becomes of files that somebody still has.
        reclaim: Reclaim,
        /// What this process had mapped of it; unmapped before the files go.
        mapped: Option<Box<CreatedEpoch>>,
    },
    /// Write beside an epoch's files when they may be emptied. Not answered.
    Mark {
        /// Which epoch.
        key: EpochKey,
        /// On which base it lies.
        base: BaseId,
        /// From this time on.
        free_at: MonoNanos,
    },
    /// Look at all epoch directories again.
    Scan,
}

/// The answer to one job.
#[derive(Debug)]
pub(crate) enum Done {
    /// Durable, or why not.
    Persisted {
        /// Of the job.
        op: OpId,
        /// In words.
        result: Result<(), String>,
    },
    /// The files, or why there are none.
    Created {
        /// Of the job.
        op: OpId,
        /// Which epoch.
        key: EpochKey,
        /// Kept for activity refreshes and for producers' descriptors.
        result: Result<Box<CreatedEpoch>, RegionsError>,
    },
    /// Gone, or why not.
    Removed {
        /// Of the job.
        op: OpId,
        /// False where somebody has the files; an error in words.
        result: Result<bool, String>,
    },
    /// The mark is written, or was complained about.
    Marked,
    /// What a scan found.
    Scanned(Found),
    /// Memory could not be locked although policies.mlock_shm asks for it.
    CannotLock {
        /// In words.
        error: String,
    },
}

/// The duty cycle's end.
#[derive(Debug)]
pub(crate) struct Files {
    jobs: Option<SyncSender<Job>>,
    waiting: VecDeque<Job>,
    /// Jobs that were taken and not answered yet.
    under_way: usize,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Files {
    /// Starts the worker.
    ///
    /// # Errors
    /// If no thread can be made.
    pub(crate) fn start(stores: Arc<Stores>, journal: Journal, views: Views) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(IN_CHANNEL);
        let (outbox, done) = sync_channel(IN_CHANNEL);
        let worker = Worker {
            stores,
            journal,
            views,
            outbox,
        };
        let thread = std::thread::Builder::new()
            .name("files".into())
            .spawn(move || worker.run(&inbox))?;
        Ok(Self {
            jobs: Some(jobs),
            waiting: VecDeque::new(),
            under_way: 0,
            done,
            thread: Some(thread),
        })
    }

    /// Takes a job. Never waits.
    pub(crate) fn submit(&mut self, job: Job) {
        self.under_way += 1;
        self.waiting.push_back(job);
        self.flush();
    }

    /// Whether no answer is to be expected.
    pub(crate) const fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// The next answer, if there is one.
    pub(crate) fn next_done(&mut self) -> Option<Done> {
        self.flush();
        let done = self.done.try_recv().ok()?;
        match &done {
            Done::Persisted { .. }
            | Done::Created { .. }
            | Done::Removed { .. }
            | Done::Marked
            | Done::Scanned(_) => self.under_way = self.under_way.saturating_sub(1),
            // Comes beside the answer to its job.
            Done::CannotLock { .. } => {}
        }
        Some(done)
    }

    /// Lets the worker finish what it was given, then ends it.
    pub(crate) fn stop(mut self) {
        let jobs = self.jobs.take();
        while let (Some(jobs), Some(job)) = (&jobs, self.waiting.pop_front()) {
            match jobs.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    self.waiting.push_front(job);
                    // The worker goes on when an answer is taken; its end shows at the next send.
                    drop(self.done.recv());
                }
                Err(TrySendError::Disconnected(_)) => break,
            }
        }
        drop(jobs);
        while self.done.recv().is_ok() {}
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the file worker panicked");
        }
    }

    fn flush(&mut self) {
        let Some(jobs) = &self.jobs else { return };
        while let Some(job) = self.waiting.pop_front() {
            match jobs.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                    self.waiting.push_front(job);
                    return;
                }
            }
        }
    }
}

struct Worker {
    stores: Arc<Stores>,
    journal: Journal,
    /// What pods see of the files.
    views: Views,
    outbox: SyncSender<Done>,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        while let Ok(first) = inbox.recv() {
            let mut batch = vec![first];
            batch.extend(inbox.try_iter());
            if !self.work(batch) {
                return;
            }
        }
    }

    /// Does a batch in order; false when nobody listens any more.
    fn work(&mut self, batch: Vec<Job>) -> bool {
        let persisted = self.persist_highest(&batch);
        for job in batch {
            let done = match job {
                Job::Persist { op, .. } => Done::Persisted {
                    op,
                    result: persisted.clone(),
                },
                Job::Create { op, regions, start } => {
                    let result = self.create(&regions, start);
                    if let Err(error @ CreateError::Lock { .. }) = &result {
                        // spec: D-17-5
                        let error = in_words(error);
                        if self.outbox.send(Done::CannotLock { error }).is_err() {
                            return false;
                        }
                    }
                    Done::Created {
                        op,
                        key: regions.key,
                        result: result.map(Box::new).map_err(|error| failure(&error)),
                    }
                }
                Job::Remove {
                    op,
                    key,
                    base,
                    reclaim,
                    mapped,
                } => {
                    drop(mapped);
                    let removed = self.remove(key, base, reclaim);
                    Done::Removed {
                        op,
                        result: removed.map_err(|error| in_words(&error)),
                    }
                }
                Job::Mark { key, base, free_at } => {
                    let store = self.stores.get(base);
                    if let Err(error) = store.mark(key.stream, key.epoch, free_at) {
                        tracing::warn!(stream = %key.stream, epoch = %key.epoch, error = in_words(&error), "an epoch that is to be taken back is not marked");
                    }
                    Done::Marked
                }
                Job::Scan => match scan::epochs(&self.stores) {
                    Ok(found) => Done::Scanned(found),
                    Err(error) => {
                        tracing::warn!(error = in_words(&error), "old epochs cannot be listed");
                        Done::Scanned(Found::new())
                    }
                },
            };
            if self.outbox.send(done).is_err() {
                return false;
            }
        }
        true
    }

    fn persist_highest(&mut self, batch: &[Job]) -> Result<(), String> {
        let highest = batch
            .iter()
            .filter_map(|job| match job {
                Job::Persist { epoch, .. } => Some(*epoch),
                Job::Create { .. } | Job::Remove { .. } | Job::Mark { .. } | Job::Scan => None,
            })
            .max();
        match highest {
            Some(epoch) => {
                let began = Instant::now();
                let done = self.journal.persist(epoch);
                let took = began.elapsed();
                if took >= SLOW_JOURNAL {
                    tracing::warn!(
                        directory = %self.journal.directory().display(),
                        took_ms = took.as_millis(),
                        "clients waited for a new epoch until its number was on disk; a driver.state_dir on tmpfs, as below /run, does not wait for a busy disk"
                    );
                }
                done.map_err(|error| in_words(&error))
            }
            None => Ok(()),
        }
    }

    /// Whether it is gone; otherwise somebody has its files.
    fn remove(&self, key: EpochKey, base: BaseId, reclaim: Reclaim) -> Result<bool, StoreError> {
        let store = self.stores.get(base);
        // Nobody finds them from here on.
        self.views.epoch_goes(store.path(), key);
        let EpochKey { stream, epoch } = key;
        match reclaim {
            Reclaim::Unlink => store.remove(stream, epoch).map(|()| true),
            Reclaim::IfUnused => store.remove_if_unused(stream, epoch),
            Reclaim::Empty => store.empty_and_remove(stream, epoch).map(|()| true),
        }
    }

    fn create(&self, regions: &RegionSet, start: MonoNanos) -> Result<CreatedEpoch, CreateError> {
        let pools = regions
            .pools
            .iter()
            .map(|pool| PoolStride {
                pool_id: pool.pool,
                stride_bytes: pool.stride_bytes,
            })
            .collect();
        let EpochKey { stream, epoch } = regions.key;
        let layout = StreamLayout::new(stream, epoch, regions.nslots, pools)
            .expect("the core checks every profile by the same rules");
        let creator = Creator {
            pid: u64::from(std::process::id()),
            start,
        };
        let store = self.stores.get(regions.base);
        let options = CreateOptions {
            permissions: self.stores.permissions(regions.base, regions.on_aeron),
            numa: regions.numa.map(|numa| match numa {
                core::Numa::Preferred(node) => Numa::Preferred(node),
                core::Numa::Bind(node) => Numa::Bind(node),
            }),
        };
        let created = store.create_with(layout, creator, options)?;
        if let Some(share) = created.on_node()
            && share.there < share.bytes
        {
            tracing::warn!(%stream, %epoch, node = share.node, bytes = share.bytes, there = share.there, "not all memory of the epoch lies on the preferred NUMA node: that has too few free pages, or no CPU that the driver may run on");
        }
        // Before anybody hears of the epoch.
        self.views.epoch_made(store.path(), regions.key);
        Ok(created)
    }
}

/// The failure as the core tells kinds apart: lack of space makes it collect and try again.
fn failure(error: &CreateError) -> RegionsError {
    match error {
        CreateError::NoSpace { needed, free, .. } => RegionsError::NoSpace {
            needed_bytes: *needed,
            free_bytes: *free,
            node: None,
        },
        CreateError::NodeFull {
            needed, had, node, ..
        } => RegionsError::NoSpace {
            needed_bytes: *needed,
            free_bytes: *had,
            node: Some(*node),
        },
        CreateError::Exists { .. }
        | CreateError::Directory(_)
        | CreateError::Node(_)
        | CreateError::File { .. }
        | CreateError::Map { .. }
        | CreateError::Lock { .. } => RegionsError::Other(in_words(error)),
    }
}

/// An error with its causes in one line.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
