//! Which cores are measured on, and what this machine is.

use std::fmt;
use std::fs;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Two cores that share no execution units, where the machine has such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The core of the measuring process.
    pub here: usize,
    /// The core of its peer.
    pub there: usize,
    /// How many cores this process may use.
    pub cores: usize,
    /// Whether the two are siblings on one physical core.
    pub siblings: bool,
    others: Vec<usize>,
    description: String,
}

impl Machine {
    /// Looks at the cores that this process may run on.
    ///
    /// # Errors
    /// A sentence, where there are not two.
    pub fn find() -> Result<Self, String> {
        let allowed = sched_getaffinity(None)
            .map_err(|error| format!("could not read the allowed cores: {error}"))?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|core| allowed.is_set(*core))
            .collect();
        let [here, rest @ ..] = cores.as_slice() else {
            return Err("no core is allowed".to_owned());
        };
        let siblings = siblings_of(*here);
        let other = rest.iter().find(|core| !siblings.contains(core));
        let Some(there) = other.or_else(|| rest.first()) else {
            return Err("two cores are needed, this process may use one".to_owned());
        };
        Ok(Self {
            here: *here,
            there: *there,
            cores: cores.len(),
            siblings: other.is_none(),
            others: others(*there, rest),
            description: describe(),
        })
    }

    /// All cores but the measuring one, the peer's first.
    #[must_use]
    pub fn others(&self) -> Vec<usize> {
        self.others.clone()
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let siblings = if self.siblings {
            "siblings on one physical core: latencies are not comparable"
        } else {
            "no siblings"
        };
        write!(
            out,
            "{}; {} cores allowed; measured on {} and {} ({siblings})",
            self.description, self.cores, self.here, self.there
        )
    }
}

/// Keeps the calling thread, and the threads that it will start, on one core.
///
/// # Errors
/// A sentence, where it may not run there.
pub fn pin(core: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).map_err(|error| format!("could not pin to core {core}: {error}"))
}

fn others(first: usize, rest: &[usize]) -> Vec<usize> {
    let more = rest.iter().copied().filter(|core| *core != first);
    std::iter::once(first).chain(more).collect()
}

fn siblings_of(core: usize) -> Vec<usize> {
    let file = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    let Ok(list) = fs::read_to_string(file) else {
        return vec![core];
    };
    list.trim()
        .split(',')
        .flat_map(|part| match part.split_once('-') {
            Some((from, to)) => match (from.parse::<usize>(), to.parse::<usize>()) {
                (Ok(from), Ok(to)) => (from..=to).collect(),
                (Ok(_) | Err(_), Ok(_) | Err(_)) => Vec::new(),
            },
            None => part.parse().into_iter().collect(),
        })
        .collect()
}

fn describe() -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
    };
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".to_owned());
    let kernel = fs::read_to_string(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
    format!("{model}, Linux {}", kernel.trim())
}
