//! The command line, of the supervisor and of the processes that it starts.

use std::env;
use std::path::PathBuf;

/// What this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Starts the others and prints what they say.
    Supervisor,
    /// Sends pictures.
    Producer,
    /// Follows the ring.
    Ring,
    /// Follows Aeron's descriptors.
    Descriptors,
    /// Writes every Nth frame as PNG.
    Writer,
}

impl Role {
    /// The word for it on the command line.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Producer => "producer",
            Self::Ring => "ring",
            Self::Descriptors => "descriptors",
            Self::Writer => "writer",
        }
    }
}

/// The command line, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// What this process is.
    pub(crate) role: Role,
    /// Stop after so many frames; `None`: on Ctrl-C.
    pub(crate) frames: Option<u64>,
    /// Directory of the pictures.
    pub(crate) images: PathBuf,
    /// Frames per second; 0: as fast as possible.
    pub(crate) rate: u32,
    /// The writer saves one frame of so many.
    pub(crate) every: u64,
    /// Where the writer saves them.
    pub(crate) output: PathBuf,
    /// The frame of which one byte is changed on its way.
    pub(crate) damage: Option<u64>,
    /// Print how it is used and end.
    pub(crate) help: bool,
}

/// What `--help` prints.
pub(crate) const USAGE: &str = "\
usage: tensorpool-demo [--frames N] [--images DIR] [--rate HZ] [--every N] [--output DIR] [--damage N]

Streams pictures through a node driver of its own: one producer and three consumers, each a process.
Two consumers compare every byte, one on the ring and one on Aeron's descriptors; the third writes
pictures back as PNG. Ends with a summary, and with 1 if a byte differed or a consumer saw nothing.

  --frames N    stop after N frames; without it, Ctrl-C stops
  --images DIR  PNG and JPEG files to send, instead of the few that come with the project
  --rate HZ     frames per second, 60 if not given; 0: as fast as possible
  --every N     write one frame of N back as PNG, 60 if not given
  --output DIR  where to write them, target/demo if not given
  --damage N    change one byte of frame N on its way, to see that the consumers notice";

impl Arguments {
    /// Reads the command line.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let workspace =
            env::var_os("TENSORPOOL_WORKSPACE").map_or_else(|| PathBuf::from("."), PathBuf::from);
        let mut parsed = Self {
            role: Role::Supervisor,
            frames: None,
            images: workspace.join("e2e/images"),
            rate: 60,
            every: 60,
            output: workspace.join("target/demo"),
            damage: None,
            help: false,
        };
        let mut words = words;
        while let Some(flag) = words.next() {
            let mut value = || {
                let value = words.next();
                value.ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))
            };
            match flag.as_str() {
                "--role" => parsed.role = role(&value()?)?,
                "--frames" => parsed.frames = Some(number(&flag, &value()?)?),
                "--images" => parsed.images = PathBuf::from(value()?),
                "--rate" => parsed.rate = number(&flag, &value()?)?,
                "--every" => parsed.every = number::<u64>(&flag, &value()?)?.max(1),
                "--output" => parsed.output = PathBuf::from(value()?),
                "--damage" => parsed.damage = Some(number(&flag, &value()?)?),
                "--help" | "-h" => parsed.help = true,
                other => return Err(format!("unknown argument {other}\n{USAGE}")),
            }
        }
        Ok(parsed)
    }

    /// The command line of a process with another role and the same settings.
    pub(crate) fn words_for(&self, role: Role) -> Vec<String> {
        let path = |path: &PathBuf| path.display().to_string();
        let mut words = vec!["--role".to_owned(), role.word().to_owned()];
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        add("--images", path(&self.images));
        add("--rate", self.rate.to_string());
        add("--every", self.every.to_string());
        add("--output", path(&self.output));
        if let Some(frames) = self.frames {
            add("--frames", frames.to_string());
        }
        if let Some(damage) = self.damage {
            add("--damage", damage.to_string());
        }
        words
    }
}

fn role(word: &str) -> Result<Role, String> {
    let roles = [
        Role::Supervisor,
        Role::Producer,
        Role::Ring,
        Role::Descriptors,
        Role::Writer,
    ];
    let found = roles.into_iter().find(|role| role.word() == word);
    found.ok_or_else(|| format!("there is no role {word}"))
}

fn number<T: std::str::FromStr>(flag: &str, text: &str) -> Result<T, String>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|error| format!("{flag} {text}: {error}\n{USAGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_gets_the_supervisors_settings() {
        let words = "--frames 600 --rate 30 --every 7 --images a --output b --damage 3";
        let parse =
            |words: &[&str]| Arguments::parse(words.iter().map(|word| (*word).to_owned())).unwrap();
        let supervisor = parse(&words.split(' ').collect::<Vec<_>>());
        let words = supervisor.words_for(Role::Ring);
        let ring = parse(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let expected = Arguments {
            role: Role::Ring,
            ..supervisor
        };
        assert_eq!(ring, expected);
    }
}
