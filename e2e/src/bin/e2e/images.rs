//! The images, from the repository's Dockerfile, without a registry and without a daemon.

use std::path::Path;
use std::process::Command;

use crate::world::{World, said};

/// Names, and where each is described: targets of the product's Dockerfile, and what test pods run.
const IMAGES: [(&str, &str, Option<&str>); 4] = [
    ("operator", "Dockerfile", Some("operator")),
    ("node-driver", "Dockerfile", Some("node-driver")),
    ("examples", "Dockerfile", Some("examples")),
    ("probe", "e2e/probe.Dockerfile", None),
];
/// The repository that the chart looks in.
const REPOSITORY: &str = "tensorpool.io";
/// The chart's `appVersion`.
const TAG: &str = env!("CARGO_PKG_VERSION");

/// Builds all images and makes them known to the node.
pub(crate) fn build_and_load(world: &World) -> Result<(), String> {
    let work = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    // The Dockerfile's first stage is replaced, so nothing of the context is copied.
    let context = work.path().join("context");
    std::fs::create_dir(&context)
        .map_err(|error| format!("could not make {}: {error}", context.display()))?;
    for (name, file, target) in IMAGES {
        let image = format!("{REPOSITORY}/{name}:{TAG}");
        let mut build = buildah(work.path());
        build.args(["bud", "--isolation", "chroot"]);
        build.args(target.map(|target| ["--target", target]).iter().flatten());
        build.arg("--build-context");
        build.arg(format!("build={}", world.statics.display()));
        build.args(["--tag", &image, "--file"]);
        build.arg(world.path(file)).arg(&context);
        said(&mut build)?;
        let archive = work.path().join(format!("{name}.tar"));
        let mut push = buildah(work.path());
        push.args(["push", &image]);
        push.arg(format!("docker-archive:{}:{image}", archive.display()));
        said(&mut push)?;
        let bytes = std::fs::metadata(&archive).map_or(0, |file| file.len());
        println!("{image}: {} KiB", bytes / 1024);
        world.load_images(&archive)?;
    }
    Ok(())
}

fn buildah(work: &Path) -> Command {
    let mut buildah = Command::new("buildah");
    buildah.args(["--storage-driver", "vfs", "--root"]);
    buildah.arg(work.join("images"));
    buildah.arg("--runroot").arg(work.join("run"));
    buildah
}
