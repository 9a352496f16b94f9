//! What a person can do about a driver that is not reached, or refuses.

use std::error::Error;
use std::io;
use std::path::Path;

use tensorpool_transport::socket::ConnectError;

use crate::mapping::RegionError;

/// What to do about a socket that cannot be used.
pub(super) fn connect(error: &ConnectError) -> String {
    let (path, source) = parts(error);
    let path = path.display();
    match source.kind() {
        io::ErrorKind::NotFound => format!(
            "no driver has its socket at {path}; start tensorpool-node-driver or correct the path"
        ),
        io::ErrorKind::ConnectionRefused => {
            format!("no driver listens at {path}; the file is left from one that stopped")
        }
        io::ErrorKind::PermissionDenied => format!(
            "permission denied on the driver's socket {path}{}; join the group that owns it, or widen \
             the driver's socket.mode",
            owner_of(error)
        ),
        _ => format!("the driver's socket {path} cannot be used"),
    }
}

/// The same for the socket in a pod's volume.
pub(super) fn connect_volume(error: &ConnectError) -> String {
    let (path, source) = parts(error);
    let path = path.display();
    match source.kind() {
        io::ErrorKind::ConnectionRefused => format!(
            "the volume's socket {path} is there but no driver answers: the driver of this pod's node is \
             starting again, or gone (kubectl get pods -A -o wide -l \
             app.kubernetes.io/component=node-driver)"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "permission denied on the volume's socket {path}{}: it is open to every user of the pod, so a \
             security profile of the pod or its node forbids it",
            owner_of(error)
        ),
        _ => format!("the volume's socket {path} cannot be used"),
    }
}

fn parts(error: &ConnectError) -> (&Path, &io::Error) {
    match error {
        ConnectError::NoDriver { path, source } | ConnectError::Failed { path, source } => {
            (path, source)
        }
    }
}

/// Mode and owner of the socket, where they can be seen.
fn owner_of(error: &ConnectError) -> String {
    use std::os::unix::fs::MetadataExt;
    let (path, _) = parts(error);
    std::fs::metadata(path).map_or_else(
        |_| String::new(),
        |it| {
            format!(
                " (mode {:o}, uid {}, gid {})",
                it.mode() & 0o777,
                it.uid(),
                it.gid()
            )
        },
    )
}

/// What to do about regions that may not be opened.
pub(super) fn regions(error: &RegionError) -> &'static str {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|it| it.kind() == io::ErrorKind::PermissionDenied) {
            return "; its files are those of a group: join it (a pod of a class that allows Aeron names it \
                    in securityContext.supplementalGroups)";
        }
        cause = error.source();
    }
    ""
}

/// The refusal of a second producer, as drivers word it.
pub(crate) const PRODUCER_THERE: &str = "producer already attached";

/// The fix for a refusal, by the texts that drivers send.
pub(super) fn refusal(text: &str) -> Option<String> {
    let fixes = [
        (
            PRODUCER_THERE,
            "a stream has one producer: stop the other one, or wait until its lease ends",
        ),
        (
            "stream not provisioned",
            "add the stream to the driver's configuration, or allow dynamic streams there",
        ),
        (
            "hugepages",
            "give the driver's shm.base_dir a hugetlbfs mount, or ask for any pages",
        ),
        (
            "standard pages",
            "the driver has hugepages only: do not ask for standard ones",
        ),
        (
            "client_id",
            "leave the client id to the client, or choose another",
        ),
        (
            "node_id",
            "choose another node id, or leave it to the driver",
        ),
        (
            "shm creation failed",
            "the driver's log names the bytes needed and free",
        ),
        (
            "layout version",
            "the driver runs another layout version: upgrade the older side",
        ),
    ];
    fixes
        .iter()
        .find(|(words, _)| text.contains(words))
        .map(|(_, fix)| (*fix).to_owned())
}

#[cfg(test)]
mod tests {
    use tensorpool_shm::ContainError;

    use super::*;

    #[test]
    fn memory_that_may_not_be_opened_is_that_of_a_group() {
        let refused = |kind: io::ErrorKind| {
            regions(&RegionError::Contain(ContainError::Open {
                path: "/run/tensorpool/shm/2Mi/tensorpool-k8s/default/1/5/header.ring".into(),
                source: kind.into(),
            }))
        };
        let denied = refused(io::ErrorKind::PermissionDenied);
        assert!(
            denied.contains("securityContext.supplementalGroups"),
            "{denied}"
        );
        assert_eq!(refused(io::ErrorKind::NotFound), "");
    }
}
