use super::*;

fn case(id: &str, output: &str) -> TestCase {
    TestCase {
        id: id.to_owned(),
        passed: true,
        output: output.to_owned(),
    }
}

#[test]
fn tests_count_by_their_kind_and_by_what_they_say() {
    let found = counts(&[
        case("a x::y", ""),
        case("a::two_process hammer", "count: overwrites = 7\n"),
        case("b::sim runs", "noise\ncount: simulation seeds = 200\n"),
        case("b::other", "count: simulation seeds = 3"),
    ]);
    let expected = [
        ("integration", 2),
        ("overwrites", 7),
        ("simulation seeds", 203),
        ("two-process", 1),
        ("unit", 1),
    ];
    let expected = expected.map(|(name, number)| (name.to_owned(), number));
    assert_eq!(found, expected.into_iter().collect());
}

#[test]
fn a_test_that_says_it_did_not_run_counts_nowhere() {
    let cases = [case("a::hugepages maps", "not run: no hugepages\n")];
    assert_eq!(counts(&cases), BTreeMap::new());
    assert_eq!(
        not_run(&cases),
        ["not run: no hugepages (a::hugepages maps)"]
    );
}

#[test]
fn totals_are_summed_over_test_binaries() {
    let output = "test result: ok. 3 passed; 0 failed\nx\ntest result: ok. 4 passed; 0 failed\n";
    assert_eq!(totals(output), Totals { passed: 7 });
    let at_once = "test result: okok. 3 passed; 0 failed. 4 passed; 0 failed; 1 s\n; 1 s\n";
    assert_eq!(totals(at_once), Totals { passed: 7 });
    assert_eq!(totals("test result: FAILED. "), Totals { passed: 0 });
}
