//! Which texts are `shm:` URIs.

use tensorpool_wire::{ShmUri, UriError};

fn reason(text: &str) -> &'static str {
    ShmUri::parse(text)
        .expect_err("the URI is refused")
        .reason()
}

// spec: W-15.22-1
#[test]
fn a_path_with_or_without_the_hugepages_parameter_is_taken() {
    for (text, hugepages) in [
        ("shm:file?path=/dev/shm/a", false),
        ("shm:file?path=/dev/shm/a|require_hugepages=true", true),
        ("shm:file?path=/dev/shm/a|require_hugepages=false", false),
    ] {
        let uri = ShmUri::parse(text).unwrap();
        assert_eq!(
            (uri.path(), uri.require_hugepages()),
            ("/dev/shm/a", hugepages)
        );
        assert_eq!(text.parse(), Ok(uri));
    }
}

// spec: W-15.22-1
#[test]
fn hugepages_are_written_only_where_they_are_required() {
    let plain = ShmUri::new("/dev/shm/a", false).unwrap();
    assert_eq!(plain.to_string(), "shm:file?path=/dev/shm/a");
    let huge = ShmUri::new("/dev/hugepages/a", true).unwrap();
    assert_eq!(
        huge.to_string(),
        "shm:file?path=/dev/hugepages/a|require_hugepages=true"
    );
}

// spec: W-15.22-2
#[test]
fn other_schemes_and_kinds_are_refused() {
    for text in [
        "",
        "/dev/shm/a",
        "file:///dev/shm/a",
        "SHM:file?path=/a",
        " shm:file?path=/a",
    ] {
        assert_eq!(reason(text), "scheme");
    }
    for text in [
        "shm:",
        "shm:memfd?path=/a",
        "shm:File?path=/a",
        "shm:file:path=/a",
    ] {
        assert_eq!(reason(text), "kind");
    }
}

// spec: W-15.22-2
#[test]
fn unknown_and_repeated_parameters_are_refused() {
    for parameter in [
        "",
        "x=1",
        "require_hugepages",
        "require_hugepagesx=true",
        "Path=/b",
        " ",
    ] {
        assert_eq!(
            reason(&format!("shm:file?path=/a|{parameter}")),
            "unknown_parameter"
        );
    }
    assert_eq!(reason("shm:file?path=/a|path=/b"), "repeated_parameter");
    let twice = "shm:file?path=/a|require_hugepages=true|require_hugepages=true";
    assert_eq!(reason(twice), "repeated_parameter");
    // Only `|` separates: with `&` it is all one path.
    let uri = ShmUri::parse("shm:file?path=/a&require_hugepages=true").unwrap();
    assert_eq!(uri.path(), "/a&require_hugepages=true");
    assert!(!uri.require_hugepages());
}

// spec: W-15.22-1
#[test]
fn hugepages_are_true_or_false_and_nothing_else() {
    for value in ["", "1", "TRUE", "True", "yes", "true ", "=true"] {
        assert_eq!(
            reason(&format!("shm:file?path=/a|require_hugepages={value}")),
            "hugepages"
        );
    }
}

// spec: W-15.22-3, W-15.21a-7
#[test]
fn a_path_is_there_comes_first_and_is_absolute() {
    for text in [
        "shm:file?",
        "shm:file?path",
        "shm:file?path=",
        "shm:file?require_hugepages=true",
    ] {
        assert_eq!(reason(text), "no_path");
    }
    assert_eq!(reason("shm:file?require_hugepages=true|path=/a"), "no_path");
    for text in ["shm:file?path=a", "shm:file?path=./a", "shm:file?path= /a"] {
        assert_eq!(reason(text), "relative_path");
    }
}

// spec: W-15.22-3
#[test]
fn control_characters_are_refused_wherever_they_come_from() {
    for character in ['\0', '\n', '\x1b', '\x7f', '\u{85}'] {
        let text = format!("shm:file?path=/a{character}b");
        assert_eq!(ShmUri::parse(&text), Err(UriError::Character { character }));
        assert_eq!(
            ShmUri::new(&text[14..], false),
            Err(UriError::Character { character })
        );
    }
}

// spec: W-15.22-3
#[test]
fn what_peers_announce_is_read_though_we_would_not_write_it() {
    for path in ["/a b", "/a?b", "/müller", "/a=b"] {
        let uri = ShmUri::parse(&format!("shm:file?path={path}")).unwrap();
        assert_eq!(uri.path(), path);
        assert_eq!(ShmUri::parse(&uri.to_string()), Ok(uri));
    }
    for (path, character) in [
        ("/a b", ' '),
        ("/a?b", '?'),
        ("/a|b", '|'),
        ("/müller", 'ü'),
    ] {
        assert_eq!(
            ShmUri::new(path, false),
            Err(UriError::Character { character })
        );
    }
    assert!(ShmUri::new("/a=b", false).is_ok());
    assert_eq!(ShmUri::new("", false), Err(UriError::NoPath));
    assert_eq!(ShmUri::new("a", false), Err(UriError::RelativePath));
}

#[test]
fn errors_quote_no_more_than_64_characters_of_a_peers_text() {
    let long = "x".repeat(1_000);
    let error = ShmUri::parse(&format!("shm:file?path=/a|{long}")).unwrap_err();
    let parameter = "x".repeat(64);
    assert_eq!(error, UriError::UnknownParameter { parameter });
}
