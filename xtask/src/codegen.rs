//! `codegen`: the golden vectors of the independent codec, `sbe-tool`.
//!
//! What is done and why is in `wire/codegen/README.md`. Everything is made in the build directory and
//! only then compared with the tree, or copied into it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{self, Show};
use crate::workspace::Workspace;

const SBE_VERSION: &str = "1.38.1";
const SBE_SHA256: &str = "26e29e5503faa70cc56158fcdacd6369ecfc3088b9a61c90b882feb54451c9b5";
const SCHEMAS: [&str; 3] = ["wire.xml", "driver.xml", "discovery.xml"];
const SCHEMA_DIR: &str = "wire/schemas";
const SOURCE_DIR: &str = "wire/codegen";
const GOLDEN_DIR: &str = "wire/tests/golden";
const GOLDEN_FILES: [&str; 4] = ["sbe-tool.hex", "sbe-tool.fields", "ours.hex", "ours.fields"];

/// Makes the vectors anew, or with `check` compares them with those in the tree.
pub(crate) fn run(check: bool) -> Result<String, String> {
    let workspace = Workspace::find();
    let codegen = Codegen {
        jar: sbe_tool(&workspace)?,
        out: workspace.root.join("target/codegen"),
        workspace,
    };
    codegen.generate()?;
    codegen.compile()?;
    codegen.make_vectors()?;
    let mut vectors = 0;
    for file in GOLDEN_FILES {
        let made = read(&codegen.out.join(file))?;
        if file.ends_with(".hex") {
            vectors += made.lines().count();
        }
        if check {
            compare(file, &made, &codegen.workspace.read(&in_tree(file))?)?;
        } else {
            write(&codegen.workspace.root.join(in_tree(file)), &made)?;
        }
    }
    if !check {
        codegen.write_seeds()?;
    }
    if vectors == 0 {
        return Err("no golden vector was made".to_owned());
    }
    let verb = if check { "are as in the tree" } else { "made" };
    Ok(format!(
        "{vectors} golden vectors {verb} (sbe-tool {SBE_VERSION})"
    ))
}

struct Codegen {
    workspace: Workspace,
    jar: PathBuf,
    out: PathBuf,
}

impl Codegen {
    /// The Java codecs of our schemas; any warning of sbe-tool is an error.
    fn generate(&self) -> Result<(), String> {
        if self.out.exists() {
            fs::remove_dir_all(&self.out)
                .map_err(|error| format!("could not empty {}: {error}", self.out.display()))?;
        }
        for schema in SCHEMAS {
            let mut java = self.java();
            java.arg(format!(
                "-Dsbe.output.dir={}",
                self.out.join("java").display()
            ))
            .arg("-Dsbe.target.language=Java")
            .arg("-Dsbe.validation.stop.on.error=true")
            .arg("-Dsbe.validation.warnings.fatal=true")
            .arg("-jar")
            .arg(&self.jar)
            .arg(self.workspace.root.join(SCHEMA_DIR).join(schema));
            finish(&mut java)?;
        }
        Ok(())
    }

    fn compile(&self) -> Result<(), String> {
        let mut sources = Vec::new();
        java_files(&self.out.join("java"), &mut sources)?;
        java_files(&self.workspace.root.join(SOURCE_DIR), &mut sources)?;
        let mut javac = self.workspace.command("javac", &self.target());
        javac
            .args(["-nowarn", "-d"])
            .arg(self.out.join("classes"))
            .arg("-cp")
            .arg(&self.jar)
            .args(sources);
        finish(&mut javac)
    }

    fn make_vectors(&self) -> Result<(), String> {
        finish(self.golden("encode").arg(self.out.join("sbe-tool.hex")))?;
        finish(
            self.writer("golden", "write_our_vectors")
                .env("TENSORPOOL_GOLDEN_OUT", self.out.join("ours.hex")),
        )?;
        for name in ["sbe-tool", "ours"] {
            let mut dump = self.golden("dump");
            dump.arg(self.workspace.root.join(SCHEMA_DIR))
                .arg(self.out.join(format!("{name}.hex")))
                .arg(self.out.join(format!("{name}.fields")));
            finish(&mut dump)?;
        }
        Ok(())
    }

    /// The vectors as seeds of the fuzz corpus. A test fails where they are old.
    fn write_seeds(&self) -> Result<(), String> {
        finish(&mut self.writer("corpus", "write_golden_seeds"))
    }

    /// An ignored test of the crate that writes files.
    fn writer(&self, test: &str, name: &str) -> Command {
        let mut cargo = self.workspace.cargo(&self.target());
        cargo
            .args([
                "test",
                "--quiet",
                "--package",
                "tensorpool-wire",
                "--test",
                test,
            ])
            .args(["--", "--ignored", "--exact", name]);
        cargo
    }

    fn golden(&self, verb: &str) -> Command {
        let mut classes = self.out.join("classes").into_os_string();
        classes.push(":");
        classes.push(&self.jar);
        let mut java = self.java();
        java.arg("-cp").arg(classes).args(["Golden", verb]);
        java
    }

    /// The buffers of sbe-tool need one package of the JDK opened.
    fn java(&self) -> Command {
        let mut java = self.workspace.command("java", &self.target());
        java.args(["--add-opens", "java.base/jdk.internal.misc=ALL-UNNAMED"]);
        java
    }

    fn target(&self) -> PathBuf {
        self.workspace.root.join("target")
    }
}

/// The jar in the cache, fetched with Maven the first time. Its checksum is that of the version that the
/// vectors in the tree were made with.
fn sbe_tool(workspace: &Workspace) -> Result<PathBuf, String> {
    let jar = workspace.cache.join(format!("sbe-all-{SBE_VERSION}.jar"));
    if !jar.exists() {
        let mut maven = workspace.command("mvn", &workspace.root.join("target"));
        maven
            .args(["--quiet", "--batch-mode", "dependency:copy"])
            .arg(format!("-Dartifact=uk.co.real-logic:sbe-all:{SBE_VERSION}"))
            .arg(format!("-DoutputDirectory={}", workspace.cache.display()));
        finish(&mut maven)?;
    }
    let mut sha256 = Command::new("sha256sum");
    sha256.arg(&jar);
    let found = command::output_of(&mut sha256)
        .ok_or_else(|| format!("could not take the checksum of {}", jar.display()))?;
    if found.starts_with(SBE_SHA256) {
        return Ok(jar);
    }
    Err(format!(
        "{} has not the checksum {SBE_SHA256}; remove it and try again",
        jar.display()
    ))
}

fn in_tree(file: &str) -> String {
    format!("{GOLDEN_DIR}/{file}")
}

fn compare(file: &str, made: &str, in_tree: &str) -> Result<(), String> {
    if made == in_tree {
        return Ok(());
    }
    let line = made
        .lines()
        .zip(in_tree.lines())
        .position(|(made, kept)| made != kept);
    let line = line.map_or_else(
        || "its length".to_owned(),
        |line| format!("line {}", line + 1),
    );
    Err(format!(
        "{GOLDEN_DIR}/{file} differs from what sbe-tool makes, first in {line}; run `cargo xtask codegen` and look at the difference"
    ))
}

fn java_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let failed = |error| format!("could not list {}: {error}", directory.display());
    let mut entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            java_files(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "java")
        {
            files.push(path);
        }
    }
    Ok(())
}

fn finish(command: &mut Command) -> Result<(), String> {
    let what = command.get_program().to_string_lossy().into_owned();
    command::run(command, Show::Errors)?
        .success(&what)
        .map(drop)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("could not read {}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("could not write {}: {error}", path.display()))
}
