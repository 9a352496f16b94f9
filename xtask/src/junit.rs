//! Reads nextest's JUnit report: which tests ran, how they ended and what they printed.

/// One test of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestCase {
    /// Test binary and test path, as `tensorpool-shm::two_process hammer::no_torn_reads`.
    pub(crate) id: String,
    /// Whether it passed.
    pub(crate) passed: bool,
    /// What it printed on both outputs.
    pub(crate) output: String,
}

/// All tests of a report, in its order.
pub(crate) fn parse(report: &str) -> Vec<TestCase> {
    let mut cases = Vec::new();
    let mut rest = report;
    while let Some(at) = rest.find("<testcase ") {
        let (_, from) = rest.split_at(at);
        let tag_end = from.find('>').unwrap_or(from.len() - 1);
        let (tag, after) = from.split_at(tag_end + 1);
        let body = if tag.ends_with("/>") {
            rest = after;
            ""
        } else {
            let end = after.find("</testcase>").unwrap_or(after.len());
            let (body, tail) = after.split_at(end);
            rest = tail;
            body
        };
        cases.push(TestCase {
            id: format!("{} {}", attribute(tag, "classname"), attribute(tag, "name")),
            passed: !body.contains("<failure") && !body.contains("<error"),
            output: elements(body, "system-out") + &elements(body, "system-err"),
        });
    }
    cases
}

/// The value of an attribute of a tag, unescaped; empty if it is not there.
fn attribute(tag: &str, name: &str) -> String {
    let opening = format!(" {name}=\"");
    let Some(at) = tag.find(&opening) else {
        return String::new();
    };
    let (_, value) = tag.split_at(at + opening.len());
    unescape(value.split('"').next().unwrap_or_default())
}

/// The text of all elements of one name.
fn elements(body: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut text = String::new();
    for piece in body.split(&open).skip(1) {
        text.push_str(&unescape(piece.split(&close).next().unwrap_or_default()));
        text.push('\n');
    }
    text
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_gives_ids_outcomes_and_output() {
        let report = r#"<testsuites><testsuite name="a">
<testcase name="m::one" classname="a::two_process" time="0.1"><system-out>count: seeds = 3
x &lt; y</system-out></testcase>
<testcase name="m::two" classname="a" time="0.1"/>
<testcase name="m::three" classname="a"><failure type="test failure">bad</failure></testcase>
</testsuite></testsuites>"#;
        let case = |id: &str, passed: bool, output: &str| TestCase {
            id: id.to_owned(),
            passed,
            output: output.to_owned(),
        };
        assert_eq!(
            parse(report),
            [
                case("a::two_process m::one", true, "count: seeds = 3\nx < y\n"),
                case("a m::two", true, ""),
                case("a m::three", false, ""),
            ]
        );
    }
}
