//! How the memory is mounted, as far as a class has a say in it.

use std::path::Path;

use crate::control::BaseFacts;
use crate::csi::mountinfo::{self, Mount};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFacts {
    /// Name of the base, the page size as Kubernetes writes it.
    pub name: String,
    /// Whether all its pages are set aside for it.
    pub set_aside: bool,
    /// Its SELinux context; none where SELinux is not active.
    pub context: Option<String>,
}

/// The mounts of these bases; one that cannot be seen is left out.
#[must_use]
pub fn read(bases: &[BaseFacts]) -> Vec<MountFacts> {
    let mounts = match mountinfo::read() {
        Ok(mounts) => mounts,
        Err(error) => {
            tracing::warn!(error = %error, "how the memory is mounted cannot be read");
            return Vec::new();
        }
    };
    of(bases, &mounts)
}

fn of(bases: &[BaseFacts], mounts: &[Mount]) -> Vec<MountFacts> {
    let found = bases.iter().filter_map(|base| {
        let mount = mountinfo::at(mounts, Path::new(&base.directory))?;
        Some(MountFacts {
            name: base.name.clone(),
            set_aside: mount.is_set_aside(),
            context: mount.context(),
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use tensorpool_driver_core::BaseId;

    use super::{MountFacts, of};
    use crate::control::BaseFacts;
    use crate::csi::mountinfo::parse;

    fn base(name: &str) -> BaseFacts {
        BaseFacts {
            base: BaseId(0),
            name: name.to_owned(),
            directory: format!("/run/tensorpool/shm/{name}"),
            page_bytes: 4096,
            hugepages: false,
            total_bytes: 0,
            free_bytes: 0,
            wanted_bytes: 0,
            pinned_bytes: 0,
        }
    }

    #[test]
    fn guarantee_and_label_are_read_from_the_mounts_options() {
        let mounts = parse(
            b"30 29 0:40 / /run/tensorpool/shm/2Mi rw - hugetlbfs tensorpool rw,context=\"system_u:object_r:container_file_t:s0:c1,c2\",pagesize=2M,size=8M,min_size=8M\n\
              31 29 0:41 / /run/tensorpool/shm/1Gi rw - hugetlbfs tensorpool rw,pagesize=1024M,size=2G,min_size=1G\n",
        )
        .expect("they are lines of a mountinfo");
        let found = of(&[base("2Mi"), base("1Gi"), base("4Ki")], &mounts);
        let facts = |name: &str, set_aside, context: Option<&str>| MountFacts {
            name: name.to_owned(),
            set_aside,
            context: context.map(str::to_owned),
        };
        assert_eq!(
            found,
            [
                facts(
                    "2Mi",
                    true,
                    Some("system_u:object_r:container_file_t:s0:c1,c2")
                ),
                facts("1Gi", false, None),
            ]
        );
    }
}
