//! What a cluster has done to the machine, written down before it does it: enough to undo it after
//! any crash.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroups::Group;
use crate::page_pool::Addition;
use crate::runtime::Runtime;

const FILE: &str = "state.json";

/// The record of one cluster.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct State {
    /// Nothing of an earlier boot is left but files.
    pub(crate) boot: String,
    /// What it is.
    pub(crate) extent: Extent,
    /// The process that everything of it ends with: pid 1 of its namespaces, or the one that
    /// keeps the control plane.
    pub(crate) process: Option<ProcessId>,
    /// The administrator's kubeconfig, once everything has answered.
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// How much of a cluster there is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Extent {
    /// etcd and the API server, in nobody's namespaces.
    ControlPlane,
    /// A node too.
    Whole {
        /// What runs pods.
        runtime: Runtime,
        /// Huge pages that were added to the kernel's pool.
        hugepages: Addition,
        /// Control groups that were made.
        groups: Vec<Group>,
    },
}

impl State {
    /// The record in a cluster's directory; `None` when there is no cluster.
    pub(crate) fn load(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(io::Error::other)
    }

    /// Replaces the record.
    pub(crate) fn save(&self, directory: &Path) -> io::Result<()> {
        let unfinished = directory.join("state.json.unfinished");
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        fs::write(&unfinished, text)?;
        fs::rename(unfinished, directory.join(FILE))
    }

    /// Its process, if it lives.
    pub(crate) fn living(&self) -> Option<ProcessId> {
        let process = self.process?;
        (self.boot == boot_id() && ProcessId::of(process.pid) == Some(process)).then_some(process)
    }
}

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct ProcessId {
    /// Its number.
    pub(crate) pid: i32,
    /// When it was started, in clock ticks since boot.
    pub(crate) started: u64,
}

impl ProcessId {
    /// The process that has this number now. One that has ended and was not waited for is gone.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &stat)
    }

    fn parse(pid: i32, stat: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything. State is the field after it, the start
        // time the 20th.
        let (_, after) = stat.rsplit_once(") ")?;
        let mut fields = after.split(' ');
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!["Z", "X"].contains(&state)).then_some(Self { pid, started })
    }

    /// The first process of the PID namespace that `parent` made, once it is there.
    pub(crate) fn first_in_namespace_of(parent: u32) -> Option<Self> {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        // Before that, `parent` starts programs that do not stay.
        let first = children
            .split_whitespace()
            .find(|child| namespace(child).is_some_and(|theirs| Some(theirs) != namespace("self")));
        Self::of(first?.parse().ok()?)
    }
}

/// Changes with every boot.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// The directory of the cluster of this name.
pub(crate) fn directory_of(cache: &Path, name: &str) -> PathBuf {
    cache.join("clusters").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, state: &str) -> String {
        format!("7 ({name}) {state} 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0")
    }

    #[test]
    fn a_process_is_its_number_and_its_start_whatever_it_calls_itself() {
        let expected = Some(ProcessId {
            pid: 7,
            started: 4711,
        });
        for name in ["init", "a) S b", ""] {
            assert_eq!(ProcessId::parse(7, &stat(name, "S")), expected, "{name}");
        }
    }

    #[test]
    fn a_process_that_only_waits_to_be_collected_is_gone() {
        assert_eq!(ProcessId::parse(7, &stat("init", "Z")), None);
    }
}
