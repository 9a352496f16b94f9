//! A volume's place below kubelet's directory: mounting a view there, and taking it away again.
//!
//! Nothing is believed that mountinfo does not confirm. Whatever fails is undone before the error goes
//! back; only empty directories are ever removed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::mount;
use super::mountinfo::{self, Mount};
use crate::attachments::views;
use crate::attachments::volume::VolumeId;

/// Mounts that are taken from one place before something must be wrong.
const STACKED: usize = 16;
/// Mode of the directory under the mount, as kubelet makes its own.
const TARGET_MODE: u32 = 0o750;

/// What is at a volume's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing is mounted there.
    Nothing,
    /// The volume's view, read-only.
    View,
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
    match mountinfo::at(&mounts, target) {
        None => Ok(Found::Nothing),
        Some(mount) if mountinfo::shows_view(mount, volume) && mount.is_read_only() => {
            Ok(Found::View)
        }
        Some(mount) => Err(PlaceError::Foreign {
            target: target.to_owned(),
            filesystem: mount.filesystem.clone(),
            options: mount.options.join(","),
        }),
    }
}

/// Mounts the view of a volume. Nothing is left where it fails.
///
/// # Errors
/// [`PlaceError`].
pub(super) fn fill(base: &Path, volume: &VolumeId, target: &Path) -> Result<(), PlaceError> {
    let view = base.join(views::DIRECTORY).join(volume.as_str());
    // The view is made by an unprivileged process: no link of its making leads this one elsewhere.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat2(CWD, base, flags, Mode::empty(), ResolveFlags::empty());
    let opened = opened.map_err(|errno| io_at("open the base", base)(errno.into()))?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let below = Path::new(views::DIRECTORY).join(volume.as_str());
    let directory = openat2(&opened, below, flags, Mode::empty(), beneath);
    let directory = directory.map_err(|errno| io_at("open the view", &view)(errno.into()))?;
    let tree = mount::read_only_tree(directory.as_fd())
        .map_err(io_at("make a read-only mount of", &view))?;
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
    let placed = mount::place(tree, target)
        .map_err(io_at("mount the view at", target))
        .and_then(|()| match look(volume, target)? {
            Found::View => Ok(()),
            Found::Nothing => Err(PlaceError::NotSo {
                target: target.to_owned(),
                unlike: "is not mounted",
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

/// Takes away what is mounted at `target`, and the directory. What is not there is no error.
///
/// # Errors
/// [`PlaceError`]; calling it again goes on.
pub(super) fn clear(target: &Path) -> Result<(), PlaceError> {
    for _ in 0..STACKED {
        if mountinfo::at(&mounts()?, target).is_none() {
            return match fs::remove_dir(target) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(io_at("remove the directory", target)(error))
                }
                Ok(()) | Err(_) => Ok(()),
            };
        }
        match unmount(target, UnmountFlags::NOFOLLOW) {
            // EINVAL: it went meanwhile, which the next look shows.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(io_at("unmount", target)(errno.into())),
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
