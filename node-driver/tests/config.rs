//! The configuration as an operator meets it: files in, messages and exit codes out.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What would differ between users and cargo features, for files that do not set it.
const FIXED: &[(&str, &str)] = &[
    ("SOCKET_PATH", "/run/tp/driver.sock"),
    ("DRIVER_MEDIA_DRIVER", "off"),
];

/// `--check-config` with nothing of the surroundings but what the test gives.
fn check(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
        .arg("--check-config")
        .args(arguments)
        .env_clear()
        .env("XDG_RUNTIME_DIR", "/run/user/1000")
        .env("USER", "ann")
        .envs(environment.iter().copied())
        .output()
        .expect("the driver's binary starts")
}

fn corpus(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config")
        .join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("the corpus is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus of {kind} files is empty");
    files
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Compares with the file beside `path`, or writes it if `UPDATE_EXPECTED` is set.
fn assert_expected(path: &Path, ending: &str, found: &str) {
    let expected_path = path.with_extension(ending);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&expected_path, found).expect("the expectation can be written");
    }
    let expected = std::fs::read_to_string(&expected_path)
        .unwrap_or_else(|error| panic!("{}: {error}", expected_path.display()));
    assert_eq!(found, expected, "{}", path.display());
}

#[test]
fn every_bad_file_is_refused_with_key_value_and_rule() {
    // spec: D-17-4, D-17-6, D-11-1, D-11-3, D-11-4, W-3-1, W-15.22-5, D-9-1
    for path in corpus("bad") {
        let output = check(&["--config", path.to_str().unwrap()], &[]);
        assert_expected(&path, "stderr", &text(&output.stderr));
        assert_eq!(output.status.code(), Some(2), "{}", path.display());
        assert_eq!(text(&output.stdout), "", "{}", path.display());
    }
}

#[test]
fn every_good_file_has_the_effective_configuration_beside_it() {
    // spec: D-17-1, D-17-2
    for path in corpus("good") {
        let output = check(&["--config", path.to_str().unwrap()], FIXED);
        assert_expected(&path, "effective", &without_memory(&output.stdout));
        assert_eq!(text(&output.stderr), "", "{}", path.display());
    }
}

#[test]
fn the_effective_configuration_is_itself_a_configuration_with_the_same_effect() {
    for path in corpus("good") {
        let first = check(&["--config", path.to_str().unwrap()], FIXED);
        let dir = tempfile::tempdir().unwrap();
        let again = dir.path().join("again.toml");
        std::fs::write(&again, &first.stdout).unwrap();
        let second = check(&["--config", again.to_str().unwrap()], &[]);
        assert_eq!(
            without_memory(&second.stdout),
            without_memory(&first.stdout)
        );
    }
}

/// What `--check-config` printed, but the lines about the machine's memory, of which others take and give
/// back meanwhile.
fn without_memory(printed: &[u8]) -> String {
    text(printed)
        .lines()
        .filter(|line| !line.starts_with("# memory:"))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn the_environment_wins_over_the_file_and_is_named_when_it_is_wrong() {
    // spec: D-17-3
    let minimal = corpus("good").pop().unwrap();
    let minimal = minimal.to_str().unwrap();
    let output = check(
        &["--config", minimal],
        &[
            ("POLICIES_ANNOUNCE_PERIOD_MS", "250"),
            ("DRIVER_STREAM_ID_RANGE", "20000-20009"),
            ("SHM_PREFAULT_SHM", "ignored: no such key"),
            ("SHUTDOWN_MODE", "handover"),
        ],
    );
    let printed = text(&output.stdout);
    for line in [
        "announce_period_ms = 250",
        "epoch_gc_min_age_ns = 750000000",
        "stream_id_range = \"20000-20009\"",
        "mode = \"handover\"",
    ] {
        assert!(printed.lines().any(|l| l == line), "no {line} in {printed}");
    }
    let output = check(
        &["--config", minimal],
        &[("POLICIES_EPOCH_GC_KEEP", "none")],
    );
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error: the configuration is not valid:\n  policies.epoch_gc_keep = \"none\" (in POLICIES_EPOCH_GC_KEEP): must be a whole number, 1 to 1000\n"
    );
}

#[test]
fn an_unreadable_file_is_named_with_the_reason() {
    let output = check(&["--config", "/nonexistent/driver.toml"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        "error: cannot read the configuration file /nonexistent/driver.toml: give a readable file with --config\n  because: No such file or directory (os error 2)\n"
    );
    // A directory in place of the file is unreadable for root too.
    let dir = tempfile::tempdir().unwrap();
    let output = check(&["--config", dir.path().to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("because: Is a directory"));
}

#[test]
fn memory_for_three_epochs_is_added_up_page_by_page_and_compared_with_the_mount() {
    let small = check(&["--stream", "camera=10000:1MiBx64"], &[]);
    assert_eq!(small.status.code(), Some(0), "{}", text(&small.stderr));
    let printed = text(&small.stdout);
    // Ring 64 + 64 x 256 bytes in 5 pages, pool 64 + 64 MiB in 16385 pages.
    assert!(
        printed.contains(
            "# memory: stream camera (10000): 64.0 MiB per epoch, 192.0 MiB for 3 epochs"
        ),
        "{printed}"
    );
    assert!(printed.contains("usable: enough"), "{printed}");

    let huge = check(&["--stream", "camera=10000:1GiBx262144"], &[]);
    assert_eq!(huge.status.code(), Some(3));
    assert!(text(&huge.stdout).contains("usable: NOT enough"));
}

#[test]
fn without_any_configuration_one_small_stream_is_served() {
    let output = check(&[], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.contains("[streams.default]\nstream_id = 10000\n"));
    assert!(printed.contains("needed in all: 48.0 MiB of"), "{printed}");
}

#[test]
fn the_help_names_every_exit_code_and_an_example_of_each_command() {
    let output = Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
        .arg("--help")
        .output()
        .unwrap();
    let help = text(&output.stdout);
    for code in 0..=4 {
        assert!(help.contains(&format!("{code} ")), "no exit code {code}");
    }
    for command in ["status --watch", "discover camera", "log debug"] {
        assert!(help.contains(command), "no example of {command}");
    }
}

/// What is served is what is documented: each key with its default, its environment variable and its
/// meaning.
#[test]
fn the_documentation_has_every_key_as_the_driver_knows_it() {
    // spec: D-4.4-5, D-17-2
    use tensorpool_node_driver::config::{KEYS, POOL_KEYS, PROFILE_KEYS, STREAM_KEYS};
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let docs = std::fs::read_to_string(docs).expect("docs/configuration.md");
    let scalars = KEYS.iter().map(|key| {
        let variable = key.environment_name();
        format!(
            "| `{}` | {} | `{variable}` | {} |",
            key.name, key.default, key.meaning
        )
    });
    let named = [PROFILE_KEYS, POOL_KEYS, STREAM_KEYS]
        .into_iter()
        .flatten()
        .map(|(name, default, meaning)| format!("| `{name}` | {default} | {meaning} |"));
    for row in scalars.chain(named) {
        assert!(docs.lines().any(|line| line == row), "missing:\n{row}");
    }
}

#[test]
fn the_sample_file_is_valid_and_what_it_comments_out_is_the_default() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("driver.toml");
    let output = check(&["--config", sample.to_str().unwrap()], FIXED);
    assert_eq!(text(&output.stderr), "");
    // It asks for gigabytes, which this machine may not have.
    assert!(matches!(output.status.code(), Some(0 | 3)));
    let printed = text(&output.stdout);
    let sample = std::fs::read_to_string(sample).unwrap();
    for line in sample.lines().filter(|line| line.contains(" = ")) {
        let shown = line.trim_start_matches("# ").trim();
        let varies = [
            "require_hugepages",
            "page_size_bytes",
            "aeron_dir",
            "path",
            "media_driver",
        ];
        let inside = line.starts_with(' ') || line.contains("payload_pools");
        if line.starts_with("# ") && (varies.iter().any(|key| shown.starts_with(key))) || inside {
            continue;
        }
        assert!(
            printed.lines().any(|line| line == shown),
            "{shown:?} in\n{printed}"
        );
    }
}
