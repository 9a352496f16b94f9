//! The node's driver, as the kernel and its own metrics show it.

use std::collections::BTreeMap;
use std::fmt;

use crate::world::World;

const SYSTEM: &str = "tensorpool-system";
const SELECT: &str = "--selector=app.kubernetes.io/component=node-driver";
/// Pod, uid, and how often each container was started again.
const POD: &str = "--output=jsonpath={.items[*].metadata.name} {.items[*].metadata.uid} {.items[*].status.containerStatuses[*].restartCount}";
/// The process beside its supervisor, when it began, and what it holds.
const PROCESS: &str = "pid=$(pgrep --full --exact /tensorpool-node-driver) && \
     awk '{ print $1, $22 }' /proc/$pid/stat && \
     awk '/^VmRSS/ { print $2 }' /proc/$pid/status && ls /proc/$pid/fd | wc --lines";

/// A driver, at one time.
#[derive(Debug)]
pub(super) struct Driver {
    /// Pod, restarts, process and its beginning: the same as long as it is the same.
    pub(super) identity: Vec<String>,
    pub(super) resident_kib: u64,
    pub(super) descriptors: u64,
    metrics: BTreeMap<String, f64>,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (identity, kib) = (self.identity.join(" "), self.resident_kib);
        let descriptors = self.descriptors;
        write!(
            f,
            "{identity}, {kib} KiB resident, {descriptors} descriptors"
        )
    }
}

impl Driver {
    /// As it is now.
    pub(super) fn look(world: &World) -> Result<Self, String> {
        let pod = world.kubectl(&["get", "pods", "--namespace", SYSTEM, SELECT, POD])?;
        let name = pod.split(' ').next().ok_or("no driver")?;
        let metrics = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:8080/proxy/metrics");
        let metrics = world.kubectl(&["get", "--raw", &metrics])?;
        let process = world.inside("sh", &["-c", PROCESS])?;
        let [stat, resident, descriptors] = process.lines().collect::<Vec<_>>()[..] else {
            return Err(format!("not one process is the driver: {process}"));
        };
        let number = |word: &str| word.parse().map_err(|error| format!("{word}: {error}"));
        Ok(Self {
            identity: vec![pod, stat.to_owned()],
            resident_kib: number(resident)?,
            descriptors: number(descriptors)?,
            metrics: metrics.lines().filter_map(sample).collect(),
        })
    }

    /// A metric with its labels, without the prefix of all; 0 where there is none.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let name = format!("tensorpool_driver_{name}");
        self.metrics.get(&name).copied().unwrap_or_default()
    }

    /// What it said since it was started.
    pub(super) fn log(world: &World) -> Result<String, String> {
        let logs = ["logs", "--namespace", SYSTEM, SELECT, "--container=driver"];
        world.kubectl(&[&logs[..], &["--tail=-1"]].concat())
    }
}

fn sample(line: &str) -> Option<(String, f64)> {
    let (name, value) = line.rsplit_once(' ')?;
    Some((name.to_owned(), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_name_and_labels() {
        let text = "# HELP a b\na_total{reason=\"x y\"} 7\n";
        let metrics: Vec<_> = text.lines().filter_map(sample).collect();
        assert_eq!(metrics, [("a_total{reason=\"x y\"}".to_owned(), 7.0)]);
    }
}
