//! Bringing a cluster up: what is needed, what is written down before it is done, and the first
//! process.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{ClusterError, Options};
use crate::binaries::{Binaries, Program};
use crate::cgroups;
use crate::components::{PAUSE_IMAGE, Programs};
use crate::debian;
use crate::images::StaticImage;
use crate::init::{Plan, Report};
use crate::page_pool::Addition;
use crate::process::tail;
use crate::progress::Progress;
use crate::runtime::{Runtime, RuntimePrograms};
use crate::state::{Extent, ProcessId, State, boot_id};

/// Pages of 2 MiB for pods of a cluster that asks for no number.
const DEFAULT_HUGEPAGES: u64 = 256;

/// The programs of a cluster, built and fetched.
#[derive(Debug)]
pub(super) enum Wanted {
    /// A control plane starts its servers itself.
    ControlPlane {
        /// For `PATH`.
        kubectl: PathBuf,
    },
    /// Everything.
    Whole(Box<Programs>),
}

impl Wanted {
    /// Builds and fetches what is missing.
    pub(super) fn ensure(options: &Options, progress: &Progress) -> Result<Self, ClusterError> {
        let mut binaries = Binaries::from_environment()?;
        if !options.control_plane {
            let runtime = options.runtime.unwrap_or_default();
            let programs = all_programs(runtime, &mut binaries, progress)?;
            return Ok(Self::Whole(Box::new(programs)));
        }
        for program in [Program::Etcd, Program::KubeApiserver] {
            binaries.ensure(program, progress)?;
        }
        let kubectl = binaries.ensure(Program::Kubectl, progress)?;
        Ok(Self::ControlPlane { kubectl })
    }
}

/// The start of one cluster, from an empty directory on.
#[derive(Debug)]
pub(super) struct Start<'a> {
    directory: &'a Path,
    options: &'a Options,
    progress: &'a Progress,
}

impl<'a> Start<'a> {
    /// A start in `directory`, where nothing is.
    pub(super) fn new(directory: &'a Path, options: &'a Options, progress: &'a Progress) -> Self {
        Self {
            directory,
            options,
            progress,
        }
    }

    /// Starts it and waits until everything answers.
    pub(super) fn run(&self, wanted: &Wanted) -> Result<(), ClusterError> {
        let directory = self.directory;
        for part in ["logs", "bin", "groups"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).map_err(ClusterError::io(format!(
                "could not make {}",
                path.display()
            )))?;
        }
        let extent = match wanted {
            Wanted::ControlPlane { .. } => Extent::ControlPlane,
            Wanted::Whole(_) => Extent::Whole {
                runtime: self.options.runtime.unwrap_or_default(),
                hugepages: Addition::plan(self.options.hugepages.unwrap_or(DEFAULT_HUGEPAGES))?,
                groups: planned_groups(&self.options.name)?,
            },
        };
        let mut state = State {
            boot: boot_id(),
            extent,
            process: None,
            kubeconfig: None,
        };
        // Written before it is done, so that it can be undone whenever we are killed.
        self.save(&state)?;
        if let Extent::Whole { hugepages, .. } = &mut state.extent {
            hugepages.add()?;
            self.save(&state)?;
        }
        let own = self.keep_own_program()?;
        let mut child = match wanted {
            Wanted::ControlPlane { kubectl } => {
                self.link_programs(&[kubectl])?;
                self.spawn_control_plane(&own)?
            }
            Wanted::Whole(programs) => self.spawn_whole(&own, programs, &state.extent)?,
        };
        let process = self.first_process(&mut child, &state.extent);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        collect(child);
        state.process = Some(process?);
        self.save(&state)?;
        state.kubeconfig = Some(self.follow(stdin, stdout)?);
        self.save(&state)
    }

    fn save(&self, state: &State) -> Result<(), ClusterError> {
        let what = format!("could not write the state in {}", self.directory.display());
        state.save(self.directory).map_err(ClusterError::io(what))
    }

    fn spawn_whole(
        &self,
        own: &Path,
        programs: &Programs,
        extent: &Extent,
    ) -> Result<Child, ClusterError> {
        let groups = match extent {
            Extent::Whole { groups, .. } => groups.clone(),
            Extent::ControlPlane => Vec::new(),
        };
        let plan = Plan {
            directory: self.directory.to_owned(),
            groups,
            programs: programs.clone(),
        };
        let runtime = &programs.runtime;
        let mut named = vec![
            &programs.kubectl,
            &runtime.ctr,
            &runtime.shim,
            &runtime.runc,
        ];
        named.extend(&programs.tools);
        self.link_programs(&named)?;
        let file = Plan::file(self.directory);
        serde_json::to_string_pretty(&plan)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&file, text))
            .map_err(ClusterError::io(format!(
                "could not write {}",
                file.display()
            )))?;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "slave", "--"]);
        unshare.arg(own);
        unshare.args(["enter", "--directory"]).arg(self.directory);
        self.spawn(&mut unshare)
    }

    /// The program that runs the cluster is kept with it: `cargo xtask cluster` finds it there
    /// without building, and it is the version that can undo what it did.
    fn keep_own_program(&self) -> Result<PathBuf, ClusterError> {
        let own = self.directory.join("bin/tensorpool-cluster");
        let what = format!("could not copy {}", self.options.program.display());
        fs::copy(&self.options.program, &own).map_err(ClusterError::io(what))?;
        Ok(own)
    }

    /// One directory for `PATH` with everything that the cluster and its users start by name.
    fn link_programs(&self, programs: &[&PathBuf]) -> Result<(), ClusterError> {
        for program in programs {
            let name = program.file_name().unwrap_or_default();
            let link = self.directory.join("bin").join(name);
            std::os::unix::fs::symlink(program, link).map_err(ClusterError::io(format!(
                "could not link {}",
                program.display()
            )))?;
        }
        Ok(())
    }

    fn spawn_control_plane(&self, own: &Path) -> Result<Child, ClusterError> {
        let mut keeper = Command::new(own);
        keeper.args(["keep-control-plane", "--directory"]);
        self.spawn(keeper.arg(self.directory))
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, ClusterError> {
        let log = self.directory.join("logs/first-process.log");
        let what = format!("could not start the cluster's first process, {command:?}");
        let spawned = File::create(&log).and_then(|log| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            // A Ctrl-C of later commands is not for the cluster.
            std::os::unix::process::CommandExt::process_group(command, 0);
            command.stderr(log).spawn()
        });
        spawned.map_err(ClusterError::io(what))
    }

    /// Waits until the process is there that everything ends with.
    fn first_process(&self, child: &mut Child, extent: &Extent) -> Result<ProcessId, ClusterError> {
        let limit = Instant::now() + Duration::from_secs(20);
        while Instant::now() < limit && !matches!(child.try_wait(), Ok(Some(_))) {
            let found = match extent {
                Extent::Whole { .. } => ProcessId::first_in_namespace_of(child.id()),
                Extent::ControlPlane => i32::try_from(child.id()).ok().and_then(ProcessId::of),
            };
            if let Some(process) = found {
                return Ok(process);
            }
            thread::sleep(Duration::from_millis(5));
        }
        // It has ended, or it hangs.
        drop(child.kill());
        Err(self.failed("its first process did not start"))
    }

    /// Lets the first process begin, and tells what it tells.
    fn follow(
        &self,
        stdin: Option<ChildStdin>,
        stdout: Option<ChildStdout>,
    ) -> Result<PathBuf, ClusterError> {
        let started = Instant::now();
        let begun = stdin.map(|mut stdin| stdin.write_all(b"begin\n"));
        if !matches!(begun, Some(Ok(()))) {
            return Err(self.failed("its first process did not listen"));
        }
        let said = stdout.into_iter();
        for line in said.flat_map(|stdout| BufReader::new(stdout).lines()) {
            let Ok(line) = line else { break };
            match serde_json::from_str(&line) {
                Ok(Report::Step(what)) => {
                    let seconds = started.elapsed().as_secs_f64();
                    self.progress.detail(&format!("{seconds:5.1} s  {what}"));
                }
                Ok(Report::Ready { kubeconfig }) => {
                    let seconds = started.elapsed().as_secs_f64();
                    self.progress.detail(&format!("{seconds:5.1} s  up"));
                    return Ok(kubeconfig);
                }
                Ok(Report::Failed(why)) => return Err(self.failed(&why)),
                Err(_) => self.progress.detail(&line),
            }
        }
        Err(self.failed("its first process ended"))
    }

    fn failed(&self, why: &str) -> ClusterError {
        let logs = self.directory.join("logs");
        let said = tail(&logs.join("first-process.log"));
        ClusterError::Failed {
            why: format!("{why}\n{said}").trim_end().to_owned(),
            logs,
        }
    }
}

/// Waits for the process when it ends, whenever that is: one that nobody waits for keeps the control
/// groups that it was in.
fn collect(mut child: Child) {
    thread::spawn(move || child.wait());
}

fn all_programs(
    runtime: Runtime,
    binaries: &mut Binaries,
    progress: &Progress,
) -> Result<Programs, ClusterError> {
    let mut ensure = |program| binaries.ensure(program, progress);
    let mut programs = Programs {
        etcd: ensure(Program::Etcd)?,
        kubectl: ensure(Program::Kubectl)?,
        api_server: ensure(Program::KubeApiserver)?,
        controller_manager: ensure(Program::KubeControllerManager)?,
        scheduler: ensure(Program::KubeScheduler)?,
        kubelet: ensure(Program::Kubelet)?,
        proxy: ensure(Program::KubeProxy)?,
        tools: vec![ensure(Program::Helm)?, ensure(Program::CsiSanity)?],
        pause_archive: PathBuf::new(),
        runtime: RuntimePrograms::ensure(runtime, binaries, progress)?,
        cni_plugins: debian::unpacked("containernetworking-plugins", progress)?.join("usr/lib/cni"),
    };
    let pause = binaries.ensure(Program::Pause, progress)?;
    programs.pause_archive = pause.with_extension("tar");
    if !programs.pause_archive.is_file() {
        let image = StaticImage {
            name: PAUSE_IMAGE,
            files: &[(&pause, "pause")],
            links: &[],
            command: &["/pause"],
        };
        let unfinished = pause.with_extension("tar-unfinished");
        image
            .write(&unfinished)
            .and_then(|()| fs::rename(&unfinished, &programs.pause_archive))
            .map_err(ClusterError::io("could not make the pause image"))?;
    }
    Ok(programs)
}

fn planned_groups(name: &str) -> Result<Vec<cgroups::Group>, ClusterError> {
    let read =
        |path| fs::read_to_string(path).map_err(ClusterError::io(format!("could not read {path}")));
    Ok(cgroups::plan(
        &read("/proc/self/cgroup")?,
        &read("/proc/cgroups")?,
        name,
    ))
}
