//! A volume's place below kubelet's directory: mounting a view there, and taking it away again.
//!
//! Nothing is believed that mountinfo does not confirm. Whatever fails is undone before the error goes
//! back; only empty directories are ever removed.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::mount::{self, Writing};
use super::mountinfo::{self, Mount};
use crate::attachments::protocol::Mounting;
use crate::attachments::volume::VolumeId;
use crate::attachments::{sweep, views};

/// Mounts that are taken from one place before something must be wrong.
const STACKED: usize = 16;
/// Mode of the directory under the mount, as kubelet makes its own.
const TARGET_MODE: u32 = 0o750;

/// What is at a volume's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing is mounted there.
    Nothing,
    /// The volume's view, mounted so.
    View(Mounting),
    /// The volume's view, writable and without the media driver's directory: half of what an Aeron
    /// producer gets.
    Half,
}

/// Why a place could not be prepared, mounted or cleared.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// The path is not kubelet's.
    #[error(
        "the target path {} does not lie below kubelet's directory {}: give `csi` the directory that kubelet runs with (--kubelet-dir, the chart's kubeletDir)",
        target.display(),
        kubelet_dir.display()
    )]
    Elsewhere {
        target: PathBuf,
        kubelet_dir: PathBuf,
    },
    /// Something else is there.
    #[error(
        "something else ({filesystem}, {options}) is mounted at {} already: unmount it on the node",
        target.display()
    )]
    Foreign {
        target: PathBuf,
        filesystem: String,
        options: String,
    },
    /// The kernel refused a step.
    #[error("could not {step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The kernel said yes and it is not so.
    #[error("{} {unlike} according to mountinfo although the kernel reported success", target.display())]
    NotSo {
        target: PathBuf,
        unlike: &'static str,
    },
}

/// Checks a target path of kubelet's.
///
/// # Errors
/// [`PlaceError::Elsewhere`].
pub(super) fn target(text: &str, kubelet_dir: &Path) -> Result<PathBuf, PlaceError> {
    let target = PathBuf::from(text);
    let is_plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if target.components().all(is_plain) && target.starts_with(kubelet_dir) && target != kubelet_dir
    {
        Ok(target)
    } else {
        Err(PlaceError::Elsewhere {
            target,
            kubelet_dir: kubelet_dir.to_owned(),
        })
    }
}

/// What is mounted at `target`.
///
/// # Errors
/// [`PlaceError::Foreign`] if it is neither nothing nor this volume's view.
pub(super) fn look(volume: &VolumeId, target: &Path) -> Result<Found, PlaceError> {
    let mounts = mounts()?;
    let has_aeron = mountinfo::at(&mounts, &target.join(views::AERON)).is_some();
    match mountinfo::at(&mounts, target) {
        None => Ok(Found::Nothing),
        Some(mount) if mountinfo::shows_view(mount, volume) => {
            Ok(match (mount.is_read_only(), has_aeron) {
                (true, false) => Found::View(Mounting::ReadOnly),
                (true, true) => Found::View(Mounting::AeronConsumer),
                (false, true) => Found::View(Mounting::AeronProducer),
                (false, false) => Found::Half,
            })
        }
        Some(mount) => Err(PlaceError::Foreign {
            target: target.to_owned(),
            filesystem: mount.filesystem.clone(),
            options: mount.options.join(","),
        }),
    }
}

/// What a volume's mounts are made of.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The base that holds the view.
    pub(super) base: PathBuf,
    /// The media driver's directory.
    pub(super) aeron: PathBuf,
    /// How they are mounted.
    pub(super) mounting: Mounting,
}

/// Mounts the view of a volume. Nothing is left where it fails.
///
/// # Errors
/// [`PlaceError`].
pub(super) fn fill(plan: &Plan, volume: &VolumeId, target: &Path) -> Result<(), PlaceError> {
    let parent = target.parent().unwrap_or(target);
    let mut builder = DirBuilder::new();
    builder.mode(TARGET_MODE);
    let made = builder.recursive(true).create(parent);
    made.map_err(io_at("make the directory", parent))?;
    match builder.recursive(false).create(target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_at("make the directory", target)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let wanted = Found::View(plan.mounting);
    let placed = place(plan, volume, target).and_then(|()| match look(volume, target)? {
        found if found == wanted => Ok(()),
        Found::Nothing | Found::Half | Found::View(_) => Err(PlaceError::NotSo {
            target: target.to_owned(),
            unlike: "is not mounted as it shall be",
        }),
    });
    if let Err(error) = placed {
        if let Err(left) = clear(target) {
            tracing::error!(
                error = crate::files::in_words(&left),
                "a failed mount cannot be undone"
            );
        }
        return Err(error);
    }
    Ok(())
}

/// The view, and over its directory `aeron` the media driver's.
fn place(plan: &Plan, volume: &VolumeId, target: &Path) -> Result<(), PlaceError> {
    let view = plan.base.join(views::DIRECTORY).join(volume.as_str());
    let directory = open_view(&plan.base, volume)?;
    let writing = if plan.mounting.is_writable() {
        Writing::Allowed
    } else {
        Writing::Refused
    };
    let aeron = match plan.mounting.has_aeron() {
        false => None,
        true => {
            let opened = openat2(CWD, &plan.aeron, PATH, Mode::empty(), ResolveFlags::empty());
            let opened = opened.map_err(|errno| io_at("open", &plan.aeron)(errno.into()))?;
            let tree = mount::tree(opened.as_fd(), Writing::Allowed);
            Some(tree.map_err(io_at("make a mount of", &plan.aeron))?)
        }
    };
    let tree = mount::tree(directory.as_fd(), writing);
    let tree = tree.map_err(io_at("make a mount of", &view))?;
    mount::place(tree, target).map_err(io_at("mount the view at", target))?;
    let Some(aeron) = aeron else { return Ok(()) };
    let here = target.join(views::AERON);
    let mounted = openat2(CWD, target, PATH, Mode::empty(), ResolveFlags::empty());
    let mounted = mounted.map_err(|errno| io_at("open", target)(errno.into()))?;
    let below = openat2(&mounted, views::AERON, PATH, Mode::empty(), BENEATH);
    let below = below.map_err(|errno| io_at("open", &here)(errno.into()))?;
    mount::place_over(aeron, below.as_fd())
        .map_err(io_at("mount the media driver's directory at", &here))
}

const PATH: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// The view is made by an unprivileged process: no link of its making leads this one elsewhere.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV);

fn open_view(base: &Path, volume: &VolumeId) -> Result<OwnedFd, PlaceError> {
    let view = base.join(views::DIRECTORY).join(volume.as_str());
    let opened = openat2(CWD, base, PATH, Mode::empty(), ResolveFlags::empty());
    let opened = opened.map_err(|errno| io_at("open the base", base)(errno.into()))?;
    let below = Path::new(views::DIRECTORY).join(volume.as_str());
    openat2(&opened, below, PATH, Mode::empty(), BENEATH)
        .map_err(|errno| io_at("open the view", &view)(errno.into()))
}

/// Removes the view of a volume, whatever a pod left there. The volume is mounted nowhere any more.
///
/// # Errors
/// [`PlaceError`]; calling it again goes on.
pub(super) fn sweep(base: &Path, volume: &VolumeId) -> Result<(), PlaceError> {
    let view = base.join(views::DIRECTORY).join(volume.as_str());
    let opened = openat2(CWD, base, PATH, Mode::empty(), ResolveFlags::empty());
    let opened = opened.map_err(|errno| io_at("open the base", base)(errno.into()))?;
    let views = sweep::open_beneath(opened.as_fd(), Path::new(views::DIRECTORY));
    let views = views.map_err(|errno| io_at("open the directory above", &view)(errno.into()))?;
    sweep::remove(views.as_fd(), OsStr::new(volume.as_str())).map_err(io_at("remove", &view))
}

/// Removes what was moved aside in the media driver's directory because pods may have left there what
/// the media driver cannot remove.
///
/// # Errors
/// [`PlaceError`]; calling it again goes on.
pub(super) fn sweep_aside(aeron: &Path) -> Result<(), PlaceError> {
    let opened = match fs::File::open(aeron) {
        // No Aeron on this node.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(io_at("open", aeron))?,
    };
    for name in sweep::names(opened.as_fd()).map_err(io_at("list", aeron))? {
        if sweep::is_aside(&name) {
            let path = aeron.join(&name);
            sweep::remove(opened.as_fd(), &name).map_err(io_at("remove", &path))?;
        }
    }
    Ok(())
}

/// Takes away what is mounted at `target` and below, and the directory. What is not there is no error.
///
/// # Errors
/// [`PlaceError`]; calling it again goes on.
pub(super) fn clear(target: &Path) -> Result<(), PlaceError> {
    for _ in 0..STACKED {
        // The deepest first, and of several at one place the one that is seen.
        let mounts = mounts()?;
        let inside = mounts.iter().filter(|it| it.point.starts_with(target));
        let last = inside.max_by_key(|it| it.point.components().count());
        let Some(last) = last else {
            return match fs::remove_dir(target) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(io_at("remove the directory", target)(error))
                }
                Ok(()) | Err(_) => Ok(()),
            };
        };
        match unmount(&last.point, UnmountFlags::NOFOLLOW) {
            // EINVAL: it went meanwhile, which the next look shows.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(io_at("unmount", &last.point)(errno.into())),
        }
    }
    Err(PlaceError::NotSo {
        target: target.to_owned(),
        unlike: "is still mounted",
    })
}

/// The mounts of this namespace.
///
/// # Errors
/// [`PlaceError::Io`].
pub(super) fn mounts() -> Result<Vec<Mount>, PlaceError> {
    mountinfo::read().map_err(io_at("read", Path::new("/proc/self/mountinfo")))
}

fn io_at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PlaceError + 'a {
    move |source| PlaceError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_kubelets_directory_are_taken() {
        let kubelet_dir = Path::new("/var/lib/kubelet");
        let good = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/v/mount";
        assert_eq!(target(good, kubelet_dir).unwrap(), Path::new(good));
        for bad in [
            "",
            "pods/1",
            "/var/lib/kubelet",
            "/var/lib/kubelet2/pods",
            "/var/lib/kubelet/../../etc",
            "/etc",
        ] {
            let error = target(bad, kubelet_dir).unwrap_err();
            assert!(error.to_string().contains("--kubelet-dir"), "{error}");
        }
    }

    #[test]
    fn clearing_a_place_where_nothing_is_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        clear(&dir.path().join("mount")).unwrap();
        fs::create_dir(dir.path().join("mount")).unwrap();
        clear(&dir.path().join("mount")).unwrap();
        assert!(!dir.path().join("mount").exists());
    }

    #[test]
    fn what_lies_in_an_unmounted_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mount/somebodys");
        fs::create_dir(dir.path().join("mount")).unwrap();
        fs::write(&file, "data").unwrap();
        let error = clear(&dir.path().join("mount")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("could not remove the directory")
        );
        assert!(file.exists());
    }
}
