//! The parts of the program `tensorpool-cluster` that it starts itself with: not for people.

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::thread;

use crate::binaries::Binaries;
use crate::cgroups;
use crate::control_plane::ControlPlane;
use crate::init::{self, Plan, Report};
use crate::progress::Progress;
use crate::state::{Extent, State};

/// In a new mount namespace: joins the cluster's control groups and becomes `unshare`, which
/// starts pid 1. Returns only the reason why it could not.
#[must_use]
pub fn enter(directory: &Path) -> io::Error {
    init::enter(directory)
}

/// Pid 1 of a cluster. Returns only when the cluster did not come up.
pub fn pid_one(directory: &Path) {
    init::run(directory);
}

/// In a new mount namespace: becomes `command`, with settings of the kernel shown as kubelet wants
/// them. Returns only the reason why it could not.
#[must_use]
pub fn become_shielded(command: &[OsString]) -> io::Error {
    init::become_shielded(command)
}

/// Keeps a control plane until it is killed.
///
/// # Errors
/// When it did not start.
pub fn keep_control_plane(directory: &Path) -> Result<(), Box<dyn Error>> {
    if !init::told_to_begin() {
        return Ok(());
    }
    Report::Step("etcd, API server".to_owned()).send();
    let started = Binaries::from_environment()
        .map_err(Into::into)
        .and_then(|mut binaries| {
            ControlPlane::start_in(directory, &mut binaries, &Progress::stderr())
        });
    match started {
        Ok(control_plane) => {
            let kubeconfig = control_plane.kubeconfig();
            Report::Ready { kubeconfig }.send();
            loop {
                thread::park();
            }
        }
        Err(error) => {
            Report::Failed(error.to_string()).send();
            Err(error.into())
        }
    }
}

/// In a new mount namespace: removes the control groups of a cluster whose processes were killed.
///
/// # Errors
/// When one of them cannot be removed.
pub fn remove_groups(directory: &Path) -> io::Result<()> {
    let mounts = Plan::group_mounts(directory);
    std::fs::create_dir_all(&mounts)?;
    match State::load(directory)?.map(|state| state.extent) {
        Some(Extent::Whole { groups, .. }) => cgroups::remove(&groups, &mounts),
        Some(Extent::ControlPlane) | None => Ok(()),
    }
}
