//! Which paths a client maps, and which it refuses.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tensorpool_shm::{Access, AllowedBases, ContainError};
use tensorpool_wire::ShmUri;

struct Places {
    _dir: TempDir,
    allowed: PathBuf,
    outside: PathBuf,
    bases: AllowedBases,
}

/// `base` is allowed, `base2` is not, each with a file `region`.
fn places() -> Places {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().canonicalize().expect("a real path");
    let (allowed, outside) = (root.join("base"), root.join("base2"));
    for place in [&allowed, &outside] {
        std::fs::create_dir(place).expect("a directory");
        std::fs::write(place.join("region"), [0; 64]).expect("a file");
    }
    let bases = AllowedBases::new([&allowed]).expect("an allowed base");
    Places {
        _dir: dir,
        allowed,
        outside,
        bases,
    }
}

fn refusal(places: &Places, path: &Path) -> &'static str {
    match places.bases.validate_path(path, false) {
        Ok(accepted) => panic!("{} was accepted as {accepted:?}", path.display()),
        Err(error) => error.reason(),
    }
}

// spec: W-15.21a-7 W-15.21a-8 W-15.21a-10
#[test]
fn a_regular_file_in_an_allowed_directory_is_opened() {
    let places = places();
    let uri = ShmUri::new(places.allowed.join("region").to_str().expect("UTF-8"), true);
    let uri = places
        .bases
        .validate(&uri.expect("a URI"))
        .expect("a contained path");
    assert_eq!(uri.path(), places.allowed.join("region"));
    assert!(uri.require_hugepages());
    uri.open(Access::ReadOnly).expect("an open file");
    uri.open(Access::ReadWrite).expect("an open file");
}

// spec: W-15.21a-7
#[test]
fn a_relative_path_is_refused() {
    assert_eq!(refusal(&places(), Path::new("base/region")), "not_absolute");
}

// spec: W-15.21a-10 W-15.21a-13
#[test]
fn a_sibling_with_the_same_beginning_is_outside() {
    let places = places();
    assert_eq!(refusal(&places, &places.outside.join("region")), "outside");
}

// spec: W-15.21a-8 W-15.21a-10
#[test]
fn dots_that_lead_outside_are_resolved_first() {
    let places = places();
    assert_eq!(
        refusal(&places, &places.allowed.join("../base2/region")),
        "outside"
    );
    places
        .bases
        .validate_path(&places.allowed.join("../base/region"), false)
        .expect("inside");
}

// spec: W-15.21a-8 W-15.21a-10
#[test]
fn a_link_that_leads_outside_is_refused() {
    let places = places();
    symlink(places.outside.join("region"), places.allowed.join("link")).expect("a link");
    symlink(&places.outside, places.allowed.join("below")).expect("a link");
    assert_eq!(refusal(&places, &places.allowed.join("link")), "outside");
    assert_eq!(
        refusal(&places, &places.allowed.join("below/region")),
        "outside"
    );
}

// spec: W-15.21a-9
#[test]
fn a_base_that_is_a_link_allows_what_it_leads_to() {
    let places = places();
    let link = places.outside.join("base");
    symlink(&places.allowed, &link).expect("a link");
    let bases = AllowedBases::new([&link]).expect("an allowed base");
    assert_eq!(bases.as_slice(), std::slice::from_ref(&places.allowed));
    bases
        .validate_path(&link.join("region"), false)
        .expect("inside");
    // Only the form found at the start counts, not where the link leads later.
    std::fs::remove_file(&link).expect("removed");
    symlink(&places.outside, &link).expect("a link");
    let error = bases
        .validate_path(&link.join("region"), false)
        .expect_err("outside now");
    assert_eq!(error.reason(), "outside");
}

// spec: W-15.21a-11
#[test]
fn what_is_not_a_regular_file_is_refused() {
    let places = places();
    let fifo = places.allowed.join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
    let _listener = UnixListener::bind(places.allowed.join("socket")).expect("a socket");
    std::fs::create_dir(places.allowed.join("directory")).expect("a directory");
    for name in ["fifo", "socket", "directory", ""] {
        assert_eq!(
            refusal(&places, &places.allowed.join(name)),
            "not_regular",
            "{name}"
        );
    }
    let devices = AllowedBases::new(["/dev"]).expect("an allowed base");
    let error = devices
        .validate_path(Path::new("/dev/null"), false)
        .expect_err("a device");
    assert_eq!(
        error.to_string(),
        "/dev/null is a character device; a region must be a regular file"
    );
}

#[test]
fn a_path_that_leads_nowhere_is_refused() {
    let places = places();
    assert_eq!(refusal(&places, &places.allowed.join("absent")), "resolve");
    symlink("loop", places.allowed.join("loop")).expect("a link");
    assert_eq!(refusal(&places, &places.allowed.join("loop")), "resolve");
}

// spec: W-15.21a-12 W-15.21a-13
#[test]
fn a_file_that_changed_between_check_and_opening_is_refused() {
    let places = places();
    let path = places.allowed.join("region");
    let uri = places
        .bases
        .validate_path(&path, false)
        .expect("a contained path");

    // Another file under the same name.
    std::fs::rename(places.outside.join("region"), &path).expect("replaced");
    let error = uri.open(Access::ReadOnly).expect_err("another file");
    assert!(matches!(error, ContainError::Replaced { .. }), "{error}");

    // A link to a file of the same name elsewhere.
    std::fs::remove_file(&path).expect("removed");
    symlink("/etc/hostname", &path).expect("a link");
    assert_eq!(
        uri.open(Access::ReadOnly).expect_err("a link").reason(),
        "open"
    );

    // A FIFO without a reader does not hold the opening up.
    std::fs::remove_file(&path).expect("removed");
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
    assert_eq!(
        uri.open(Access::ReadOnly).expect_err("a FIFO").reason(),
        "not_regular"
    );
}

// spec: W-15.21a-12
#[test]
fn a_directory_that_became_a_link_is_refused() {
    let places = places();
    let below = places.allowed.join("below");
    std::fs::create_dir(&below).expect("a directory");
    std::fs::hard_link(places.allowed.join("region"), below.join("region")).expect("a link");
    let uri = places
        .bases
        .validate_path(&below.join("region"), false)
        .expect("a contained path");
    // The very same file would be reached, but through a link.
    std::fs::rename(&below, places.allowed.join("moved")).expect("moved");
    symlink(places.allowed.join("moved"), &below).expect("a link");
    assert_eq!(
        uri.open(Access::ReadOnly).expect_err("a link").reason(),
        "open"
    );
}

// spec: W-15.21a-14
#[test]
fn several_bases_may_be_allowed_and_defaults_may_be_absent() {
    let places = places();
    let absent = places.allowed.join("absent");
    assert_eq!(
        AllowedBases::new([&absent]).expect_err("absent").reason(),
        "resolve"
    );
    let bases = AllowedBases::existing([&absent, &places.outside, &places.allowed]);
    let bases = bases.expect("those that exist");
    assert_eq!(bases.as_slice().len(), 2);
    bases
        .validate_path(&places.outside.join("region"), false)
        .expect("inside the first");
    bases
        .validate_path(&places.allowed.join("region"), false)
        .expect("inside the second");
}
