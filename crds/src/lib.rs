//! The Kubernetes API of Tensorpool, group `tensorpool.io`, version `v1alpha1`.
//!
//! | kind | scope | written by | says |
//! |---|---|---|---|
//! | [`TensorStream`] | namespaced | people | which stream there is, and its layout |
//! | [`TensorPoolClass`] | cluster | administrators | which memory there is, on which nodes |
//! | [`TensorPoolNode`] | cluster | operator (spec), that node's driver (status) | one node's policy, and what lives there |
//! | [`TensorQuota`] | namespaced | administrators | how much a namespace may use |
//! | [`TensorPriorityClass`] | cluster | administrators | who goes first when memory is short |
//!
//! The crate holds types, their validation rules (CEL, beside the field that they guard), and the
//! words of conditions. It does no I/O, and it refuses to know the protocol: sizes, ids and names are
//! plain numbers and strings here.
//!
//! Comments of fields are what `kubectl explain` prints. Write them for its readers.
//!
//! Lists that people or several managers write are maps by key, so that server-side apply merges
//! them; lists that one machine writes are atomic, which is smaller and faster. Every writer uses
//! server-side apply only, under the name of [`field_manager`].

#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    reason = "`KubeSchema` copies each struct, with its `pub`, into a function"
)]
#![allow(
    clippy::duplicated_attributes,
    reason = "columns repeat `type_` and `priority`, each within its own parentheses"
)]

mod class;
mod condition;
mod conditions;
pub mod field_manager;
mod label;
mod layout;
mod names;
mod node;
mod node_status;
mod placement;
mod priority;
mod publish;
mod quantity;
mod quota;
mod schema;
mod stream;
mod stream_status;

pub use class::{
    StreamIdRange, TensorPoolClass, TensorPoolClassSpec, TensorPoolClassStatus, Transport,
};
pub use condition::{Draft, Polarity, same_but_times, settle};
pub use conditions::{
    AcceptedReason, ClassReason, NodeCondition, NodeReason, ProgrammedReason, ReadyReason,
    StreamCondition,
};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
pub use label::{LABEL_READY, class_label};
pub use layout::{MAX_POOLS, MAX_STREAM_BYTES, PageSize, Pool, StreamLayout, StreamPageSize};
pub use names::{CATEGORY, DRIVER_LEASE_PREFIX, FINALIZER, GROUP, VERSION, crds};
pub use node::{
    MAX_NODE_STREAMS, NodePool, NodeQuota, NodeQuotaHard, NodeStream, StreamLimits, TensorPoolNode,
    TensorPoolNodeSpec,
};
pub use node_status::{
    AeronEndpoint, DriverIdentity, NumaReport, PoolReport, StreamPhase, StreamReport,
    TensorPoolNodeStatus,
};
pub use placement::{
    Consumers, Numa, NumaPolicy, Placement, PlacementMode, Producers, ReclaimPolicy, Revocation,
};
pub use priority::{PreemptionPolicy, TensorPriorityClass, TensorPriorityClassFields};
pub use publish::{Published, deduplicate};
pub use quantity::{Quantity, QuantityError};
pub use quota::{
    QuotaHard, QuotaUsed, ScopeName, ScopeOperator, ScopeRequirement, ScopeSelector, TensorQuota,
    TensorQuotaSpec, TensorQuotaStatus,
};
pub use stream::{DEFAULT_CLASS, TensorStream, TensorStreamSpec};
pub use stream_status::{
    AttachmentCounts, Endpoint, MAX_ENDPOINTS, NodeCounts, ResolvedPriority, TensorStreamStatus,
};
