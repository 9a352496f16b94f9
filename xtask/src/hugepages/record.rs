//! What a run takes of the kernel's pool, as it stands in the cache before it is taken.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Show, run};

const PLANNED: &str = "planned";
const TAKEN: &str = "taken";

/// Pages to be added to a pool, and the mount on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The kernel's directory of the pool.
    pool: PathBuf,
    /// The boot: after the next one there is nothing to give back.
    boot: String,
    /// Pages before.
    before: u64,
    /// Pages that are added.
    pages: u64,
    /// Whether they have been. `false` while they may or may not.
    is_taken: bool,
    mount: PathBuf,
}

impl Record {
    /// What will be taken, given what is there now.
    pub(super) fn plan(pool: &Path, pages: u64, mount: &Path) -> Result<Self, String> {
        Ok(Self {
            pool: pool.to_owned(),
            boot: this_boot(),
            before: count(pool, "nr_hugepages").ok_or("this kernel has no pool of 2 MiB pages")?,
            pages,
            is_taken: false,
            mount: mount.to_owned(),
        })
    }

    /// Adds the pages, and writes down that they are.
    pub(super) fn take(mut self, file: &Path) -> Result<(), String> {
        self.set(self.before.saturating_add(self.pages))?;
        let (free, pages) = (count(&self.pool, "free_hugepages").unwrap_or(0), self.pages);
        if free >= pages {
            self.is_taken = true;
            return self.write(file);
        }
        Err(format!(
            "{pages} free pages of 2 MiB are needed, the kernel gave {free}: free some memory"
        ))
    }

    /// Unmounts, takes out what was added, and forgets it. What others have added since stays theirs.
    pub(super) fn give_back(&self, file: &Path) -> Result<(), String> {
        if self.boot == this_boot() {
            unmount(&self.mount);
            let now = count(&self.pool, "nr_hugepages").unwrap_or(self.before);
            // Others may have given back theirs since, so once ours are there they count in full.
            let added = if self.is_taken {
                now
            } else {
                now.saturating_sub(self.before)
            };
            let ours = added.min(self.pages);
            self.set(now.saturating_sub(ours))?;
        }
        fs::remove_file(file)
            .map_err(|error| format!("could not remove {}: {error}", file.display()))
    }

    /// The record of an earlier run, if it has not given back what it took.
    pub(super) fn read(file: &Path) -> Result<Option<Self>, String> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("could not read {}: {error}", file.display())),
        };
        Self::parse(&text).map(Some).ok_or_else(|| {
            format!(
                "{} cannot be read: look whether vm.nr_hugepages is as you want it, and remove that file",
                file.display()
            )
        })
    }

    /// Writes it down, whole or not at all.
    pub(super) fn write(&self, file: &Path) -> Result<(), String> {
        let text = format!(
            "{}\n{}\n{}\n{}\n{}\n{}\nend\n",
            self.pool.display(),
            self.boot,
            self.before,
            self.pages,
            if self.is_taken { TAKEN } else { PLANNED },
            self.mount.display()
        );
        let new = file.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, file))
            .map_err(|error| format!("could not write {}: {error}", file.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().collect();
        let [pool, boot, before, pages, state, mount, "end"] = lines[..] else {
            return None;
        };
        Some(Self {
            pool: pool.into(),
            boot: boot.to_owned(),
            before: before.parse().ok()?,
            pages: pages.parse().ok()?,
            is_taken: match state {
                TAKEN => true,
                PLANNED => false,
                _ => return None,
            },
            mount: mount.into(),
        })
    }

    fn set(&self, pages: u64) -> Result<(), String> {
        let file = self.pool.join("nr_hugepages");
        fs::write(&file, pages.to_string()).map_err(|error| {
            format!(
                "could not reserve huge pages in {}: {error}; run as root, or mount hugetlbfs yourself and name it in TENSORPOOL_HUGETLB_DIR",
                file.display()
            )
        })
    }
}

fn this_boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn count(pool: &Path, file: &str) -> Option<u64> {
    let text = fs::read_to_string(pool.join(file)).ok()?;
    text.trim().parse().ok()
}

/// From the tree at once, although a process of a killed run may still have a file open.
fn unmount(mount: &Path) {
    if !is_mounted(mount) {
        return;
    }
    let mut command = Command::new("umount");
    command.arg("--lazy").arg(mount);
    if !run(&mut command, Show::Nothing).is_ok_and(|done| done.status.success()) {
        eprintln!("could not unmount {}", mount.display());
    }
}

fn is_mounted(mount: &Path) -> bool {
    let line = format!(" {} ", mount.display());
    fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| mounts.contains(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let pool = std::env::temp_dir().join(format!("tensorpool-pool-{}", std::process::id()));
        fs::create_dir_all(&pool).expect("a directory");
        fs::write(pool.join("nr_hugepages"), "3").expect("it is ours");
        fs::write(pool.join("free_hugepages"), "256").expect("it is ours");
        let file = pool.join("taken");
        let record = Record::plan(&pool, 256, Path::new("/nowhere")).expect("it is a pool");
        record.write(&file).expect("there is space");
        assert_eq!(Record::read(&file), Ok(Some(record.clone())));
        record.take(&file).expect("they are free");
        assert_eq!(count(&pool, "nr_hugepages"), Some(259));
        let taken = Record::read(&file).expect("it can be read");
        let taken = taken.expect("it is there");
        assert!(taken.is_taken);
        taken.give_back(&file).expect("it can be written");
        assert_eq!(count(&pool, "nr_hugepages"), Some(3));
        assert_eq!(Record::read(&file), Ok(None));
        fs::remove_dir_all(&pool).expect("it is ours");
    }

    #[test]
    fn half_a_record_is_none() {
        let whole = "/pool\nboot\n3\n256\ntaken\n/mount\nend\n";
        let record = Record::parse(whole).expect("it is whole");
        assert!(record.is_taken && record.before == 3 && record.pages == 256);
        for length in 0..whole.len() - 1 {
            assert_eq!(Record::parse(&whole[..length]), None, "{length}");
        }
    }
}
