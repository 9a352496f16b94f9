//! Whoever takes huge pages and is killed leaves none behind. The pool is a directory of the test's own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

struct Pool {
    directory: PathBuf,
}

impl Pool {
    /// A pool of 3 pages to which a run has added 256, and what it wrote down.
    fn taken(test: &str, boot: &str) -> Self {
        Self::with(test, boot, "taken")
    }

    fn with(test: &str, boot: &str, state: &str) -> Self {
        let name = format!("{test}-{}", std::process::id());
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).expect("the build directory is ours");
        let pool = Self { directory };
        pool.set("259");
        let (shown, mount) = (pool.directory.display(), pool.directory.join("mount"));
        let record = format!(
            "{shown}\n{boot}\n3\n256\n{state}\n{}\nend\n",
            mount.display()
        );
        fs::write(pool.record(), record).expect("the directory is ours");
        pool
    }

    fn set(&self, pages: &str) {
        fs::write(self.directory.join("nr_hugepages"), pages).expect("the directory is ours");
    }

    fn pages(&self) -> String {
        fs::read_to_string(self.directory.join("nr_hugepages")).expect("it is there")
    }

    fn record(&self) -> PathBuf {
        self.directory.join("taken")
    }

    fn watch(&self, end: impl Into<Stdio>) -> Child {
        let mut watcher = Command::new(env!("CARGO_BIN_EXE_xtask"));
        watcher.arg("return-hugepages").arg(self.record());
        watcher.stdin(end).spawn().expect("it starts")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}

fn this_boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux has one");
    id.trim().to_owned()
}

fn ends_well(mut watcher: Child) {
    assert!(watcher.wait().expect("it is ours").success());
}

#[test]
fn pages_stay_while_the_run_lives_and_go_when_it_is_killed() {
    let pool = Pool::taken("killed", &this_boot());
    // The run: all that the watcher sees of it is that it holds the pipe.
    let mut run = Command::new("sleep");
    let mut run = run
        .arg("600")
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut watcher = pool.watch(run.stdout.take().expect("a pipe"));
    assert!(watcher.try_wait().expect("it is ours").is_none());
    assert_eq!(pool.pages(), "259");
    run.kill().expect("it is ours");
    run.wait().expect("it is ours");
    ends_well(watcher);
    assert_eq!(pool.pages(), "3");
    assert!(!pool.record().exists(), "nothing is left to give back");
}

#[test]
fn what_others_added_or_gave_back_since_changes_nothing_of_theirs() {
    let pool = Pool::taken("more", &this_boot());
    pool.set("269");
    ends_well(pool.watch(Stdio::null()));
    assert_eq!(pool.pages(), "13");

    let pool = Pool::taken("fewer", &this_boot());
    pool.set("256");
    ends_well(pool.watch(Stdio::null()));
    assert_eq!(pool.pages(), "0");
}

#[test]
fn pages_that_were_perhaps_never_added_are_not_taken_from_others() {
    for (now, after) in [("3", "3"), ("100", "3"), ("259", "3"), ("2", "2")] {
        let pool = Pool::with(&format!("planned-{now}"), &this_boot(), "planned");
        pool.set(now);
        ends_well(pool.watch(Stdio::null()));
        assert_eq!(pool.pages(), after, "of {now}");
    }
}

#[test]
fn after_a_boot_there_is_nothing_to_give_back() {
    let pool = Pool::taken("boot", "an earlier one");
    pool.set("400");
    ends_well(pool.watch(Stdio::null()));
    assert_eq!(pool.pages(), "400");
    assert!(!pool.record().exists());
}
