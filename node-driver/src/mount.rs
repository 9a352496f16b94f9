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
use rustix::io::Errno;
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
    /// Memory for the media driver's directory, which pods on Aeron share, such as 512Mi; without it
    /// there is none
    #[arg(long, value_name = "SIZE", env = "TENSORPOOL_AERON_SIZE", value_parser = aeron_size)]
    pub aeron: Option<PoolFlag>,
    /// User that the driver runs as
    #[arg(long, value_name = "UID", default_value_t = 65_532)]
    pub uid: u32,
    /// Group that the driver runs as
    #[arg(long, value_name = "GID", default_value_t = 65_532)]
    pub gid: u32,
    /// Pages of 2Mi or 1Gi that are set aside for the pool at once, so that no other program can take
    /// them; repeat it for each page size
    #[arg(
        long = "guarantee",
        value_name = "PAGESIZE",
        env = "TENSORPOOL_GUARANTEE",
        value_delimiter = ',',
        value_parser = huge_page_size
    )]
    pub guarantees: Vec<PageSize>,
    /// What the memory is labelled with on nodes where SELinux is active. Without categories, so that
    /// pods of every category read it
    #[arg(
        long,
        value_name = "CONTEXT",
        env = "TENSORPOOL_SELINUX_CONTEXT",
        default_value = "system_u:object_r:container_file_t:s0"
    )]
    pub selinux_context: String,
    /// Files, directories and sockets that may exist in the memory of each page size
    #[arg(long, value_name = "N", default_value_t = 262_144)]
    pub inodes: u32,
}

const LONG_ABOUT: &str = "Makes the directories of a node and mounts the memory that streams lie in.

It runs as root in a privileged container before the driver's, and ends. Memory that is mounted already is kept, so that a new DaemonSet pod finds the streams of the one before. A mount never shrinks; hugetlbfs cannot grow either while it is mounted: drain the node and reboot it, or unmount it, to change its size.";

const AFTER_HELP: &str = "What it makes:
  BASE/shm/4Ki    tmpfs, ordinary pages
  BASE/shm/2Mi    hugetlbfs, pages of 2 MiB (1Gi: of 1 GiB)
  BASE/aeron      tmpfs, with --aeron
  BASE/state      the driver's journal and records

Example:
  tensorpool-node-driver mount --pool 2Mi=8Gi --guarantee 2Mi --pool 4Ki=512Mi

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

/// Ordinary pages are the kernel's to give and to take, so none of them can be set aside.
fn huge_page_size(text: &str) -> Result<PageSize, String> {
    [PageSize::Huge2Mi, PageSize::Huge1Gi]
        .into_iter()
        .find(|page_size| page_size.name() == text)
        .ok_or_else(|| format!("pages of {text:?} cannot be set aside: those of 2Mi and 1Gi can"))
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
    /// A guarantee without memory.
    #[error(
        "pages of {0} shall be set aside, but no memory in such pages is asked for: add --pool {0}=SIZE"
    )]
    NoSuchPool(
        /// Their name.
        &'static str,
    ),
    /// The pages that shall be set aside are not there.
    #[error(
        "{wanted} pages of {name} shall be set aside for tensors, and the node has {free} of {total} free: reserve more (vm.nr_hugepages, before kubelet starts), end the programs that hold them, or do without the guarantee"
    )]
    NotEnough {
        /// Their name.
        name: &'static str,
        /// How many are asked for.
        wanted: u64,
        /// How many nobody uses or was promised.
        free: u64,
        /// How many there are.
        total: u64,
    },
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
    for page_size in &args.guarantees {
        if args.pools.iter().all(|pool| pool.page_size != *page_size) {
            return Err(MountError::NoSuchPool(page_size.name()));
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
        let outcome = provide(&place, pool, 0o700, args)?;
        println!("{}: {outcome}", place.display());
    }
    if let Some(memory) = &args.aeron {
        let place = args.base_dir.join("aeron");
        directory(&place, 0o755)?;
        // Whoever has the mount may write, under any uid; nobody removes what another has made there.
        let outcome = provide(&place, memory, 0o1777, args)?;
        println!("{}: {outcome}", place.display());
    }
    Ok(())
}

/// Memory of ordinary pages.
fn aeron_size(text: &str) -> Result<PoolFlag, String> {
    let pool = format!("{}={text}", PageSize::Base.name());
    pool.parse()
        .map_err(|error: String| format!("{error}: write a size, such as 512Mi"))
}

/// What became of one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was not there.
    Mounted { bytes: u64, backed: u64 },
    /// It was not there, and all its pages are set aside now.
    Guaranteed { bytes: u64 },
    /// It was there, as wanted.
    Kept { bytes: u64 },
    /// It was there, but pages are set aside for it, or are not, against what is wanted.
    OtherGuarantee { bytes: u64, wanted: bool },
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
            Self::Guaranteed { bytes } => {
                write!(f, "mounted with {bytes} bytes, which are set aside for it")
            }
            Self::OtherGuarantee { bytes, wanted } => write!(
                f,
                "was mounted with {bytes} bytes already and stays so, {} its pages set aside, since streams live in it: drain the node and unmount it, or reboot",
                if *wanted { "without" } else { "with" }
            ),
            Self::Kept { bytes } => write!(f, "was mounted with {bytes} bytes already"),
            Self::Grown { from, bytes } => write!(f, "grew from {from} to {bytes} bytes"),
            Self::OtherSize { bytes, wanted } => write!(
                f,
                "stays mounted with {bytes} bytes, not with the {wanted} that are wanted, since streams live in it: drain the node and unmount it, or reboot"
            ),
        }
    }
}

fn provide(
    place: &Path,
    pool: &PoolFlag,
    mode: u32,
    args: &MountArgs,
) -> Result<Outcome, MountError> {
    let mounts = mountinfo::read().map_err(at("read", Path::new("/proc/self/mountinfo")))?;
    let Some(found) = mountinfo::at(&mounts, place) else {
        return mount_new(place, pool, mode, args);
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
    own(place, mode, args)?;
    let bytes = size(place)?;
    match bytes.cmp(&pool.bytes) {
        std::cmp::Ordering::Equal => {
            let wanted = args.guarantees.contains(&pool.page_size);
            Ok(if huge && wanted != found.is_set_aside() {
                Outcome::OtherGuarantee { bytes, wanted }
            } else {
                Outcome::Kept { bytes }
            })
        }
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

fn mount_new(
    place: &Path,
    pool: &PoolFlag,
    mode: u32,
    args: &MountArgs,
) -> Result<Outcome, MountError> {
    let pages = match pool.page_size {
        PageSize::Base => None,
        huge @ (PageSize::Huge2Mi | PageSize::Huge1Gi) => Some(pages(huge)?),
    };
    let guaranteed = args.guarantees.contains(&pool.page_size);
    let options = options(pool, mode, args, Path::new(SELINUX).exists());
    let options = std::ffi::CString::new(options).unwrap_or_default();
    let kind = filesystem(pool.page_size);
    mount("tensorpool", place, kind, FLAGS, options.as_c_str()).map_err(|errno| {
        match (errno, pages) {
            (Errno::NOMEM, Some(pages)) if guaranteed => MountError::NotEnough {
                name: pool.page_size.name(),
                wanted: pool.bytes / pool.page_size.bytes(),
                free: pages.free.saturating_sub(pages.promised),
                total: pages.total,
            },
            (errno, _) => at("mount memory at", place)(errno.into()),
        }
    })?;
    let mounts = mountinfo::read().map_err(at("read", Path::new("/proc/self/mountinfo")))?;
    let found = mountinfo::at(&mounts, place).filter(|mount| mount.filesystem == kind);
    let Some(found) = found else {
        return Err(MountError::NotSo(place.to_owned()));
    };
    let bytes = size(place)?;
    if guaranteed && found.is_set_aside() {
        return Ok(Outcome::Guaranteed { bytes });
    }
    let total = pages.map(|pages| pages.total.saturating_mul(pool.page_size.bytes()));
    // Ordinary pages are taken as they are needed.
    let backed = total.unwrap_or(bytes);
    Ok(Outcome::Mounted { bytes, backed })
}

/// Where SELinux is active.
const SELINUX: &str = "/sys/fs/selinux/enforce";

fn options(pool: &PoolFlag, mode: u32, args: &MountArgs, selinux: bool) -> String {
    let mut options = format!(
        "size={},nr_inodes={},uid={},gid={},mode={mode:04o}",
        pool.bytes, args.inodes, args.uid, args.gid
    );
    if pool.page_size != PageSize::Base {
        options.push_str(&format!(",pagesize={}", pool.page_size.bytes()));
    }
    if args.guarantees.contains(&pool.page_size) {
        options.push_str(&format!(",min_size={}", pool.bytes));
    }
    if selinux {
        // A context has commas where it has categories.
        options.push_str(&format!(",context=\"{}\"", args.selinux_context));
    }
    options
}

const fn filesystem(page_size: PageSize) -> &'static str {
    match page_size {
        PageSize::Base => "tmpfs",
        PageSize::Huge2Mi | PageSize::Huge1Gi => "hugetlbfs",
    }
}

/// Huge pages of the node.
#[derive(Clone, Copy, Debug)]
struct Pages {
    total: u64,
    free: u64,
    promised: u64,
}

fn pages(page_size: PageSize) -> Result<Pages, MountError> {
    let kilobytes = page_size.bytes() / 1024;
    let directory = format!("/sys/kernel/mm/hugepages/hugepages-{kilobytes}kB");
    let number = |name: &str| {
        let path = Path::new(&directory).join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(MountError::NoSuchPages(page_size.name()))
            }
            Err(error) => Err(at("read", &path)(error)),
        }
    };
    Ok(Pages {
        total: number("nr_hugepages")?,
        free: number("free_hugepages")?,
        promised: number("resv_hugepages")?,
    })
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

    fn args(words: &[&str]) -> MountArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            mount: MountArgs,
        }
        let words = [&["mount"], words].concat();
        clap::Parser::try_parse_from(words)
            .map(|line: Line| line.mount)
            .unwrap()
    }

    #[test]
    fn a_guarantee_sets_aside_the_whole_pool_of_its_page_size() {
        let args = args(&["--pool=2Mi=8Mi", "--pool=4Ki=1Mi", "--guarantee=2Mi"]);
        assert_eq!(
            options(&args.pools[0], 0o700, &args, false),
            "size=8388608,nr_inodes=262144,uid=65532,gid=65532,mode=0700,pagesize=2097152,min_size=8388608"
        );
        assert!(!options(&args.pools[1], 0o700, &args, false).contains("min_size"));
    }

    #[test]
    fn ordinary_pages_and_those_that_no_pool_has_cannot_be_set_aside() {
        assert_eq!(
            huge_page_size("4Ki").unwrap_err(),
            "pages of \"4Ki\" cannot be set aside: those of 2Mi and 1Gi can"
        );
        let none = run(&args(&["--pool=2Mi=8Mi", "--guarantee=1Gi"])).unwrap_err();
        assert!(none.to_string().contains("add --pool 1Gi=SIZE"), "{none}");
    }

    #[test]
    fn memory_is_labelled_where_selinux_is_active_and_only_there() {
        let args = args(&["--pool=4Ki=1Mi", "--selinux-context=a:b:c:s0:c1,c2"]);
        let labelled = options(&args.pools[0], 0o700, &args, true);
        assert!(
            labelled.ends_with(",context=\"a:b:c:s0:c1,c2\""),
            "{labelled}"
        );
        assert!(!options(&args.pools[0], 0o700, &args, false).contains("context"));
    }

    #[test]
    fn the_media_drivers_memory_is_open_to_all_who_have_the_mount() {
        let args = args(&["--pool=4Ki=1Mi", "--aeron=8Mi"]);
        let memory = args.aeron.clone().unwrap();
        assert_eq!(
            options(&memory, 0o1777, &args, false),
            "size=8388608,nr_inodes=262144,uid=65532,gid=65532,mode=1777"
        );
        let error = aeron_size("lots").unwrap_err();
        assert!(error.contains("write a size, such as 512Mi"), "{error}");
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
