//! Attachments: published volumes, what each may see, and the socket through which it speaks.
//!
//! This module owns the records that survive a restart, the directories of hard links that pods get to
//! see (*views*), the question whether a pod may have its stream, and the conversation with the `csi`
//! container, which mounts what is prepared here and decides nothing.

#[cfg(feature = "kubernetes")]
pub mod attributes;
#[cfg(feature = "kubernetes")]
mod begin;
pub mod calls;
#[cfg(feature = "kubernetes")]
pub mod csidriver;
#[cfg(feature = "kubernetes")]
mod keeper;
#[cfg(feature = "kubernetes")]
pub mod protocol;
#[cfg(feature = "kubernetes")]
pub mod record;
#[cfg(feature = "kubernetes")]
pub mod refusal;
#[cfg(feature = "kubernetes")]
mod serve;
pub(crate) mod sweep;
#[cfg(feature = "kubernetes")]
mod table;
pub mod views;
pub mod volume;

#[cfg(feature = "kubernetes")]
pub(crate) use begin::begin;
#[cfg(feature = "kubernetes")]
pub use serve::{AttachmentsError, Parts, start};
