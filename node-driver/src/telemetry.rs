//! Structured logs on standard error, as text or JSON, with a filter that changes at run time.
//!
//! `log_filter` brings a new filter to the running driver.

use std::fmt;

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogFormat, LogSettings};

/// Changes the filter of the running process.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogControl")
            .field("filter", &self.filter())
            .finish()
    }
}

/// Why the filter stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Not a filter.
    #[error(
        "{filter:?} is not a log filter: use error, warn, info, debug, trace, or target=level, separated by commas"
    )]
    Syntax {
        /// As given.
        filter: String,
        /// What the parser says.
        #[source]
        source: ParseError,
    },
    /// Logging is over.
    #[error("the log is no longer there")]
    Gone(#[source] reload::Error),
}

impl FilterError {
    /// Bounded label.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax",
            Self::Gone(_) => "gone",
        }
    }
}

/// Reads a filter, strictly: a directive that means nothing is an error.
///
/// # Errors
/// [`FilterError::Syntax`].
pub fn parse_filter(filter: &str) -> Result<EnvFilter, FilterError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| FilterError::Syntax {
            filter: filter.to_owned(),
            source,
        })
}

/// Starts logging for this process. A second call leaves the first one's log in place.
///
/// # Errors
/// [`FilterError::Syntax`] for a filter that the configuration did not check.
pub fn start(settings: &LogSettings) -> Result<LogControl, FilterError> {
    let (filter, handle) = reload::Layer::new(parse_filter(&settings.filter)?);
    let events = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let events = match settings.format {
        LogFormat::Text => events.with_ansi(false).boxed(),
        LogFormat::Json => events.json().flatten_event(true).boxed(),
    };
    // Fails only where a log is running already, as in tests of one process; that one goes on.
    let _running = tracing_subscriber::registry()
        .with(filter)
        .with(events)
        .try_init();
    Ok(LogControl { handle })
}

impl LogControl {
    /// The filter in force.
    #[must_use]
    pub fn filter(&self) -> String {
        self.handle
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }

    /// Puts another filter in force.
    ///
    /// # Errors
    /// [`FilterError`]; the old filter stays in force then.
    pub fn set_filter(&self, filter: &str) -> Result<(), FilterError> {
        let filter = parse_filter(filter)?;
        self.handle.reload(filter).map_err(FilterError::Gone)
    }
}
