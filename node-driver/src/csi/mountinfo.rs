//! What is mounted: `/proc/self/mountinfo`, read and parsed.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which directory of its filesystem is shown.
    pub root: PathBuf,
    /// Where it is.
    pub point: PathBuf,
    /// Options of the mount itself, such as `ro`.
    pub options: Vec<String>,
    /// Kind of the filesystem.
    pub filesystem: String,
    /// Options of the filesystem, such as `pagesize=2M`.
    pub filesystem_options: Vec<String>,
}

impl Mount {
    /// Whether the kernel has set all pages of this hugetlbfs aside for it.
    #[must_use]
    pub fn is_set_aside(&self) -> bool {
        let value = |name: &str| {
            let mut options = self.filesystem_options.iter();
            options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
        };
        value("min_size").is_some_and(|least| value("size") == Some(least))
    }

    /// The SELinux context of everything in it, where one was given.
    #[must_use]
    pub fn context(&self) -> Option<String> {
        let options = self.filesystem_options.join(",");
        let (_, quoted) = options.split_once("context=\"")?;
        quoted
            .split_once('"')
            .map(|(context, _)| context.to_owned())
    }

    /// Whether nothing can be written through it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }
}

/// All mounts of this mount namespace, in the order in which they were made.
///
/// # Errors
/// When the kernel does not say, or says something that is no mountinfo.
pub fn read() -> io::Result<Vec<Mount>> {
    parse(&std::fs::read("/proc/self/mountinfo")?)
}

/// The mount that one sees at exactly this path: the last that was made there.
#[must_use]
pub fn at<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.point == path)
}

/// Parses the whole text of a mountinfo.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with the line.
pub fn parse(text: &[u8]) -> io::Result<Vec<Mount>> {
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .map(|line| {
            mount(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line);
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("no line of a mountinfo: {line:?}"),
                )
            })
        })
        .collect()
}

/// `36 35 98:0 /root /point opt,opt tag:1 - type source opt,opt`
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let (_id, _parent, _device) = (next()?, next()?, next()?);
    let (root, point, options) = (path(next()?), path(next()?), words(next()?));
    while next()? != b"-" {}
    let filesystem = String::from_utf8_lossy(next()?).into_owned();
    let _source = next()?;
    Some(Mount {
        root,
        point,
        options,
        filesystem,
        filesystem_options: words(next()?),
    })
}

fn words(field: &[u8]) -> Vec<String> {
    let words = field.split(|byte| *byte == b',');
    words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// Undoes the kernel's escapes: space, tab, newline and backslash as three octal digits.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| {
                let digits = std::str::from_utf8(digits).ok()?;
                u8::from_str_radix(digits, 8).ok()
            });
        if let Some(byte) = octal {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Whether the mount shows the view of `volume`: the base may be a filesystem of its own, or lie
/// somewhere in a larger one.
#[must_use]
pub fn shows_view(mount: &Mount, volume: &crate::attachments::volume::VolumeId) -> bool {
    let view = Path::new(crate::attachments::views::DIRECTORY).join(volume.as_str());
    // What was removed while it was mounted has this at its end.
    let root = mount.root.as_os_str().as_bytes();
    let root = root.strip_suffix(b"//deleted").unwrap_or(root);
    Path::new(std::ffi::OsStr::from_bytes(root)).ends_with(view)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachments::volume::VolumeId;

    const TEXT: &str = "\
22 27 0:20 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
96 27 0:48 / /run/tensorpool/shm/2Mi rw,nosuid,nodev,noexec,relatime shared:7 master:3 - hugetlbfs none rw,uid=65532,gid=65532,mode=700,pagesize=2M,size=8589934592
97 27 0:48 /views/csi-1 /var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/a\\040b/mount ro,nosuid,nodev,noexec,relatime - hugetlbfs none rw,pagesize=2M
98 27 0:48 /views/csi-2//deleted /a\\134b\\012c ro - hugetlbfs none rw
";

    fn mounts() -> Vec<Mount> {
        parse(TEXT.as_bytes()).unwrap()
    }

    #[test]
    fn every_field_is_found_whatever_tags_stand_before_the_dash() {
        let mounts = mounts();
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[0].filesystem, "proc");
        let base = &mounts[1];
        assert_eq!(base.point, Path::new("/run/tensorpool/shm/2Mi"));
        assert_eq!(base.filesystem, "hugetlbfs");
        assert!(base.filesystem_options.contains(&"pagesize=2M".to_owned()));
        assert!(!base.is_read_only(), "`ro` of the mount counts");
        assert!(mounts[2].is_read_only());
    }

    #[test]
    fn escaped_letters_of_paths_are_read() {
        let mounts = mounts();
        let path = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/a b/mount";
        assert_eq!(mounts[2].point, Path::new(path));
        assert_eq!(mounts[3].point, Path::new("/a\\b\nc"));
    }

    #[test]
    fn of_several_mounts_at_one_place_the_last_is_seen() {
        let twice = format!("{TEXT}99 96 0:50 / /run/tensorpool/shm/2Mi rw - tmpfs none rw\n");
        let mounts = parse(twice.as_bytes()).unwrap();
        let seen = at(&mounts, Path::new("/run/tensorpool/shm/2Mi")).unwrap();
        assert_eq!(seen.filesystem, "tmpfs");
        assert!(at(&mounts, Path::new("/run/tensorpool/shm")).is_none());
    }

    #[test]
    fn a_view_is_known_by_its_volume() {
        let mounts = mounts();
        let volume = |name| VolumeId::new(name).unwrap();
        assert!(shows_view(&mounts[2], &volume("csi-1")));
        assert!(!shows_view(&mounts[2], &volume("csi-2")));
        assert!(shows_view(&mounts[3], &volume("csi-2")), "a removed view");
        assert!(!shows_view(&mounts[1], &volume("csi-1")));
    }

    #[test]
    fn a_line_that_is_cut_is_an_error_that_shows_it() {
        for cut in [
            "22",
            "22 27 0:20 / /proc rw shared:1",
            "1 2 0:1 / /p rw - proc",
        ] {
            let error = parse(cut.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(cut), "{error}");
        }
    }

    #[test]
    fn the_mounts_of_this_process_are_read() {
        let mounts = read().unwrap();
        assert!(at(&mounts, Path::new("/proc")).is_some());
    }
}
