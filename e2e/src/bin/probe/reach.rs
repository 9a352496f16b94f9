//! What can be done with the volume itself, and what can be reached from it.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};

use crate::Failure;

pub(crate) fn run(volume: &Path, other: &Path) -> Result<(), Failure> {
    let socket = volume.join("driver.sock");
    let planted = volume.join("planted");
    let region = region_below(volume)?.ok_or("the volume has no region")?;
    let new = OFlags::CREATE | OFlags::WRONLY;
    let say = |what: &str, done: rustix::io::Result<()>| match done {
        Ok(()) => println!("{what}: done"),
        Err(errno) => println!("{what}: {errno}"),
    };
    say("remove driver.sock", rustix::fs::unlink(&socket));
    say("rename driver.sock", rustix::fs::rename(&socket, &planted));
    say("link it", rustix::fs::link(&socket, &planted));
    say(
        "put a symbolic link beside it",
        rustix::fs::symlink(&socket, &planted),
    );
    say(
        "make a file beside it",
        rustix::fs::open(&planted, new, Mode::RWXU).map(drop),
    );
    say(
        "make a directory beside it",
        rustix::fs::mkdir(&planted, Mode::RWXU),
    );
    say("listen beside it", listen(&planted));
    say("listen in its place", listen(&socket));
    say("change its mode", rustix::fs::chmod(&socket, Mode::RWXU));
    say(
        "change the volume's mode",
        rustix::fs::chmod(volume, Mode::RWXU),
    );
    say(
        "open a region for writing",
        rustix::fs::open(&region, OFlags::RDWR, Mode::empty()).map(drop),
    );
    say("remove a region", rustix::fs::unlink(&region));
    say("connect to another's socket", connect(other));
    say(
        "connect to a socket beside the volume",
        connect(&volume.join("../driver.sock")),
    );
    Ok(())
}

/// A path of any length: an address holds 107 bytes.
fn connect(path: &Path) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::PATH, Mode::empty())?;
    let short = format!("/proc/self/fd/{}", file.as_raw_fd());
    let ours = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    rustix::net::connect(&ours, &SocketAddrUnix::new(short.as_str())?)
}

fn listen(path: &Path) -> rustix::io::Result<()> {
    let ours = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    rustix::net::bind(&ours, &SocketAddrUnix::new(path)?)
}

/// Any file of the stream.
fn region_below(directory: &Path) -> std::io::Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            return Ok(Some(entry.path()));
        }
        if kind.is_dir()
            && let Some(found) = region_below(&entry.path())?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
