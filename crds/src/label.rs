//! Labels that the operator puts on Nodes, for `nodeSelector` of pods.

/// `true` on a Node whose driver is ready.
pub const LABEL_READY: &str = "tensorpool.io/ready";

/// The label that is `true` on a Node that has memory of a class. Names of classes are short enough
/// for it (a validation rule of `TensorPoolClass`).
#[must_use]
pub fn class_label(class: &str) -> String {
    format!("tensorpool.io/pool.{class}")
}

#[cfg(test)]
mod tests {
    use super::class_label;

    #[test]
    fn the_longest_class_name_makes_a_valid_label() {
        let label = class_label(&"a".repeat(50));
        let (_, name) = label.split_once('/').expect("a label has a prefix");
        assert!(name.len() <= 63, "{name}");
    }
}
