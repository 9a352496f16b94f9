//! Container images without a registry: an archive of one static program, made here.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::mounts;

/// An image made of files, without a base.
#[derive(Clone, Debug)]
pub struct StaticImage<'a> {
    /// Its name with a tag, like `tensorpool.test/probe:1`.
    pub name: &'a str,
    /// Files: where they come from, and their paths in the image, without a leading `/`. All are
    /// made executable.
    pub files: &'a [(&'a Path, &'a str)],
    /// Further names of files in the image: the link, and what it leads to.
    pub links: &'a [(&'a str, &'a str)],
    /// The command of a container that does not say otherwise.
    pub command: &'a [&'a str],
}

impl StaticImage<'_> {
    /// Writes it as an archive that `docker load`, `ctr image import` and `buildah` read.
    ///
    /// # Errors
    /// When a file cannot be read or written, or `tar` fails.
    pub fn write(&self, archive: &Path) -> io::Result<()> {
        let work = tempfile::tempdir()?;
        let root = work.path().join("root");
        fs::create_dir(&root)?;
        for (source, target) in self.files {
            let target = root.join(target);
            make_parent(&target)?;
            fs::copy(source, &target)?;
            let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&target, executable)?;
        }
        for (link, leads_to) in self.links {
            let link = root.join(link);
            make_parent(&link)?;
            std::os::unix::fs::symlink(leads_to, link)?;
        }
        let layer = work.path().join("layer.tar");
        tar(&layer, &root, &["."])?;
        let digest = ring::digest::digest(&ring::digest::SHA256, &fs::read(&layer)?);
        let digest: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Cmd": self.command, "Env": ["PATH=/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest = json!([{
            "Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"],
        }]);
        fs::write(work.path().join("config.json"), config.to_string())?;
        fs::write(work.path().join("manifest.json"), manifest.to_string())?;
        let parts = ["manifest.json", "config.json", "layer.tar"];
        tar(archive, work.path(), &parts)
    }
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Owners and times are the same everywhere, so that equal files give an equal image.
fn tar(archive: &Path, directory: &Path, names: &[&str]) -> io::Result<()> {
    let mut command = Command::new("tar");
    command.args(["--create", "--owner=0", "--group=0", "--numeric-owner"]);
    command
        .args(["--sort=name", "--mtime=@0", "--file"])
        .arg(archive);
    mounts::run(command.arg("--directory").arg(directory).args(names))
}
