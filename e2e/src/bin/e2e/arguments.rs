//! What `tensorpool-e2e` is told.

use std::path::PathBuf;

use clap::Parser;
use tensorpool_cluster::Runtime;

use crate::steps::{SUITES, Suite};

/// The whole product once through, on a real Kubernetes.
///
/// A cluster comes up, the images are built with the repository's Dockerfile, the charts are
/// installed; the suites run in their order; the cluster goes. The last line says how it went.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask e2e", override_usage = "cargo xtask e2e [OPTIONS]", after_help = suites())]
pub(crate) struct Arguments {
    /// Only these suites and what they need, separated by commas.
    #[arg(long, value_name = "SUITE", value_delimiter = ',', value_parser = suite)]
    only: Vec<&'static Suite>,
    /// Leave the cluster up, to look at what failed or to run suites again.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Run on the cluster that `--keep` left up, with the images and charts that it has, and leave
    /// it up.
    #[arg(long)]
    pub(crate) kept: bool,
    /// The cluster's name; several live side by side.
    #[arg(long, default_value = "e2e")]
    pub(crate) name: String,
    /// Which containerd and runc.
    #[arg(long, value_enum, default_value = "current")]
    pub(crate) runtime: Runtime,
    /// Measure `pace` for minutes, and fail where pods are more than 10 % slower than processes of the
    /// node. For a machine that does nothing else.
    #[arg(long)]
    pub(crate) strict: bool,
    /// The checkout, with the charts and the Dockerfile.
    #[arg(long, hide = true)]
    pub(crate) root: PathBuf,
    /// The directory whose `out` has the static programs for the images.
    #[arg(long = "static", hide = true)]
    pub(crate) statics: PathBuf,
    /// Keep the images here, or take them from here where they are.
    #[arg(long, hide = true)]
    pub(crate) archives: Option<PathBuf>,
    /// The program `tensorpool-cluster`.
    #[arg(long, hide = true)]
    pub(crate) cluster: PathBuf,
}

impl Arguments {
    /// What runs, in the order of the list.
    pub(crate) fn suites(&self) -> Vec<&'static Suite> {
        let is_wanted = |name| {
            let mut named = self.only.iter();
            self.only.is_empty() || named.any(|it| it.name == name || it.needs.contains(&name))
        };
        SUITES.iter().filter(|it| is_wanted(it.name)).collect()
    }
}

fn suite(name: &str) -> Result<&'static Suite, String> {
    let found = SUITES.iter().find(|it| it.name == name);
    found.ok_or_else(|| {
        let names: Vec<_> = SUITES.iter().map(|it| it.name).collect();
        format!("the suites are {}", names.join(", "))
    })
}

fn suites() -> String {
    let lines = SUITES
        .iter()
        .map(|it| format!("\n  {:<12}{}", it.name, it.what));
    format!("Suites, in this order:{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &str) -> Result<Vec<&'static str>, String> {
        let all = format!("e2e --root /r --static /s --cluster /c {words}");
        let arguments = Arguments::try_parse_from(all.split_whitespace());
        let arguments = arguments.map_err(|error| error.to_string())?;
        Ok(arguments.suites().iter().map(|it| it.name).collect())
    }

    #[test]
    fn without_a_name_every_suite_runs() {
        let all: Vec<_> = SUITES.iter().map(|it| it.name).collect();
        assert_eq!(names("").unwrap(), all);
    }

    #[test]
    fn a_named_suite_brings_what_it_needs_in_the_order_of_the_list() {
        assert_eq!(names("--only access").unwrap(), ["quickstart", "access"]);
        assert_eq!(
            names("--only uninstall,exchange").unwrap(),
            ["quickstart", "exchange", "uninstall"]
        );
    }

    #[test]
    fn a_suite_that_does_not_exist_is_an_error_with_those_that_do() {
        let error = names("--only acess").unwrap_err();
        assert!(error.contains("acess"), "{error}");
        assert!(error.contains("quickstart, exchange"), "{error}");
    }

    #[test]
    fn what_a_suite_needs_comes_before_it() {
        for (at, suite) in SUITES.iter().enumerate() {
            for needed in suite.needs {
                let before = SUITES[..at].iter().any(|it| it.name == *needed);
                assert!(before, "{needed} before {}", suite.name);
            }
        }
    }
}
