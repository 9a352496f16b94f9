//! Field managers of server-side apply. One stable name per writer: a writer that changes its name,
//! or mixes Apply with Update, keeps fields that it no longer sets.

/// The operator: everything that it computes.
pub const OPERATOR: &str = "tensorpool-operator";

/// A node's driver: the status of its own `TensorPoolNode`.
pub const NODE_DRIVER: &str = "tensorpool-node-driver";
