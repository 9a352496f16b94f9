//! Values that do, and values that do not.

use crate::rendering::{GOOD, Helm};

/// A value that is wrong, and what Helm must name.
const BAD: [(&str, &str); 21] = [
    (r#"nodeDrivers={}"#, "nodeDrivers"),
    (r#"image.repo="x""#, "repo"),
    (r#"image.pullPolicy="Sometimes""#, "pullPolicy"),
    (r#"image.pullSecrets=["registry"]"#, "pullSecrets"),
    (r#"operator.replicas=0"#, "replicas"),
    (r#"operator.defaultClass.size="1 GB""#, "defaultClass"),
    (r#"operator.defaultClass.pageSize="2M""#, "pageSize"),
    (
        r#"operator.tolerations=[{"operator":"Equals"}]"#,
        "tolerations",
    ),
    (r#"nodeDriver.kubeletDir="var/lib/kubelet""#, "kubeletDir"),
    (r#"nodeDriver.baseDir="/run/tensorpool/""#, "baseDir"),
    (
        r#"nodeDriver.updateStrategy.type="Recreate""#,
        "updateStrategy",
    ),
    (
        r#"nodeDriver.updateStrategy.rollingUpdate={"maxSurge":1}"#,
        "maxSurge",
    ),
    (r#"nodeDriver.resources.driver.memory="1Gi""#, "memory"),
    (r#"nodeProfiles=[]"#, "nodeProfiles"),
    (r#"nodeProfiles=[{"name":"a","pools":[]}]"#, "pools"),
    (
        r#"nodeProfiles=[{"name":"a","pools":[{"pageSize":"2Mi","size":"1G"}]}]"#,
        "size",
    ),
    (
        r#"nodeProfiles=[{"name":"a","pools":[{"pageSize":"2Mi","size":"2Mi"}],"aeron":true}]"#,
        "aeron",
    ),
    (r#"nodeDriver.group=0"#, "group"),
    (
        r#"nodeDriver.accessReviewIntervalSeconds=0"#,
        "accessReviewIntervalSeconds",
    ),
    (r#"uninstall.force="yes""#, "force"),
    (r#"test.frames=0"#, "frames"),
];

/// Wrong in a way that a schema cannot say.
const CONTRADICTIONS: [(&str, &str); 5] = [
    (
        r#"image.tag="0.0.9""#,
        "image.tag: 0.0.9 is older than this chart",
    ),
    (
        r#"nodeProfiles=[{"name":"a","pools":[{"pageSize":"4Ki","size":"1Mi","guarantee":true}]}]"#,
        "nodeProfiles.a: ordinary pages cannot be set aside",
    ),
    (
        r#"nodeProfiles=[{"name":"a","pools":[{"pageSize":"2Mi","size":"3Mi"}]}]"#,
        "nodeProfiles.a: 3Mi is no number of pages of 2Mi",
    ),
    (
        r#"nodeProfiles=[{"name":"a","pools":[{"pageSize":"4Ki","size":"1Mi"},{"pageSize":"4Ki","size":"2Mi"}]}]"#,
        "nodeProfiles.a: two pools have pages of 4Ki",
    ),
    (
        r#"nodeProfiles=[{"name":"a","pools":[{"pageSize":"4Ki","size":"1Mi"}]},{"name":"a","pools":[{"pageSize":"4Ki","size":"1Mi"}]}]"#,
        "nodeProfiles: two profiles are called \"a\"",
    ),
];

#[test]
fn control_plane_chart_has_no_lint_and_no_typo_passes() {
    let helm = Helm::new();
    for values in GOOD {
        let output = helm.run(&["lint", "--strict"], values, &[]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{values}: {said}");
        assert!(!said.contains("[WARNING]"), "{values}: {said}");
        helm.template(values, &[]);
    }
    for (set, named) in BAD.iter().chain(&CONTRADICTIONS) {
        let output = helm.run(&["template", "tensorpool"], "", &[set]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{set} was taken");
        assert!(said.contains(named), "{set}: {said}");
    }
    let cases = GOOD.len() + BAD.len() + CONTRADICTIONS.len();
    println!("count: chart values = {cases}");
}
