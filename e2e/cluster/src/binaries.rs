//! The programs of a cluster, built from Go modules of our own and kept in the cache.
//!
//! Each module under `go/` pins one project and everything below it in its `go.sum`. A program
//! lies in the cache under a key made of that file, `go.mod`, the compiler's version and our
//! flags, so that nothing stale is ever run and a second start builds nothing. Several test
//! processes may ask at once: one builds, the others wait.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::go::{Go, GoError};
use crate::progress::Progress;
pub use recipe::Program;
use recipe::Recipe;

mod recipe;

/// Why a program could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no Go compiler that can build it.
    #[error(transparent)]
    Go(#[from] GoError),
    /// Neither `XDG_CACHE_HOME` nor `HOME` says where the cache is.
    #[error("there is no place for built programs: set XDG_CACHE_HOME or HOME")]
    NoCache,
    /// A file or directory of the cache, or a module file of the checkout.
    #[error("could not use {}; the cache can be removed at any time and is made again", path.display())]
    File {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `go build` failed.
    #[error("building {program} failed ({status}):\n{output}")]
    Failed {
        /// What was built.
        program: &'static str,
        /// How the compiler ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// The given directory of ready programs lacks one.
    #[error(
        "KUBEBUILDER_ASSETS is {}, which has no {program}: add it, or unset the variable and it is built", directory.display()
    )]
    NotInAssets {
        /// The directory.
        directory: PathBuf,
        /// The missing program.
        program: &'static str,
    },
}

impl BuildError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::File { path, source }
    }
}

/// Where built programs are found and put.
#[derive(Debug)]
pub struct Binaries {
    cache: PathBuf,
    go: Option<Go>,
    assets: Option<PathBuf>,
}

impl Binaries {
    /// The user's cache, and `KUBEBUILDER_ASSETS` where it is set: etcd, API server and kubectl
    /// come from there then.
    ///
    /// # Errors
    /// When the environment names no place for a cache.
    pub fn from_environment() -> Result<Self, BuildError> {
        let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        Ok(Self {
            cache: cache_directory()?.join("cluster-programs"),
            go: None,
            assets: set("KUBEBUILDER_ASSETS").map(PathBuf::from),
        })
    }

    /// The path of a program. If it is missing it is built, with a line of progress about every
    /// ten seconds.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn ensure(&mut self, program: Program, progress: &Progress) -> Result<PathBuf, BuildError> {
        match self.in_assets(program)? {
            Some(path) => Ok(path),
            None => self.built(program, progress),
        }
    }

    fn in_assets(&self, program: Program) -> Result<Option<PathBuf>, BuildError> {
        let served = [Program::Etcd, Program::KubeApiserver, Program::Kubectl];
        let Some(directory) = self.assets.as_ref().filter(|_| served.contains(&program)) else {
            return Ok(None);
        };
        let path = directory.join(program.name());
        if path.is_file() {
            Ok(Some(path))
        } else {
            Err(BuildError::NotInAssets {
                directory: directory.clone(),
                program: program.name(),
            })
        }
    }

    fn built(&mut self, program: Program, progress: &Progress) -> Result<PathBuf, BuildError> {
        let recipe = program.recipe();
        let source = module_directory(recipe.module);
        let go = match self.go.take() {
            Some(go) => go,
            None => Go::find()?,
        };
        let build = Build::new(&recipe, &source, &go)?;
        let path = self
            .cache
            .join(format!("{}-{}", recipe.module, build.key))
            .join(recipe.name);
        let built = if path.is_file() {
            Ok(())
        } else {
            self.build_locked(&build, &path, progress)
        };
        self.go = Some(go);
        built.map(|()| path)
    }

    fn build_locked(
        &self,
        build: &Build<'_>,
        path: &Path,
        progress: &Progress,
    ) -> Result<(), BuildError> {
        fs::create_dir_all(&self.cache).map_err(BuildError::file(&self.cache))?;
        let lock_path = self.cache.join("lock");
        let lock = File::create(&lock_path).map_err(BuildError::file(&lock_path))?;
        if lock.try_lock().is_err() {
            progress.step("waiting for another process that builds programs of the cluster");
            lock.lock().map_err(BuildError::file(&lock_path))?;
        }
        if path.is_file() {
            return Ok(());
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(BuildError::file(directory))?;
        }
        let unfinished = path.with_extension("unfinished");
        build.run(&unfinished, progress)?;
        fs::rename(&unfinished, path).map_err(BuildError::file(path))?;
        self.forget_unused();
        Ok(())
    }

    /// Removes what no checkout has built or used for a month. A failure only costs space.
    fn forget_unused(&self) {
        const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);
        let old = |entry: &fs::DirEntry| {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > UNUSED))
        };
        for entry in fs::read_dir(&self.cache).into_iter().flatten().flatten() {
            if entry.path().is_dir() && old(&entry) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }
}

/// One build, with the key of its result.
struct Build<'a> {
    recipe: &'a Recipe,
    source: &'a Path,
    go: &'a Go,
    version: String,
    key: String,
}

impl<'a> Build<'a> {
    fn new(recipe: &'a Recipe, source: &'a Path, go: &'a Go) -> Result<Self, BuildError> {
        let read = |name: &str| {
            let path = source.join(name);
            fs::read_to_string(&path).map_err(BuildError::file(&path))
        };
        let requirements = read("go.mod")?;
        let mut inputs = vec![requirements.clone(), go.version().to_owned(), FLAGS.into()];
        // A module without requirements has no sums, but sources of its own.
        for name in ["go.sum", "main.go"] {
            if source.join(name).is_file() {
                inputs.push(read(name)?);
            }
        }
        let version = required_version(&requirements, recipe.requires).unwrap_or_default();
        Ok(Self {
            recipe,
            source,
            go,
            version,
            key: key_of(&inputs),
        })
    }

    fn run(&self, output: &Path, progress: &Progress) -> Result<(), BuildError> {
        let name = self.recipe.name;
        progress.step(format!("building {name} {}", self.version).trim_end());
        let started = Instant::now();
        let mut command = self.command(output);
        let mut child = command.spawn().map_err(BuildError::file(output))?;
        let mut packages = 0_usize;
        let mut said = Vec::new();
        let mut told = Instant::now();
        let stderr = child.stderr.take();
        for line in stderr
            .into_iter()
            .flat_map(|said| BufReader::new(said).lines())
        {
            let line = line.map_err(BuildError::file(output))?;
            packages += usize::from(!line.contains(' '));
            said.push(line);
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                let seconds = started.elapsed().as_secs();
                progress.detail(&format!(
                    "{name}: {packages} packages compiled, {seconds} s"
                ));
            }
        }
        let status = child.wait().map_err(BuildError::file(output))?;
        if !status.success() {
            let skip = said.len().saturating_sub(20);
            return Err(BuildError::Failed {
                program: name,
                status: status.to_string(),
                output: said.split_off(skip).join("\n"),
            });
        }
        progress.detail(&format!(
            "{name}: built in {} s",
            started.elapsed().as_secs()
        ));
        Ok(())
    }

    fn command(&self, output: &Path) -> Command {
        let mut flags = String::from("-s -w");
        if !self.recipe.version_variable.is_empty() {
            let (variable, version) = (self.recipe.version_variable, &self.version);
            flags.push_str(&format!(" -X {variable}={version}"));
        }
        if self.recipe.module == "kubernetes" {
            let mut numbers = self.version.trim_start_matches('v').split('.');
            for field in ["gitMajor", "gitMinor"] {
                let number = numbers.next().unwrap_or_default();
                flags.push_str(&format!(
                    " -X k8s.io/component-base/version.{field}={number}"
                ));
            }
        }
        // A developer's machine stays usable while it builds.
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).arg(self.go.program());
        command.args(["build", "-v", "-trimpath", "-mod=readonly", "-ldflags"]);
        command.arg(flags);
        command.args(["-tags", self.recipe.tags, "-o"]).arg(output);
        let Recipe {
            package,
            command: name,
            ..
        } = self.recipe;
        command
            .arg(format!("{package}{name}"))
            .current_dir(self.source);
        command
            .env("CGO_ENABLED", if self.recipe.cgo { "1" } else { "0" })
            .env("GOFLAGS", "-buildvcs=false")
            .env("GOWORK", "off")
            .env("GOTOOLCHAIN", "local");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        command
    }
}

/// Part of the key: what `Build::command` does beyond the module's files.
const FLAGS: &str = "-trimpath -s -w, version variables, 1";

fn module_directory(module: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("go")
        .join(module)
}

/// `${XDG_CACHE_HOME:-~/.cache}/tensorpool`.
pub(crate) fn cache_directory() -> Result<PathBuf, BuildError> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let home = set("XDG_CACHE_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
    Ok(home.ok_or(BuildError::NoCache)?.join("tensorpool"))
}

/// The version of `module` that a `go.mod` requires.
fn required_version(requirements: &str, module: &str) -> Option<String> {
    requirements.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split(' ');
        (words.next()? == module)
            .then(|| words.next().map(str::to_owned))
            .flatten()
            .filter(|version| version.starts_with('v'))
    })
}

fn key_of(inputs: &[String]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for input in inputs {
        context.update(&input.len().to_le_bytes());
        context.update(input.as_bytes());
    }
    let digest = context.finish();
    let bytes = digest.as_ref().iter().take(8);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_the_requirement_and_not_from_a_tool_or_replace_line() {
        let text = "tool k8s.io/kubernetes/cmd/kubectl\n\nrequire (\n\tk8s.io/kubernetes v1.34.4 // indirect\n)\n\nreplace k8s.io/api => k8s.io/api v0.34.4\n";
        assert_eq!(
            required_version(text, "k8s.io/kubernetes").as_deref(),
            Some("v1.34.4")
        );
        assert_eq!(required_version(text, "k8s.io/api"), None);
    }

    #[test]
    fn the_key_tells_apart_what_only_concatenates_to_the_same_text() {
        let key = |inputs: &[&str]| {
            let owned: Vec<String> = inputs.iter().map(|input| (*input).to_owned()).collect();
            key_of(&owned)
        };
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }

    #[test]
    fn every_program_has_a_module_that_pins_its_version() {
        for program in Program::ALL {
            let recipe = program.recipe();
            let file = module_directory(recipe.module).join("go.mod");
            let text = fs::read_to_string(&file).expect("each module has a go.mod");
            let version = required_version(&text, recipe.requires);
            assert_eq!(version.is_some(), program != Program::Pause, "{program:?}");
        }
    }
}
