//! The grammar of `shm:` URIs: `shm:file?path=<absolute path>`, then `|require_hugepages=true` or
//! `=false` or nothing.
//!
//! Only text is looked at here. Where a path leads, and whether it may be opened, is for whoever opens
//! it. What is read is wider than what is written: peers announce paths with characters that the
//! grammar leaves out.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

const SCHEME: &str = "shm:";
const KIND: &str = "file?";
const PATH: &str = "path";
const REQUIRE_HUGEPAGES: &str = "require_hugepages";

/// A region's place, by a URI whose form is right.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ShmUri {
    path: String,
    require_hugepages: bool,
}

/// Why a text is not a `shm:` URI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It does not start with `shm:`.
    // spec: W-15.22-2
    #[error("the URI does not start with `shm:`; only that scheme is known")]
    Scheme,
    /// It starts with `shm:`, and not with `shm:file?`.
    // spec: W-15.22-1
    #[error("the URI does not start with `shm:file?`; only files are known")]
    Kind,
    /// A part between two `|` is not `path=` or `require_hugepages=`.
    // spec: W-15.22-2
    #[error("`{parameter}` is not a parameter of a shm URI; `path` and `require_hugepages` are")]
    UnknownParameter {
        /// The part, at most 64 characters of it.
        parameter: String,
    },
    /// The same parameter stands there twice.
    #[error("parameter `{parameter}` stands there twice")]
    RepeatedParameter {
        /// Which one.
        parameter: &'static str,
    },
    /// `require_hugepages` is neither `true` nor `false`.
    // spec: W-15.22-1
    #[error("require_hugepages is `{value}`; it can be `true` or `false`")]
    Hugepages {
        /// The value, at most 64 characters of it.
        value: String,
    },
    /// There is no `path=`, it is not the first parameter, or it is empty.
    // spec: W-15.22-3
    #[error("the URI does not start with a path: `shm:file?path=<absolute path>`")]
    NoPath,
    /// The path does not start with `/`.
    // spec: W-15.22-3
    #[error("the path does not start with `/`; only absolute paths are taken")]
    RelativePath,
    /// The path has a character that it may not have.
    // spec: W-15.22-3
    #[error("the path has the character {character:?}, which a shm URI cannot hold")]
    Character {
        /// The first such character.
        character: char,
    },
}

impl UriError {
    /// Bounded label for metrics and logs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Scheme => "scheme",
            Self::Kind => "kind",
            Self::UnknownParameter { .. } => "unknown_parameter",
            Self::RepeatedParameter { .. } => "repeated_parameter",
            Self::Hugepages { .. } => "hugepages",
            Self::NoPath => "no_path",
            Self::RelativePath => "relative_path",
            Self::Character { .. } => "character",
        }
    }
}

impl ShmUri {
    /// The URI of a region that is to be announced. The path must be absolute and of printable
    /// US-ASCII without space, `?` and `|`, so that every peer can read it.
    ///
    /// # Errors
    /// [`UriError`] for a path that the grammar cannot hold.
    // spec: W-15.22-3, W-15.21a-7
    pub fn new(path: &str, require_hugepages: bool) -> Result<Self, UriError> {
        check_path(path, |character| {
            character.is_ascii_graphic() && character != '?' && character != '|'
        })?;
        Ok(Self {
            path: String::from(path),
            require_hugepages,
        })
    }

    /// Reads a URI from a peer. Any path without `|` and control characters is taken.
    ///
    /// # Errors
    /// [`UriError`], the first rule that is broken.
    // spec: W-15.22-1, W-15.22-2, W-15.22-3, W-15.21a-7, D-4.2-18
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let rest = text.strip_prefix(SCHEME).ok_or(UriError::Scheme)?;
        let rest = rest.strip_prefix(KIND).ok_or(UriError::Kind)?;
        let mut parameters = rest.split('|');
        let Some((PATH, path)) = parameters.next().and_then(|first| first.split_once('=')) else {
            return Err(UriError::NoPath);
        };
        check_path(path, |character| !character.is_control())?;
        let mut require_hugepages = None;
        for parameter in parameters {
            match parameter.split_once('=') {
                Some((REQUIRE_HUGEPAGES, value)) => {
                    let value = parse_bool(value)?;
                    if require_hugepages.replace(value).is_some() {
                        let parameter = REQUIRE_HUGEPAGES;
                        return Err(UriError::RepeatedParameter { parameter });
                    }
                }
                Some((PATH, _)) => return Err(UriError::RepeatedParameter { parameter: PATH }),
                Some(_) | None => {
                    let parameter = excerpt(parameter);
                    return Err(UriError::UnknownParameter { parameter });
                }
            }
        }
        Ok(Self {
            path: String::from(path),
            require_hugepages: require_hugepages.unwrap_or(false),
        })
    }

    /// The absolute path, as announced.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the file must be backed by hugepages; a mapping that is not must be refused.
    #[must_use]
    pub const fn require_hugepages(&self) -> bool {
        self.require_hugepages
    }
}

fn check_path(path: &str, is_allowed: fn(char) -> bool) -> Result<(), UriError> {
    if path.is_empty() {
        return Err(UriError::NoPath);
    }
    if !path.starts_with('/') {
        return Err(UriError::RelativePath);
    }
    match path.chars().find(|&character| !is_allowed(character)) {
        Some(character) => Err(UriError::Character { character }),
        None => Ok(()),
    }
}

fn parse_bool(value: &str) -> Result<bool, UriError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(UriError::Hugepages {
            value: excerpt(other),
        }),
    }
}

/// What an error message quotes of a peer's text.
fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Writes `require_hugepages` only where it is `true`: older readers know no other value.
impl fmt::Display for ShmUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{KIND}{PATH}={}", self.path)?;
        if self.require_hugepages {
            write!(f, "|{REQUIRE_HUGEPAGES}=true")?;
        }
        Ok(())
    }
}

impl FromStr for ShmUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text)
    }
}
