//! What does not show on the command line.

use super::raw::Source;
use super::*;

fn loaded(text: &str) -> Result<Loaded, ConfigError> {
    let surroundings = Surroundings {
        variable: &|name| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/1000".to_owned()),
        root: false,
    };
    parse(text, &[], &surroundings, false)
}

const STREAM: &str = r#"
[profiles.camera]
payload_pools = [{ pool_id = 1, stride_bytes = 4096 }]
[streams.camera]
stream_id = 10000
"#;

#[test]
fn every_key_of_the_table_is_read_and_printed() {
    let printed = effective(&loaded(STREAM).unwrap().settings);
    let mut table: toml::Table = toml::from_str(&printed).unwrap();
    // Stand-alone the keys of a cluster mean nothing.
    if cfg!(feature = "kubernetes") {
        let in_cluster = effective(&loaded("[kubernetes]\nnode = \"n1\"").unwrap().settings);
        let mut in_cluster: toml::Table = toml::from_str(&in_cluster).unwrap();
        table.insert(
            "kubernetes".into(),
            in_cluster.remove("kubernetes").unwrap(),
        );
    }
    for key in KEYS {
        let (section, name) = key.name.split_once('.').unwrap();
        if section == "kubernetes" && name != "node" && !cfg!(feature = "kubernetes") {
            continue;
        }
        let printed = table[section].as_table().unwrap().contains_key(name);
        // The one key that only refuses: regions are never reused.
        assert_eq!(
            printed,
            key.name != "policies.reuse_existing_shm",
            "{}",
            key.name
        );
    }
    for (section, values) in &table {
        for name in values.as_table().unwrap().keys() {
            let full = format!("{section}.{name}");
            assert!(
                matches!(section.as_str(), "profiles" | "streams")
                    || KEYS.iter().any(|key| key.name == full),
                "{full} is printed but not in the table of keys"
            );
        }
    }
}

#[test]
fn a_wrong_value_of_each_scalar_key_is_refused_and_named() {
    for key in KEYS {
        let (section, name) = key.name.split_once('.').unwrap();
        let text = format!("{STREAM}\n[{section}]\n{name} = {{ not = \"a scalar\" }}\n");
        let Err(ConfigError::Invalid(problems)) = loaded(&text) else {
            panic!("{} takes a table", key.name);
        };
        assert!(
            problems
                .iter()
                .any(|problem| problem.key == key.name && problem.found.is_some()),
            "{}: {problems:?}",
            key.name
        );
    }
}

#[test]
fn the_aeron_directory_follows_aerons_own_variable_unless_a_key_says_otherwise() {
    let surroundings = Surroundings {
        variable: &|name| match name {
            "XDG_RUNTIME_DIR" => Some("/run/user/1000".to_owned()),
            "AERON_DIR" => Some("/dev/shm/media".to_owned()),
            _ => None,
        },
        root: false,
    };
    let by_variable = parse(STREAM, &[], &surroundings, false).unwrap();
    assert_eq!(
        by_variable.settings.driver.aeron_dir,
        Path::new("/dev/shm/media")
    );
    let text = format!("{STREAM}\n[driver]\naeron_dir = \"/dev/shm/other\"");
    let by_key = parse(&text, &[], &surroundings, false).unwrap();
    assert_eq!(
        by_key.settings.driver.aeron_dir,
        Path::new("/dev/shm/other")
    );
}

#[test]
fn the_socket_has_no_default_without_a_runtime_directory() {
    let surroundings = Surroundings {
        variable: &|_| None,
        root: false,
    };
    let Err(ConfigError::Invalid(problems)) = parse(STREAM, &[], &surroundings, false) else {
        panic!("a socket path was invented");
    };
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].key, "socket.path");
    assert_eq!(
        problems[0].found,
        Some(("unset".to_owned(), Source::Default))
    );
}

#[test]
fn root_and_user_have_the_documented_socket_and_state_paths() {
    let user = loaded(STREAM).unwrap().settings;
    assert_eq!(
        user.socket.unwrap().path,
        Path::new("/run/user/1000/tensorpool/driver.sock")
    );
    assert_eq!(
        user.driver.state_dir,
        Path::new("/run/user/1000/tensorpool")
    );
    let root = Surroundings {
        variable: &|_| None,
        root: true,
    };
    let root = parse(STREAM, &[], &root, false).unwrap().settings;
    assert_eq!(
        root.socket.unwrap().path,
        Path::new("/run/tensorpool/driver.sock")
    );
}

#[test]
fn doubts_are_warnings_and_not_refusals() {
    let text = r#"
[profiles.camera]
header_nslots = 4096
payload_pools = [
    { pool_id = 1, stride_bytes = 192 },
    { pool_id = 2, stride_bytes = 1048576 },
]
[streams.camera]
stream_id = 10000
"#;
    let warnings = loaded(text).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "profiles.camera pool 1: stride_bytes = 192 is not a power of two; Julia clients refuse it",
            "profiles.camera pool 2: 4294967296 bytes are too many for C clients, whose slot offsets wrap at 4 GiB",
        ]
    );
}

#[test]
fn the_built_in_configuration_is_valid_and_said_to_be_built_in() {
    let surroundings = Surroundings {
        variable: &|_| None,
        root: true,
    };
    let built_in = load(None, &[], &surroundings).unwrap();
    assert!(built_in.built_in);
    assert_eq!(built_in.warnings, [""; 0]);
}
