//! What a driver does to its list of streams before it publishes it.

use std::collections::BTreeMap;

use crate::{MAX_NODE_STREAMS, StreamReport};

/// A list that the API server takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// At most [`MAX_NODE_STREAMS`] reports, by namespace and name, no stream twice.
    pub streams: Vec<StreamReport>,
    /// Reports of a stream that had a newer one.
    pub duplicates: usize,
    /// Reports beyond the limit.
    pub dropped: usize,
}

/// Sorts reports by namespace, name and UID, keeps the newest epoch of each stream, and cuts at the
/// limit. The list is atomic in the API, so nothing else there removes duplicates.
#[must_use]
pub fn deduplicate(reports: Vec<StreamReport>) -> Published {
    let given = reports.len();
    let mut newest: BTreeMap<(String, String, String), StreamReport> = BTreeMap::new();
    for report in reports {
        let key = (
            report.namespace.clone(),
            report.name.clone(),
            report.uid.clone(),
        );
        match newest.get(&key) {
            Some(kept) if kept.epoch >= report.epoch => {}
            Some(_) | None => {
                newest.insert(key, report);
            }
        }
    }
    let duplicates = given - newest.len();
    let dropped = newest.len().saturating_sub(MAX_NODE_STREAMS);
    Published {
        streams: newest.into_values().take(MAX_NODE_STREAMS).collect(),
        duplicates,
        dropped,
    }
}

#[cfg(test)]
mod tests {
    use super::deduplicate;
    use crate::{MAX_NODE_STREAMS, StreamPhase, StreamReport};

    fn report(name: &str, epoch: u64) -> StreamReport {
        StreamReport {
            namespace: "vision".to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            stream_id: 1,
            epoch: Some(epoch),
            layout_version: 1,
            phase: StreamPhase::Ready,
            reason: None,
            message: None,
            bytes: 4_096,
            header_uri: None,
            pool_uris: Vec::new(),
            producer_pod: None,
            producers: 0,
            consumers: 0,
        }
    }

    #[test]
    fn the_newest_epoch_of_a_stream_is_kept_whatever_the_order() {
        let expected = vec![report("a", 9), report("b", 1)];
        let forwards = deduplicate(vec![report("b", 1), report("a", 3), report("a", 9)]);
        let backwards = deduplicate(vec![report("a", 9), report("a", 3), report("b", 1)]);
        assert_eq!(forwards, backwards);
        assert_eq!(
            (forwards.streams, forwards.duplicates, forwards.dropped),
            (expected, 1, 0)
        );
    }

    #[test]
    fn the_limit_is_kept_and_one_more_is_counted() {
        let many = |count: usize| (0..count).map(|i| report(&format!("s{i:04}"), 1)).collect();
        assert_eq!(deduplicate(many(MAX_NODE_STREAMS)).dropped, 0);
        let over = deduplicate(many(MAX_NODE_STREAMS + 1));
        assert_eq!((over.streams.len(), over.dropped), (MAX_NODE_STREAMS, 1));
    }
}
