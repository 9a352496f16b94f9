use std::os::unix::fs::{MetadataExt, symlink};

use tensorpool_wire::Epoch;

use super::*;

/// A base with the directory of one driver in it.
struct Base {
    _dir: tempfile::TempDir,
    store: PathBuf,
    views: Views,
}

impl Base {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("tensorpool-k8s/default");
        fs::create_dir_all(&store).unwrap();
        Self {
            _dir: dir,
            store,
            views: Views::default(),
        }
    }

    /// Makes the files of an epoch and tells the views of them, as the file worker does.
    fn make(&self, stream: u32, epoch: u64) -> EpochKey {
        let key = key(stream, epoch);
        let dir = self.store.join(stream.to_string()).join(epoch.to_string());
        fs::create_dir_all(&dir).unwrap();
        for name in ["header.ring", "1.pool"] {
            fs::write(dir.join(name), format!("{stream}/{epoch}/{name}")).unwrap();
        }
        self.views.epoch_made(&self.store, key);
        key
    }

    fn open(&self, name: &str, streams: &[u32]) -> PathBuf {
        self.open_as(name, streams, Kind::Socket)
    }

    fn open_as(&self, name: &str, streams: &[u32], kind: Kind) -> PathBuf {
        let streams = streams.iter().map(|id| StreamId(*id)).collect();
        let opened = self.views.open(&volume(name), &self.store, streams, kind);
        opened.unwrap()
    }
}

fn volume(name: &str) -> VolumeId {
    VolumeId::new(name).unwrap()
}

fn key(stream: u32, epoch: u64) -> EpochKey {
    EpochKey {
        stream: StreamId(stream),
        epoch: Epoch(epoch),
    }
}

/// All files below a directory, relative to it.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        for path in names_in(&path).unwrap() {
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                open.push(path);
            } else {
                let path = path.strip_prefix(directory).unwrap();
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}

fn of(stream: u32, epoch: u64) -> Vec<String> {
    let dir = format!("tensorpool-k8s/default/{stream}/{epoch}");
    vec![format!("{dir}/1.pool"), format!("{dir}/header.ring")]
}

#[test]
fn a_view_holds_its_own_streams_and_nothing_else() {
    let base = Base::new();
    base.make(1, 5);
    base.make(2, 6);
    let view = base.open("a", &[1]);
    assert_eq!(files(&view), of(1, 5));
    let original = base.store.join("1/5/header.ring");
    let linked = view.join("tensorpool-k8s/default/1/5/header.ring");
    let inode = |path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(original), inode(linked));
}

#[test]
fn a_new_epoch_appears_in_live_views_and_an_old_one_goes_from_them_first() {
    let base = Base::new();
    let view = base.open("a", &[1]);
    assert_eq!(files(&view), Vec::<String>::new());
    let old = base.make(1, 5);
    base.make(1, 6);
    base.make(2, 7);
    assert_eq!(files(&view), [of(1, 5), of(1, 6)].concat());
    base.views.epoch_goes(&base.store, old);
    assert_eq!(files(&view), of(1, 6));
    let made_by_the_store = base.store.join("1/5/header.ring");
    assert!(made_by_the_store.exists(), "the store removes its own");
}

#[test]
fn a_view_that_shows_no_stream_any_more_keeps_its_socket_only() {
    let base = Base::new();
    base.make(1, 5);
    let view = base.open("a", &[1]);
    fs::write(view.join("driver.sock"), "stands for the socket").unwrap();
    base.views.show(&volume("a"), BTreeSet::new()).unwrap();
    base.make(1, 6);
    assert_eq!(files(&view), ["driver.sock"]);
    base.views
        .show(&volume("a"), BTreeSet::from([StreamId(1)]))
        .unwrap();
    let shown = [vec!["driver.sock".to_owned()], of(1, 5), of(1, 6)].concat();
    assert_eq!(files(&view), shown);
}

#[test]
fn a_driver_that_starts_again_takes_its_predecessors_epochs_out_of_a_view() {
    let base = Base::new();
    base.make(1, 5);
    let view = base.open("a", &[1]);
    let next = Base {
        views: Views::default(),
        ..base
    };
    for name in ["driver.sock", ".binding-7-0"] {
        fs::write(view.join(name), "stands for a socket").unwrap();
    }
    assert_eq!(next.views.on_disk(&next.store).unwrap(), [volume("a")]);
    assert_eq!(next.open("a", &[1]), view);
    assert_eq!(files(&view), ["driver.sock"]);
    next.make(1, 6);
    let shown = [vec!["driver.sock".to_owned()], of(1, 6)].concat();
    assert_eq!(files(&view), shown);
}

#[test]
fn the_view_of_an_unknown_volume_is_emptied_and_can_be_closed() {
    let base = Base::new();
    base.make(1, 5);
    let view = base.open("lost", &[1]);
    let next = Base {
        views: Views::default(),
        ..base
    };
    next.views.empty(&volume("lost"), &next.store).unwrap();
    assert!(view.exists(), "it may be mounted");
    assert_eq!(files(&view), Vec::<String>::new());
    next.views.close(&volume("lost"), &next.store).unwrap();
    assert!(!view.exists());
    next.views.close(&volume("lost"), &next.store).unwrap();
}

#[test]
fn a_view_that_is_open_is_not_emptied() {
    let base = Base::new();
    base.make(1, 5);
    let view = base.open("a", &[1]);
    base.views.empty(&volume("a"), &base.store).unwrap();
    assert_eq!(files(&view), of(1, 5));
}

#[test]
fn a_view_that_cannot_be_made_leaves_nothing_and_says_where() {
    let base = Base::new();
    let key = base.make(1, 5);
    let view = directory_of(&base.store, &volume("a"));
    // A directory has no hard links.
    let not_a_file = base.store.join("1/5/not-a-file");
    fs::create_dir(&not_a_file).unwrap();
    let error = base
        .views
        .open(
            &volume("a"),
            &base.store,
            BTreeSet::from([key.stream]),
            Kind::Socket,
        )
        .unwrap_err();
    assert!(error.to_string().contains("not-a-file"), "{error}");
    assert!(!view.exists());
    base.make(1, 6);
    assert!(!view.exists(), "the volume has no view");
}

#[test]
fn everybody_may_pass_through_a_view() {
    let base = Base::new();
    base.make(1, 5);
    let view = base.open("a", &[1]);
    for directory in [&view, &view.join("tensorpool-k8s/default/1/5")] {
        let mode = fs::metadata(directory).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o755, "{}", directory.display());
    }
}

#[test]
fn a_view_for_aeron_has_the_files_where_the_announced_paths_lead() {
    let node = tempfile::tempdir().unwrap();
    let store = node.path().join("shm/4Ki/tensorpool-k8s/default");
    fs::create_dir_all(&store).unwrap();
    let base = Base {
        _dir: node,
        store,
        views: Views::default(),
    };
    base.make(1, 5);
    let view = base.open_as("a", &[1], Kind::Aeron);
    let below = |stream, epoch| -> Vec<String> {
        let files = of(stream, epoch).into_iter();
        files.map(|file| format!("shm/4Ki/{file}")).collect()
    };
    assert_eq!(files(&view), below(1, 5));
    assert!(view.join(AERON).is_dir());

    base.make(1, 6);
    base.views.epoch_goes(&base.store, key(1, 5));
    assert_eq!(files(&view), below(1, 6));
    assert_eq!(base.open_as("a", &[], Kind::Aeron), view);
    assert_eq!(files(&view), Vec::<String>::new());
}

#[test]
fn what_a_pod_that_may_write_left_leads_nobody_elsewhere() {
    let (base, other) = (Base::new(), tempfile::tempdir().unwrap());
    base.make(1, 5);
    let view = base.open_as("a", &[1], Kind::Aeron);
    let shm = view.join(base.store.ancestors().nth(3).unwrap().file_name().unwrap());
    fs::remove_dir_all(&shm).unwrap();
    symlink(other.path(), &shm).unwrap();
    fs::write(view.join("mine"), "").unwrap();

    base.make(1, 6);
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    base.open_as("a", &[1], Kind::Aeron);
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    assert_eq!(files(&view).len(), 4, "both epochs, and nothing else");
    base.views.close(&volume("a"), &base.store).unwrap();
    assert!(!view.exists());
}
