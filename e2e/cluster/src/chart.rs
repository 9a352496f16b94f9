//! What Helm makes of a chart, for tests that want its very objects and no release.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::binaries::{Binaries, BuildError, Program};
use crate::progress::Progress;

/// Why a chart was not rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// There is no Helm.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Helm did not start.
    #[error("could not start Helm")]
    Start(#[source] io::Error),
    /// It refused.
    #[error("Helm could not render the chart:\n{said}")]
    Refused {
        /// What it said.
        said: String,
    },
}

/// The objects of these templates (`templates/NAME.yaml`) with the chart's own values, as YAML, for a
/// release `tensorpool` in `namespace`. No cluster is asked.
///
/// # Errors
/// When Helm cannot be built, or refuses; the message has its words.
pub fn rendered_chart(
    chart: &Path,
    namespace: &str,
    templates: &[&str],
) -> Result<String, ChartError> {
    let helm = Binaries::from_environment()?.ensure(Program::Helm, &Progress::stderr())?;
    let mut helm = Command::new(helm);
    helm.args(["template", "tensorpool", "--namespace", namespace]);
    for template in templates {
        helm.arg("--show-only").arg(template);
    }
    // It must not ask the cluster that the shell happens to know.
    helm.arg(chart).env_remove("KUBECONFIG");
    let output = helm.output().map_err(ChartError::Start)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(ChartError::Refused {
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}
