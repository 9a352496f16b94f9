//! Huge pages as kubelet counts them. It does so once, when it starts, and writes what it saw into its
//! Node; what the kernel has since then it does not know.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, GetParams};
use tensorpool_crds::Quantity;

use super::answer::answered;
use crate::requests::Requests;

/// Least time between two looks. Kubelet starts anew rarely.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What the resources of huge pages are called before the page's size.
const PREFIX: &str = "hugepages-";

/// Bytes in huge pages that kubelet has counted, by bytes of a page.
pub type Capacity = BTreeMap<u64, u64>;

/// Looks at one Node.
pub(super) struct Kubelet {
    api: Api<Node>,
    node: String,
    looked: Option<Instant>,
    counted: Option<Capacity>,
}

impl Kubelet {
    pub(super) fn new(client: Client, node: &str) -> Self {
        Self {
            api: Api::all(client),
            node: node.to_owned(),
            looked: None,
            counted: None,
        }
    }

    /// What it has counted, as far as known: a look that fails leaves what was seen before.
    pub(super) async fn counted(&mut self, requests: &Requests) -> Option<&Capacity> {
        let is_new = self.looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN);
        if !is_new {
            // From the API server's memory: it is asked by every node.
            let parameters = GetParams::at("0");
            match answered(self.api.get_with(&self.node, &parameters)).await {
                Ok(node) => {
                    requests.count("node", "ok");
                    self.counted = capacity(&node);
                }
                Err(failure) => {
                    requests.count("node", failure.reason());
                    tracing::debug!(
                        node = self.node,
                        reason = failure.reason(),
                        error = %failure,
                        "what kubelet counts was not seen"
                    );
                }
            }
            self.looked = Some(Instant::now());
        }
        self.counted.as_ref()
    }
}

/// None before kubelet has written anything.
fn capacity(node: &Node) -> Option<Capacity> {
    let capacity = node.status.as_ref()?.capacity.as_ref()?;
    let huge = capacity.iter().filter_map(|(name, amount)| {
        let page = Quantity::new(name.strip_prefix(PREFIX)?).value().ok()?;
        Some((page, Quantity::new(amount.0.as_str()).value().ok()?))
    });
    Some(huge.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Capacity, capacity};

    #[test]
    fn huge_pages_are_read_from_a_nodes_capacity() {
        let read = |status| {
            let node = json!({"metadata": {"name": "n1"}, "status": status});
            capacity(&serde_json::from_value(node).expect("it is a Node"))
        };
        let status = json!({"capacity": {
            "cpu": "2", "memory": "8Gi", "hugepages-2Mi": "600Mi", "hugepages-1Gi": "0",
        }});
        assert_eq!(
            read(status),
            Some(Capacity::from([(2 << 20, 600 << 20), (1 << 30, 0)]))
        );
        assert_eq!(read(json!({})), None);
    }
}
