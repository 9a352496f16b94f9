//! kubelet changes settings of the kernel that are the whole machine's. It gets a view of `/proc` in
//! which they already are as it wants them, and leaves the real ones alone.
//!
//! Only kubelet: a `/proc` with something mounted in it would keep pods from having user namespaces
//! (the kernel shows a new `/proc` only to those who see all of the old one). So kubelet has a mount
//! namespace of its own, which shares every mount with the cluster's but those in `/proc`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::components::Component;
use crate::mounts;

/// Each setting with kubelet's value.
const SETTINGS: [(&str, &str); 6] = [
    ("/proc/sys/vm/overcommit_memory", "1"),
    ("/proc/sys/vm/panic_on_oom", "0"),
    ("/proc/sys/kernel/panic", "10"),
    ("/proc/sys/kernel/panic_on_oops", "1"),
    ("/proc/sys/kernel/keys/root_maxkeys", "1000000"),
    ("/proc/sys/kernel/keys/root_maxbytes", "25000000"),
];

/// The same server, started behind the shield. It keeps the process that is started.
pub(super) fn behind(component: Component, own_program: &Path) -> Component {
    let unshare = ["--mount", "--propagation", "unchanged", "--"];
    let mut arguments: Vec<String> = unshare.map(str::to_owned).to_vec();
    arguments.push(own_program.display().to_string());
    arguments.push("shielded".to_owned());
    arguments.push(component.program.display().to_string());
    arguments.extend(component.arguments);
    Component {
        name: component.name,
        program: PathBuf::from("unshare"),
        arguments,
    }
}

/// In a new mount namespace: puts the shield up and becomes `command`. Returns only why it could
/// not.
pub(crate) fn become_shielded(command: &[OsString]) -> io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::other("no program was named");
    };
    match raise() {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    }
}

fn raise() -> io::Result<()> {
    mounts::make_private(Path::new("/proc"))?;
    let directory = Path::new("/run/tensorpool-cluster/settings");
    fs::create_dir_all(directory)?;
    for (index, (setting, value)) in SETTINGS.iter().enumerate() {
        if !Path::new(setting).exists() {
            continue;
        }
        let shown = directory.join(index.to_string());
        fs::write(&shown, format!("{value}\n"))?;
        mounts::bind(&shown, Path::new(setting))?;
    }
    Ok(())
}
