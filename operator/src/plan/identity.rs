//! The fingerprint of a policy.

use ring::digest::{SHA256, digest};
use tensorpool_crds::TensorPoolNodeSpec;

/// Of pools, streams and quotas; what people set does not count. It tells two policies of a node
/// apart, so 128 bits of a SHA-256 are enough.
pub(super) fn fingerprint(spec: &TensorPoolNodeSpec) -> String {
    let policy = (&spec.pools, &spec.streams, &spec.quotas);
    let text = serde_json::to_vec(&policy).expect("plain data with string keys is JSON");
    let hash = digest(&SHA256, &text);
    let bytes = hash.as_ref().iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
