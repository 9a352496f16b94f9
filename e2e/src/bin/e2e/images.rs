//! The images, from the repository's Dockerfile, without a registry and without a daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::world::{World, said};

/// An image: its name, and where it is described.
type Image = (&'static str, &'static str, Option<&'static str>);

/// Targets of the product's Dockerfile.
const PRODUCT: [Image; 3] = [
    ("operator", "Dockerfile", Some("operator")),
    ("node-driver", "Dockerfile", Some("node-driver")),
    ("examples", "Dockerfile", Some("examples")),
];
/// What test pods run besides.
const PROBE: Image = ("probe", "e2e/probe.Dockerfile", None);
/// The repository that the chart looks in.
const REPOSITORY: &str = "tensorpool.io";
/// The chart's `appVersion`.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds all images and makes them known to the node.
pub(crate) fn build_and_load(world: &World) -> Result<(), String> {
    let work = Work::new()?;
    PRODUCT
        .iter()
        .chain([&PROBE])
        .try_for_each(|image| work.load(world, image, VERSION))
}

/// The product's images as those of another version: the same programs under another tag, and with a label
/// that says so, which makes them other images.
pub(crate) fn build_and_load_as(world: &World, version: &str) -> Result<(), String> {
    let work = Work::new()?;
    let mut images = PRODUCT.iter();
    images.try_for_each(|image| work.load(world, image, version))
}

/// Where buildah has its files for a while.
struct Work(tempfile::TempDir);

impl Work {
    fn new() -> Result<Self, String> {
        let work = tempfile::tempdir();
        let work = work.map_err(|error| format!("no temporary directory: {error}"))?;
        // The Dockerfile's first stage is replaced, so nothing of the context is copied.
        make(&work.path().join("context"))?;
        Ok(Self(work))
    }

    /// Makes one image known to the node. It is built unless it is kept from an earlier run.
    fn load(&self, world: &World, image: &Image, version: &str) -> Result<(), String> {
        let file = format!("{}-{version}.tar", image.0);
        let archive = match &world.archives {
            Some(kept) => {
                make(kept)?;
                kept.join(file)
            }
            None => self.0.path().join(file),
        };
        if archive.exists() {
            println!("{}: built before", archive.display());
        } else {
            self.build(world, image, version, &archive)?;
        }
        world.load_images(&archive)
    }

    fn build(
        &self,
        world: &World,
        (name, file, target): &Image,
        version: &str,
        archive: &Path,
    ) -> Result<(), String> {
        let image = format!("{REPOSITORY}/{name}:{version}");
        let mut build = self.buildah();
        build.args(["bud", "--isolation", "chroot"]);
        build.args(target.map(|target| ["--target", target]).iter().flatten());
        build.arg("--build-context");
        build.arg(format!("build={}", world.statics.display()));
        let label = format!("org.opencontainers.image.version={version}");
        build.args(["--label", &label, "--tag", &image, "--file"]);
        build
            .arg(world.path(file))
            .arg(self.0.path().join("context"));
        said(&mut build)?;
        let unfinished = archive.with_extension("unfinished");
        let mut push = self.buildah();
        push.args(["push", &image]);
        push.arg(format!("docker-archive:{}:{image}", unfinished.display()));
        said(&mut push)?;
        fs::rename(&unfinished, archive)
            .map_err(|error| format!("could not keep {}: {error}", archive.display()))?;
        let bytes = fs::metadata(archive).map_or(0, |file| file.len());
        println!("{image}: {} KiB", bytes / 1024);
        Ok(())
    }

    fn buildah(&self) -> Command {
        let work = self.0.path();
        let mut buildah = Command::new("buildah");
        buildah.args(["--storage-driver", "vfs", "--root"]);
        buildah.arg(work.join("images"));
        buildah.arg("--runroot").arg(work.join("run"));
        buildah
    }
}

fn make(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory)
        .map_err(|error| format!("could not make {}: {error}", directory.display()))
}
