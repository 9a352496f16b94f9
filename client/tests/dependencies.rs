//! What a client brings along: a short list without a C toolchain and without tokio.

use std::collections::BTreeSet;
use std::process::Command;

/// Everything that the crate may need, procedural macros at build time included.
const ALLOWED: [&str; 14] = [
    "bitflags",
    "libc",
    "linux-raw-sys",
    "proc-macro2",
    "quote",
    "rustix",
    "syn",
    "tensorpool-client",
    "tensorpool-shm",
    "tensorpool-transport",
    "tensorpool-wire",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
];

fn tree(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--package",
            "tensorpool-client",
            "--edges",
            "normal,build",
        ])
        .args(["--prefix", "none", "--format", "{p}"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_default_and_the_smallest_build_need_what_is_listed_and_nothing_else() {
    let allowed: BTreeSet<String> = ALLOWED.map(str::to_owned).into();
    for arguments in [
        vec![],
        vec!["--no-default-features"],
        vec![
            "--no-default-features",
            "--target",
            "x86_64-unknown-linux-musl",
        ],
    ] {
        let found = tree(&arguments);
        println!("{arguments:?}: {} crates: {found:?}", found.len());
        let more: Vec<_> = found.difference(&allowed).collect();
        assert!(more.is_empty(), "{arguments:?} brings {more:?}");
        assert!(found.contains("tensorpool-shm"), "the list is real");
    }
}

#[test]
fn streams_for_executors_bring_futures_core_and_no_runtime() {
    let more: Vec<_> = tree(&["--features", "async"])
        .into_iter()
        .filter(|name| !ALLOWED.contains(&name.as_str()))
        .collect();
    assert_eq!(more, ["futures-core"]);
}
