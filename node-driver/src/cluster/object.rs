//! The node's object as it comes from the API server, read part by part.
//!
//! A list is read whole or not at all by its type, so one entry of a newer definition would stop the
//! whole policy. Here each entry is read by itself, and those that cannot be are named.

use kube::ResourceExt;
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tensorpool_crds::{NodePool, NodeQuota, NodeStream, TensorPoolNodeSpec, TensorPoolNodeStatus};

use super::policy::{Flaw, RefusedStream};

/// One look at the node's object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Its UID: another object of the same name has another one.
    pub uid: String,
    /// Its generation.
    pub generation: Option<i64>,
    /// What the node shall do.
    pub spec: Spec,
    /// What stands there as status; none if it is absent, or nothing that a driver of this version
    /// writes.
    pub status: Option<TensorPoolNodeStatus>,
}

/// A spec, and what in it cannot be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    /// What can be read.
    pub readable: TensorPoolNodeSpec,
    /// Streams that cannot be read, as far as they can be named.
    pub streams: Vec<RefusedStream>,
    /// What else cannot be read, each in a sentence.
    pub flaws: Vec<String>,
}

impl Seen {
    /// Reads an object. What cannot be read stays as it was in `before`, if it was there: an operator
    /// that is newer than this driver must not end what runs.
    #[must_use]
    pub fn read(object: &DynamicObject, before: &TensorPoolNodeSpec) -> Self {
        let status = object.data.get("status").cloned();
        Self {
            uid: object.uid().unwrap_or_default(),
            generation: object.metadata.generation,
            spec: Spec::read(object.data.get("spec").unwrap_or(&Value::Null), before),
            status: status.and_then(|status| serde_json::from_value(status).ok()),
        }
    }
}

impl Spec {
    /// Reads a spec.
    #[must_use]
    pub fn read(spec: &Value, before: &TensorPoolNodeSpec) -> Self {
        let mut read = Self::default();
        read.readable.cordoned = spec.get("cordoned").and_then(Value::as_bool);
        read.readable.policy_revision = text(spec, "policyRevision");
        for entry in entries(spec, "streams") {
            let key = (text(entry, "namespace"), text(entry, "name"));
            let uid = text(entry, "uid");
            let what = || format!("stream {}/{}", key.0, key.1);
            let is_it =
                |it: &&NodeStream| (&it.namespace, &it.name, &it.uid) == (&key.0, &key.1, &uid);
            match one(entry) {
                Ok(stream) => read.readable.streams.push(stream),
                Err(why) => match before.streams.iter().find(is_it) {
                    Some(stream) => {
                        read.flaws.push(stays(&what(), &why));
                        read.readable.streams.push(stream.clone());
                    }
                    None => read.streams.push(unreadable(entry, why)),
                },
            }
        }
        for entry in entries(spec, "pools") {
            let name = text(entry, "className");
            let is_it = |it: &&NodePool| it.class_name == name;
            match one(entry) {
                Ok(pool) => read.readable.pools.push(pool),
                Err(why) => {
                    let known = before.pools.iter().find(is_it);
                    read.flaws
                        .push(flaw(&format!("class {name}"), &why, known.is_some()));
                    read.readable.pools.extend(known.cloned());
                }
            }
        }
        for entry in entries(spec, "quotas") {
            let (namespace, name) = (text(entry, "namespace"), text(entry, "name"));
            let is_it = |it: &&NodeQuota| it.namespace == namespace && it.name == name;
            match one(entry) {
                Ok(quota) => read.readable.quotas.push(quota),
                Err(why) => {
                    let known = before.quotas.iter().find(is_it);
                    let what = format!("quota {namespace}/{name}");
                    read.flaws.push(flaw(&what, &why, known.is_some()));
                    read.readable.quotas.extend(known.cloned());
                }
            }
        }
        read
    }
}

fn flaw(what: &str, why: &str, is_known: bool) -> String {
    if is_known {
        stays(what, why)
    } else {
        format!("{what} cannot be read: {why}")
    }
}

fn stays(what: &str, why: &str) -> String {
    format!("{what} cannot be read and stays as it was: {why}")
}

fn entries<'a>(spec: &'a Value, list: &str) -> &'a [Value] {
    spec.get(list)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn one<T: DeserializeOwned>(entry: &Value) -> Result<T, String> {
    serde_json::from_value(entry.clone()).map_err(|error| error.to_string())
}

fn text(entry: &Value, field: &str) -> String {
    let text = entry.get(field).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn unreadable(entry: &Value, why: String) -> RefusedStream {
    let id = entry.get("streamId").and_then(Value::as_u64);
    RefusedStream {
        namespace: text(entry, "namespace"),
        name: text(entry, "name"),
        uid: text(entry, "uid"),
        stream_id: id.and_then(|id| u32::try_from(id).ok()).unwrap_or(0),
        flaw: Flaw::Unreadable(why),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tensorpool_crds::TensorPoolNodeSpec;

    use super::Spec;

    fn stream(name: &str) -> serde_json::Value {
        json!({
            "namespace": "vision", "name": name, "uid": format!("uid-{name}"), "streamId": 7,
            "className": "default", "pageSize": "4Ki", "bytes": 8192, "priority": 0,
            "preemptionPolicy": "Never", "limits": {"producers": 1, "consumers": 4},
            "layout": {"headerSlots": 8, "pools": [{"poolId": 1, "strideBytes": 64}]},
        })
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_named_and_the_others_are_read() {
        let mut odd = stream("odd");
        odd["pageSize"] = json!("16Ki");
        let spec = json!({
            "policyRevision": "r1",
            "cordoned": true,
            "streams": [odd, stream("camera")],
            "pools": [{"className": "next", "pageSize": "16Ki"}],
            "quotas": [{"namespace": "vision", "name": "q", "hard": {"leases": "many"}}],
        });
        let read = Spec::read(&spec, &TensorPoolNodeSpec::default());
        assert_eq!(read.readable.policy_revision, "r1");
        assert_eq!(read.readable.cordoned, Some(true));
        let names: Vec<_> = read.readable.streams.iter().map(|it| &it.name).collect();
        assert_eq!(names, ["camera"]);
        assert_eq!(read.streams.len(), 1);
        assert_eq!(read.streams[0].name, "odd");
        assert!(
            read.streams[0].flaw.to_string().contains("16Ki"),
            "{}",
            read.streams[0].flaw
        );
        assert_eq!(read.flaws.len(), 2, "{:?}", read.flaws);
        assert!(read.flaws[0].starts_with("class next cannot be read"));
        assert!(read.flaws[1].starts_with("quota vision/q cannot be read"));
    }

    #[test]
    fn an_object_without_spec_asks_for_nothing() {
        let nothing = TensorPoolNodeSpec::default();
        let read = Spec::read(&serde_json::Value::Null, &nothing);
        assert_eq!(read, Spec::default());
    }

    #[test]
    fn what_was_readable_once_stays_as_it_was() {
        let pool = json!({
            "className": "default", "pageSize": "4Ki", "sizeBytes": 65536, "transports": ["Socket"],
            "domain": "default",
        });
        let quota = json!({"namespace": "vision", "name": "q", "hard": {"leases": 3}});
        let mut spec = json!({
            "policyRevision": "r1", "streams": [stream("camera")], "pools": [pool],
            "quotas": [quota],
        });
        let first = Spec::read(&spec, &TensorPoolNodeSpec::default());
        assert_eq!(first.flaws, Vec::<String>::new());
        spec["policyRevision"] = json!("r2");
        spec["streams"][0]["mode"] = json!("Never");
        spec["pools"][0]["pageSize"] = json!("16Ki");
        spec["quotas"][0]["hard"]["leases"] = json!("many");
        let second = Spec::read(&spec, &first.readable);
        assert_eq!(second.readable.streams, first.readable.streams);
        assert_eq!(second.readable.pools, first.readable.pools);
        assert_eq!(second.readable.quotas, first.readable.quotas);
        assert_eq!(second.readable.policy_revision, "r2");
        assert_eq!(second.streams, Vec::new());
        assert_eq!(second.flaws.len(), 3, "{:?}", second.flaws);
        for flaw in &second.flaws {
            assert!(flaw.contains("stays as it was"), "{flaw}");
        }
        // Another object of the same name is another stream.
        spec["streams"][0]["uid"] = json!("another");
        let third = Spec::read(&spec, &first.readable);
        assert_eq!(third.readable.streams, Vec::new());
        assert_eq!(third.streams.len(), 1);
    }
}
