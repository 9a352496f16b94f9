//! Ctrl-C and SIGTERM: the cluster goes before the program does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::TERM_SIGNALS;
use signal_hook::iterator::Signals;
use tensorpool_cluster::Cluster;

use crate::arguments::Arguments;

/// Whether the program was asked to end.
static IS_ASKED: AtomicBool = AtomicBool::new(false);
/// How a process ends that was asked to, as shells count: 128 and the signal.
const ASKED_TO_END: i32 = 128;

/// From now on a signal takes the cluster down, unless it shall stay. A second one ends the program at
/// once: then, too, `cargo xtask cluster down` removes everything.
pub(crate) fn watch(arguments: &Arguments) -> Result<(), String> {
    let in_words = |error| format!("no signal handler: {error}");
    let mut signals = Signals::new(TERM_SIGNALS).map_err(in_words)?;
    let (name, program) = (arguments.name.clone(), arguments.cluster.clone());
    let stays = arguments.keep || arguments.kept;
    thread::spawn(move || {
        let signal = signals.forever().next().unwrap_or_default();
        IS_ASKED.store(true, Ordering::Relaxed);
        let down = format!("cargo xtask cluster --name {name} down");
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                std::process::exit(ASKED_TO_END + signal);
            }
        });
        if stays {
            println!("asked to end; the cluster stays: {down}");
        } else {
            println!("asked to end; the cluster goes");
            if let Err(error) = Cluster::down(&name, &program) {
                eprintln!("it is still there: {error}; try `{down}`");
            }
        }
        std::process::exit(ASKED_TO_END + signal);
    });
    Ok(())
}

/// Does not return where the program was asked to end: what fails then says nothing.
pub(crate) fn stop_if_asked() {
    while IS_ASKED.load(Ordering::Relaxed) {
        thread::park();
    }
}
