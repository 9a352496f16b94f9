//! `media-driver`: the Aeron media driver of a node, in a container of its own.
//!
//! Pods that attach through Aeron share its directory and can leave anything there. So a start does not
//! delete what lies in the way: it moves it aside, which the owner of the directory above always may,
//! and begins with a directory of its own. What was moved is removed as far as possible; the rest is
//! for the `csi` container, which is root.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, RenameFlags, renameat_with};
use rustix::process::umask;
use tensorpool_transport::aeron::media_driver::{
    EmbeddedMediaDriver, Ended, MediaDriverConfig, StartError,
};

use crate::args::MediaDriverArgs;
use crate::attachments::sweep;
use crate::clock;
use crate::files::in_words;
use crate::signals::Signals;

/// Between two looks whether it still runs.
const LOOK: Duration = Duration::from_millis(100);

/// Why the media driver did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MediaDriverError {
    /// The directory.
    #[error("could not {step} {}", path.display())]
    Directory {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The start.
    #[error("the media driver did not start")]
    Start(#[from] StartError),
    /// The end.
    #[error("the media driver ended by itself")]
    Ended(#[from] Ended),
    /// Signals.
    #[error("the kernel refused a signal handler")]
    Signals(#[source] io::Error),
}

/// Runs it until SIGTERM or SIGINT.
///
/// # Errors
/// [`MediaDriverError`].
pub(crate) fn run(args: &MediaDriverArgs) -> Result<(), MediaDriverError> {
    let signals = Signals::install().map_err(MediaDriverError::Signals)?;
    // Whoever has the mount may use what lies in it, under any uid.
    umask(Mode::empty());
    move_aside(&args.dir)?;
    let media = EmbeddedMediaDriver::start(&MediaDriverConfig::new(&args.dir))?;
    tracing::info!(dir = %args.dir.display(), "the media driver runs");
    while media.is_running() && !signals.end_requested() {
        std::thread::sleep(LOOK);
    }
    tracing::info!("ending");
    Ok(media.stop()?)
}

/// Leaves nothing under the directory's name, whatever lies there.
fn move_aside(dir: &Path) -> Result<(), MediaDriverError> {
    let parent = dir.parent().unwrap_or_else(|| Path::new("/"));
    let failed = |step, path: &Path| {
        let path = path.to_owned();
        move |source| MediaDriverError::Directory { step, path, source }
    };
    fs::create_dir_all(parent).map_err(failed("make the directory", parent))?;
    let above = File::open(parent).map_err(failed("open", parent))?;
    let name = dir.file_name().unwrap_or_default();
    if fs::symlink_metadata(dir).is_ok() {
        // Nobody else gives such a name, and no two starts come at one instant.
        let aside = format!("{}{}", sweep::ASIDE, clock::now().get());
        let moved = renameat_with(&above, name, &above, aside.as_str(), RenameFlags::NOREPLACE);
        moved.map_err(|errno| failed("move aside", dir)(errno.into()))?;
    }
    for name in sweep::names(above.as_fd()).map_err(failed("list", parent))? {
        if sweep::is_aside(&name)
            && let Err(error) = sweep::remove(above.as_fd(), OsStr::new(&name))
        {
            let error = in_words(&error);
            tracing::warn!(directory = %parent.join(&name).display(), error, "what an earlier media driver or its clients left is for the csi container to remove");
        }
    }
    Ok(())
}
