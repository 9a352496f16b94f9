//! What a volume asks for: its attributes and `readOnly`, as the pod's author wrote them.
//!
//! Only what kubelet says about the pod is believed without a question, and only because kubelet
//! overwrites those keys; whether it does is looked up in the `CSIDriver` object (`csidriver`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::access::Verb;

/// Name of the CSI driver, and of its `CSIDriver` object.
pub const DRIVER_NAME: &str = "csi.tensorpool.io";
/// Keys below this are kubelet's.
const KUBELET: &str = "csi.storage.k8s.io/";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const SERVICE_ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";

/// What the volume shall be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeAccess {
    /// Write frames.
    Produce,
    /// Read frames.
    Consume,
}

impl VolumeAccess {
    /// The verb that RBAC has to allow.
    #[must_use]
    pub const fn verb(self) -> Verb {
        match self {
            Self::Produce => Verb::Produce,
            Self::Consume => Verb::Consume,
        }
    }
}

/// How the pod wants to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeTransport {
    /// Through the volume's own socket.
    Socket,
    /// Through the media driver's directory.
    Aeron,
}

/// A stream by the names of its object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamName {
    /// Namespace of the TensorStream.
    pub namespace: String,
    /// Name of the TensorStream.
    pub name: String,
}

impl std::fmt::Display for StreamName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The pod, as kubelet names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Name of its service account.
    pub service_account: String,
}

/// What a volume asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// For this pod.
    pub pod: Pod,
    /// This stream.
    pub stream: StreamName,
    /// For this.
    pub access: VolumeAccess,
    /// This way.
    pub transport: VolumeTransport,
}

/// What is wrong with a volume's attributes: a sentence for who reads `kubectl describe pod`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// A key that means nothing.
    #[error(
        "volumeAttributes has the unknown key {0:?}; known are `stream`, `access` and `transport`"
    )]
    Unknown(String),
    /// No stream.
    #[error(
        "volumeAttributes has no `stream`: set it to the name of a TensorStream, or to namespace/name"
    )]
    NoStream,
    /// Not a stream's name.
    #[error(
        "volumeAttributes.stream is {0:?}: write the name of one TensorStream, or namespace/name, in lower-case letters, digits, '-' and '.'"
    )]
    Stream(String),
    /// No access.
    #[error("volumeAttributes has no `access`: set it to `produce` or to `consume`")]
    NoAccess,
    /// Another access.
    #[error("volumeAttributes.access is {0:?}: set it to `produce` or to `consume`")]
    Access(String),
    /// Another transport.
    #[error("volumeAttributes.transport is {0:?}: leave it out, or set it to `socket` or `aeron`")]
    Transport(String),
    /// Somebody may write.
    #[error(
        "the volume is not read-only: set `readOnly: true` beside `driver: {DRIVER_NAME}` in the pod's volume (producers on sockets too: they get their memory through the volume's socket)"
    )]
    NotReadOnly,
    /// It has to be written to.
    #[error(
        "the volume is read-only, and a producer on Aeron writes to it: remove `readOnly: true` beside `driver: {DRIVER_NAME}` in the pod's volume, or remove `transport: aeron`"
    )]
    ReadOnly,
    /// A persistent volume.
    #[error(
        "{DRIVER_NAME} has inline volumes only: write `csi: {{driver: {DRIVER_NAME}, readOnly: true, volumeAttributes: …}}` in the pod instead of a PersistentVolumeClaim"
    )]
    NotEphemeral,
    /// Kubelet does not say whose volume it is.
    #[error(
        "kubelet does not say which pod the volume is for ({0} is missing): the CSIDriver object {DRIVER_NAME} must have `podInfoOnMount: true`, as the chart installs it"
    )]
    NoPodInfo(&'static str),
}

impl AttributeError {
    /// Whether the pod has to be changed; otherwise the installation has to be.
    #[must_use]
    pub const fn is_the_pods(&self) -> bool {
        !matches!(self, Self::NoPodInfo(_))
    }
}

/// Reads a volume's attributes.
///
/// # Errors
/// [`AttributeError`], the first in this order: what is asked for, `readOnly`, what kubelet adds.
pub fn read(
    attributes: &BTreeMap<String, String>,
    read_only: bool,
) -> Result<Asked, AttributeError> {
    let known = ["stream", "access", "transport"];
    let unknown = attributes
        .keys()
        .find(|key| !key.starts_with(KUBELET) && !known.contains(&key.as_str()));
    if let Some(key) = unknown {
        return Err(AttributeError::Unknown(key.clone()));
    }
    let stream = attributes.get("stream").ok_or(AttributeError::NoStream)?;
    let (namespace, name) = stream_name(stream)?;
    let access = match attributes.get("access").map(String::as_str) {
        Some("produce") => VolumeAccess::Produce,
        Some("consume") => VolumeAccess::Consume,
        Some(other) => return Err(AttributeError::Access(other.to_owned())),
        None => return Err(AttributeError::NoAccess),
    };
    let transport = match attributes.get("transport").map(String::as_str) {
        Some("socket") | None => VolumeTransport::Socket,
        Some("aeron") => VolumeTransport::Aeron,
        Some(other) => return Err(AttributeError::Transport(other.to_owned())),
    };
    match (transport, access) {
        (VolumeTransport::Aeron, VolumeAccess::Produce) if read_only => {
            return Err(AttributeError::ReadOnly);
        }
        (VolumeTransport::Aeron, VolumeAccess::Produce) => {}
        (VolumeTransport::Aeron, VolumeAccess::Consume) | (VolumeTransport::Socket, _)
            if !read_only =>
        {
            return Err(AttributeError::NotReadOnly);
        }
        (VolumeTransport::Aeron, VolumeAccess::Consume) | (VolumeTransport::Socket, _) => {}
    }
    let pod = pod(attributes)?;
    let namespace = namespace.unwrap_or(&pod.namespace).to_owned();
    let name = name.to_owned();
    Ok(Asked {
        pod,
        stream: StreamName { namespace, name },
        access,
        transport,
    })
}

/// Namespace, where there is one, and name.
fn stream_name(text: &str) -> Result<(Option<&str>, &str), AttributeError> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    let is_label = |text: &str| text.len() <= 63 && !text.contains('.') && is_object_name(text);
    if is_object_name(name) && namespace.is_none_or(is_label) {
        Ok((namespace, name))
    } else {
        Err(AttributeError::Stream(text.to_owned()))
    }
}

/// A name as Kubernetes allows for objects (RFC 1123 subdomain).
fn is_object_name(text: &str) -> bool {
    let is_edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|part| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|byte| is_edge(*byte))
                && bytes.last().is_some_and(|byte| is_edge(*byte))
                && bytes.iter().all(|byte| is_edge(*byte) || *byte == b'-')
        })
}

fn pod(attributes: &BTreeMap<String, String>) -> Result<Pod, AttributeError> {
    let value = |key: &'static str| {
        let found = attributes.get(key).filter(|value| !value.is_empty());
        found.cloned().ok_or(AttributeError::NoPodInfo(key))
    };
    match value(EPHEMERAL)?.as_str() {
        "true" => {}
        _persistent => return Err(AttributeError::NotEphemeral),
    }
    Ok(Pod {
        namespace: value(POD_NAMESPACE)?,
        name: value(POD_NAME)?,
        uid: value(POD_UID)?,
        service_account: value(SERVICE_ACCOUNT)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(asked: &[(&str, &str)]) -> BTreeMap<String, String> {
        let of_kubelet = [
            (EPHEMERAL, "true"),
            (POD_NAME, "viewer-0"),
            (POD_NAMESPACE, "apps"),
            (POD_UID, "1234"),
            (SERVICE_ACCOUNT, "viewer"),
            ("csi.storage.k8s.io/added.later", "something"),
        ];
        let all = of_kubelet.iter().chain(asked);
        all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn error(asked: &[(&str, &str)]) -> AttributeError {
        read(&attributes(asked), true).unwrap_err()
    }

    const CAMERA: [(&str, &str); 2] = [("stream", "camera"), ("access", "consume")];

    #[test]
    fn a_stream_without_namespace_is_one_of_the_pods_own() {
        let asked = read(&attributes(&CAMERA), true).unwrap();
        assert_eq!(
            asked,
            Asked {
                pod: Pod {
                    namespace: "apps".into(),
                    name: "viewer-0".into(),
                    uid: "1234".into(),
                    service_account: "viewer".into(),
                },
                stream: StreamName {
                    namespace: "apps".into(),
                    name: "camera".into()
                },
                access: VolumeAccess::Consume,
                transport: VolumeTransport::Socket,
            }
        );
    }

    #[test]
    fn a_stream_of_another_namespace_is_named_with_it() {
        let asked = [
            ("stream", "vision/camera.front-1"),
            ("access", "produce"),
            ("transport", "socket"),
        ];
        let asked = read(&attributes(&asked), true).unwrap();
        assert_eq!(asked.stream.to_string(), "vision/camera.front-1");
        assert_eq!(asked.access, VolumeAccess::Produce);
        assert_eq!(asked.pod.namespace, "apps");
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let asked = [CAMERA[0], CAMERA[1], ("steam", "x")];
        assert_eq!(error(&asked), AttributeError::Unknown("steam".into()));
        assert_eq!(
            error(&asked).to_string(),
            "volumeAttributes has the unknown key \"steam\"; known are `stream`, `access` and `transport`"
        );
    }

    #[test]
    fn names_that_no_object_can_have_are_refused() {
        let long = "a".repeat(254);
        for name in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "../a",
            "Camera",
            "a_b",
            "-a",
            "a-",
            "a..b",
            "a.b/c",
            "a b",
            long.as_str(),
        ] {
            let asked = [("stream", name), ("access", "consume")];
            assert_eq!(error(&asked), AttributeError::Stream(name.into()));
        }
    }

    #[test]
    fn what_must_be_said_and_is_not_is_named() {
        assert_eq!(error(&[("access", "consume")]), AttributeError::NoStream);
        assert_eq!(error(&[("stream", "a")]), AttributeError::NoAccess);
        assert_eq!(
            error(&[("stream", "a"), ("access", "both")]),
            AttributeError::Access("both".into())
        );
        assert_eq!(
            error(&[CAMERA[0], CAMERA[1], ("transport", "udp")]),
            AttributeError::Transport("udp".into())
        );
    }

    #[test]
    fn a_volume_that_is_not_read_only_is_refused_with_the_line_to_add() {
        let error = read(&attributes(&CAMERA), false).unwrap_err();
        assert_eq!(error, AttributeError::NotReadOnly);
        assert!(error.to_string().contains("`readOnly: true`"), "{error}");
    }

    #[test]
    fn only_a_producer_on_aeron_may_write_to_its_volume_and_must_say_so() {
        let aeron = |access| [CAMERA[0], ("access", access), ("transport", "aeron")];
        let asked = read(&attributes(&aeron("produce")), false).unwrap();
        assert_eq!(asked.transport, VolumeTransport::Aeron);
        assert_eq!(
            read(&attributes(&aeron("produce")), true),
            Err(AttributeError::ReadOnly)
        );
        read(&attributes(&aeron("consume")), true).unwrap();
        assert_eq!(
            read(&attributes(&aeron("consume")), false),
            Err(AttributeError::NotReadOnly)
        );
    }

    #[test]
    fn a_volume_without_kubelets_word_for_the_pod_is_refused() {
        for key in [EPHEMERAL, POD_NAME, POD_NAMESPACE, POD_UID, SERVICE_ACCOUNT] {
            let mut attributes = attributes(&CAMERA);
            attributes.remove(key);
            let error = read(&attributes, true).unwrap_err();
            assert_eq!(error, AttributeError::NoPodInfo(key));
            assert!(!error.is_the_pods());
        }
        let mut persistent = attributes(&CAMERA);
        persistent.insert(EPHEMERAL.into(), "false".into());
        let error = read(&persistent, true).unwrap_err();
        assert_eq!(error, AttributeError::NotEphemeral);
        assert!(error.is_the_pods());
    }
}
