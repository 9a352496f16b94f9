use std::fs;

use super::*;

fn touch(path: &Path) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("created");
    fs::write(path, b"").expect("written");
}

fn sockets(candidates: &[Candidate]) -> Vec<&Path> {
    candidates
        .iter()
        .map(|candidate| match candidate {
            Candidate::Socket { path, .. } => path.as_path(),
            Candidate::Aeron { dir } => dir.as_path(),
        })
        .collect()
}

#[test]
fn what_was_asked_for_is_taken_even_if_it_is_missing_and_others_are_there() {
    let dir = tempfile::tempdir().expect("a directory");
    touch(&dir.path().join("run/driver.sock"));
    let all = Surroundings {
        socket: Some("/asked/for.sock".into()),
        volumes: Some("/vol/a:/vol/b".into()),
        aeron_dir: Some("/dev/shm/aeron".into()),
        run_dir: dir.path().join("run"),
        ..Surroundings::default()
    };
    let (found, _) = all.candidates(Some(Path::new("/built/in.sock")));
    assert_eq!(sockets(&found), [Path::new("/built/in.sock")]);
    let (found, _) = all.candidates(None);
    assert_eq!(sockets(&found), [Path::new("/asked/for.sock")]);
    let (found, _) = Surroundings {
        socket: None,
        ..all.clone()
    }
    .candidates(None);
    assert_eq!(
        sockets(&found),
        [
            Path::new("/vol/a/driver.sock"),
            Path::new("/vol/b/driver.sock")
        ]
    );
}

#[test]
fn the_run_directory_comes_before_its_sub_directories_and_those_before_the_users_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = dir.path().join("run");
    for below in [
        "driver.sock",
        "b/driver.sock",
        "a/driver.sock",
        "a/deeper/driver.sock",
    ] {
        touch(&run.join(below));
    }
    fs::create_dir_all(run.join("empty")).expect("created");
    touch(&dir.path().join("xdg/tensorpool/driver.sock"));
    let surroundings = Surroundings {
        xdg_runtime_dir: Some(dir.path().join("xdg").into()),
        aeron_dir: Some("/dev/shm/aeron".into()),
        run_dir: run.clone(),
        ..Surroundings::default()
    };
    let (found, _) = surroundings.candidates(None);
    assert_eq!(
        sockets(&found),
        [
            run.join("driver.sock"),
            run.join("a/driver.sock"),
            run.join("b/driver.sock"),
            dir.path().join("xdg/tensorpool/driver.sock"),
        ]
    );
}

#[test]
fn aeron_is_taken_when_no_socket_is_there() {
    let surroundings = Surroundings {
        aeron_dir: Some("/dev/shm/aeron".into()),
        run_dir: "/nowhere".into(),
        ..Surroundings::default()
    };
    let (found, _) = surroundings.candidates(None);
    assert_eq!(
        found,
        [Candidate::Aeron {
            dir: "/dev/shm/aeron".into()
        }]
    );
}

#[test]
fn when_nothing_is_there_the_words_name_every_place() {
    let surroundings = Surroundings {
        xdg_runtime_dir: Some("/run/user/7".into()),
        run_dir: "/nowhere".into(),
        ..Surroundings::default()
    };
    let (found, looked) = surroundings.candidates(None);
    assert_eq!(found, []);
    assert_eq!(
        looked.to_string(),
        "driver.sock in /nowhere and its sub-directories; /run/user/7/tensorpool/driver.sock; \
         no media driver (TENSORPOOL_AERON_DIR is not set)"
    );
}

// spec: X-2-41
#[test]
fn announced_paths_appear_under_the_volume_that_holds_them() {
    let dir = tempfile::tempdir().expect("a directory");
    touch(&dir.path().join("tensorpool-x/default/1/2/header.ring"));
    let rebase = Rebase {
        announced: "/host/shm".into(),
        volume: dir.path().to_owned(),
    };
    let announced = Path::new("/host/shm/tensorpool-x/default/1/2/header.ring");
    assert_eq!(
        rebase.apply(announced),
        dir.path().join("tensorpool-x/default/1/2/header.ring")
    );
    for kept in [
        "/host/shm/other",
        "/elsewhere/header.ring",
        "/host/shm2/a",
        "/host/shm/../a",
    ] {
        assert_eq!(rebase.apply(Path::new(kept)), Path::new(kept));
    }
}

#[test]
fn the_announced_base_is_the_first_tag_and_absolute() {
    let base = |tags: &[&str]| {
        Rebase::announced_base(&tags.iter().map(|&tag| tag.to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(base(&["base=/dev/shm", "x"]), Some("/dev/shm".into()));
    assert_eq!(base(&["x", "base=/dev/shm"]), None);
    assert_eq!(base(&["base=dev/shm"]), None);
    assert_eq!(base(&[]), None);
}

// spec: W-15.21a-14
#[test]
fn more_base_directories_can_be_allowed_but_only_absolute_ones() {
    let surroundings = Surroundings {
        allowed_base_dirs: Some("/mnt/a:relative:/mnt/b".into()),
        ..Surroundings::default()
    };
    assert_eq!(
        surroundings.base_dirs(),
        [
            "/dev/shm",
            "/dev/hugepages",
            "/run/tensorpool",
            "/mnt/a",
            "/mnt/b"
        ]
        .map(PathBuf::from)
    );
}

// spec: X-2-70
#[test]
fn directories_below_the_run_directory_are_volumes_in_a_pod_and_only_perhaps_elsewhere() {
    let dir = tempfile::tempdir().expect("a directory");
    touch(&dir.path().join("camera/driver.sock"));
    let mounted = |surroundings: &Surroundings| {
        let (found, _) = surroundings.candidates(None);
        found
            .iter()
            .map(|candidate| match candidate {
                Candidate::Socket { is_mounted, .. } => *is_mounted,
                Candidate::Aeron { .. } => false,
            })
            .collect::<Vec<_>>()
    };
    let elsewhere = Surroundings {
        run_dir: dir.path().to_owned(),
        ..Surroundings::default()
    };
    assert_eq!(mounted(&elsewhere), [false]);
    let in_pod = Surroundings {
        is_pod: true,
        ..elsewhere.clone()
    };
    assert_eq!(mounted(&in_pod), [true]);
    let said = Surroundings {
        volumes: Some("/vol/a:/vol/b".into()),
        ..elsewhere
    };
    assert_eq!(mounted(&said), [true, true]);
}

// spec: X-2-71
#[test]
fn the_missing_part_of_a_pod_names_stream_and_access() {
    let yaml = volume::yaml(&"vision/camera".into(), volume::Access::Consume);
    assert!(
        yaml.ends_with("volumeAttributes: {stream: vision/camera, access: consume}"),
        "{yaml}"
    );
    let yaml = volume::yaml(&10_000_u32.into(), volume::Access::Produce);
    assert!(
        yaml.ends_with("volumeAttributes: {stream: NAME-OF-THE-STREAM-10000, access: produce}"),
        "{yaml}"
    );
}

// spec: X-2-75
#[test]
fn a_volumes_place_on_aeron_is_read_from_its_tags() {
    let tags = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
    let base = "base=/run/tensorpool/shm/2Mi";
    let dir = "aeron_dir=/run/tensorpool/aeron/media";
    let found = AeronPlace::of_tags(&tags(&[base, "client_ids=1792-2047", dir]));
    let expected = AeronPlace {
        dir: "/run/tensorpool/aeron/media".into(),
        clients: ClientIds::new(1792, 2047).expect("a range"),
    };
    assert_eq!(found, Some(expected));
    for wrong in [
        &[base][..],
        &[base, "client_ids=1792-2047"],
        &[base, "client_ids=2047-1792", dir],
        &[base, "client_ids=0-255", dir],
        &[base, "client_ids=many", dir],
        &[base, "client_ids=1792-2047", "aeron_dir=media"],
    ] {
        assert_eq!(AeronPlace::of_tags(&tags(wrong)), None, "{wrong:?}");
    }
}
