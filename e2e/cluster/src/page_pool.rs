//! Huge pages for the cluster's pods. kubelet reads their number once, at its start, so they are
//! there before.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Why there are no huge pages.
#[derive(Debug, thiserror::Error)]
pub enum HugepageError {
    /// The kernel's files.
    #[error(
        "could not use {POOL}: huge pages of 2 MiB need root and a kernel that has them; `--hugepages 0` does without"
    )]
    Pool {
        /// Why.
        source: io::Error,
    },
    /// Memory is too fragmented or too small.
    #[error(
        "{wanted} huge pages of 2 MiB were asked for and the kernel found memory for {got}: free some memory, or ask for fewer with `--hugepages`"
    )]
    TooFew {
        /// Asked for.
        wanted: u64,
        /// Given.
        got: u64,
    },
}

/// Pages that a cluster adds to the kernel's pool, written down before it does.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Addition {
    /// How many.
    pub(crate) pages: u64,
    /// How many there were.
    before: u64,
    /// Whether they have been added. `false` while they may or may not.
    done: bool,
}

impl Addition {
    /// What will be added, to what is there now.
    pub(crate) fn plan(pages: u64) -> Result<Self, HugepageError> {
        let before = if pages == 0 { 0 } else { count()? };
        let done = false;
        Ok(Self {
            pages,
            before,
            done,
        })
    }

    /// Adds them, or none of them.
    pub(crate) fn add(&mut self) -> Result<(), HugepageError> {
        let Self { pages, before, .. } = *self;
        if pages == 0 {
            return Ok(());
        }
        set(before.saturating_add(pages))?;
        let got = count()?.saturating_sub(before);
        if got >= pages {
            self.done = true;
            return Ok(());
        }
        set(before)?;
        Err(HugepageError::TooFew { wanted: pages, got })
    }

    /// Gives them back, if they were added at all. What others have added since stays theirs.
    pub(crate) fn give_back(self) -> Result<(), HugepageError> {
        if self.pages == 0 {
            return Ok(());
        }
        set(self.rest(count()?))
    }

    /// What is left of `now` pages without ours.
    fn rest(self, now: u64) -> u64 {
        let ours = if self.done {
            self.pages
        } else {
            self.pages.min(now.saturating_sub(self.before))
        };
        now.saturating_sub(ours)
    }
}

fn count() -> Result<u64, HugepageError> {
    fs::read_to_string(Path::new(POOL).join("nr_hugepages"))
        .and_then(|text| text.trim().parse().map_err(io::Error::other))
        .map_err(|source| HugepageError::Pool { source })
}

fn set(pages: u64) -> Result<(), HugepageError> {
    fs::write(Path::new(POOL).join("nr_hugepages"), pages.to_string())
        .map_err(|source| HugepageError::Pool { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addition(done: bool) -> Addition {
        Addition {
            pages: 64,
            before: 2,
            done,
        }
    }

    #[test]
    fn what_others_took_before_and_gave_back_since_is_not_left_over() {
        // Their 2, our 64, then they gave back 2.
        assert_eq!(addition(true).rest(64), 0);
        // Then others took 10.
        assert_eq!(addition(true).rest(76), 12);
    }

    #[test]
    fn pages_that_were_perhaps_never_added_are_not_taken_from_others() {
        assert_eq!(addition(false).rest(2), 2);
        assert_eq!(addition(false).rest(66), 2);
        assert_eq!(addition(false).rest(30), 2);
    }
}
