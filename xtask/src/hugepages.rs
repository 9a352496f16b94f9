//! Huge pages for the tests: reserved and mounted before they run, given back afterwards.
//!
//! What is taken is written down first, in the cache. A watcher, which is this program again in a process
//! group of its own, gives it back as soon as this process is gone, however that happened: it sees the end
//! of a pipe. Where both were killed, the next run gives back what they took.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::command::{Show, run};
use crate::workspace::Workspace;
use record::Record;

mod record;

const PAGE_COUNT: u64 = 256;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// The command of the watcher.
pub(crate) const WATCH: &str = "return-hugepages";

/// 2 MiB pages that this run reserved, and the filesystem on them; both go when dropped.
#[derive(Debug)]
pub(crate) struct Hugepages {
    mount: PathBuf,
    watcher: Option<Child>,
}

impl Hugepages {
    /// Reserves the pages and mounts a filesystem on them. A mount that the user names in
    /// `TENSORPOOL_HUGETLB_DIR` is used as it is. What an earlier run left is given back in any case.
    pub(crate) fn reserve(workspace: &Workspace) -> Result<Self, String> {
        let file = workspace.cache.join("hugepages-taken");
        if let Some(earlier) = Record::read(&file)? {
            println!("giving back the huge pages of a run that was killed");
            earlier.give_back(&file)?;
        }
        if let Some(given) = env::var_os("TENSORPOOL_HUGETLB_DIR") {
            return Ok(Self {
                mount: PathBuf::from(given),
                watcher: None,
            });
        }
        let mount = workspace.cache.join("hugepages");
        fs::create_dir_all(&mount)
            .map_err(|error| format!("could not create {}: {error}", mount.display()))?;
        let record = Record::plan(Path::new(POOL), PAGE_COUNT, &mount)?;
        record.write(&file)?;
        // From here on the watcher gives back, also when a step below fails.
        let reserved = Self {
            watcher: Some(watch(&file)?),
            mount,
        };
        record.take(&file)?;
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
        self.watcher.as_ref().map_or(0, |_| PAGE_COUNT)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        let Some(mut watcher) = self.watcher.take() else {
            return;
        };
        // Its pipe ends.
        drop(watcher.stdin.take());
        match watcher.wait() {
            Ok(ended) if ended.success() => {}
            Ok(ended) => eprintln!("huge pages were not given back ({ended})"),
            Err(error) => eprintln!("huge pages were perhaps not given back: {error}"),
        }
    }
}

fn watch(file: &Path) -> Result<Child, String> {
    let program = env::current_exe()
        .map_err(|error| format!("could not find this program's own file: {error}"))?;
    let mut command = Command::new(program);
    command.arg(WATCH).arg(file).stdin(Stdio::piped());
    // Ctrl-C is for us, not for it.
    command.process_group(0);
    command
        .spawn()
        .map_err(|error| format!("could not start what gives the huge pages back: {error}"))
}

/// The watcher: waits until nobody holds the other end of standard input, then gives back.
pub(crate) fn give_back_at_the_end(arguments: &[String]) -> Result<(), String> {
    let [file] = arguments else {
        return Err(format!(
            "usage: {WATCH} FILE, with a pipe as standard input"
        ));
    };
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())
        .map_err(|error| format!("could not read standard input: {error}"))?;
    let file = Path::new(file);
    match Record::read(file)? {
        Some(record) => record.give_back(file),
        None => Ok(()),
    }
}
