//! `mount`: makes the node's directories and mounts the memory that streams lie in.
//!
//! It runs once, privileged, before the driver. What is mounted already stays: streams live in it, and
//! the kernel does not change the size of a mounted hugetlbfs. Memory never shrinks while it is mounted.

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use rustix::fs::statvfs;
use rustix::mount::{MountFlags, mount, mount_remount};
use tensorpool_crds::{PageSize, Quantity};

use crate::csi::mountinfo;

/// `mount`.
#[derive(Clone, Debug, Args)]
#[command(long_about = LONG_ABOUT, after_help = AFTER_HELP)]
pub struct MountArgs {
    /// The node's directory, mounted at the same path with Bidirectional propagation
    #[arg(
        long,
        value_name = "DIR",
        env = "TENSORPOOL_BASE_DIR",
        default_value = "/run/tensorpool"
    )]
    pub base_dir: PathBuf,
    /// Memory in pages of 4Ki, 2Mi or 1Gi, such as 2Mi=8Gi; repeat it for each page size
    #[arg(
        long = "pool",
        value_name = "PAGESIZE=SIZE",
        env = "TENSORPOOL_POOLS",
        value_delimiter = ',',
        required = true
    )]
    pub pools: Vec<PoolFlag>,
    /// User that the driver runs as
    #[arg(long, value_name = "UID", default_value_t = 65_532)]
    pub uid: u32,
    /// Group that the driver runs as
    #[arg(long, value_name = "GID", default_value_t = 65_532)]
    pub gid: u32,
    /// Files, directories and sockets that may exist in the memory of each page size
    #[arg(long, value_name = "N", default_value_t = 262_144)]
    pub inodes: u32,
}

const LONG_ABOUT: &str = "Makes the directories of a node and mounts the memory that streams lie in.

It runs as root in a privileged container before the driver's, and ends. Memory that is mounted already is kept, so that a new DaemonSet pod finds the streams of the one before. A mount never shrinks; hugetlbfs cannot grow either while it is mounted: drain the node and reboot it, or unmount it, to change its size.";

const AFTER_HELP: &str = "What it makes:
  BASE/shm/4Ki    tmpfs, ordinary pages
  BASE/shm/2Mi    hugetlbfs, pages of 2 MiB (1Gi: of 1 GiB)
  BASE/state      the driver's journal and records

Example:
  tensorpool-node-driver mount --pool 2Mi=8Gi --pool 4Ki=512Mi

Exit codes: 0 everything is mounted; 1 something could not be; 2 the command line is not valid.";

/// Memory of one page size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFlag {
    page_size: PageSize,
    bytes: u64,
}

impl FromStr for PoolFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write it as PAGESIZE=SIZE, such as 2Mi=8Gi";
        let (name, size) = text.split_once('=').ok_or(FORM)?;
        let page_size = [PageSize::Base, PageSize::Huge2Mi, PageSize::Huge1Gi]
            .into_iter()
            .find(|page_size| page_size.name() == name)
            .ok_or_else(|| format!("{name:?} is not a page size: 4Ki, 2Mi and 1Gi are; {FORM}"))?;
        let bytes = Quantity::new(size)
            .value()
            .map_err(|error| format!("{error}; {FORM}"))?;
        let page = page_size.bytes();
        // Pages are whole; less than asked for would be a surprise.
        let bytes = bytes.div_ceil(page).saturating_mul(page);
        if bytes == 0 {
            return Err(format!("{text:?} asks for no memory; {FORM}"));
        }
        Ok(Self { page_size, bytes })
    }
}

impl fmt::Display for PoolFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.page_size.name(), self.bytes)
    }
}

/// Why the memory is not there.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The same page size twice.
    #[error("memory in pages of {0} is asked for twice: give --pool once for each page size")]
    Twice(
        /// Its name.
        &'static str,
    ),
    /// The kernel has no such pages.
    #[error(
        "the kernel of this node has no huge pages of {0}: the processor must offer them, and a boot parameter such as `hugepagesz=1G` must name them"
    )]
    NoSuchPages(
        /// Their name.
        &'static str,
    ),
    /// Something else is mounted there.
    #[error(
        "{} is mounted as {found}, but {wanted} is wanted: drain the node and unmount it, or reboot", path.display()
    )]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What it should be.
        wanted: String,
    },
    /// Something else was mounted than was asked for.
    #[error("{} is not mounted according to mountinfo although the kernel reported success", .0.display())]
    NotSo(
        /// Where.
        PathBuf,
    ),
    /// The kernel refused a step.
    #[error("could not {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Makes all directories and mounts, and says on standard output what is there.
///
/// # Errors
/// [`MountError`]; what was mounted before it stays.
pub fn run(args: &MountArgs) -> Result<(), MountError> {
    for (index, pool) in args.pools.iter().enumerate() {
        let earlier = args.pools.iter().take(index);
        if earlier.into_iter().any(|it| it.page_size == pool.page_size) {
            return Err(MountError::Twice(pool.page_size.name()));
        }
    }
    let shm = args.base_dir.join("shm");
    directory(&args.base_dir, 0o755)?;
    directory(&shm, 0o755)?;
    let state = args.base_dir.join("state");
    directory(&state, 0o750)?;
    own(&state, 0o750, args)?;
    for pool in &args.pools {
        let place = shm.join(pool.page_size.name());
        directory(&place, 0o755)?;
        let outcome = provide(&place, pool, args)?;
        println!("{}: {outcome}", place.display());
    }
    Ok(())
}

/// What became of one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was not there.
    Mounted { bytes: u64, backed: u64 },
    /// It was there, as wanted.
    Kept { bytes: u64 },
    /// It was there, and was made larger.
    Grown { from: u64, bytes: u64 },
    /// It was there with another size, which stays.
    OtherSize { bytes: u64, wanted: u64 },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { bytes, backed } if backed < bytes => write!(
                f,
                "mounted with {bytes} bytes, but the node has huge pages for {backed} only: reserve more (vm.nr_hugepages, before kubelet starts), or streams will find too little"
            ),
            Self::Mounted { bytes, .. } => write!(f, "mounted with {bytes} bytes"),
            Self::Kept { bytes } => write!(f, "was mounted with {bytes} bytes already"),
            Self::Grown { from, bytes } => write!(f, "grew from {from} to {bytes} bytes"),
            Self::OtherSize { bytes, wanted } => write!(
                f,
                "stays mounted with {bytes} bytes, not with the {wanted} that are wanted, since streams live in it: drain the node and unmount it, or reboot"
            ),
        }
    }
}

fn provide(place: &Path, pool: &PoolFlag, args: &MountArgs) -> Result<Outcome, MountError> {
    let mounts = mountinfo::read().map_err(at("read", Path::new("/proc/self/mountinfo")))?;
    let Some(found) = mountinfo::at(&mounts, place) else {
        return mount_new(place, pool, args);
    };
    let wanted = filesystem(pool.page_size);
    let page = statvfs(place)
        .map_err(|errno| at("measure", place)(errno.into()))?
        .f_bsize;
    let huge = pool.page_size != PageSize::Base;
    if found.filesystem != wanted || huge && page != pool.page_size.bytes() {
        return Err(MountError::Foreign {
            path: place.to_owned(),
            found: format!("{} with pages of {page} bytes", found.filesystem),
            wanted: format!("{wanted} with pages of {} bytes", pool.page_size.bytes()),
        });
    }
    own(place, 0o700, args)?;
    let bytes = size(place)?;
    match bytes.cmp(&pool.bytes) {
        std::cmp::Ordering::Equal => Ok(Outcome::Kept { bytes }),
        std::cmp::Ordering::Less if !huge => {
            let options = format!("size={}", pool.bytes);
            let options = std::ffi::CString::new(options).unwrap_or_default();
            mount_remount(place, FLAGS, options.as_c_str())
                .map_err(|errno| at("make larger", place)(errno.into()))?;
            let grown = size(place)?;
            Ok(Outcome::Grown {
                from: bytes,
                bytes: grown,
            })
        }
        std::cmp::Ordering::Less | std::cmp::Ordering::Greater => Ok(Outcome::OtherSize {
            bytes,
            wanted: pool.bytes,
        }),
    }
}

const FLAGS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

fn mount_new(place: &Path, pool: &PoolFlag, args: &MountArgs) -> Result<Outcome, MountError> {
    let backed = backed_bytes(pool)?;
    let mut options = format!(
        "size={},nr_inodes={},uid={},gid={},mode=0700",
        pool.bytes, args.inodes, args.uid, args.gid
    );
    if pool.page_size != PageSize::Base {
        options.push_str(&format!(",pagesize={}", pool.page_size.bytes()));
    }
    let options = std::ffi::CString::new(options).unwrap_or_default();
    let kind = filesystem(pool.page_size);
    mount("tensorpool", place, kind, FLAGS, options.as_c_str())
        .map_err(|errno| at("mount memory at", place)(errno.into()))?;
    let mounts = mountinfo::read().map_err(at("read", Path::new("/proc/self/mountinfo")))?;
    if mountinfo::at(&mounts, place).is_none_or(|mount| mount.filesystem != kind) {
        return Err(MountError::NotSo(place.to_owned()));
    }
    Ok(Outcome::Mounted {
        bytes: size(place)?,
        backed,
    })
}

const fn filesystem(page_size: PageSize) -> &'static str {
    match page_size {
        PageSize::Base => "tmpfs",
        PageSize::Huge2Mi | PageSize::Huge1Gi => "hugetlbfs",
    }
}

/// Bytes of pages that the node has for a pool. Ordinary pages are taken as they are needed.
fn backed_bytes(pool: &PoolFlag) -> Result<u64, MountError> {
    if pool.page_size == PageSize::Base {
        return Ok(pool.bytes);
    }
    let kilobytes = pool.page_size.bytes() / 1024;
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{kilobytes}kB/nr_hugepages");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let pages: u64 = text.trim().parse().unwrap_or(0);
            Ok(pages.saturating_mul(pool.page_size.bytes()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(MountError::NoSuchPages(pool.page_size.name()))
        }
        Err(error) => Err(at("read", Path::new(&path))(error)),
    }
}

fn size(place: &Path) -> Result<u64, MountError> {
    let found = statvfs(place).map_err(|errno| at("measure", place)(errno.into()))?;
    Ok(found.f_blocks.saturating_mul(found.f_frsize))
}

fn directory(path: &Path, mode: u32) -> Result<(), MountError> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(at("make the directory", path))
}

fn own(path: &Path, mode: u32, args: &MountArgs) -> Result<(), MountError> {
    let found = fs::metadata(path).map_err(at("look at", path))?;
    if (found.uid(), found.gid()) != (args.uid, args.gid) {
        chown(path, Some(args.uid), Some(args.gid)).map_err(at("change the owner of", path))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at("set the mode of", path))
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> MountError + 'a {
    move |source| MountError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_a_page_size_and_a_quantity_of_whole_pages() {
        let pool = |page_size, bytes| Ok(PoolFlag { page_size, bytes });
        assert_eq!("2Mi=8Gi".parse(), pool(PageSize::Huge2Mi, 8 << 30));
        assert_eq!("2Mi=3Mi".parse(), pool(PageSize::Huge2Mi, 4 << 20));
        assert_eq!("4Ki=1".parse(), pool(PageSize::Base, 4096));
        assert_eq!("1Gi=2Gi".parse(), pool(PageSize::Huge1Gi, 2 << 30));
    }

    #[test]
    fn a_wrong_pool_says_what_is_wrong_in_it() {
        let error = |text: &str| text.parse::<PoolFlag>().unwrap_err();
        assert_eq!(error("8Gi"), "write it as PAGESIZE=SIZE, such as 2Mi=8Gi");
        assert!(error("2MB=8Gi").starts_with("\"2MB\" is not a page size"));
        assert!(error("2Mi=0").contains("asks for no memory"));
        assert!(error("2Mi=lots").contains("PAGESIZE=SIZE"));
    }
}
