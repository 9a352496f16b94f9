//! The name of a volume: what kubelet calls it, and the name of its view and of its record.

use std::fmt;

/// Longest volume id: CSI allows 128 bytes.
const LONGEST_BYTES: usize = 128;

/// A volume id that is a plain file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(String);

/// Why a volume id cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeIdError {
    /// See message.
    #[error("the request names no volume")]
    Missing,
    /// See message.
    #[error("the volume id has {0} bytes, at most {LONGEST_BYTES} are possible")]
    TooLong(usize),
    /// See message.
    #[error(
        "the volume id {0:?} is no plain file name: letters, digits, '-', '_' and '.' are possible, and no '.' at the beginning"
    )]
    NotPlain(String),
}

impl VolumeId {
    /// Checks a volume id.
    ///
    /// # Errors
    /// [`VolumeIdError`].
    pub fn new(text: impl Into<String>) -> Result<Self, VolumeIdError> {
        let text = text.into();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if text.is_empty() {
            Err(VolumeIdError::Missing)
        } else if text.len() > LONGEST_BYTES {
            Err(VolumeIdError::TooLong(text.len()))
        } else if text.starts_with('.') || !text.bytes().all(is_plain) {
            Err(VolumeIdError::NotPlain(text))
        } else {
            Ok(Self(text))
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_kubelet_are_taken() {
        let kubelet = format!("csi-{}", "0123456789abcdef".repeat(4));
        assert_eq!(VolumeId::new(kubelet.clone()).unwrap().as_str(), kubelet);
        assert!(VolumeId::new("a".repeat(LONGEST_BYTES)).is_ok());
    }

    #[test]
    fn what_is_no_file_name_is_refused_in_words() {
        for text in ["..", ".hidden", "a/b", "a b", "\u{e4}", "a\0"] {
            let error = VolumeId::new(text).unwrap_err();
            assert_eq!(error, VolumeIdError::NotPlain(text.to_owned()));
        }
        assert_eq!(VolumeId::new(""), Err(VolumeIdError::Missing));
        let long = "a".repeat(LONGEST_BYTES + 1);
        assert_eq!(
            VolumeId::new(long).unwrap_err().to_string(),
            "the volume id has 129 bytes, at most 128 are possible"
        );
    }
}
