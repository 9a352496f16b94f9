//! The modes of what a driver creates.

use crate::store::StoreError;

/// Modes of files and directories, applied exactly, whatever the umask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    file_mode: u32,
}

// === impl Permissions ===

impl Permissions {
    /// `0600` files in `0700` directories: one user.
    pub const PRIVATE: Self = Self { file_mode: 0o600 };
    /// `0660` files in `2770` directories: one group.
    pub const GROUP: Self = Self { file_mode: 0o660 };

    /// Permissions with this mode for files. Directories get search bits where files can be read,
    /// and the set-group bit where the group has access.
    ///
    /// # Errors
    /// Bits for others unless `force_other`; a mode that its owner cannot use; execution bits.
    // spec: W-15.10-1 W-15.21a-5
    pub fn from_mode(mode: u32, force_other: bool) -> Result<Self, StoreError> {
        if mode & !0o666 != 0 || mode & 0o600 != 0o600 {
            return Err(StoreError::Mode { mode });
        }
        if mode & 0o007 != 0 && !force_other {
            return Err(StoreError::OtherBits { mode });
        }
        Ok(Self { file_mode: mode })
    }

    /// Mode of files.
    #[must_use]
    pub const fn file_mode(self) -> u32 {
        self.file_mode
    }

    /// Mode of directories.
    #[must_use]
    pub const fn directory_mode(self) -> u32 {
        let search = (self.file_mode & 0o444) >> 2;
        let set_group = if self.file_mode & 0o060 == 0 {
            0
        } else {
            0o2000
        };
        self.file_mode | search | set_group
    }
}
