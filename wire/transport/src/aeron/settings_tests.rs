//! How the settings of an external media driver are judged.

use super::*;
use crate::aeron::cnc::KNOWN_VERSION;

fn cnc() -> Cnc {
    Cnc {
        version: KNOWN_VERSION,
        to_driver_len: 1024 + 768,
        to_clients_len: 16 * 1024 * 1024 + 128,
        client_liveness: Duration::from_secs(4),
        start_timestamp_ms: 0,
        pid: 1,
        heartbeat_ms: Some(0),
    }
}

const ENVIRON: &str = "PATH=/bin\0AERON_TETHER_SUBSCRIPTIONS=false\0AERON_TIMER_INTERVAL=100ms\0\
    AERON_UNTETHERED_WINDOW_LIMIT_TIMEOUT=200ms\0AERON_UNTETHERED_RESTING_TIMEOUT=200000000\0\
    AERON_PUBLICATION_UNBLOCK_TIMEOUT=4500ms\0AERON_TERM_BUFFER_SPARSE_FILE=0\0";

fn report(cnc: Cnc, process: &Process) -> Report {
    Report {
        dir: PathBuf::from("/dev/shm/aeron"),
        cnc,
        settings: RULES
            .iter()
            .map(|rule| Setting {
                name: rule.name,
                finding: judge(rule, &cnc, process),
            })
            .collect(),
    }
}

#[test]
fn a_media_driver_with_all_settings_needs_no_warning() {
    let process = Process::parse(ENVIRON.as_bytes(), b"/usr/bin/aeronmd\0");
    assert_eq!(report(cnc(), &process).warning(), None);
}

#[test]
fn a_media_driver_without_settings_has_the_defaults_and_each_is_named() {
    let mut cnc = cnc();
    cnc.client_liveness = Duration::from_secs(6);
    cnc.to_clients_len = 1024 * 1024 + 128;
    let process = Process::parse(b"PATH=/bin\0", b"aeronmd\0");
    let report = report(cnc, &process);
    let warning = report.warning().expect("everything is wrong");
    for rule in RULES {
        assert!(warning.contains(rule.name), "{} in {warning}", rule.name);
    }
    assert!(
        report
            .settings
            .iter()
            .all(|setting| matches!(setting.finding, Finding::Wrong { .. })),
        "{warning}"
    );
}

#[test]
fn what_cannot_be_seen_is_named_and_never_taken_for_right() {
    let process = Process::Unseen {
        why: "it is hidden".to_owned(),
    };
    let report = report(cnc(), &process);
    let unread: Vec<_> = report
        .settings
        .iter()
        .filter(|setting| matches!(setting.finding, Finding::Unread { .. }))
        .map(|setting| setting.name)
        .collect();
    assert_eq!(
        unread,
        [
            "AERON_TETHER_SUBSCRIPTIONS",
            "AERON_TIMER_INTERVAL",
            "AERON_UNTETHERED_WINDOW_LIMIT_TIMEOUT",
            "AERON_UNTETHERED_RESTING_TIMEOUT",
            "AERON_PUBLICATION_UNBLOCK_TIMEOUT",
            "AERON_TERM_BUFFER_SPARSE_FILE",
        ]
    );
    let warning = report.warning().expect("six settings are unread");
    for name in unread {
        assert!(warning.contains(&format!("{name} could not be read (it is hidden)")));
    }
}

#[test]
fn an_unset_variable_is_a_default_only_where_nothing_else_can_set_it() {
    for (cmdline, unread) in [
        (&b"/opt/aeronmd\0"[..], false),
        (b"aeronmd\0-Daeron.dir=/dev/shm/aeron\0", false),
        (b"aeronmd\0/etc/aeron.properties\0", true),
        (b"java\0-Daeron.dir=/x\0io.aeron.driver.MediaDriver\0", true),
        (b"", true),
    ] {
        let process = Process::parse(b"", cmdline);
        let finding = judge(&RULES[0], &cnc(), &process);
        assert_eq!(
            matches!(finding, Finding::Unread { .. }),
            unread,
            "{finding:?}"
        );
    }
}

#[test]
fn the_command_line_speaks_for_itself_and_wins() {
    let process = Process::parse(
        b"AERON_TIMER_INTERVAL=1s\0",
        b"java\0-Daeron.timer.interval=50ms\0",
    );
    let finding = judge(&RULES[1], &cnc(), &process);
    let found = "50ms".to_owned();
    assert_eq!(finding, Finding::Right { found });
}

#[test]
fn values_at_their_bounds_are_right_and_past_them_wrong() {
    for (rule, text, right) in [
        (1, "100ms", true),
        (1, "100000001", false),
        (1, "0", false),
        (2, "200ms", true),
        (2, "201ms", false),
        (3, "200000us", true),
        (5, "4s", false),
        (5, "4001ms", true),
        (5, "8s", true),
        (5, "8001ms", false),
    ] {
        let environ = format!("{}={text}\0", RULES[rule].name);
        let process = Process::parse(environ.as_bytes(), b"aeronmd\0");
        let finding = judge(&RULES[rule], &cnc(), &process);
        assert_eq!(
            matches!(finding, Finding::Right { .. }),
            right,
            "{text}: {finding:?}"
        );
    }
    for (seconds, right) in [(2, false), (3, true), (5, true), (6, false)] {
        let mut cnc = cnc();
        cnc.client_liveness = Duration::from_secs(seconds);
        let finding = judge(&RULES[4], &cnc, &Process::parse(b"", b""));
        assert_eq!(matches!(finding, Finding::Right { .. }), right, "{seconds}");
    }
}

#[test]
fn values_that_are_not_understood_are_unread_and_quoted() {
    for text in [
        "soon",
        "10 minutes",
        "",
        "-5ms",
        "99999999999999999999s",
        "18446744073709551615s",
    ] {
        let environ = format!("AERON_TIMER_INTERVAL={text}\0");
        let process = Process::parse(environ.as_bytes(), b"aeronmd\0");
        let Finding::Unread { why, .. } = judge(&RULES[1], &cnc(), &process) else {
            panic!("{text:?} was understood");
        };
        assert!(why.contains(&format!("{text:?}")), "{why}");
    }
}

#[test]
fn a_map_line_has_its_inode_in_the_fifth_column() {
    let line = "7f6 rw-s 00000000 00:1a 4711                       /dev/shm/aeron/cnc.dat";
    assert_eq!(maps_inode(line), Some(4711));
    assert_eq!(maps_inode("garbage"), None);
}
