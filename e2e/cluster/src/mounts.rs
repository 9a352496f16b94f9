//! Mounting, by the program of that name: it explains itself when something fails.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// Mounts a new filesystem of a kind, with options (may be empty).
pub(crate) fn mount(kind: &str, target: &Path, options: &str) -> io::Result<()> {
    let mut command = Command::new("mount");
    command.args(["-n", "-t", kind]);
    if !options.is_empty() {
        command.args(["-o", options]);
    }
    run(command.arg(kind).arg(target))
}

/// Shows `source` at `target` too.
pub(crate) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    run(Command::new("mount")
        .args(["-n", "--bind"])
        .arg(source)
        .arg(target))
}

/// Makes every mount of this namespace shared with the namespaces made from it. What it still
/// learns of its parent (it is a slave of it) goes one way.
pub(crate) fn share_below_root() -> io::Result<()> {
    run(Command::new("mount").args(["-n", "--make-rshared", "/"]))
}

/// What is mounted below `target` from now on is this namespace's alone.
pub(crate) fn make_private(target: &Path) -> io::Result<()> {
    run(Command::new("mount")
        .args(["-n", "--make-private"])
        .arg(target))
}

/// Gives up a mount and those below it.
pub(crate) fn unmount_tree(target: &Path) -> io::Result<()> {
    run(Command::new("umount").args(["-n", "-R", "-l"]).arg(target))
}

/// Gives up every mount of one kind in this namespace.
pub(crate) fn unmount_all(kind: &str) -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    for target in targets_of(&table, kind) {
        run(Command::new("umount").args(["-n", "-l"]).arg(target))?;
    }
    Ok(())
}

/// Runs a program that says nothing unless it fails.
pub(crate) fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output().map_err(|error| {
        let program = command.get_program().to_string_lossy().into_owned();
        io::Error::new(
            error.kind(),
            format!("could not start `{program}`: {error}"),
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line = format!("{line} {}", argument.to_string_lossy());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("`{line}` failed: {said}")))
}

/// The mount points of one kind in a table like `/proc/self/mounts`, innermost first.
fn targets_of<'a>(table: &'a str, kind: &str) -> Vec<&'a str> {
    let mut targets: Vec<&str> = table
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let target = words.next()?;
            (words.next()? == kind).then_some(target)
        })
        .collect();
    targets.reverse();
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_kind_and_the_last_one_comes_first() {
        let table =
            "a /mnt/hugetlbfs ext4 rw 0 0\nb /one hugetlbfs rw 0 0\nc /one/two hugetlbfs rw 0 0\n";
        assert_eq!(targets_of(table, "hugetlbfs"), ["/one/two", "/one"]);
    }
}
