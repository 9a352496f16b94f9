//! Whose huge pages the streams are, as the kernel counts them per pod.

use crate::world::World;

/// What control groups of version 1 and of version 2 call the pages that are used, and those that are
/// promised.
const FILES: [&str; 4] = [
    "hugetlb.2MB.usage_in_bytes",
    "hugetlb.2MB.rsvd.usage_in_bytes",
    "hugetlb.2MB.current",
    "hugetlb.2MB.rsvd.current",
];

/// Fails where a pod that exchanges frames is charged for them, and where the driver is not.
///
/// A pod that was charged would need a request for huge pages, or be killed at its first touch.
pub(crate) fn are_the_drivers(world: &World, clients: &[(&str, &str)]) -> Result<(), String> {
    for (namespace, pod) in clients {
        let last = ["logs", "--namespace", namespace, pod, "--tail=1"];
        let before = world.kubectl(&last)?;
        let charged = charged(world, namespace, &[pod])?;
        let after = world.kubectl(&last)?;
        print!("{namespace}/{pod}: {charged:?}, meanwhile {before} to {after}");
        if !before.starts_with("frame ") || !after.starts_with("frame ") || before == after {
            return Err(format!("{pod} has no frames"));
        }
        if charged.iter().any(|bytes| *bytes != 0) {
            return Err(format!("{pod} is charged for huge pages"));
        }
    }
    let driver = "--selector=app.kubernetes.io/component=node-driver";
    let charged = charged(world, "tensorpool-system", &[driver])?;
    println!("the node driver: {charged:?}");
    if charged.iter().all(|bytes| *bytes == 0) {
        return Err("nobody is charged for the streams' memory".to_owned());
    }
    Ok(())
}

/// The bytes of huge pages that each control group of the pod uses or was promised.
fn charged(world: &World, namespace: &str, pod: &[&str]) -> Result<Vec<u64>, String> {
    let get = ["get", "pods", "--namespace", namespace];
    let output = ["--output=jsonpath={range ..metadata}{.uid} {end}"];
    let uids = world.kubectl(&[&get[..], pod, &output].concat())?;
    let uid = uids.split_whitespace().next();
    let uid = uid.ok_or_else(|| format!("no pod is {pod:?}"))?;
    // systemd has names with `_` where others have `-`.
    let group = format!("*pod{}*", uid.replace('-', "?"));
    let names = FILES.map(|file| format!("-name {file}")).join(" -o ");
    let script = format!("find /sys/fs/cgroup -path '{group}' '(' {names} ')' -exec cat {{}} +");
    let said = world.inside("sh", &["-c", &script])?;
    let number = |line: &str| line.parse().map_err(|error| format!("{line}: {error}"));
    let charged: Vec<u64> = said.lines().map(number).collect::<Result<_, String>>()?;
    // The pod's own group and a container's, each with both files.
    if charged.len() < 4 {
        return Err(format!("no huge pages are counted for {group}: {said}"));
    }
    Ok(charged)
}
