//! Classes, read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensorpool_crds::{NodePool, Quantity, TensorPoolClass};

use crate::plan::world::{Node, name_of};

/// One class, with its size in bytes or what is wrong with that.
#[derive(Clone, Debug)]
pub(super) struct ClassFacts<'a> {
    pub(super) name: &'a str,
    pub(super) object: &'a TensorPoolClass,
    /// Whole pages.
    pub(super) size_bytes: Result<u64, String>,
}

impl<'a> ClassFacts<'a> {
    pub(super) fn all(objects: &'a [Arc<TensorPoolClass>]) -> BTreeMap<&'a str, Self> {
        let named = objects.iter().filter_map(|object| {
            let name = name_of(object.as_ref())?;
            let size_bytes = whole_pages(object);
            Some((
                name,
                Self {
                    name,
                    object,
                    size_bytes,
                },
            ))
        });
        named.collect()
    }

    pub(super) fn has_node(&self, node: &Node<'_>) -> bool {
        node.has(&self.object.spec.node_selector)
    }

    /// The class as one node gets it; nothing while its size makes no sense.
    pub(super) fn pool(&self) -> Option<NodePool> {
        let spec = &self.object.spec;
        let mut transports = spec.transports.clone();
        transports.sort_unstable();
        Some(NodePool {
            class_name: self.name.to_owned(),
            page_size: spec.page_size,
            size_bytes: *self.size_bytes.as_ref().ok()?,
            guarantee: spec.guarantee,
            transports,
            domain: spec.domain.clone(),
            se_linux_context: spec.se_linux_context.clone(),
        })
    }
}

fn whole_pages(class: &TensorPoolClass) -> Result<u64, String> {
    let size = class.spec.size_per_node.value();
    let size = size.map_err(|error| format!("sizePerNode: {error}"))?;
    let page = class.spec.page_size.bytes();
    let pages = size / page;
    if pages == 0 {
        return Err(format!(
            "sizePerNode {} is less than one page of {}",
            class.spec.size_per_node,
            Quantity::from_bytes(page)
        ));
    }
    Ok(pages * page)
}
