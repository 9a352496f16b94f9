//! Every decision of the Tensorpool driver, without I/O.
//!
//! [`Driver::handle`] takes one [`Event`] and appends [`Action`]s; the order of the list is the order
//! to keep. This crate owns who may attach to what, for how long, in which epoch, what is announced,
//! what is forwarded between the two ways in, and which files exist. It refuses everything else: it
//! opens no file, sends no byte, reads no clock and rolls no dice, so that a seed replays any run.
//!
//! The rules are those of the protocol (cited by requirement id, groups 1, 8, 9.1 and 10) and of
//! `docs/extensions.md` (`X-` ids).
#![forbid(unsafe_code)]

mod access;
mod action;
mod announce;
mod assigned;
mod attach;
mod change;
mod collect;
pub mod config;
mod connect;
mod connection;
mod consumers;
mod counters;
mod deadline;
mod discovery;
mod driver;
mod epoch;
mod event;
mod grant;
mod invariants;
mod join;
mod keepalive;
mod layout;
mod lease;
mod node_id;
mod poison;
mod policy;
mod provision;
mod quota;
mod reclaim;
mod refusal;
mod report;
mod room;
mod shutdown;
mod status;
mod stream;

pub use action::{
    Action, EpochCause, EpochKey, Note, Numa, PoolFile, Reclaim, RegionSet, RemoveReason, To,
};
pub use assigned::ClientRange;
pub use config::{BaseId, Config, ConfigSpec};
pub use counters::{Counters, DropReason};
pub use driver::Driver;
pub use event::{Damage, Event, ExistingEpoch, OpId, Owner, RegionsError, Restored, ShutdownMode};
pub use status::{
    BaseStatus, ClassStatus, ConsumerQos, ConsumerStatus, DepartedStatus, EpochStatus, Lifecycle,
    ProducerStatus, QuotaStatus, QuotaUse, StatusSnapshot, StreamPhase, StreamStatus, Uris, Way,
};
