//! Starts the driver and the processes around it, shows what they say, and ends them in order:
//! the producer stops sending, the consumers read to the end, the producer lets go of its lease,
//! the driver goes last.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tensorpool_e2e::driver::{LocalDriver, Stream, beside_us};

use crate::arguments::{Arguments, Role};
use crate::pictures::Pictures;
use crate::talk::Line;

/// The stream's name, in the driver's configuration and in the clients.
pub(crate) const STREAM: &str = "camera";
/// How long a process may take to say that it is ready, or to end when told to.
const PATIENCE: Duration = Duration::from_secs(20);
const CONSUMERS: [Role; 3] = [Role::Ring, Role::Descriptors, Role::Writer];

/// What came from a process.
enum News {
    Line(Role, Line),
    /// Its standard output is closed: it ended.
    End(Role),
}

/// One process of the demo.
struct Process {
    role: Role,
    child: Child,
    input: Option<ChildStdin>,
    live: Line,
    before: Line,
    done: bool,
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait())
        {
            eprintln!("the {} could not be ended: {error}", self.role.word());
        }
    }
}

/// Whether no byte differed and every consumer saw frames.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))
            .map_err(|error| format!("no signal handler: {error}"))?;
    }
    let pictures = Pictures::load(&arguments.images)?;
    let driver = LocalDriver::start(
        Path::new("/dev/shm"),
        &[Stream {
            name: STREAM.to_owned(),
            id: 10_000,
            slots: 32,
            stride_bytes: pictures.largest(),
            descriptors: None,
        }],
    )?;
    let (news, inbox) = channel();
    let mut processes = vec![start(arguments, Role::Producer, &driver, &news)?];
    for role in CONSUMERS {
        processes.push(start(arguments, role, &driver, &news)?);
    }
    println!(
        "driver {}, producer {}, consumers {}; frames go to {}; Ctrl-C ends",
        driver.id(),
        processes[0].child.id(),
        processes[1..]
            .iter()
            .map(|process| format!("{} ({})", process.child.id(), process.role.word()))
            .collect::<Vec<_>>()
            .join(", "),
        arguments.output.display()
    );
    let mut demo = Demo {
        processes,
        inbox,
        interrupted,
    };
    demo.wait_until_ready()?;
    let started = Instant::now();
    demo.stream(started)?;
    let took = started.elapsed();
    demo.finish()?;
    driver.stop()?;
    Ok(demo.summary(took))
}

struct Demo {
    processes: Vec<Process>,
    inbox: Receiver<News>,
    interrupted: Arc<AtomicBool>,
}

impl Demo {
    /// Consumers first, then the producer is told to send: nobody misses the beginning.
    fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let mut waiting = self.processes.len();
        while waiting > 0 {
            match self.next(deadline)? {
                Some(News::Line(_, line)) if line.word == "ready" => waiting -= 1,
                Some(News::Line(..)) => {}
                Some(News::End(role)) => return Err(ended(role)),
                None => return Err("not every process was ready within 20 s".to_owned()),
            }
        }
        self.tell(Role::Producer, "go")
    }

    /// Shows a line a second until the producer has sent everything or somebody pressed Ctrl-C.
    fn stream(&mut self, started: Instant) -> Result<(), String> {
        let mut next_show = started + Duration::from_secs(1);
        loop {
            match self.next(next_show)? {
                Some(News::Line(role, line)) => {
                    let finished = role == Role::Producer && line.word == "done";
                    self.note(role, line);
                    if finished {
                        return Ok(());
                    }
                }
                Some(News::End(role)) => return Err(ended(role)),
                None => {
                    self.show(started.elapsed());
                    next_show += Duration::from_secs(1);
                }
            }
            if self.interrupted.load(Ordering::Relaxed) {
                println!("stopping");
                return self.wait_for(Role::Producer, "stop");
            }
        }
    }

    /// The consumers read what is left and end; then the producer ends.
    fn finish(&mut self) -> Result<(), String> {
        for role in CONSUMERS {
            self.wait_for(role, "end")?;
        }
        for process in &mut self.processes {
            process.input = None;
        }
        for process in &mut self.processes {
            let status = process.child.wait();
            let status = status.map_err(|error| format!("could not wait: {error}"))?;
            if !status.success() {
                return Err(format!("the {} failed ({status})", process.role.word()));
            }
        }
        Ok(())
    }

    /// Says something to a process and waits until it is done.
    fn wait_for(&mut self, role: Role, order: &str) -> Result<(), String> {
        self.tell(role, order)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.process(role)?.done {
            match self.next(deadline)? {
                Some(News::Line(from, line)) => self.note(from, line),
                Some(News::End(from)) if self.process(from)?.done => {}
                Some(News::End(from)) => return Err(ended(from)),
                // After Ctrl-C waits are cut short, so that it is seen; this one goes on.
                None if Instant::now() < deadline => {}
                None => return Err(format!("the {} did not end within 20 s", role.word())),
            }
        }
        Ok(())
    }

    fn next(&self, deadline: Instant) -> Result<Option<News>, String> {
        // Short waits, so that Ctrl-C is seen soon.
        let left = deadline.saturating_duration_since(Instant::now());
        match self
            .inbox
            .recv_timeout(left.min(Duration::from_millis(100)))
        {
            Ok(news) => Ok(Some(news)),
            Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => Ok(None),
            Err(RecvTimeoutError::Timeout) if self.interrupted.load(Ordering::Relaxed) => Ok(None),
            Err(RecvTimeoutError::Timeout) => self.next(deadline),
            Err(RecvTimeoutError::Disconnected) => Err("all processes are gone".to_owned()),
        }
    }

    fn tell(&mut self, role: Role, order: &str) -> Result<(), String> {
        use std::io::Write;
        let process = self.process(role)?;
        let input = process.input.as_mut();
        let input = input.ok_or_else(|| format!("the {} was told to end already", role.word()))?;
        writeln!(input, "{order}")
            .and_then(|()| input.flush())
            .map_err(|error| format!("the {} does not listen: {error}", role.word()))
    }

    fn process(&mut self, role: Role) -> Result<&mut Process, String> {
        let found = self
            .processes
            .iter_mut()
            .find(|process| process.role == role);
        found.ok_or_else(|| format!("there is no {}", role.word()))
    }

    fn note(&mut self, role: Role, line: Line) {
        if let Ok(process) = self.process(role) {
            process.done |= line.word == "done";
            process.live = line;
        }
    }

    fn show(&mut self, elapsed: Duration) {
        let mut text = format!("{:>4} s", elapsed.as_secs());
        for process in &mut self.processes {
            let (now, before) = (&process.live, &process.before);
            let new = now.get("frames").saturating_sub(before.get("frames"));
            text.push_str(&format!(
                " | {} {} ({new}/s)",
                process.role.word(),
                now.get("frames")
            ));
            if process.role != Role::Producer {
                text.push_str(&format!(
                    " lost {} p50 {} p99 {} us",
                    now.get("lost"),
                    now.get("p50_ns") / 1000,
                    now.get("p99_ns") / 1000
                ));
            }
            process.before = process.live.clone();
        }
        println!("{text}");
    }

    fn summary(&mut self, took: Duration) -> bool {
        let sent = self.processes[0].live.clone();
        println!(
            "\nsent {} frames, {} bytes, in {:.1} s; dropped by the producer: {}",
            sent.get("frames"),
            sent.get("bytes"),
            took.as_secs_f64(),
            sent.get("lost")
        );
        println!(
            "consumer         frames     lost  verified bytes  differing   p50 us   p99 us p99.9 us"
        );
        let mut differing = 0;
        let mut verified = 0;
        let mut all_saw_frames = true;
        for process in &self.processes[1..] {
            let line = &process.live;
            println!(
                "{:<14} {:>8} {:>8} {:>15} {:>10} {:>8} {:>8} {:>8}",
                process.role.word(),
                line.get("frames"),
                line.get("lost"),
                line.get("verified"),
                line.get("differing"),
                line.get("p50_ns") / 1000,
                line.get("p99_ns") / 1000,
                line.get("p999_ns") / 1000
            );
            for (reason, count) in line
                .numbers
                .iter()
                .filter(|(name, _)| name.starts_with("drop_"))
            {
                println!(
                    "                 lost, {}: {count}",
                    reason.trim_start_matches("drop_")
                );
            }
            differing += line.get("differing");
            verified += line.get("verified");
            all_saw_frames &= line.get("verified") > 0;
        }
        let [red, green, blue] =
            ["red", "green", "blue"].map(|name| self.processes[1].live.get(name));
        println!(
            "mean colour on the ring: {red} {green} {blue}; pictures written and read back: {}",
            self.processes
                .last()
                .map_or(0, |writer| writer.live.get("saved"))
        );
        let passed = differing == 0 && all_saw_frames;
        println!(
            "demo: {} frames sent, {verified} bytes verified by three consumers, {differing} differed{}",
            sent.get("frames"),
            if all_saw_frames {
                ""
            } else {
                "; a consumer saw nothing"
            }
        );
        passed
    }
}

fn ended(role: Role) -> String {
    format!(
        "the {} ended before its time; its own words are above",
        role.word()
    )
}

fn start(
    arguments: &Arguments,
    role: Role,
    driver: &LocalDriver,
    news: &Sender<News>,
) -> Result<Process, String> {
    let mut command = Command::new(beside_us("tensorpool-demo")?);
    command
        .args(arguments.words_for(role))
        .env("TENSORPOOL_SOCKET", driver.socket())
        .env("TENSORPOOL_DEMO_AERON_DIR", driver.aeron_directory())
        .env("TENSORPOOL_ALLOWED_BASE_DIRS", driver.memory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0);
    let mut child = command
        .spawn()
        .map_err(|error| format!("could not start the {}: {error}", role.word()))?;
    let input = child.stdin.take();
    let output = child.stdout.take();
    let output = output.ok_or_else(|| format!("the {} has no output", role.word()))?;
    let news = news.clone();
    thread::spawn(move || {
        for text in BufReader::new(output).lines().map_while(Result::ok) {
            let sent = match Line::parse(&text) {
                Some(line) => news.send(News::Line(role, line)),
                None => {
                    println!("{}: {text}", role.word());
                    Ok(())
                }
            };
            if sent.is_err() {
                return;
            }
        }
        // Nobody listens any more only when the demo is over.
        drop(news.send(News::End(role)));
    });
    Ok(Process {
        role,
        child,
        input,
        live: Line::default(),
        before: Line::default(),
        done: false,
    })
}
