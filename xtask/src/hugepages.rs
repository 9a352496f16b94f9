//! Huge pages for the tests: reserved and mounted before they run, given back afterwards.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Show, run};
use crate::workspace::Workspace;

const PAGE_COUNT: u64 = 256;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// 2 MiB pages that this run reserved, and the filesystem on them; both go when dropped.
#[derive(Debug)]
pub(crate) struct Hugepages {
    mount: PathBuf,
    before: Option<u64>,
    note: PathBuf,
}

impl Hugepages {
    /// Reserves the pages and mounts a filesystem on them. A mount that the user names in
    /// `TENSORPOOL_HUGETLB_DIR` is used as it is.
    pub(crate) fn reserve(workspace: &Workspace) -> Result<Self, String> {
        let note = workspace.cache.join("hugepages-before");
        if let Some(given) = env::var_os("TENSORPOOL_HUGETLB_DIR") {
            return Ok(Self {
                mount: PathBuf::from(given),
                before: None,
                note,
            });
        }
        let mount = workspace.cache.join("hugepages");
        fs::create_dir_all(&mount)
            .map_err(|error| format!("could not create {}: {error}", mount.display()))?;
        // A run that was killed left its note behind: what was there before it is the truth.
        let before = match read_number(&note) {
            Some(earlier) => {
                unmount(&mount);
                earlier
            }
            None => read_number(&Path::new(POOL).join("nr_hugepages"))
                .ok_or("this kernel has no pool of 2 MiB pages")?,
        };
        let reserved = Self {
            mount,
            before: Some(before),
            note,
        };
        fs::write(&reserved.note, before.to_string())
            .map_err(|error| format!("could not write {}: {error}", reserved.note.display()))?;
        let wanted = before + PAGE_COUNT;
        set_pages(wanted)?;
        let free = read_number(&Path::new(POOL).join("free_hugepages")).unwrap_or(0);
        if free < PAGE_COUNT {
            return Err(format!(
                "{PAGE_COUNT} free pages of 2 MiB are needed, the kernel gave {free}: free some memory"
            ));
        }
        let mut command = Command::new("mount");
        command
            .args(["-t", "hugetlbfs", "-o", "pagesize=2M,mode=0777"])
            .arg("tensorpool-tests")
            .arg(&reserved.mount);
        run(&mut command, Show::Nothing)?.success("mounting hugetlbfs for the tests")?;
        Ok(reserved)
    }

    /// Where the tests find the filesystem.
    pub(crate) fn mount(&self) -> &Path {
        &self.mount
    }

    /// How many pages were reserved by this run, 0 if the user's mount is used.
    pub(crate) fn pages(&self) -> u64 {
        self.before.map_or(0, |_| PAGE_COUNT)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        unmount(&self.mount);
        match set_pages(before).and_then(|()| {
            fs::remove_file(&self.note).map_err(|error| format!("the note stayed: {error}"))
        }) {
            Ok(()) => {}
            Err(message) => eprintln!("huge pages were not given back: {message}"),
        }
    }
}

fn unmount(mount: &Path) {
    let mut command = Command::new("umount");
    command.arg(mount);
    if !run(&mut command, Show::Nothing).is_ok_and(|done| done.status.success()) && mounted(mount) {
        eprintln!("could not unmount {}", mount.display());
    }
}

fn mounted(mount: &Path) -> bool {
    let line = format!(" {} ", mount.display());
    fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| mounts.contains(&line))
}

fn set_pages(count: u64) -> Result<(), String> {
    let file = Path::new(POOL).join("nr_hugepages");
    fs::write(&file, count.to_string()).map_err(|error| {
        format!(
            "could not reserve huge pages in {}: {error}; run as root, or mount hugetlbfs yourself and name it in TENSORPOOL_HUGETLB_DIR",
            file.display()
        )
    })
}

fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
